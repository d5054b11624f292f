"""Live pages: changes on the bus become small pieces of HTML for the tabs that look, by server-sent events.

A `View` is what a page shows and may change. Tabs that look at the same view share one channel: it reads at most once a second,
only while somebody looks and something changed, and sends what differs. One subscription to events serves the whole console.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import nats.errors
import orjson

from dwarf_nats.errors import DwarfError
from dwarf_nats.sdk.request_reply import round_trip

from .source import Source

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

log = logging.getLogger("dwarf_nats.console")

LEAST_SECONDS = 1.0
"""Shortest time between two reads of one view."""
BEAT_SECONDS = 1.0
"""Time between two looks at the stamp of a view, with events."""
BEAT_WITHOUT_EVENTS_SECONDS = 2.0
"""The same without events."""
SLOW_FACTOR = 10
"""The pause after a slow read, as a multiple of its time: at most a tenth of the time goes into reading one view."""
COMMENT_SECONDS = 15.0
"""Time after which a comment is sent on a quiet stream, so that proxies keep it open."""
MAX_WAITING_MESSAGES = 50
"""Messages that wait for a slow tab; beyond that its stream ends, and it connects again."""
LOST = b"event: lost\ndata: {}\n\n"
BACK = b"event: back\ndata: {}\n\n"
COMMENT = b": still here\n\n"


class Change(msgspec.Struct, rename="camel"):
    """An event: the status of a flow changed. Ids are token-free."""

    flow_id: str
    workflow: str
    status: str
    thread_id: str = ""


@dataclass(slots=True)
class Update:
    """The contents of a view now. `html`: element id → its inner HTML. `classes`: element id → its class attribute."""

    html: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)

    def since(self, before: Update | None) -> Update:
        """The part of it that differs from an earlier one."""
        if before is None:
            return self
        return Update(_changed(before.html, self.html), _changed(before.classes, self.classes))

    def message(self) -> bytes:
        """The server-sent event for it; empty if there is nothing to say."""
        if not self.html and not self.classes:
            return b""
        return b"event: update\ndata: " + orjson.dumps({"html": self.html, "classes": self.classes}) + b"\n\n"


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in now.items() if before.get(name) != value}


class View(ABC):
    """Something that a page shows. Views of the same source with the same `key` are one."""

    key: Hashable
    source: Source
    beat_seconds = BEAT_SECONDS
    """Time between two looks at the stamp; a flow that has ended may be looked at less often."""

    @abstractmethod
    def concerns(self, change: Change) -> bool:
        """True if an event may change what the view shows."""

    @abstractmethod
    async def stamp(self) -> str | None:
        """A text that changes with what the view shows, cheap to read. `None`: only events tell."""

    @abstractmethod
    async def render(self) -> Update:
        """Read, and return what the view shows now."""


class PolledView(View):
    """A view of what comes and goes without an event of its own: it is read every few seconds while somebody looks."""

    beat_seconds = 5.0

    def __init__(self, source: Source) -> None:
        self.source = source
        self._beats = 0

    def concerns(self, change: Change) -> bool:
        return not change.workflow

    async def stamp(self) -> str | None:
        """Another one each time."""
        self._beats += 1
        return str(self._beats)


class Hub:
    """All channels, and the one subscription to events. `events`: false if the deployment publishes none."""

    def __init__(self, source: Source, prefix: str, *, events: bool) -> None:
        self._source = source
        self._subject = f"{prefix}.event.>"
        self._wanted = events
        self._channels: dict[Hashable, _Channel] = {}
        self._subscription: Subscription | None = None
        self._watch: asyncio.Task[None] | None = None
        self.events = False
        """True while events arrive."""
        self.ready = asyncio.Event()
        """Set once there was a connection, and the rights of the user are known."""
        self.closed = False

    async def start(self) -> None:
        """Connect in the background, subscribe, and watch the connection from then on."""
        self._watch = asyncio.get_running_loop().create_task(self._keep_connected())

    async def close(self) -> None:
        """End all streams."""
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        for channel in list(self._channels.values()):
            channel.close()
        self._channels.clear()

    @property
    def looked_at(self) -> int:
        """The number of channels that somebody looks at."""
        return len(self._channels)

    async def stream(self, view: View) -> AsyncIterator[bytes]:
        """The server-sent events of a view for one tab, until it goes away."""
        key = (id(view.source), view.key)
        channel = self._channels.get(key)
        if channel is None or channel.closed:
            channel = self._channels[key] = _Channel(view, self)
        queue = channel.join()
        try:
            yield b"retry: 2000\n\n" + (BACK if view.source.connected else LOST)
            while not self.closed:
                message = await _next(queue)
                if message is None:
                    return
                yield message
        finally:
            if channel.leave(queue) and self._channels.get(key) is channel:
                del self._channels[key]
                channel.close()

    def touch(self, flow_id: str) -> None:
        """Look again at the views of a flow and at lists, because something was done from here."""
        self._tell(Change(flow_id, "", ""))

    def _tell(self, change: Change) -> None:
        for channel in self._channels.values():
            if channel.view.concerns(change):
                channel.wake()

    # --- the connection ---

    async def _keep_connected(self) -> None:
        was = False
        while True:
            first = not self.ready.is_set()
            if first:
                await self._connect()
            now = self._source.connected
            if now != was:
                was = now
                for channel in self._channels.values():
                    channel.send(BACK if now else LOST)
                    channel.wake()
                if now and not first:  # permissions may have changed meanwhile
                    with contextlib.suppress(DwarfError):
                        await self._source.learn_rights()
            await asyncio.sleep(LEAST_SECONDS)

    async def _connect(self) -> None:
        try:
            await self._source.connect()
            if self._wanted:
                await self._subscribe()
            self.ready.set()
        except (DwarfError, nats.errors.Error, OSError) as error:
            log.warning("the console has no connection to NATS yet: %s", error)

    async def _subscribe(self) -> None:
        nc = self._source.client.nc
        self._subscription = await nc.subscribe(self._subject, cb=self._on_event)
        await round_trip(nc)
        refused = getattr(nc, "refused", {})
        self.events = (self._subject, "") not in refused
        if not self.events:
            log.warning("NATS does not let the console hear %s: it looks for changes every 2 s", self._subject)

    async def _on_event(self, message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            self._tell(msgspec.json.decode(message.data, type=Change))


class _Channel:
    """One view, and the tabs that look at it."""

    def __init__(self, view: View, hub: Hub) -> None:
        self.view = view
        self.closed = False
        self._hub = hub
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._woken = asyncio.Event()
        self._woken.set()
        self._last: Update | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    def join(self) -> asyncio.Queue[bytes | None]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queues.add(queue)
        if self._last is not None:
            _put(queue, self._last.message())
        return queue

    def leave(self, queue: asyncio.Queue[bytes | None]) -> bool:
        """Forget a tab. Returns true if it was the last one."""
        self._queues.discard(queue)
        return not self._queues

    def wake(self) -> None:
        """Read the view soon."""
        self._woken.set()

    def send(self, message: bytes) -> None:
        """Send a message to all tabs."""
        for queue in list(self._queues):
            if not _put(queue, message):
                self._queues.discard(queue)

    def close(self) -> None:
        self.closed = True
        self._task.cancel()
        for queue in self._queues:
            queue.put_nowait(None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        stamp: str | None = None
        while True:
            woken = await self._pause()
            if not self.view.source.connected:
                continue
            began = loop.time()
            try:
                now = await self.view.stamp()
                if woken or now != stamp:
                    await self._show()
                stamp = now
            except DwarfError as error:
                log.debug("a live view cannot be read now: %s", error)
            except Exception:
                log.exception("a live view failed")
            await asyncio.sleep(max(LEAST_SECONDS, SLOW_FACTOR * (loop.time() - began)))

    async def _pause(self) -> bool:
        """Wait until something changed, or until it is time for a look. Returns true if something did."""
        beat = self.view.beat_seconds if self._hub.events else max(self.view.beat_seconds, BEAT_WITHOUT_EVENTS_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(beat):
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken

    async def _show(self) -> None:
        update = await self.view.render()
        message = update.since(self._last).message()
        self._last = update
        if message:
            self.send(message)


def _put(queue: asyncio.Queue[bytes | None], message: bytes) -> bool:
    """Queue a message for a tab. A tab that is too slow gets no more, and connects again."""
    if queue.qsize() >= MAX_WAITING_MESSAGES:
        queue.put_nowait(None)
        return False
    if message:
        queue.put_nowait(message)
    return True


async def _next(queue: asyncio.Queue[bytes | None]) -> bytes | None:
    try:
        async with asyncio.timeout(COMMENT_SECONDS):
            return await queue.get()
    except TimeoutError:
        return COMMENT
