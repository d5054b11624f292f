"""The port to what only the first shard of a deployment keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.ports.definitions import DefinitionStore
    from dwarf_nats.ports.schedules import ScheduleStore


class HomeStore(Protocol):
    """The part of a store that is used on shard 1."""

    @property
    def definitions(self) -> DefinitionStore:
        """Documents that steer the deployment."""
        ...

    @property
    def schedules(self) -> ScheduleStore:
        """Schedules of the deployment."""
        ...
