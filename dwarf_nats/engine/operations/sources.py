"""The register of sources: put, read, paused, removed; and what this replica follows (R1, R2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from dwarf_nats.errors import BadRequest, DwarfError, NotFound, Unavailable
from dwarf_nats.ports.definitions import HOME
from dwarf_nats.rules.receiving import REMEMBERED_US
from dwarf_nats.workflow.source_templates import check_source
from dwarf_nats.workflow.sources import Source, SourceInfo, SourceState, check_source_name

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Definition
    from dwarf_nats.rules.receiving import SourceProgress

KIND = "source"
DROPPED = "source-dropped"
"""Kind of the notes that a source has left a stream: its consumer there is still to be removed."""
UNSERVED = SourceState("waiting", "this replica has no connection over which messages could come")


class SourceRegister:
    """The sources of a deployment. `Engine` documents the methods."""

    def __init__(self, shards: Mapping[int, Shard], replica: Replica) -> None:
        self._shards = shards
        self._definitions = replica.definitions
        self._sources = replica.sources
        self._log = replica.logger
        self._dropping: set[str] = set()
        self._names: frozenset[str] | None = None
        """The sources there are, those included that this version cannot read; `None` before they were read."""
        replica.definitions.watch(KIND, self._follow)
        replica.definitions.watch(DROPPED, self._drop)

    # -- operations

    async def put(self, source: Source) -> SourceInfo:
        check_source(source)
        if self._sources is not None:
            self._sources.check(source)
        before = await self._before(source.name)
        if before is not None and before.stream and before.stream != source.stream:
            await self._leave(before)
        if source.stream:
            with contextlib.suppress(NotFound):
                await self._definitions.delete(DROPPED, _place(source))
        kept = await self._definitions.put(KIND, source.name, source.to_json())
        return await self._info(kept)

    async def get(self, name: str) -> SourceInfo:
        return await self._info(await self._definitions.get(KIND, check_source_name(name)))

    async def all(self) -> Sequence[SourceInfo]:
        kept = await self._definitions.list(KIND)
        return await asyncio.gather(*map(self._info, kept))

    async def pause(self, name: str, *, paused: bool) -> SourceInfo:
        source = Source.from_json((await self._definitions.get(KIND, check_source_name(name))).body)
        if source.paused != paused:
            source = msgspec.structs.replace(source, paused=paused)
            await self._definitions.put(KIND, name, source.to_json())
        return await self.get(name)

    async def delete(self, name: str) -> None:
        before = await self._before(check_source_name(name))
        if before is not None and before.stream:
            await self._leave(before)
        await self._definitions.delete(KIND, name)

    async def _before(self, name: str) -> Source | None:
        try:
            return Source.from_json((await self._definitions.get(KIND, name)).body)
        except (NotFound, BadRequest):  # of another version: it is replaced
            return None

    async def _leave(self, source: Source) -> None:
        """Note that the consumer of a source is to be removed: whoever reads it does it, also after a crash."""
        await self._definitions.put(DROPPED, _place(source), json.dumps({"stream": source.stream, "name": source.name}))

    async def _info(self, kept: Definition) -> SourceInfo:
        source = Source.from_json(kept.body)
        if self._sources is None:
            state = UNSERVED
        elif source.paused:
            state = (await self._sources.state(source))._replace(state="paused", reason="")
        else:
            state = await self._sources.state(source)
        progress = await self._progress(source.name)
        latest = max(progress, key=lambda one: one.last_error_at or 0, default=None)
        return SourceInfo(
            source=source,
            updated_at=kept.updated_at,
            state=state,
            rejected=sum(one.rejected for one in progress),
            last_error=latest.last_error if latest is not None else None,
            last_error_at=latest.last_error_at if latest is not None else None,
        )

    # -- what is kept of its messages

    async def _progress(self, name: str) -> list[SourceProgress]:
        return await self._home().store.receiving.progress([name])

    async def floor(self, name: str, origin: str) -> tuple[int, bool]:
        """Return up to where a source has read an incarnation of its stream, and whether it has ever read any stream."""
        progress = await self._progress(name)
        floor = max((one.floor for one in progress if one.origin == origin), default=0)
        return floor, any(one.origin for one in progress)

    async def note(self, progress: SourceProgress) -> None:
        """Keep how far a source has come. Raises `Unavailable`."""
        await self._home().store.receiving.note(progress)

    async def forget_old(self) -> None:
        """Forget the progress of sources that are long gone. Raises `Unavailable`."""
        if self._names is not None:
            await self._home().store.receiving.remove_progress(REMEMBERED_US, sorted(self._names))

    def _home(self) -> Shard:
        home = self._shards.get(HOME)
        if home is None:
            raise Unavailable("shard 1 keeps the progress of sources, and this replica does not know it")
        return home

    # -- following

    def _follow(self, definitions: Mapping[str, Definition]) -> None:
        known = {}
        self._names = frozenset(definitions)
        for name, kept in definitions.items():
            try:
                known[name] = Source.from_json(kept.body)
            except DwarfError as error:
                self._log.error("source %s is left to other replicas: %s", name, error)
        if self._sources is not None:
            self._sources.follow(known)

    def _drop(self, definitions: Mapping[str, Definition]) -> None:
        if self._sources is None:
            return
        left: dict[str, list[str]] = defaultdict(list)
        for place, kept in definitions.items():
            if place not in self._dropping:
                note = json.loads(kept.body)
                left[note["stream"]].append(note["name"])
                self._dropping.add(place)
        for stream, names in left.items():
            self._sources.drop(stream, names, partial(self._dropped, stream))

    async def _dropped(self, stream: str, name: str) -> None:
        place = f"{stream}/{name}"
        self._dropping.discard(place)
        with contextlib.suppress(NotFound):
            await self._definitions.delete(DROPPED, place)


def _place(source: Source) -> str:
    return f"{source.stream}/{source.name}"
