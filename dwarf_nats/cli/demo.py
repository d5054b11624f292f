"""`dwarf-nats demo`: the example orders from end to end, on real servers, printed step by step."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.rule import Rule
from rich.text import Text

from dwarf_nats.cli.command import command
from dwarf_nats.cli.explain import explanation_view
from dwarf_nats.cli.following import POLL_SECONDS, Follower, compact
from dwarf_nats.cli.graph import read_graph
from dwarf_nats.cli.local_stack import LocalStack, WorkerProcess
from dwarf_nats.cli.output import coloured, console, error_line, show, table
from dwarf_nats.cli.steps import history_view
from dwarf_nats.errors import NotFound
from dwarf_nats.sdk import Client
from dwarf_nats.workflow.explanation import Reason
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status

_PACKAGE = Path(__file__).resolve().parents[1]
MISSING = "orders.charge"
ANSWER = {"approved": True, "by": "the demo"}
_WAIT_MS = 15_000
_CONSOLE_PORT = 8080
Ended = list[tuple[Outcome, list[Step]]]


def register(app: typer.Typer) -> None:
    command(
        app, "demo", short="See the example orders run, start to end.", example="dwarf-nats demo\ndwarf-nats demo --yes"
    )(demo)


def examples() -> Path:
    """The folder of the example orders: in the wheel beside the package, in a checkout at its root."""
    for place in (_PACKAGE / "_examples" / "orders", _PACKAGE.parent / "examples" / "orders"):
        if (place / "orders.json").exists():
            return place
    raise NotFound("the example orders are not here: run this in a checkout of dwarf-nats, or install it again")


async def demo(
    yes: Annotated[bool, typer.Option("--yes", help="Approve at once what a person would be asked for.")] = False,
    wait_ms: Annotated[
        int | None,
        typer.Option(min=0, help=f"How long a person may take; {_WAIT_MS} in a terminal, else 0.", show_default=False),
    ] = None,
) -> None:
    """Run the example orders on an embedded NATS and SQLite: branches, an approval, retries, a subgraph, a failure.

    Then one more while a task service is missing. Ends by itself; exit code 0 if everything went as it should.
    """
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)  # as Ctrl-C does: servers end, files go
    if wait_ms is None:
        wait_ms = _WAIT_MS if sys.stdin.isatty() and console().is_terminal else 0
    folder = examples()
    orders: list[dict[str, Any]] = orjson.loads((folder / "orders.json").read_bytes())
    graphs = [read_graph(str(path)) for path in sorted((folder / "graphs").glob("*.yaml"))]
    _heading("Starting nats-server, a replica on SQLite, and a worker: three processes that meet on NATS only")
    with tempfile.TemporaryDirectory(prefix="dwarf-demo-") as temporary:
        data = Path(temporary)
        async with LocalStack(data, logs=data) as stack, stack.client() as client:
            worker = stack.add_worker(str(folder / "tasks.py"))
            await worker.start()
            for graph in graphs:
                await client.put_graph(graph)
                show(f"  workflow {graph.name}: {', '.join(graph.nodes)}")
            show(f"  NATS at {stack.url}")
            console_url = await stack.add_console(_CONSOLE_PORT)
            if console_url:
                show(f"  console at {console_url}, as long as this runs")
            follower = Follower(client, stack.url, ANSWER, 0 if yes else wait_ms / 1000)
            succeeded = await _all_orders(client, follower, orders)
            await worker.stop()
            incomplete = stack.add_worker(str(folder / "tasks.py"), {"ORDERS_WITHOUT": MISSING})
            await incomplete.start()
            succeeded = await _missing_service(client, follower, orders[0], worker) and succeeded
    if not succeeded:
        _heading("Something did not go as it should, see above")
        raise typer.Exit(1)
    _heading("Done. Next: dwarf-nats dev examples/orders/tasks.py --graphs examples/orders/graphs")


async def _all_orders(client: Client, follower: Follower, orders: Sequence[dict[str, Any]]) -> bool:
    """Run all orders at once. Returns true if each ended as it should."""
    _heading(f"{len(orders)} orders at once: a branch per line, a person asked, a slow bank, a bank that says no")
    keys = [await client.create("order", order, start=True) for order in orders]
    ended: Ended = await asyncio.gather(
        *(follower.follow(key, order["order_id"]) for key, order in zip(keys, orders, strict=True))
    )
    _heading("What became of them")
    columns = ("order", "status", "total", "approved by", "result")
    show(table(columns, [_row(outcome) for outcome, _ in ended]))
    approved, declined = _with(ended, "approved_by"), _with(ended, "onErr")
    if approved is None or declined is None:
        show("an order that a person was asked about, and one whose card was declined, are missing here")
        return False
    _heading(f"The history of {_name(approved[0])}: branches, a pause, and the workflow that ship called")
    show(*history_view(approved[1]))
    await _diagrams(client, approved[0])
    _heading(
        f"The history and the state of {_name(declined[0])}: the bank said no, and what was put aside is given back"
    )
    show(*history_view(declined[1]))
    for field, value in declined[0].state.items():
        show(f"  {field:<15} {compact(value)}")
    shipped = await _another_card(client, follower, declined[0])
    return shipped and all(outcome.status is Status.COMPLETED for outcome, _ in ended)


async def _diagrams(client: Client, outcome: Outcome) -> None:
    """Print the graph and the history of one order as Mermaid text."""
    _heading("The workflow as a Mermaid diagram: dwarf-nats graph mermaid order")
    show((await client.graph_mermaid("order")).rstrip())
    _heading(f"What {_name(outcome)} made of it: dwarf-nats flow mermaid {outcome.flow_key}")
    show(await client.mermaid(outcome.flow_key))
    show(
        "To see them: paste them at https://mermaid.live, or into a ```mermaid block on GitHub, GitLab or in an editor."
    )


async def _another_card(client: Client, follower: Follower, outcome: Outcome) -> bool:
    """Restart the order with a field of its state replaced. Returns true if it is shipped now."""
    card = {"card": "4242424242424242"}
    _heading(f"With another card: dwarf-nats flow restart {outcome.flow_key} --overrides '{compact(card)}'")
    await client.restart(outcome.flow_key, card)
    again, _ = await follower.follow(outcome.flow_key, _name(outcome), afresh=True)
    return again.state.get("result") == "shipped"


async def _missing_service(client: Client, follower: Follower, order: dict[str, Any], worker: WorkerProcess) -> bool:
    """Run an order while one of its tasks has no service, and then start one. Returns true if the order is shipped."""
    name = order["order_id"]
    _heading(f"{name} again while nobody serves {MISSING}")
    key = await client.create("order", order, start=True)
    following = asyncio.create_task(follower.follow(key, name))
    explained = await client.explain(key)
    while not following.done() and not any(wait.reason is Reason.NO_RESPONDERS for wait in explained.waits):
        await asyncio.wait({following}, timeout=POLL_SECONDS)
        explained = await client.explain(key)
    show(*history_view(await client.history(key)))
    outcome = await client.snapshot(key)
    show(f"diagnosis:  dwarf-nats flow explain {key}")
    show(*explanation_view(explained, "dwarf", time.time_ns() // 1000))
    show(f"what to do: start a service on task.{MISSING}, for example dwarf-nats worker tasks.py")
    await worker.start()
    _heading("The service is there again")
    if outcome.status is Status.FAILED:
        step = next(one for one in await client.history(key) if one.status is Status.FAILED)
        show(f"  dwarf-nats flow restart-from {step.step_key}")
        await following
        await client.restart_from(step.step_key)
        following = asyncio.create_task(follower.follow(key, name))
    outcome, _ = await following
    show(Text.assemble(f"  {name}  ", coloured(outcome.status), f"  {outcome.state.get('result', '')}"))
    return MISSING in explained.text and outcome.status is Status.COMPLETED


def _with(ended: Ended, field: str) -> tuple[Outcome, list[Step]] | None:
    """The first order whose state ended with a field."""
    return next((one for one in ended if field in one[0].state), None)


def _name(outcome: Outcome) -> str:
    return str(outcome.state["order_id"])


def _row(outcome: Outcome) -> Sequence[str | Text]:
    state, fields = outcome.state, ("result", "carrier", "tracking_number")
    return (
        str(state.get("order_id", "")),
        coloured(outcome.status),
        f"{state.get('total_cents', 0) / 100:,.2f} {state.get('currency', '')}",
        str(state.get("approved_by", "")),
        error_line(outcome.error) or " ".join(str(state[name]) for name in fields if name in state),
    )


def _heading(text: str) -> None:
    console().print()
    console().print(Rule(Text(text, style="bold"), align="left", characters="─"))
