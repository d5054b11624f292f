"""The durability of a flow: what must be in the database before the next task is asked."""

from __future__ import annotations

from enum import StrEnum

from dwarf_nats.errors import BadRequest


class Durability(StrEnum):
    """The choice whether a task may be asked before the result of the step before it is in the database.

    `committed`: never. `pipelined`: while it is being written; the task's own result is written only after it, or with it.
    """

    COMMITTED = "committed"
    PIPELINED = "pipelined"

    @classmethod
    def of(cls, name: str) -> Durability:
        """Return the durability of a name. Raises `BadRequest` for any other text."""
        try:
            return cls(name)
        except ValueError:
            known = " or ".join(repr(one.value) for one in cls)
            raise BadRequest(f"durability must be {known}, got {name!r}") from None
