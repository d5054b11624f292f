"""The holds as this replica knows them: which steps may not be dispatched (K2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dwarf_nats.rules.holds import NO_HOLDS, Hold, Holds, read_hold

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Definition, Logger


class HoldBook:
    """Follows the definitions of holds. `active`: there are some, so that each step is to be looked up."""

    def __init__(self, clock: Clock, logger: Logger) -> None:
        self._clock = clock
        self._log = logger
        self._listeners: list[Callable[[], None]] = []
        self.holds: Holds = NO_HOLDS
        self.active = False

    def follow(self, definitions: Mapping[str, Definition]) -> None:
        """Take over the holds that are defined now."""
        found: list[Hold] = []
        for name, definition in definitions.items():
            try:
                found.append(read_hold(definition.body))
            except ValueError:
                self._log.error("the hold %r is left out: it cannot be read", name)
        self.holds = Holds.of(found)
        self.active = bool(self.holds.lasting(self._clock.now()))
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever holds were put or deleted."""
        self._listeners.append(listener)

    def find(self, url: str, workflow: str) -> Hold | None:
        """The hold that stops a step of this task, in a flow of this workflow; `None` if it may be dispatched."""
        return self.holds.find(url, workflow, self._clock.now())

    def recheck(self, name: str) -> None:
        """Have steps looked after that were parked for a hold, in case it has ended meanwhile."""
        if all(hold.name != name for hold in self.lasting()):
            self._tell()

    def lasting(self) -> list[Hold]:
        """The holds that have not ended by themselves, the oldest first."""
        found = self.holds.lasting(self._clock.now())
        self.active = bool(found)
        return found

    def next_end(self) -> int | None:
        """When the next hold ends by itself; `None` if none does."""
        return self.holds.next_end(self._clock.now())
