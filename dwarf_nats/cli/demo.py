"""`dwarf-nats demo`: the example orders from end to end, on real servers, before one's eyes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.rule import Rule
from rich.text import Text

from dwarf_nats.cli.command import command
from dwarf_nats.cli.graph import read_graph
from dwarf_nats.cli.output import coloured, console, error_line, history_view, outcome_view, table
from dwarf_nats.cli.stage import Stage
from dwarf_nats.errors import NotFound
from dwarf_nats.sdk import Client
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status

_PACKAGE = Path(__file__).resolve().parents[1]
MISSING = "orders.charge"
_PATIENCE_SECONDS = 60.0


def register(app: typer.Typer) -> None:
    command(app, "demo", example="dwarf-nats demo")(demo)


def examples() -> Path:
    """The folder of the example orders: in the wheel beside the package, in a checkout at its root."""
    for place in (_PACKAGE / "_examples" / "orders", _PACKAGE.parent / "examples" / "orders"):
        if (place / "orders.json").exists():
            return place
    raise NotFound("the example orders are not here: run this in a checkout of dwarf-nats, or install it again")


async def demo() -> None:
    """Run the example orders on an embedded NATS and SQLite, then once more with a task service missing.

    Ends by itself; exit code 0 if everything went as it should.
    """
    folder = examples()
    orders: list[dict[str, Any]] = orjson.loads((folder / "orders.json").read_bytes())
    graph = read_graph(str(folder / "graphs" / "order.yaml"))
    _say("Starting nats-server, a replica on SQLite, and a worker: three processes that meet on NATS only")
    with tempfile.TemporaryDirectory(prefix="dwarf-demo-") as temporary:
        data = Path(temporary)
        async with Stage(data, logs=data) as stage, stage.client() as client:
            worker = stage.add_worker(str(folder / "tasks.py"))
            await worker.start()
            await client.put_graph(graph)
            console().print(Text(f"  NATS at {stage.url}, workflow {graph.name}: {' → '.join(graph.nodes)}"))
            fine = await _first_act(client, graph.name, orders)
            await worker.stop()
            lame = stage.add_worker(str(folder / "tasks.py"), {"ORDERS_WITHOUT": MISSING})
            await lame.start()
            fine = await _second_act(client, graph.name, orders[0]) and fine
    if not fine:
        _say("Something did not go as it should, see above")
        raise typer.Exit(1)
    _say("Done. Next: dwarf-nats dev examples/orders/tasks.py --graphs examples/orders/graphs")


async def _first_act(client: Client, workflow: str, orders: Sequence[dict[str, Any]]) -> bool:
    """All orders at once; says whether all completed."""
    _say(f"{len(orders)} orders at once")
    ended = await asyncio.gather(*(_follow(client, workflow, order) for order in orders))
    outcomes = [outcome for outcome, _ in ended]
    _say("What became of them")
    console().print(table(("order", "status", "total", "payment", "shipment", "error"), map(_row, outcomes)))
    _say(f"The history of {orders[0]['order_id']}, and its state")
    console().print(history_view(ended[0][1]))
    for shown in outcome_view(outcomes[0]):
        console().print(shown)
    _say("The same as a diagram, for a viewer of Mermaid")
    console().print(Text((await client.mermaid(outcomes[0].flow_key)).rstrip()), soft_wrap=True)
    return all(outcome.status is Status.COMPLETED for outcome in outcomes)


async def _second_act(client: Client, workflow: str, order: dict[str, Any]) -> bool:
    """An order while nobody serves one of its tasks; says whether that was diagnosed."""
    _say(f"The same again while nobody serves {MISSING}")
    outcome, steps = await _follow(client, workflow, order)
    console().print(history_view(steps))
    if outcome.error is not None:
        console().print(Text.assemble("diagnosis:  ", (error_line(outcome.error), "red")))
        console().print(f"what to do: start a service on task.{MISSING}, for example dwarf-nats worker tasks.py")
    diagnosed = outcome.error is not None and MISSING in outcome.error.message
    return outcome.status is Status.FAILED and diagnosed


async def _follow(client: Client, workflow: str, order: dict[str, Any]) -> tuple[Outcome, list[Step]]:
    """Run an order and print its steps as they end. Returns the outcome and the history."""
    key = await client.create(workflow, order, start=True)
    seen: set[str] = set()
    steps: list[Step] = []
    outcome = await client.snapshot(key)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        async for change in client.watch(key, interval=0.02):
            outcome, steps = change.outcome, change.steps
            for step in steps:
                if step.status.stopped and step.step_key not in seen:
                    seen.add(step.step_key)
                    line = Text.assemble(f"  {order['order_id']}  {step.task:<8} ", coloured(step.status))
                    console().print(line)
    return outcome, steps


def _row(outcome: Outcome) -> Sequence[str | Text]:
    state = outcome.state
    return (
        str(state.get("order_id", "")),
        coloured(outcome.status),
        f"{state.get('total_cents', 0) / 100:,.2f} {state.get('currency', '')}",
        str(state.get("payment_reference", "")),
        f"{state.get('carrier', '')} {state.get('tracking_number', '')}".strip(),
        error_line(outcome.error),
    )


def _say(text: str) -> None:
    console().print()
    console().print(Rule(Text(text, style="bold"), align="left", characters="─"))
