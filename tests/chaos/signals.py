"""Whoever signals the events that flows wait for: early, late, twice, and at about the time at which a wait ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import DwarfError, TimedOut, TooMany, Unavailable
from dwarf_nats.sdk import Client
from tests.chaos.moments import Moments
from tests.chaos.node_shapes import PAID, RACE, RACE_SECONDS
from tests.model.behaviours import SIGNALLED
from tests.model.example import event_for

if TYPE_CHECKING:
    from tests.chaos.driver import Ticket

AGAIN_SECONDS = (1.5, 3.0)
"""Between the events for a flow that has not ended."""


@dataclass(eq=False)
class Signal:
    """One event. `answers`: what each of its signals was answered, as delivered and kept; all have the same id."""

    event: str
    number: int
    id: str
    sent: float
    answers: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def data(self) -> dict[str, Any]:
        return {"number": self.number, "id": self.id}


class Signaller:
    """Signals for all tickets of a round."""

    def __init__(self, client: Callable[[], Client], rng: random.Random, moments: Moments) -> None:
        self._client = client
        self._rng = rng
        self._moments = moments
        self._by_key: dict[str, Ticket] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def before(self, ticket: Ticket) -> None:
        """What is signalled before there is a flow."""
        if not ticket.shape.events:
            return
        self._by_key[ticket.state["key"]] = ticket
        for _ in range(ticket.state["early"]):
            await self._signal(ticket, ticket.shape.events[0])
        if ticket.state.get("way") == "before":
            await self._signal(ticket, RACE)

    @contextlib.asynccontextmanager
    async def meanwhile(self, ticket: Ticket) -> AsyncIterator[None]:
        """Signal events while a flow has not ended. Those that are under way at its end come to theirs."""
        over = asyncio.Event()
        if ticket.shape.events:
            self._begin(self._keep_on(ticket, over))
        if ticket.shape.awaited:
            self._begin(self._repeat(ticket, over))
        try:
            yield
        finally:
            over.set()

    def race(self, given: dict[str, Any]) -> None:
        """A wait with a deadline begins just now."""
        ticket = self._by_key.get(given.get("key", ""))
        if ticket is None or given["way"] in ("never", "before"):
            return
        soon = given["way"] == "soon"
        delay = self._rng.uniform(0, 0.2) if soon else RACE_SECONDS + self._rng.uniform(-0.08, 0.1)
        self._begin(self._signal(ticket, RACE, delay))

    async def finish(self) -> None:
        """Wait until all that was begun is over."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _begin(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _keep_on(self, ticket: Ticket, over: asyncio.Event) -> None:
        name = ticket.shape.events[0]
        quick = max(0, (2 if name == PAID else 1) - sum(one.event == name for one in ticket.signals))
        while not over.is_set():
            seconds = self._rng.uniform(0, 0.6) if quick else self._rng.uniform(*AGAIN_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), seconds)
                return
            quick = max(0, quick - 1)
            await self._signal(ticket, name)

    async def _repeat(self, ticket: Ticket, over: asyncio.Event) -> None:
        """The model's event with each key, again and again: for whoever waits just then, and for a while."""
        while not over.is_set():
            for key in ticket.shape.awaited:
                with contextlib.suppress(TimedOut, TooMany, Unavailable):
                    await self._client().signal(SIGNALLED, key, event_for(key), keep=1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._rng.uniform(0.2, 1.0))

    async def _signal(self, ticket: Ticket, event: str, delay: float = 0) -> None:
        """One event, its id once or more often: two at a time, and again when it was answered."""
        await asyncio.sleep(delay)
        number = len(ticket.signals) + 1
        signal = Signal(event, number, f"{ticket.number}-{number}", time.time())
        ticket.signals.append(signal)
        self._moments.tell("signal")
        copies = self._rng.choice([1, 1, 2])
        await asyncio.gather(*(self._ask(ticket, signal) for _ in range(copies)))
        if self._rng.random() < 0.2:
            await self._ask(ticket, signal)
        if len(set(signal.answers)) > 1:
            ticket.findings.append(f"a signal was answered {signal.answers}, its id being {signal.id} (E1)")

    async def _ask(self, ticket: Ticket, signal: Signal) -> None:
        """Until it is answered."""
        while True:
            try:
                told = await self._client().signal(signal.event, ticket.state["key"], signal.data, id=signal.id)
            except (TimedOut, TooMany, Unavailable):
                await asyncio.sleep(0.1)
            except DwarfError as error:
                ticket.findings.append(f"a signal was refused: {error.code} {error}")
                return
            else:
                signal.answers.append((told.delivered, told.kept))
                return
