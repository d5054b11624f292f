"""`dwarf-nats flow …`: the operations that control a flow (O11-O15; wire: section 1)."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import Raw

from dwarf_nats.cli.arguments import FlowKey, State
from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.creation import Scheduling
from dwarf_nats.cli.options import Bus, FlowService
from dwarf_nats.cli.output import Output
from dwarf_nats.cli.pauses import PauseKey, by_either_key
from dwarf_nats.cli.removal import DryRun, flow_label, previous_status, read_before, show_dry_run
from dwarf_nats.cli.state_arg import read_json, read_state
from dwarf_nats.cli.tag_args import SYNTAX, read_tags
from dwarf_nats.wire import messages as m
from dwarf_nats.workflow.status import Status

app = new_app("")
StepKey = Annotated[str, typer.Argument(metavar="STEP", help="The step's key, as `flow history` shows it.")]
Overrides = Annotated[
    str | None,
    typer.Option("--overrides", help="Fields of the state to replace, null removes one: JSON, @file or -."),
]


def register(family: typer.Typer) -> None:
    family.add_typer(app)


@command(
    app,
    "resume",
    short="Answer an interrupt.",
    example="dwarf-nats flow resume 1-42-a1B2c3D4e5F6g7H8 --data '{\"approved\": true}'",
)
async def resume(
    out: Output,
    bus: Bus,
    service: FlowService,
    key: PauseKey,
    data: Annotated[
        str | None, typer.Option("--data", help="For the task, null if left out: JSON, @file or -.")
    ] = None,
) -> None:
    """Answer the oldest interrupt of a flow, or exactly that of a step; its task gets the data."""
    answer = None if data is None else Raw(read_json(data, "--data"))
    async with service.client(bus) as client:
        await by_either_key(
            key,
            lambda flow: client.resume(flow, answer),
            lambda step: client.resume(step_key=step, data=answer),
        )
    out.show(m.Empty(), "resumed")


@command(
    app,
    "resume-break",
    short="Let a flow go on that a breakpoint paused.",
    example="dwarf-nats flow resume-break 1-42-a1B2c3D4e5F6g7H8 --overrides '{\"price\": 10}'",
)
async def resume_break(out: Output, bus: Bus, service: FlowService, key: PauseKey, overrides: Overrides = None) -> None:
    """Let a flow go on that a breakpoint paused, or exactly one step of it."""
    values = read_state(overrides, "--overrides")
    async with service.client(bus) as client:
        await by_either_key(
            key,
            lambda flow: client.resume_break(flow, values),
            lambda step: client.resume_break(step_key=step, overrides=values),
        )
    out.show(m.Empty(), "resumed")


@command(
    app,
    "signal",
    short="Signal an event to the flows that wait for it.",
    example="dwarf-nats flow signal order.paid order-7 '{\"amount\": 12.5}'",
)
async def signal(
    out: Output,
    bus: Bus,
    service: FlowService,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Name of the event.")],
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="Key that the flows wait with.")] = "",
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="For the flows, null if left out: JSON, @file or -.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", help="Signalled again with this id while it is kept, the event counts once.")
    ] = None,
    keep_ms: Annotated[
        int, typer.Option(min=0, help="How long to keep it for a flow to come; 0 does not keep it.")
    ] = 86_400_000,
) -> None:
    """Signal an event to every flow that waits for it, or keep it for the first one that comes to wait."""
    value = None if data is None else Raw(read_json(data, "DATA"))
    async with service.client(bus) as client:
        receipt = await client.signal(event, key, value, id=event_id, keep=keep_ms / 1000)
    received = f"received by {receipt.delivered} step{'' if receipt.delivered == 1 else 's'}"
    kept = "kept for a step to come" if receipt.kept else "not kept"
    out.show(
        m.FlowSignalReply(delivered=receipt.delivered, kept=receipt.kept),
        received if receipt.delivered else f"no step waits for it: {kept}",
    )


@command(app, "break", example="dwarf-nats flow break 1-42-a1B2c3D4e5F6g7H8 charge")
async def break_(
    out: Output,
    bus: Bus,
    service: FlowService,
    flow: FlowKey,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the node, or url of just one.")],
    clear: Annotated[bool, typer.Option("--clear", help="Take the breakpoint away.")] = False,
) -> None:
    """Pause a flow before it runs a task."""
    async with service.client(bus) as client:
        await client.break_before(flow, task, enabled=not clear)
    out.show(m.Empty(), "breakpoint cleared" if clear else "breakpoint set")


@command(
    app,
    "restart",
    short="Run a stopped flow again, in place.",
    example="dwarf-nats flow restart 1-42-a1B2c3D4e5F6g7H8 --overrides '{\"card\": null}'",
)
async def restart(
    out: Output, bus: Bus, service: FlowService, flow: FlowKey, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Run a stopped flow again from its beginning, in place; what it did before is removed."""
    values = read_state(overrides, "--overrides")
    async with service.client(bus) as client:
        before = await read_before(client, flow)
        if dry_run:
            show_dry_run(out, flow, before, verb="restarted", refused=(Status.CREATED, Status.RUNNING))
            return
        await client.restart(flow, values)
    out.show(m.Empty(), f"restarted {flow_label(flow, before)} from its beginning{previous_status(before)}")


@command(
    app,
    "restart-from",
    short="Run a step again, in place, and on from there.",
    example="dwarf-nats flow restart-from 1-43-h8G7f6E5d4C3b2A1 --overrides '{\"price\": 10}'",
)
async def restart_from(out: Output, bus: Bus, service: FlowService, step: StepKey, overrides: Overrides = None) -> None:
    """Run a step again, in place, and on from there; exactly what it had led to is removed."""
    values = read_state(overrides, "--overrides")
    async with service.client(bus) as client:
        await client.restart_from(step, values)
    out.show(m.Empty(), f"restarted from step {step}")


@command(
    app,
    "fork",
    short="Run a copy of an ended flow from one of its steps on.",
    example="dwarf-nats flow fork 1-43-h8G7f6E5d4C3b2A1 --overrides '{\"price\": 10}'",
)
async def fork(
    out: Output,
    bus: Bus,
    service: FlowService,
    step: StepKey,
    overrides: Overrides = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar=SYNTAX, help="A tag, instead of those of the original flow.")
    ] = None,
) -> None:
    """Copy a flow that has ended up to a step, run the copy on from there, and print its key."""
    values, tags = read_state(overrides, "--overrides"), read_tags(tag)
    async with service.client(bus) as client:
        key = await client.fork(step, values, tags)
    out.show(m.FlowKeyReply(flow_key=key), key)


@command(
    app,
    "continue",
    short="Make the next flow of a thread.",
    example='dwarf-nats flow continue 1-42-a1B2c3D4e5F6g7H8 --state \'{"word": "next"}\' --start',
)
async def continue_(
    out: Output,
    bus: Bus,
    service: FlowService,
    scheduling: Scheduling,
    flow: Annotated[str, typer.Argument(metavar="FLOW", help="The key of any flow of the thread.")],
    state: State = None,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
) -> None:
    """Make the next flow of a thread, from the state its latest one ended with, and print its key."""
    values, options = read_state(state), scheduling.options()
    async with service.client(bus) as client:
        key = await client.continue_(flow, values, options, start=start)
    out.show(m.FlowKeyReply(flow_key=key), key)


__all__ = ["app"]
