"""Definitions: small named documents that steer a deployment, followed by every replica while it runs.

They are kept in the database of shard 1, their home. A replica reads them before it takes the first step of that shard, and
follows changes at once when another replica signals, and else with its next heartbeat, which reads their revision.
While shard 1 is away, definitions stay as they were last read and cannot be changed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from dwarf_nats.errors import NotFound, Unavailable
from dwarf_nats.ports.definitions import HOME

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Definition, DefinitionStore, Logger, Signals

Watcher: TypeAlias = Callable[[Mapping[str, "Definition"]], None]


class Definitions:
    """The definitions as this replica has last read them."""

    def __init__(self, shards: Mapping[int, Shard], signals: Signals | None, logger: Logger) -> None:
        self._shards = shards
        self._signals = signals
        self._log = logger
        self._revision = -1
        self._known: dict[str, dict[str, Definition]] = {}
        self._watchers: dict[str, list[Watcher]] = defaultdict(list)
        self._lock = asyncio.Lock()
        self._soon: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        """Tell whether they were read since this replica began."""
        return self._revision >= 0

    def watch(self, kind: str, watcher: Watcher) -> None:
        """Call `watcher` with all documents of a kind by name: when they are first read, and after every change of the kind.

        It must not block. If it raises, that is logged, and the others hear of the change all the same.
        """
        self._watchers[kind].append(watcher)
        if self.loaded:
            self._tell(watcher, kind)

    # -- operations

    async def put(self, kind: str, name: str, body: str) -> Definition:
        """Keep a JSON document under its name; this replica follows it before this returns. Raises `Unavailable`."""
        definition = await self._home().put(kind, name, body)
        await self._changed()
        return definition

    async def delete(self, kind: str, name: str) -> None:
        """Forget a document. Raises `NotFound`, `Unavailable`."""
        if not await self._home().delete(kind, name):
            raise NotFound(f"no {kind} {name!r}: list what there is with dwarf.{kind}.list")
        await self._changed()

    async def get(self, kind: str, name: str) -> Definition:
        """Return a document as it is now. Raises `NotFound`, `Unavailable`."""
        await self.refresh()
        try:
            return self._known[kind][name]
        except KeyError:
            raise NotFound(f"no {kind} {name!r}: list what there is with dwarf.{kind}.list") from None

    async def list(self, kind: str) -> list[Definition]:
        """Return the documents of a kind as they are now, by name. Raises `Unavailable`."""
        await self.refresh()
        return [*self._known.get(kind, {}).values()]

    # -- following

    async def refresh(self) -> None:
        """Read what has changed, and tell the watchers. Raises `Unavailable`."""
        async with self._lock:
            store = self._home()
            if self.loaded and await store.revision() == self._revision:
                return
            revision, definitions = await store.all()
            known: dict[str, dict[str, Definition]] = defaultdict(dict)
            for one in definitions:
                known[one.kind][one.name] = one
            before, first = self._known, not self.loaded
            self._revision, self._known = revision, dict(known)
            for kind, watchers in self._watchers.items():
                if first or before.get(kind, {}) != self._known.get(kind, {}):
                    for watcher in watchers:
                        self._tell(watcher, kind)

    def on_revision(self, revision: int) -> None:
        """Read what has changed if a heartbeat tells of another revision: a signal was lost."""
        if self.loaded and revision != self._revision:
            self.refresh_soon()

    def refresh_soon(self) -> None:
        """Read what has changed at once: another replica says that something has."""
        if self._soon is None or self._soon.done():
            self._soon = asyncio.create_task(self._refresh_quietly(), name="dwarf-definitions")

    async def close(self) -> None:
        """End what is under way."""
        if self._soon is not None:
            self._soon.cancel()
            await asyncio.gather(self._soon, return_exceptions=True)

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except Unavailable as error:  # the next heartbeat tries again
            self._log.debug("definitions were not read: %s", error)

    async def _changed(self) -> None:
        if self._signals is not None:
            self._signals.change_definitions()
        await self._refresh_quietly()

    def _tell(self, watcher: Watcher, kind: str) -> None:
        try:
            watcher(self._known.get(kind, {}))
        except Exception:
            self._log.exception("a defect in what follows the definitions of kind %s", kind)

    def _home(self) -> DefinitionStore:
        shard = self._shards.get(HOME)
        if shard is None:
            raise Unavailable(
                "shard 1 keeps the definitions, and this replica does not know it: start it with all DSNs"
            )
        return shard.store.definitions
