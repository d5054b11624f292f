"""`dwarf-nats flow …`: the operations that make one flow, run it and look at it (wire: section 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from dwarf_nats.cli.arguments import FlowKey, State
from dwarf_nats.cli.command import command, new_app, option_group, print_refusal
from dwarf_nats.cli.creation import Creation
from dwarf_nats.cli.options import Bus, FlowService
from dwarf_nats.cli.output import Output, clock, error_line, outcome_view, pretty
from dwarf_nats.cli.pauses import advice_for, pauses_view
from dwarf_nats.cli.state_arg import read_state
from dwarf_nats.cli.steps import history_view, step_view
from dwarf_nats.cli.streaming import ChunkPrinter, streamed
from dwarf_nats.errors import TimedOut
from dwarf_nats.render.terminal import one_line
from dwarf_nats.sdk import Change
from dwarf_nats.wire import codec
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.pause_messages import pause_message
from dwarf_nats.wire.steps import step_message
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status

app = new_app("")

TIME_IS_UP = 5
EXIT_CODES = {
    Status.COMPLETED: 0,
    Status.FAILED: 3,
    Status.CANCELLED: 4,
    Status.INTERRUPTED: 6,
    Status.CREATED: TIME_IS_UP,
    Status.RUNNING: TIME_IS_UP,
}
"""Exit codes of `flow run` and `flow await`; a flow that is still created or running has not stopped in time."""

PAGE = 1_000
"""Steps per request of a whole history; the bound of the service."""
TimeoutMs = Annotated[int, typer.Option(min=0, envvar="DWARF_TIMEOUT_MS", help="How long to wait.")]
Workflow = Annotated[str, typer.Argument(metavar="WORKFLOW", help="Name of the workflow; none with --task.")]
Task = Annotated[str, typer.Option("--task", help="Run this task (its url) alone instead of a workflow.")]


def register(family: typer.Typer) -> None:
    family.add_typer(app)


@option_group("Waiting")
@dataclass(slots=True, frozen=True)
class Waiting:
    """The wait for a flow that is run."""

    timeout_ms: TimeoutMs = 30_000
    stream: Annotated[bool, typer.Option("--stream", help="Print meanwhile what its tasks emit.")] = False


def _one_of(workflow: str, task: str) -> None:
    if bool(workflow) == bool(task):
        raise typer.BadParameter("name a workflow, or a task with --task", param_hint="WORKFLOW")


def _show(out: Output, service: FlowService, outcome: Outcome) -> None:
    out.show(codec.encode_outcome(outcome), *outcome_view(outcome), *advice_for(outcome, service.prefix))


@contextmanager
def _time_is_up(out: Output) -> Iterator[None]:
    """Exit with a code of its own if the wait ended before the flow stopped."""
    try:
        yield
    except TimedOut as error:
        print_refusal(error, as_json=out.json)
        raise typer.Exit(TIME_IS_UP) from None


@command(app, "create", example='dwarf-nats flow create greet --state \'{"name": "ada"}\' --start')
async def create(
    out: Output,
    bus: Bus,
    service: FlowService,
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
    service: FlowService,
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
    service: FlowService,
    creation: Creation,
    waiting: Waiting,
    workflow: Workflow = "",
    task: Task = "",
    state: State = None,
) -> None:
    """Make a flow, start it, wait for it to stop, and print its outcome.

    Exit code 0: it completed; 3: it failed; 4: it was cancelled; 5: the time was up; 6: it waits for somebody.
    """
    _one_of(workflow, task)
    values, options, seconds = read_state(state), creation.options(), waiting.timeout_ms / 1000
    async with service.client(bus) as client:
        with _time_is_up(out):
            if waiting.stream:
                made = client.create_task(task, values, options) if task else client.create(workflow, values, options)
                outcome = await streamed(client, await made, ChunkPrinter(out), start=True, timeout=seconds)
            elif task:
                key = await client.create_task(task, values, options, start=True)
                outcome = await client.await_(key, seconds)
            else:
                outcome = await client.run(workflow, values, options, timeout=seconds)
    _show(out, service, outcome)
    raise typer.Exit(EXIT_CODES[outcome.status])


@command(app, "await", example="dwarf-nats flow await 1-42-a1B2c3D4e5F6g7H8 --timeout 1m")
async def await_(
    out: Output,
    bus: Bus,
    service: FlowService,
    flow: FlowKey,
    timeout_ms: TimeoutMs = 30_000,
    poll: Annotated[bool, typer.Option("--poll", help="When time is up, print where it stands instead.")] = False,
) -> None:
    """Wait for a flow to stop and print its outcome.

    Exit code 0: it completed; 3: it failed; 4: it was cancelled; 5: the time was up; 6: it waits for somebody.
    """
    async with service.client(bus) as client:
        with _time_is_up(out):
            outcome = await (client.poll if poll else client.await_)(flow, timeout_ms / 1000)
    _show(out, service, outcome)
    raise typer.Exit(EXIT_CODES[outcome.status])


@command(app, "get", example="dwarf-nats flow get 1-42-a1B2c3D4e5F6g7H8 --json")
async def get(
    out: Output,
    bus: Bus,
    service: FlowService,
    flow: FlowKey = "",
    step: Annotated[str, typer.Option(help="Key of a step: print that step with state and changes instead.")] = "",
    fingerprint: Annotated[bool, typer.Option("--fingerprint", help="Print the fingerprint instead.")] = False,
) -> None:
    """Print where a flow stands, or one step of it."""
    if bool(flow) == bool(step):
        raise typer.BadParameter("give the key of a flow, or --step with the key of a step", param_hint="FLOW")
    async with service.client(bus) as client:
        if step:
            found = await client.step(step)
            out.show(step_message(found), *step_view(found))
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
async def history(
    out: Output,
    bus: Bus,
    service: FlowService,
    flow: FlowKey,
    limit: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Print one page of at most so many steps; all without it.")
    ] = None,
    cursor: Annotated[str, typer.Option(help="Begin after this place, as printed below a page.")] = "",
) -> None:
    """Print the steps of a flow, those of its subgraphs below their callers, and where it is paused."""
    steps: list[Step] = []
    async with service.client(bus) as client:
        while True:
            page, cursor = await client.history_page(flow, limit or PAGE, cursor)
            steps += page
            if not out.json:
                out.show(None, *history_view(page))
            if limit is not None or not cursor:
                break
        if not out.json:
            more = [f"more: --limit {limit} --cursor {cursor}"] if cursor else []
            out.show(None, *more, *pauses_view(await client.snapshot(flow), service.prefix))
            return
    out.show(m.HistoryReply(steps=[step_message(step) for step in steps], cursor=cursor or msgspec.UNSET))


@command(
    app,
    "pauses",
    short="What a flow is paused by.",
    example="dwarf-nats flow pauses 1-42-a1B2c3D4e5F6g7H8",
)
async def pauses(out: Output, bus: Bus, service: FlowService, flow: FlowKey) -> None:
    """Print what a flow is paused by, each pause with the key of its step, its payload and its deadline."""
    async with service.client(bus) as client:
        outcome = await client.snapshot(flow)
    shown = pauses_view(outcome, service.prefix) or [Text(f"not paused: the flow is {outcome.status}")]
    out.show({"pauses": [pause_message(one) for one in outcome.pauses]}, *shown)


@command(app, "mermaid", example="dwarf-nats flow mermaid 1-42-a1B2c3D4e5F6g7H8 > order.mmd")
async def mermaid(out: Output, bus: Bus, service: FlowService, flow: FlowKey) -> None:
    """Print the history of a flow as a Mermaid flowchart."""
    async with service.client(bus) as client:
        drawn = await client.mermaid(flow)
    out.show(m.MermaidReply(mermaid=drawn), Text(drawn.rstrip()))


@command(
    app,
    "graph",
    short="The graph that a flow runs, as JSON.",
    example="dwarf-nats flow graph 1-42-a1B2c3D4e5F6g7H8 > order.json",
)
async def graph(out: Output, bus: Bus, service: FlowService, flow: FlowKey) -> None:
    """Print the graph that a flow runs as JSON; another one may be registered under its name by now."""
    async with service.client(bus) as client:
        found = await client.flow_graph(flow)
    out.show(found.to_json(), pretty(found.to_json()))


@command(
    app,
    "watch",
    short="Print the changes of a flow until it ends.",
    example="dwarf-nats flow watch 1-42-a1B2c3D4e5F6g7H8",
)
async def watch(out: Output, bus: Bus, service: FlowService, flow: FlowKey) -> None:
    """Print each change of a flow's steps as it happens, until the flow ends, then its outcome."""
    seen: dict[str, str] = {}
    last: Change | None = None
    async with service.client(bus) as client:
        async for change in client.watch(flow):
            for step, path in _news(change.steps, seen):
                line = f"{clock(step.updated_at)}  {step.status.value:<11}  {one_line(path)}"
                out.show(step_message(step), f"{line}  {error_line(step.error)}".rstrip())
            if change.outcome.status is Status.INTERRUPTED and not out.json:
                _show(out, service, change.outcome)
            last = change
    if last is not None:
        _show(out, service, last.outcome)


def _news(steps: Sequence[Step], seen: dict[str, str], path: str = "") -> list[tuple[Step, str]]:
    """The steps that changed since the last call, with the path to each; keeps their present state in mind."""
    fresh: list[tuple[Step, str]] = []
    for step in steps:
        here = path + step.task
        state = f"{step.status} {step.attempt}"
        if seen.get(step.step_key) != state:
            seen[step.step_key] = state
            fresh.append((step, here))
        fresh += _news(step.sub_history, seen, f"{here} › ")
    return fresh
