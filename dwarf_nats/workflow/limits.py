"""What may not be exceeded, and how that is said: each limit by the name of its setting, with the size and the remedy.

Beyond a limit the answer is a 413: of the operation at the door, or of the step whose task went beyond it, never of the group
it travels in. The defaults are in `settings`; what each one protects is in `docs/operating/limits.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dwarf_nats.errors import TooLarge

UNBOUNDED = 2**63
ELSEWHERE = "keep large data elsewhere and a reference in the state"


@dataclass(slots=True, frozen=True)
class Limits:
    """What a settlement, an operation and a graph may not exceed. Sizes in bytes of JSON text."""

    max_state_bytes: int
    """Of a state, and of whatever else travels with one: changes, overrides, resume data, payloads, baggage."""
    max_depth: int = 64
    max_branches: int = UNBOUNDED
    """Of one step."""
    max_fan_out_bytes: int = UNBOUNDED
    """The inputs of all branches of one step together, and what they bring to their fan-in."""
    max_steps: int = UNBOUNDED
    """In a row, from the entry of a flow; branches beside each other count once."""
    max_error_bytes: int = UNBOUNDED
    """Of an error, beyond which it is cut; and of the reason of a cancel."""
    max_history: int = UNBOUNDED
    """Steps in one history, subgraphs included."""
    max_graph_bytes: int = UNBOUNDED
    max_nodes: int = UNBOUNDED
    max_transitions: int = UNBOUNDED

    def check_bytes(self, size: int, what: str) -> None:
        """Raise `TooLarge` for a state, or something like it, that is too large."""
        if size > self.max_state_bytes:
            raise TooLarge(over(f"{what} is {size} bytes", "max_state_bytes", self.max_state_bytes, ELSEWHERE))


UNLIMITED = Limits(UNBOUNDED)


def over(fact: str, name: str, limit: int, remedy: str) -> str:
    """A sentence about a limit: the fact, the limit with the name of its setting, the remedy."""
    return f"{fact}, over the limit of {limit} ({name}): {remedy}"
