"""Flows by workflow and status, their ages and durations (T1)."""

from __future__ import annotations

import pytest

from dwarf_nats.clock import ManualClock, SystemClock
from dwarf_nats.engine.maintenance.flow_gauges import INTERVAL_US
from dwarf_nats.store.statements.statistics import COUNTED, count_flows
from dwarf_nats.store.store import SqlStore
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.status import Status
from tests.store.test_tag_plans import plan
from tests.support.telemetry import Held, Watched, until, watched


@pytest.mark.usefixtures("every_value")
async def test_flows_are_counted_by_workflow_and_status_t1(dsn: str, proxy: TaskProxy) -> None:
    held = Held()
    proxy.handle_task("held", held)
    async with watched(dsn, proxy) as on:
        await on.engine.create_task("held")
        await on.engine.create_task("held", start=True)
        await held.entered()
        for _ in range(2):
            await on.run("asking")
        cancelled = await on.engine.create_task("held")
        await on.engine.cancel(cancelled)
        await on.engine._lifecycle.gauges.flows.read()
        shown = on.heard.points("dwarf_flows")
        assert {labels: value for labels, value in shown.items() if value} == {
            ("created", "held"): 1,
            ("running", "held"): 1,
            ("interrupted", "asking"): 2,
            ("cancelled", "held"): 1,
        }
        running = on.heard.points("dwarf_flows_oldest_running_age_seconds")
        assert {labels for labels, age in running.items() if age} == {("held",)}, "the other may have been seen running"
        assert on.heard.points("dwarf_flows_oldest_paused_age_seconds")["asking",] > 0
        held.release.set()
        await until(lambda: on.heard.points("dwarf_flow_duration_seconds").get(("held",)) == 2, on.engine)
        await on.engine._lifecycle.gauges.flows.read()
        assert on.heard.points("dwarf_flows")["running", "held"] == 0, "what has gone is shown at zero"


async def test_durations_go_from_creation_to_end_t1(timed: Watched, clock: ManualClock) -> None:
    key = await timed.engine.create("line")
    clock.advance(90)
    await timed.engine.start(key)
    await timed.engine.await_(key, 20)
    clock.advance(1)
    await timed.run("line")
    (point,) = timed.heard.collect()["dwarf_flow_duration_seconds"].data.data_points
    assert point.attributes == {"workflow": "line"}
    assert (point.count, point.min, point.max) == (2, pytest.approx(0, abs=1), pytest.approx(90, abs=1))


async def test_only_the_leader_counts_and_once_a_minute_t1(timed: Watched, clock: ManualClock) -> None:
    gauges = timed.engine._lifecycle.gauges.flows
    await timed.engine.create("line")
    clock.advance(INTERVAL_US / 1_000_000)
    await gauges.read_if_due()
    assert timed.heard.points("dwarf_flows") == {("created", "line"): 1}
    await timed.engine.create("line")
    await gauges.read_if_due()
    assert timed.heard.points("dwarf_flows") == {("created", "line"): 1}
    clock.advance(INTERVAL_US / 1_000_000)
    await gauges.read_if_due()
    assert timed.heard.points("dwarf_flows") == {("created", "line"): 2}

    async def follows() -> bool:
        return False

    timed.engine.shards[1].store.replicas.is_leader = follows  # type: ignore[method-assign]
    await gauges.read()
    assert timed.heard.points("dwarf_flows") == {("created", "line"): 0}


@pytest.mark.slow
async def test_a_count_reads_no_more_than_its_bound_t1(dsn: str) -> None:
    """Each status by an index in its order, however many flows there are."""
    store = SqlStore(1, dsn, pool=4, clock=SystemClock())
    await store.open("one", migrated=True)
    numbers = "select generate_series(1, 30000) as n"
    if dsn.startswith("sqlite"):
        numbers = "select 1 as n union all select n + 1 from numbers where n < 30000"
    await store.database.fetch(
        "insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority,"
        " fairness_key, fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at,"
        " updated_at, root_id) select * from (with recursive numbers(n) as ("
        + numbers
        + ") select n, 't', 'w' || n % 3,"
        " 'd', case n % 100 when 0 then 'created' when 1 then 'running' when 2 then 'interrupted' when 3 then 'failed'"
        " when 4 then 'cancelled' else 'completed' end, n, 't', 100, '', 1.0, '{}', '', '', '', 0, n, n, n from numbers) m"
    )
    await store.database.fetch("analyze")
    for status in COUNTED:
        index = {Status.RUNNING: "dwarf_flows_going", Status.CREATED: "dwarf_flows_unstarted"}
        shown = await plan(store, count_flows(status), (100,))
        assert index.get(status, "dwarf_flows_stopped") in shown, shown
        counts = await store.statistics.flows(status, 100)
        assert sum(one.flows for one in counts) == 100
    (running,) = await store.statistics.flows(Status.RUNNING, 1)
    assert running.oldest_us > 10**15, "the oldest comes first"
    await store.close()
