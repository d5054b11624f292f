"""Client and worker against the real service: every operation it carries out, and workers that stop, hang and die."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats import errors
from dwarf_nats.cli.local_stack import clean_env
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import END, Client, Flow, FlowOptions, Graph, Query, TaskError, Worker
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.testing import service as running_service
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.status import Status

PATIENCE = 20.0


@dataclass
class Place:
    """A running deployment: a client of it, and how to serve its tasks."""

    url: str
    task_prefix: str
    client: Client

    @asynccontextmanager
    async def serving(self, concurrency: int = 64, **functions: Callable[..., Any]) -> AsyncIterator[Worker]:
        worker = Worker(self.url, task_prefix=self.task_prefix, concurrency=concurrency, drain_seconds=0)
        for url, function in functions.items():
            worker.add_task(url, function)
        async with worker:
            yield worker

    @asynccontextmanager
    async def process(self, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
        """`dwarf-nats worker` with the tasks of `TASKS`, ready; gone at the end."""
        (folder / "tasks.py").write_text(TASKS.format(task_prefix=self.task_prefix))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dwarf_nats.cli.main", "worker", str(folder / "tasks.py"), "--nats", self.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_env(),
        )
        try:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"serving hold\n"
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


TASKS = """
import asyncio
import nats
from dwarf_nats.sdk import Flow, Worker

worker = Worker(task_prefix="{task_prefix}", drain_seconds=600)

@worker.task("hold")
async def hold(flow: Flow, url: str) -> dict[str, bool]:
    # Says that it runs, and goes on when told to.
    nc = await nats.connect(url)
    go = await nc.subscribe("{task_prefix}.go")
    await nc.flush()
    await nc.flush()
    await nc.publish("{task_prefix}.begun")
    await nc.flush()
    await go.next_msg(timeout=600)
    await nc.close()
    return {{"done": True}}
"""


@pytest.fixture
async def place(nats_server: NatsServer, dsn: str, prefix: str) -> AsyncIterator[Place]:
    """The service on each kind of database."""
    async with (
        running_service(nats_server.url, dsn, prefix=prefix, task_prefix=f"{prefix}task"),
        Client(nats_server.url, prefix=prefix) as client,
    ):
        yield Place(nats_server.url, f"{prefix}task", client)


@pytest.fixture
async def small_place(nats_server: NatsServer, prefix: str) -> AsyncIterator[Place]:
    """The service on SQLite, for what has nothing to do with the database."""
    async with (
        running_service(nats_server.url, prefix=prefix, task_prefix=f"{prefix}task"),
        Client(nats_server.url, prefix=prefix) as client,
    ):
        yield Place(nats_server.url, f"{prefix}task", client)


def line(name: str, *tasks: str) -> Graph:
    graph = Graph(name)
    graph.add_chain(*tasks, END)
    return graph


async def greet(name: str, times: int = 1) -> dict[str, str]:
    return {"greeting": f"hello {name} " * times}


def shout(flow: Flow) -> None:
    """A plain function with the flow object."""
    flow.transform("greeting", str.upper)
    flow.set("where", [flow.workflow, flow.task, flow.url, flow.attempt])
    flow.set("thread", threading.current_thread() is not threading.main_thread())


# --- operations ---


async def test_run_gives_a_typed_outcome_of_async_and_plain_tasks(place: Place) -> None:
    """O3, O5, S2: arguments come from state, the flow object where a parameter asks for it."""
    async with place.serving(greet=greet, shout=shout):
        outcome = await place.client.run(line("hello", "greet", "shout"), {"name": "ada", "n": 2**63 - 1})
    assert (outcome.status, outcome.workflow, outcome.error) == (Status.COMPLETED, "hello", None)
    assert outcome.state == {
        "name": "ada",
        "n": 2**63 - 1,
        "greeting": "HELLO ADA ",
        "where": ["hello", "shout", "shout", 0],
        "thread": True,
    }


async def test_a_flow_is_made_started_awaited_looked_at_and_deleted(place: Place) -> None:
    """O1, O2, O4-O7, O9."""
    client = place.client
    async with place.serving(greet=greet, shout=shout):
        key = await client.create(line("life", "greet", "shout"), {"name": "bob"}, FlowOptions(priority=7))
        assert (await client.snapshot(key)).status is Status.CREATED
        before, status = await client.fingerprint(key)
        assert status is Status.CREATED
        assert (await client.poll(key, timeout=0)).status is Status.CREATED
        with pytest.raises(errors.TimedOut) as late:
            await client.await_(key, timeout=0)
        assert late.value.details["flow_key"] == key
        await client.start(key)
        assert (await client.await_(key)).state["greeting"] == "HELLO BOB "
        assert await client.fingerprint(key) != (before, Status.COMPLETED)
    first, second = await client.history(key)
    assert [(one.task, one.status, one.depth) for one in (first, second)] == [
        ("greet", Status.COMPLETED, first.depth),
        ("shout", Status.COMPLETED, first.depth + 1),
    ]
    step = await client.step(first.step_key)
    assert step.changes_json is not None
    assert json.loads(step.changes_json) == {"greeting": "hello bob "}
    assert step.next_key == second.step_key
    ((flow,), cursor) = await client.list(Query(priority=7))
    assert (flow.flow_key, flow.status, flow.task, cursor) == (key, Status.COMPLETED, "shout", "")
    await client.delete(key)
    with pytest.raises(errors.NotFound):
        await client.snapshot(key)


async def test_create_task_cancel_and_purge(place: Place) -> None:
    """O1, O9, O10."""
    client = place.client
    keys = [await client.create_task("nobody", {"n": n}) for n in range(3)]
    for key in keys:
        await client.cancel(key, "not wanted")
    outcome = await client.snapshot(keys[0])
    assert (outcome.status, outcome.cancel_reason) == (Status.CANCELLED, "not wanted")
    assert outcome.state == {"n": 0}
    assert await client.purge(Query(status=Status.CANCELLED)) == 3
    assert await client.list() == ([], "")


async def test_a_flow_that_is_compensated_says_so_and_its_task_knows_what_it_undoes(place: Place) -> None:
    """N9: outcome and summary while it lasts, and what the compensating task is handed."""
    client, began, go_on = place.client, asyncio.Event(), asyncio.Event()
    seen: list[tuple[str, dict[str, Any], int | None]] = []

    async def undo(flow: Flow) -> dict[str, Any]:
        undone = flow.compensating
        assert undone is not None
        assert undone.error is not None
        seen.append((undone.step_key, dict(undone.changes), undone.error.code))
        began.set()
        await go_on.wait()
        return {"charged": None}

    def fails() -> None:
        raise TaskError("no truck", 422)

    graph = line("saga", "charge", "ship")
    graph.compensate("charge", "undo")
    async with place.serving(charge=lambda: {"charged": 5}, ship=fails, undo=undo):
        key = await client.create(graph, {"total": 5}, start=True)
        await asyncio.wait_for(began.wait(), PATIENCE)
        shown = await client.snapshot(key)
        assert (shown.status, shown.compensating, shown.error) == (Status.RUNNING, True, None)
        ((summary,), _) = await client.list(Query(workflow="saga"))
        assert (summary.compensating, summary.task) == (True, "charge:compensate")
        with pytest.raises(errors.Conflict, match="is being compensated"):
            await client.cancel(key)
        go_on.set()
        outcome = await client.await_(key, PATIENCE)
        assert (outcome.status, outcome.compensating, outcome.state) == (Status.FAILED, False, {"total": 5})
        ((summary,), _) = await client.list(Query(workflow="saga"))
        assert not summary.compensating
        charge, *_ = await client.history(key)
    assert seen == [(charge.step_key, {"charged": 5}, 422)]


async def test_graphs_are_kept_and_flows_are_made_of_them_by_name(place: Place) -> None:
    """G8, G10."""
    client, graph = place.client, line("kept", "greet")
    await client.validate_graph(graph)
    info = await client.put_graph(graph)
    assert (info.name, info.digest) == ("kept", graph.digest())
    assert (await client.get_graph("kept")).to_json() == graph.to_json()
    ((listed,)) = await client.list_graphs()
    assert (listed.name, listed.digest) == ("kept", graph.digest())
    async with place.serving(greet=greet):
        assert (await client.run("kept", {"name": "eve"})).status is Status.COMPLETED
    await client.delete_graph("kept")
    with pytest.raises(errors.NotFound):
        await client.get_graph("kept")


async def test_the_deployment_tells_its_health(place: Place) -> None:
    """O16."""
    (shard,) = await place.client.shard_info()
    assert (shard.shard, shard.error, shard.flows) == (1, "", 0)
    assert not await place.client.breaker("greet")


async def test_refusals_are_exceptions(place: Place) -> None:
    """Semantics: refusals; every refusal is a leaf of the error tree."""
    client = place.client
    done = await client.create_task("nobody")
    await client.cancel(done)
    nothing = "1-999999-a1B2c3D4e5F6g7H8"
    bad = Graph("bad")
    bad.add_task("a")
    for refused, call in (
        (errors.BadRequest, client.snapshot("nonsense")),
        (errors.BadRequest, client.create("bad name")),
        (errors.BadRequest, client.validate_graph(bad)),
        (errors.BadRequest, client.create_task("nobody", b"[]")),
        (errors.NotFound, client.snapshot(nothing)),
        (errors.NotFound, client.step(nothing)),
        (errors.NotFound, client.create("unknown")),
        (errors.Conflict, client.cancel(done)),
        (errors.Conflict, client.start(done)),
        (errors.TooLarge, client.create_task("nobody", {"text": "x" * client.nc.max_payload})),
    ):
        with pytest.raises(refused):
            await call


async def test_one_idempotency_key_makes_one_flow(place: Place) -> None:
    """O1."""
    options = FlowOptions(idempotency_key="order-7 §")
    first = await place.client.create_task("nobody", {"n": 1}, options)
    assert await place.client.create_task("nobody", {"n": 1}, options) == first
    with pytest.raises(errors.Conflict):
        await place.client.create_task("nobody", {"n": 2}, options)


async def test_a_run_that_takes_too_long_leaves_its_key(place: Place) -> None:
    """O3."""
    gate = asyncio.Event()

    async def hold() -> None:
        await gate.wait()

    async with place.serving(hold=hold):
        with pytest.raises(errors.TimedOut) as late:
            await place.client.run(line("late", "hold"), timeout=0.05)
        gate.set()
        assert (await place.client.await_(late.value.details["flow_key"])).status is Status.COMPLETED


async def test_list_all_goes_over_all_pages(place: Place) -> None:
    """O9: newest first, each flow once."""
    keys = [await place.client.create_task("nobody", options=FlowOptions(fairness_key="page")) for _ in range(7)]
    page, cursor = await place.client.list(Query(fairness_key="page", limit=3))
    assert ([one.flow_key for one in page], bool(cursor)) == (keys[:3:-1], True)
    found = [one.flow_key async for one in place.client.list_all(Query(fairness_key="page", limit=3))]
    assert found == keys[::-1]


async def test_watch_sees_every_stop_on_the_way_and_ends_with_the_flow(place: Place) -> None:
    """O6."""
    gate = asyncio.Event()

    async def hold() -> None:
        await gate.wait()

    seen: list[tuple[Status, list[str]]] = []
    async with place.serving(greet=greet, hold=hold), asyncio.timeout(PATIENCE):
        key = await place.client.create(line("watched", "greet", "hold"), {"name": "ada"})
        async for change in place.client.watch(key, interval=0.01):
            seen.append((change.outcome.status, [step.task for step in change.steps]))
            if change.outcome.status is Status.CREATED:
                await place.client.start(key)
            elif len(change.steps) == 2:
                gate.set()
    assert seen[0] == (Status.CREATED, ["greet"])
    assert (Status.RUNNING, ["greet", "hold"]) in seen
    assert seen[-1] == (Status.COMPLETED, ["greet", "hold"])


# --- what tasks say ---


async def test_the_error_of_a_task_is_the_error_of_the_flow(small_place: Place) -> None:
    """X4, X8, S6."""

    async def declined(flow: Flow) -> None:
        flow.set("charged", True)
        raise TaskError("card declined", code=402, card="4242")

    async with small_place.serving(declined=declined):
        outcome = await small_place.client.run(line("declined", "declined"), {"total": 5})
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == (402, "card declined")
    assert outcome.error.extra == {"card": "4242"}
    assert outcome.state == {"total": 5}


async def test_a_retry_runs_the_step_again_with_what_it_changed(small_place: Place) -> None:
    """X5, X11: attempts count up, the step key stays."""
    keys: list[str] = []

    async def again(flow: Flow) -> None:
        keys.append(flow.step_key)
        flow.set("tries", flow.get("tries", 0) + 1)
        if flow.attempt < 2:
            flow.retry(max_attempts=3, initial_delay=0)

    async with small_place.serving(again=again):
        outcome = await small_place.client.run(line("again", "again"))
    assert (outcome.status, outcome.state) == (Status.COMPLETED, {"tries": 3})
    assert (len(keys), len(set(keys))) == (3, 1)


async def test_baggage_reaches_every_task(small_place: Place) -> None:
    seen: list[Any] = []

    def look(flow: Flow) -> None:
        seen.append(flow.baggage)

    async with small_place.serving(look=look):
        options = FlowOptions(baggage=Raw(b'{"tenant":"acme"}'))
        await small_place.client.run(line("baggage", "look"), options=options)
    assert seen == [{"tenant": "acme"}]


async def test_a_worker_never_runs_more_than_it_was_told_to(small_place: Place) -> None:
    running, most = 0, 0
    full, gate = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await gate.wait()
        running -= 1

    async with small_place.serving(concurrency=3, work=work), asyncio.timeout(PATIENCE):
        keys = [await small_place.client.create_task("work", start=True) for _ in range(10)]
        await full.wait()
        gate.set()
        outcomes = [await small_place.client.await_(key) for key in keys]
    assert {one.status for one in outcomes} == {Status.COMPLETED}
    assert most == 3


# --- accepted, roll call, cancel ---


async def answers_with(nc: Nats, header: str, value: str) -> asyncio.Queue[Msg]:
    """What anybody answers from now on with this header."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def keep(msg: Msg) -> None:
        if (msg.headers or {}).get(header) == value:
            heard.put_nowait(msg)

    await nc.subscribe("_INBOX.>", cb=keep)
    await round_trip(nc)
    return heard


@pytest.mark.slow
async def test_a_cancellation_reaches_a_coroutine_and_a_thread(small_place: Place, nc: Nats) -> None:
    """O10, wire section 2: both workers accept, answer the roll call, and are told."""
    ended, noticed = asyncio.Event(), threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def busy(flow: Flow) -> None:
        while not flow.cancelled:
            pass
        noticed.set()

    heard = await answers_with(nc, "Dwarf-Signal", "accepted")
    async with small_place.serving(endless=endless, busy=busy), asyncio.timeout(PATIENCE):
        keys = [await small_place.client.create_task(task, start=True) for task in ("endless", "busy")]
        worker, other = [(await heard.get()).headers["Dwarf-Worker"] for _ in keys]  # type: ignore[index]
        assert worker == other
        steps = [(await small_place.client.history(key))[0].step_key.rpartition("-")[0] for key in keys]
        reply = await nc.request(worker, json.dumps({"steps": [*steps, "1-999999"], "cancel": []}).encode())
        assert json.loads(reply.data) == {"running": steps}
        for key in keys:
            await small_place.client.cancel(key, "enough")
        await ended.wait()
        assert await asyncio.to_thread(noticed.wait, PATIENCE)
        for key in keys:
            assert (await small_place.client.snapshot(key)).status is Status.CANCELLED


# --- workers as processes ---


@asynccontextmanager
async def in_the_middle(place: Place, nc: Nats, folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A worker process in the middle of a task, and the key of the flow."""
    begun = await nc.subscribe(f"{place.task_prefix}.begun")
    await round_trip(nc)
    async with place.process(folder) as worker, asyncio.timeout(PATIENCE):
        options = FlowOptions(time_budget_ms=3_000)
        key = await place.client.create_task("hold", {"url": place.url}, options, start=True)
        await begun.next_msg(timeout=PATIENCE)
        yield worker, key


async def drains(worker: asyncio.subprocess.Process) -> None:
    """SIGTERM, and the worker says that it finishes what is in hand."""
    worker.send_signal(signal.SIGTERM)
    assert worker.stderr is not None
    while b"finishing what is in hand" not in (said := await worker.stderr.readline()):
        assert said, "the worker ended"


@pytest.mark.slow
async def test_sigterm_lets_a_worker_finish_what_is_in_hand(small_place: Place, nc: Nats, tmp_path: Path) -> None:
    async with in_the_middle(small_place, nc, tmp_path) as (worker, key):
        await drains(worker)
        await nc.publish(f"{small_place.task_prefix}.go")
        assert (await small_place.client.await_(key)).state == {"url": small_place.url, "done": True}
        assert await worker.wait() == 0


@pytest.mark.slow
async def test_a_second_signal_gives_back_what_is_in_hand(small_place: Place, nc: Nats, tmp_path: Path) -> None:
    """B3, wire section 2: the answer is backpressure, so that the step can run elsewhere."""
    given_back = await answers_with(nc, "Dwarf-Disposition", "backpressure")
    async with in_the_middle(small_place, nc, tmp_path) as (worker, _):
        await drains(worker)
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 1
        await given_back.get()


@pytest.mark.slow
async def test_a_worker_killed_in_the_middle_fails_the_step_at_its_deadline(
    small_place: Place, nc: Nats, tmp_path: Path
) -> None:
    """X3: nothing tells the engine of the death, so the step's time budget ends the wait."""
    async with in_the_middle(small_place, nc, tmp_path) as (worker, key):
        worker.kill()
        outcome = await small_place.client.await_(key)
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert outcome.error.code == 408
