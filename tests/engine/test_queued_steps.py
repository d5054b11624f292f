"""Steps in the queues of workers, as the engine sees them: how long they may wait, their leases, their explanation (K3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.engine.execution.queued_steps import LEASE_MARGIN_US
from dwarf_nats.engine.ports import Ports
from dwarf_nats.library import engine_on
from dwarf_nats.ports import QueuedTooLong, QueueListener, TaskCapabilities
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.node_validation import graph_problems, node_problems
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status

PATIENCE = 20.0
BUDGET_MS = 60_000


class Queue:
    """Task services whose one worker has a queue, in the test's hands."""

    def __init__(self) -> None:
        self.listeners: list[QueueListener] = []
        self.calls: asyncio.Queue[tuple[TaskCall, asyncio.Future[Answer]]] = asyncio.Queue()
        self.capabilities = TaskCapabilities(
            keeps_budget=True, listen=self.listeners.append, worker_of=lambda _key: "worker.1"
        )

    async def execute(self, call: TaskCall) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.calls.put_nowait((call, answer))
        return await answer

    async def ready(self) -> None: ...

    def cancel(self, step_key: str) -> None: ...

    async def taken(self) -> tuple[TaskCall, asyncio.Future[Answer]]:
        async with asyncio.timeout(PATIENCE):
            return await self.calls.get()


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
async def engine(dsn: str, queue: Queue) -> AsyncIterator[Engine]:
    settings = EngineSettings(time_budget_ms=BUDGET_MS)
    one = engine_on([dsn], Ports(tasks=queue, capabilities=queue.capabilities), settings, None)
    async with one:
        yield one


def graph(**policies: Any) -> Graph:
    return Graph.from_values({
        "name": "queue",
        "tasks": [{"name": "a", **policies}],
        "transitions": [{"from": "a", "to": "END"}],
    })  # fmt: skip


async def lease_of(engine: Engine, step_id: int) -> int:
    store = engine.shards[1].store
    assert isinstance(store, SqlStore)
    rows = await store.database.fetch("select lease_expires from dwarf_steps where step_id = $1", step_id)
    return int(rows[0][0])


@pytest.mark.parametrize(
    ("policies", "service_ms", "wanted"),
    [
        ({}, None, BUDGET_MS),
        ({"timeoutMs": 5_000}, None, 5_000),
        ({}, 700, 700),
        ({"queueTimeoutMs": 90}, 700, 90),
    ],
)
async def test_k3_the_node_says_how_long_then_the_service_then_the_budget(
    engine: Engine, queue: Queue, policies: dict[str, Any], service_ms: int | None, wanted: int
) -> None:
    """K3: `queueTimeoutMs` of the node or the service; default: the budget."""
    flow = await engine.create(graph(**policies), start=True)
    call, answer = await queue.taken()
    (listener,) = queue.listeners
    assert listener.queued(call.step_key, service_ms) == wanted
    assert listener.queued("1-999999-a1B2c3D4e5F6g7H8", None) is None
    assert listener.queued("9-1-a1B2c3D4e5F6g7H8", None) is None
    answer.set_result(Answer())
    assert (await engine.await_(flow)).status is Status.COMPLETED


async def test_k3_the_lease_lasts_while_a_step_waits_and_from_its_start(engine: Engine, queue: Queue) -> None:
    """K3, B2: without it another replica would take the step though its worker has it in hand."""
    await engine.create(graph(), start=True)
    call, answer = await queue.taken()
    (listener,) = queue.listeners
    shard = engine.shards[1]
    (step,) = shard.in_flight.steps
    listener.queued(call.step_key, None)
    queued = shard.queued_steps.find(step)
    assert queued is not None
    before = await lease_of(engine, step.step_id)
    await shard.queued_steps.keep_leases()
    assert await lease_of(engine, step.step_id) == before  # it lasts
    queued.lease_until = engine.clock.now() + LEASE_MARGIN_US - 1
    await shard.queued_steps.keep_leases()
    extended = await lease_of(engine, step.step_id)
    assert extended > before
    await shard.queued_steps.keep_leases()
    assert await lease_of(engine, step.step_id) == extended
    listener.started(call.step_key)
    assert queued.started_at is not None
    queued.started_at += 40_000_000  # it began later
    await shard.queued_steps.keep_leases()
    assert await lease_of(engine, step.step_id) > extended
    answer.set_result(Answer())
    await engine.await_(f"1-{step.flow.flow_id}-{step.flow.token}")
    await shard.queued_steps.keep_leases()
    assert shard.queued_steps.find(step) is None
    assert not shard.queued_steps.wanted.is_set()


async def test_k3_explain_says_where_a_step_is_queued_and_until_when(engine: Engine, queue: Queue) -> None:
    """K3, Q2."""
    flow = await engine.create(graph(queueTimeoutMs=30_000), start=True)
    call, answer = await queue.taken()
    (listener,) = queue.listeners
    listener.queued(call.step_key, None)
    (wait,) = (await engine.explain(flow)).waits
    assert wait.text.startswith("Queued at worker worker.1")
    assert (wait.worker, wait.deadline) == ("worker.1", None)
    assert wait.until is not None
    assert wait.until > engine.clock.now()
    listener.started(call.step_key)
    (wait,) = (await engine.explain(flow)).waits
    assert (wait.text, wait.until) == ("Runs on the worker worker.1.", None)
    queued = engine.shards[1].queued_steps.find(engine.shards[1].in_flight.steps[0])
    assert queued is not None
    assert wait.deadline == (queued.started_at or 0) + BUDGET_MS * 1000
    answer.set_result(Answer())
    await engine.await_(flow)


async def test_k3_a_step_that_waited_too_long_runs_elsewhere_and_has_not_failed(engine: Engine, queue: Queue) -> None:
    """K3: it is given back, and neither counts as an attempt nor as a lost worker."""
    flow = await engine.create(graph(), options=FlowOptions(), start=True)
    first, answer = await queue.taken()
    answer.set_exception(QueuedTooLong("it has waited too long in the queue of its worker"))
    second, answer = await queue.taken()
    assert (second.step_key, second.attempt) == (first.step_key, 0)
    answer.set_result(Answer())
    outcome = await engine.await_(flow)
    assert outcome.status is Status.COMPLETED
    assert not engine.replica.counters.lost


def test_k3_only_a_task_has_a_queue() -> None:
    """K3: a node that the engine carries out has none, and a timeout of nothing is refused."""
    found = Graph.from_values({
        "name": "queue", "defaults": {"queueTimeoutMs": 10},
        "tasks": [{"name": "a", "set": {"x": 1}, "queueTimeoutMs": 5}, {"name": "b", "queueTimeoutMs": 0}],
        "transitions": [{"from": "a", "to": "b"}, {"from": "b", "to": "END"}],
    })  # fmt: skip
    assert Graph.from_json(found.to_json()) == found
    assert not list(graph_problems(found))
    assert ["remove it" in problem for node in found.nodes.values() for problem in node_problems(node)] == [True, False]


def test_k3_the_builder_sets_it() -> None:
    built = Graph("queue")
    built.add_task("a")
    built.set_queue_timeout("a", 1.5)
    built.set_defaults(queue_timeout=2)
    assert built.nodes["a"].queue_timeout_ms == 1500
    assert built.defaults.queue_timeout_ms == 2000
    assert built.to_values()["defaults"] == {"queueTimeoutMs": 2000}
