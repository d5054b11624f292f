"""The schema watch: stops a replica that is too old for a schema which a newer replica has made (design note 0046)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Logger

WATCH_SECONDS = 300.0
"""Between two looks at the revision of the schema, where no heartbeat tells of a later one."""


class SchemaWatch(Duty):
    """Looks at the schema of one shard when a heartbeat says that it is later, and now and then. It says once what it finds."""

    def __init__(self, shard: Shard, logger: Logger) -> None:
        self._shard = shard
        self._log = logger
        self._told = ""

    def interval(self) -> float:
        return WATCH_SECONDS

    async def run_once(self) -> None:
        """Stop claiming if the schema is too new. Raises `Unavailable`."""
        found = await self._shard.store.deployment.newer_schema()
        if found is None or found.revision == self._told:
            return
        self._told = found.revision
        label = self._shard.store.label
        if found.may_stay:
            self._log.info(
                "the schema of %s is at revision %s, of a later version: this replica may stay until it is upgraded",
                label,
                found.revision,
            )
            return
        self._shard.outdated = (
            f"the schema of {label} is at revision {found.revision}, of a later version than this one:"
            " upgrade this replica"
        )
        self._shard.stop_claiming()
        self._log.error("%s; it takes no more steps", self._shard.outdated)
