"""The list of pauses that an outcome shows: bounded in number and size (P5). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING

from dwarf_nats.workflow.records import Pause

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import FlowEnd, Settlement

MAX_LISTED_PAUSES = 100
"""Pauses that an outcome lists, the oldest first: more than a person reads, little enough for each reply."""
MAX_PAYLOAD_BYTES = 262_144
"""Payloads of listed pauses together; that of the oldest pause is always there."""


def with_payload(sizes: Iterable[int]) -> list[bool]:
    """Tell for each pause, the oldest first, whether its payload of this size is shown."""
    return [at == 0 or total <= MAX_PAYLOAD_BYTES for at, total in enumerate(accumulate(sizes))]


def add(end: FlowEnd, settlement: Settlement, since: int, until: int | None) -> None:
    """Add the pause of a step to what interrupts a flow; it came last."""
    assert settlement.pause is not None
    payload = settlement.pause.payload
    text = None if payload is None else bytes(payload)
    sizes = [len(one.payload_json or b"") for one in end.pauses] + [len(text or b"")]
    whole = not end.truncated and with_payload(sizes)[-1]
    end.truncated = not whole or len(end.pauses) >= MAX_LISTED_PAUSES
    if len(end.pauses) < MAX_LISTED_PAUSES:
        end.pauses.append(
            Pause(
                step_key=settlement.step.key,
                task=settlement.step.node,
                kind="breakpoint" if payload is None else "interrupt",
                since=since,
                until=until,
                payload_json=text if whole else None,
            )
        )
