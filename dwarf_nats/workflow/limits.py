"""Limits on sizes and counts, and the messages about them: the name of the setting, the size, the remedy.

Exceeding a limit is a 413: it refuses the operation, or fails the step whose task exceeded the limit, never other steps of the
same commit. The defaults are in `settings`; the reason for each is in `docs/operating/limits.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dwarf_nats.errors import TooLarge

UNBOUNDED = 2**63
ELSEWHERE = "keep large data elsewhere and a reference in the state"


@dataclass(slots=True, frozen=True)
class Limits:
    """The limits of settlements, operations and graphs. Sizes are bytes of JSON text."""

    max_state_bytes: int
    """Bytes of a state, and of each of changes, overrides, resume data, payloads and baggage."""
    max_depth: int = 64
    max_branches: int = UNBOUNDED
    """Branches of one step."""
    max_fan_out_bytes: int = UNBOUNDED
    """Bytes of the inputs of all branches of one step together, and of their changes at the fan-in."""
    max_steps: int = UNBOUNDED
    """Steps in a row, from the entry of a flow; parallel branches count once."""
    max_error_bytes: int = UNBOUNDED
    """Bytes of an error, which is cut to this, and of the reason of a cancel."""
    max_history: int = UNBOUNDED
    """Steps in one history, subgraphs included."""
    max_graph_bytes: int = UNBOUNDED
    max_nodes: int = UNBOUNDED
    max_transitions: int = UNBOUNDED

    def check_bytes(self, size: int, what: str) -> None:
        """Raise `TooLarge` if `size` exceeds `max_state_bytes`. `what` names the value in the message."""
        if size > self.max_state_bytes:
            raise TooLarge(over(f"{what} is {size} bytes", "max_state_bytes", self.max_state_bytes, ELSEWHERE))


UNLIMITED = Limits(UNBOUNDED)


def over(fact: str, name: str, limit: int, remedy: str) -> str:
    """Compose the sentence about a limit: the fact, the limit with the name of its setting, the remedy."""
    return f"{fact}, over the limit of {limit} ({name}): {remedy}"
