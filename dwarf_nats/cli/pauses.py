"""The pauses of a flow, and the command lines that continue them (O11, P5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.text import Text

from dwarf_nats.cli.output import day_and_clock
from dwarf_nats.errors import NotFound
from dwarf_nats.render.terminal import in_json, one_line
from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.records import Outcome, Pause
from dwarf_nats.workflow.status import Status

PauseKey = Annotated[
    str,
    typer.Argument(
        metavar="KEY", help="Key of a flow, to continue its oldest pause, or of a step, to continue exactly that one."
    ),
]


async def by_either_key(
    key: str, of_flow: Callable[[str], Awaitable[None]], of_step: Callable[[str], Awaitable[None]]
) -> None:
    """Do something to the flow of this key, or to the step if it is the key of one. Raises `NotFound` if it is neither's."""
    try:
        await of_flow(key)
    except NotFound:
        try:
            await of_step(key)
        except NotFound:
            raise NotFound(
                f"no flow and no step {parse_key(key).public_id}: check the key, or it was deleted"
            ) from None


def pauses_view(outcome: Outcome, prefix: str) -> list[Text]:
    """The pauses of a flow, one line each, and the command lines that continue it; nothing if it is not paused."""
    if not outcome.pauses:
        return []
    lines = [Text("paused, the oldest pause first:"), *map(_pause_line, outcome.pauses)]
    if outcome.truncated:
        lines.append(
            Text("  … not all of it is shown; `dwarf-nats flow get --step STEP` shows a payload that is left out")
        )
    kinds = {pause.kind for pause in outcome.pauses}
    lines += _advice(outcome.flow_key, prefix, interrupted="interrupt" in kinds, broken="breakpoint" in kinds)
    if len(outcome.pauses) > 1:
        lines.append(Text("just one:    give the key of its step in place of the flow's key"))
    return lines


def advice_for(outcome: Outcome, prefix: str) -> list[Text]:
    """The command lines that continue a flow, after its pauses if there are several; nothing if it is not paused."""
    if outcome.status is not Status.INTERRUPTED:
        return []
    if len(outcome.pauses) > 1:
        return pauses_view(outcome, prefix)
    waits = outcome.interrupt_json is not None or any(pause.kind == "interrupt" for pause in outcome.pauses)
    return _advice(outcome.flow_key, prefix, interrupted=waits, broken=not waits)


def _pause_line(pause: Pause) -> Text:
    if pause.kind == "breakpoint":
        why = "by a breakpoint"
    elif pause.payload_json is None:
        why = "waits for an answer"
    else:
        why = f"waits for {in_json(pause.payload_json.decode())}"
    until = "" if pause.until is None else f" until {day_and_clock(pause.until)}"
    since = f"  since {day_and_clock(pause.since)}{until}"
    return Text.assemble("  ", (one_line(pause.task), "magenta"), f"  {pause.step_key}  {why}{since}")


def _advice(flow_key: str, prefix: str, *, interrupted: bool, broken: bool) -> list[Text]:
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
