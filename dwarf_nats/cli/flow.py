"""`dwarf-nats flow …`: the operations on flows (wire: section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.options import Bus, Creation, Filters, Matching, Service
from dwarf_nats.cli.output import (
    Output,
    clock,
    coloured,
    day_and_clock,
    error_line,
    history_view,
    outcome_view,
    table,
)
from dwarf_nats.cli.pauses import advice_for, pauses_view
from dwarf_nats.cli.state_arg import read_state
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Change
from dwarf_nats.wire import codec
from dwarf_nats.wire import messages as m
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status

app = new_app("Flows: make, run, look at and steer them.")

FlowKey = Annotated[str, typer.Argument(metavar="FLOW", help="The flow's key.")]
State = Annotated[str | None, typer.Option("--state", help="Initial state: JSON, @file or - for standard input.")]
TimeoutMs = Annotated[int, typer.Option("--timeout-ms", min=0, envvar="DWARF_TIMEOUT_MS", help="How long to wait.")]
Workflow = Annotated[str, typer.Argument(metavar="WORKFLOW", help="Name of the workflow; none with --task.")]
Task = Annotated[str, typer.Option("--task", help="Run this task (its url) alone instead of a workflow.")]


def _one_of(workflow: str, task: str) -> None:
    if bool(workflow) == bool(task):
        raise typer.BadParameter("name a workflow, or a task with --task", param_hint="WORKFLOW")


def _show(out: Output, service: Service, outcome: Outcome) -> None:
    out.show(codec.encode_outcome(outcome), *outcome_view(outcome), *advice_for(outcome, service.prefix))


@command(app, "create", example='dwarf-nats flow create greet --state \'{"name": "ada"}\' --start')
async def create(
    out: Output,
    bus: Bus,
    service: Service,
    creation: Creation,
    workflow: Workflow = "",
    task: Task = "",
    state: State = None,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
) -> None:
    """Make a flow and print its key."""
    _one_of(workflow, task)
    values, options = read_state(state), creation.options()
    async with service.client(bus) as client:
        if task:
            key = await client.create_task(task, values, options, start=start)
        else:
            key = await client.create(workflow, values, options, start=start)
    out.show(m.FlowKeyReply(flow_key=key), key)


@command(app, "start", example="dwarf-nats flow start 1-42-a1B2c3D4e5F6g7H8 --notify billing.done")
async def start(
    out: Output,
    bus: Bus,
    service: Service,
    flow: FlowKey,
    notify: Annotated[str, typer.Option(help="Announce the outcome on …stopped.NAME.")] = "",
) -> None:
    """Start a flow that was created."""
    async with service.client(bus) as client:
        await client.start(flow, notify)
    out.show(m.Empty(), "started")


@command(
    app,
    "run",
    short="Make a flow, start it, print its outcome.",
    example='dwarf-nats flow run greet --state \'{"name": "ada"}\'',
)
async def run(
    out: Output,
    bus: Bus,
    service: Service,
    creation: Creation,
    workflow: Workflow = "",
    task: Task = "",
    state: State = None,
    timeout_ms: TimeoutMs = 30_000,
) -> None:
    """Make a flow, start it, wait for it to stop, and print its outcome."""
    _one_of(workflow, task)
    values, options = read_state(state), creation.options()
    async with service.client(bus) as client:
        if task:
            key = await client.create_task(task, values, options, start=True)
            outcome = await client.await_(key, timeout_ms / 1000)
        else:
            outcome = await client.run(workflow, values, options, timeout=timeout_ms / 1000)
    _show(out, service, outcome)


@command(app, "await", example="dwarf-nats flow await 1-42-a1B2c3D4e5F6g7H8 --timeout-ms 60000")
async def await_(
    out: Output,
    bus: Bus,
    service: Service,
    flow: FlowKey,
    timeout_ms: TimeoutMs = 30_000,
    poll: Annotated[bool, typer.Option("--poll", help="When time is up, print where it stands instead.")] = False,
) -> None:
    """Wait for a flow to stop and print its outcome."""
    async with service.client(bus) as client:
        outcome = await (client.poll if poll else client.await_)(flow, timeout_ms / 1000)
    _show(out, service, outcome)


@command(app, "get", example="dwarf-nats flow get 1-42-a1B2c3D4e5F6g7H8 --json")
async def get(
    out: Output,
    bus: Bus,
    service: Service,
    flow: FlowKey = "",
    step: Annotated[str, typer.Option(help="Key of a step: print that step with state and changes instead.")] = "",
    fingerprint: Annotated[bool, typer.Option("--fingerprint", help="Print the fingerprint instead.")] = False,
) -> None:
    """Print where a flow stands, or one step of it."""
    if bool(flow) == bool(step):
        raise typer.BadParameter("give the key of a flow, or --step with the key of a step", param_hint="FLOW")
    async with service.client(bus) as client:
        if step:
            message = codec.step_message(await client.step(step))
            out.show(message, msgspec.json.format(msgspec.json.encode(message)).decode())
        elif fingerprint:
            digest, status = await client.fingerprint(flow)
            out.show({"fingerprint": digest, "status": status.value}, f"{digest}  {status.value}")
        else:
            outcome = await client.snapshot(flow)
            _show(out, service, outcome)


@command(
    app,
    "history",
    short="The steps of a flow and where it is paused.",
    example="dwarf-nats flow history 1-42-a1B2c3D4e5F6g7H8",
)
async def history(out: Output, bus: Bus, service: Service, flow: FlowKey) -> None:
    """Print the steps of a flow, those of its subgraphs below their callers, and where it is paused."""
    async with service.client(bus) as client:
        steps = await client.history(flow)
        pauses = [] if out.json else await pauses_view(client, flow, steps, service.prefix)
    out.show(m.HistoryReply(steps=[codec.step_message(step) for step in steps]), *history_view(steps), *pauses)


@command(app, "mermaid", example="dwarf-nats flow mermaid 1-42-a1B2c3D4e5F6g7H8 > order.mmd")
async def mermaid(out: Output, bus: Bus, service: Service, flow: FlowKey) -> None:
    """Print the history of a flow as a Mermaid flowchart."""
    async with service.client(bus) as client:
        drawn = await client.mermaid(flow)
    out.show(m.MermaidReply(mermaid=drawn), Text(drawn.rstrip()))


@command(app, "list", example="dwarf-nats flow list --status failed --newer-than-ms 3600000")
async def list_(
    out: Output,
    bus: Bus,
    service: Service,
    filters: Filters,
    cursor: Annotated[str, typer.Option(help="The page after this one, as printed below it.")] = "",
) -> None:
    """List flows, newest first."""
    async with service.client(bus) as client:
        flows, following = await client.list(filters.query(), cursor)
    reply = m.FlowListReply(flows=[codec.summary_message(one) for one in flows], cursor=following or msgspec.UNSET)
    rows = [
        (
            one.flow_key,
            one.workflow,
            coloured(one.status),
            one.task or "",
            day_and_clock(one.updated_at),
            one.cancel_reason or error_line(one.error),
        )
        for one in flows
    ]
    shown = table(("flow", "workflow", "status", "task", "updated", "why"), rows)
    out.show(reply, shown, *([f"more: --cursor {following}"] if following else []))


@command(app, "cancel", example="dwarf-nats flow cancel 1-42-a1B2c3D4e5F6g7H8 --reason 'ordered twice'")
async def cancel(
    out: Output,
    bus: Bus,
    service: Service,
    flow: FlowKey,
    reason: Annotated[str, typer.Option(help="Kept with the flow.")] = "",
) -> None:
    """Cancel a flow that has not ended."""
    async with service.client(bus) as client:
        await client.cancel(flow, reason)
    out.show(m.Empty(), "cancelled")


@command(app, "delete", example="dwarf-nats flow delete 1-42-a1B2c3D4e5F6g7H8")
async def delete(out: Output, bus: Bus, service: Service, flow: FlowKey) -> None:
    """Delete a flow that is not running."""
    async with service.client(bus) as client:
        await client.delete(flow)
    out.show(m.Empty(), "deleted")


@command(
    app,
    "purge",
    short="Delete the flows that match and are not running.",
    example="dwarf-nats flow purge --status completed --older-than-ms 86400000",
)
async def purge(
    out: Output,
    bus: Bus,
    service: Service,
    matching: Matching,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 10_000,
) -> None:
    """Delete the flows that match and are not running, the oldest first; needs --status, --workflow or --older-than-ms.

    At most --limit at a time: as long as it deletes that many, there may be more.
    """
    if matching.status is None and matching.workflow is None and matching.older_than_ms is None:
        raise BadRequest("purge needs at least one of --status, --workflow, --older-than-ms")
    async with service.client(bus) as client:
        deleted = await client.purge(replace(matching.query(), limit=limit))
    out.show(m.FlowPurgeReply(deleted=deleted), f"deleted {deleted}")


@command(
    app,
    "watch",
    short="Print the changes of a flow until it ends.",
    example="dwarf-nats flow watch 1-42-a1B2c3D4e5F6g7H8",
)
async def watch(out: Output, bus: Bus, service: Service, flow: FlowKey) -> None:
    """Print each change of a flow's steps as it happens, until the flow ends, then its outcome."""
    seen: dict[str, str] = {}
    last: Change | None = None
    async with service.client(bus) as client:
        async for change in client.watch(flow):
            for step, path in _news(change.steps, seen):
                line = f"{clock(step.updated_at)}  {step.status.value:<11}  {path}"
                out.show(codec.step_message(step), f"{line}  {error_line(step.error)}".rstrip())
            if change.outcome.status is Status.INTERRUPTED and not out.json:
                _show(out, service, change.outcome)
            last = change
    if last is not None:
        _show(out, service, last.outcome)


def _news(steps: Sequence[Step], seen: dict[str, str], path: str = "") -> list[tuple[Step, str]]:
    """The steps that look otherwise than they did, with the path to each; remembers how they look now."""
    fresh: list[tuple[Step, str]] = []
    for step in steps:
        here = path + step.task
        look = f"{step.status} {step.attempt}"
        if seen.get(step.step_key) != look:
            seen[step.step_key] = look
            fresh.append((step, here))
        fresh += _news(step.sub_history, seen, f"{here} › ")
    return fresh
