"""The pauses of a flow and the command lines that continue it (O11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from dwarf_nats.render.terminal import in_json, one_line
from dwarf_nats.sdk import Client
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status

MAX_SHOWN_PAUSES = 20
"""Pauses shown with their payload, which costs a request each; the rest is a number."""


def paused(steps: Sequence[Step]) -> list[Step]:
    """The steps at which a flow is paused, the longest paused first; without steps that wait for their subgraph."""
    return sorted(_leaves(steps), key=lambda step: (step.updated_at, step.step_id))


def _leaves(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        below = list(_leaves(step.sub_history))
        yield from below
        if step.status is Status.INTERRUPTED and not below:
            yield step


def advice(flow_key: str, prefix: str, *, interrupted: bool, broken: bool = False) -> list[Text]:
    """The command lines that continue an interrupt, a breakpoint, or both."""
    lines = []
    other = "" if prefix == "dwarf" else f" --prefix {prefix}"
    if interrupted:
        lines.append(f"answer:      dwarf-nats flow resume {flow_key} --data JSON{other}")
        lines.append(f'         or  nats req {prefix}.flow.resume \'{{"flowKey":"{flow_key}","data":JSON}}\'')
    if broken:
        lines.append(f"let it run:  dwarf-nats flow resume-break {flow_key}{other}")
        lines.append(f'         or  nats req {prefix}.flow.resume_break \'{{"flowKey":"{flow_key}"}}\'')
    return [Text(line) for line in lines]


def advice_for(outcome: Outcome, prefix: str) -> list[Text]:
    """The command lines that continue a flow; none if it is not paused."""
    if outcome.status is not Status.INTERRUPTED:
        return []
    waits = outcome.interrupt_json is not None
    return advice(outcome.flow_key, prefix, interrupted=waits, broken=not waits)


async def pauses_view(client: Client, flow_key: str, steps: Sequence[Step], prefix: str) -> list[Text]:
    """The pauses of a flow, one line each, and the command lines that continue it. Asks for the payloads."""
    found = paused(steps)
    if not found:
        return []
    lines = [Text("paused, the first to go on first:")]
    kinds = set()
    for step in [await client.step(one.step_key) for one in found[:MAX_SHOWN_PAUSES]]:
        kinds.add(step.interrupt_json is not None)
        payload = step.interrupt_json
        why = "by a breakpoint" if payload is None else f"waits for {in_json(payload.decode())}"
        lines.append(Text.assemble("  ", (one_line(step.task), "magenta"), f"  {step.step_key}  {why}"))
    if len(found) > MAX_SHOWN_PAUSES:
        lines.append(Text(f"  … and {len(found) - MAX_SHOWN_PAUSES} more"))
    return [*lines, *advice(flow_key, prefix, interrupted=True in kinds, broken=False in kinds)]
