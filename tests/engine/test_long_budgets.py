"""Nodes that may take ten minutes: what ends their leases early, and what does not (L1, B2), on both databases."""

from __future__ import annotations

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.nodes import Compensation
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON, Gate, crash, line, maintenance_of, quiet, replica, rows

MINUTES_10 = 600_000
LEFT = "select (lease_expires - {now}) / 1000000 from dwarf_steps where node = $1 and status = 'running'"
DEAD = "update dwarf_replicas set seen_at = seen_at - 3600000000"


def long(name: str = "long") -> Graph:
    """A task that may take ten minutes."""
    graph = line(name, "work")
    graph.nodes["work"].timeout_ms = MINUTES_10
    return graph


def compensated() -> Graph:
    """A step whose compensation may take ten minutes, and one that fails."""
    graph = line("saga", "a", "fails")
    graph.nodes["a"].timeout_ms = MINUTES_10
    graph.nodes["a"].compensate = Compensation(url="work")
    return graph


async def leased(engine: Engine, node: str) -> int:
    """Seconds that the lease of the running step of a node still lasts."""
    ((seconds,),) = await rows(engine, LEFT, node)
    return int(seconds)


@pytest.mark.parametrize("graph", [long(), compensated()], ids=["task", "compensation"])
async def test_the_step_of_a_dead_replica_is_given_back_however_long_its_lease(
    dsn: str, proxy: TaskProxy, graph: Graph
) -> None:
    """B2: by the liveness of its replica, after `replica_timeout_ms`; the step keeps its key."""
    keys: list[str] = []
    hangs = Gate()

    async def work(flow: Flow) -> dict[str, str]:
        keys.append(flow.step_key)
        if len(keys) == 1:
            await hangs()
        return {"by": "the second"}

    def fails() -> None:
        raise TaskError("broken", final=True)

    proxy.handle_task("work", work)
    proxy.handle_task("a", lambda: None)
    proxy.handle_task("fails", fails)
    dead = replica(dsn, proxy)
    await dead.startup()
    key = await dead.create(graph, start=True)
    await hangs.began()
    assert await leased(dead, "a:compensate" if graph.name == "saga" else "work") > 590
    await rows(dead, DEAD)
    await crash(dead)
    async with replica(dsn, proxy) as living:
        for _ in range(3):  # the sweep of a replica that has just started is not its first duty
            await maintenance_of(living).lease_reaper.sweep()
        outcome = await living.await_(key, SOON)
        assert outcome.status is (Status.FAILED if graph.name == "saga" else Status.COMPLETED)
        assert outcome.state == {"by": "the second"}
    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_a_task_that_hangs_keeps_its_budget(timed: Engine, proxy: TaskProxy, clock: ManualClock) -> None:
    """L1, B2: neither the engine's budget of two minutes nor the lease that the claim gave ends it."""
    gate = Gate()
    proxy.handle_task("work", gate)
    key = await timed.create(long(), start=True)
    await gate.began()
    maintenance = maintenance_of(timed)
    for _ in range(59):
        clock.advance(10)
        await maintenance.heartbeat.run_once()
        await maintenance.lease_reaper.sweep()
        await quiet(timed)
        assert await leased(timed, "work") > 0
    assert (gate.entered, gate.cancelled) == (1, 0)
    assert (await timed.snapshot(key)).status is Status.RUNNING
    gate.open()
    assert (await timed.await_(key, SOON)).status is Status.COMPLETED


async def test_the_deadline_of_a_node_ends_a_task_that_hangs(dsn: str, proxy: TaskProxy) -> None:
    """L1: in its own time, although the flow and the engine would give it longer."""
    gate = Gate()
    proxy.handle_task("work", gate)
    graph = long()
    graph.nodes["work"].timeout_ms = 30
    async with replica(dsn, proxy) as engine:
        outcome = await engine.run(graph, timeout=SOON)
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.message) == (
            408,
            "task work did not answer within its time budget of 30 ms",
        )
        assert gate.cancelled == 1


async def test_a_step_of_a_node_after_a_long_one_has_its_own_lease(dsn: str, proxy: TaskProxy) -> None:
    """L1: a lease that was made longer is of that claim only."""
    first, second = Gate(), Gate()
    proxy.handle_task("work", first)
    proxy.handle_task("then", second)
    graph = line("two", "work", "then")
    graph.nodes["work"].timeout_ms = MINUTES_10
    async with replica(dsn, proxy, drain_ms=0) as engine:
        await engine.create(graph, start=True)
        await first.began()
        assert await leased(engine, "work") > 590
        first.open()
        await second.began()
        assert await leased(engine, "then") <= 150
        second.open()
