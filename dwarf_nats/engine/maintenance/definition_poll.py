"""Following the definitions: a duty of the shard that keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.definitions import Definitions

POLL_SECONDS = 2.0
"""Between two looks at the revision."""


class DefinitionPoll(Duty):
    """Looks whether definitions have changed, in case the signal of another replica was lost."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def interval(self) -> float:
        return POLL_SECONDS

    async def run_once(self) -> None:
        """Read what has changed. Raises `Unavailable`."""
        await self._definitions.refresh()
