"""The operations O1 to O9, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest, Conflict, NotFound, TimedOut, Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.rules.steps import StoppedFlow
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Gate, Remembered, flow_id, line, maintenance_of, replica

NO_FLOW = "1-999999-" + "x" * 16


# -- O1, O2, O3


async def test_run_returns_the_outcome(engine: Engine) -> None:
    """O3, O5."""
    outcome = await engine.run("line", {"n": 4}, timeout=SOON)
    assert (outcome.workflow, outcome.status, outcome.state) == ("line", Status.COMPLETED, {"n": 10})
    assert (outcome.error, outcome.cancel_reason, outcome.interrupt_payload) == (None, None, None)
    assert await engine.snapshot(outcome.flow_key) == outcome


async def test_a_created_flow_waits_for_its_start(engine: Engine, proxy: TaskProxy) -> None:
    """O1, O2."""
    key = await engine.create("line", {"n": 1})
    assert (await engine.snapshot(key)).status is Status.CREATED
    assert (await engine.snapshot(key)).state == {}
    assert [step.status for step in await engine.history(key)] == [Status.CREATED]
    await engine.start(key)
    assert (await engine.await_(key, SOON)).state == {"n": 4}
    with pytest.raises(Conflict, match="completed: to be started it must be created"):
        await engine.start(key)
    assert proxy.calls == {"add": 1, "double": 1}


async def test_create_with_start_needs_no_second_call(engine: Engine) -> None:
    assert (await engine.await_(await engine.create("line", {"n": 0}, start=True), SOON)).state == {"n": 2}


async def test_a_single_task_is_a_workflow_named_after_it(engine: Engine) -> None:
    """O1: the workflow is named after the task."""
    outcome = await engine.await_(await engine.create_task("add", {"n": 1}, start=True), SOON)
    assert (outcome.workflow, outcome.state) == ("add", {"n": 2})
    assert (await engine.snapshot(await engine.create_task("add"))).status is Status.CREATED


async def test_a_graph_can_be_given_inline(engine: Engine) -> None:
    assert (await engine.run(line("inline", "add", "add2", "double"), {"n": 1}, timeout=SOON)).error is not None
    assert (await engine.run(line("inline", "double", "add"), {"n": 1}, timeout=SOON)).state == {"n": 3}


async def test_a_flow_keeps_the_graph_it_was_created_with(engine: Engine, proxy: TaskProxy) -> None:
    """G10."""
    key = await engine.create("line", {"n": 1})
    proxy.handle_graph(line("line", "double"))
    await engine.start(key)
    assert (await engine.await_(key, SOON)).state == {"n": 4}
    assert (await engine.run("line", {"n": 1}, timeout=SOON)).state == {"n": 2}


async def test_the_registry_comes_before_the_injected_source(engine: Engine) -> None:
    await engine.put_graph(line("line", "double"))
    assert (await engine.run("line", {"n": 5}, timeout=SOON)).state == {"n": 10}
    assert [info.name for info in await engine.list_graphs()] == ["line"]
    assert await engine.get_graph("line") == line("line", "double")
    await engine.delete_graph("line")
    assert (await engine.run("line", {"n": 5}, timeout=SOON)).state == {"n": 12}
    for ask in (engine.get_graph, engine.delete_graph):
        with pytest.raises(NotFound, match="no graph 'line' in the registry"):
            await ask("line")


async def test_a_graph_that_was_read_may_be_built_on_and_put_again(engine: Engine) -> None:
    """Flows go on with what is registered, until the changed graph is (G10)."""
    await engine.put_graph(line("line", "double"))
    key = await engine.create("line", {"n": 5}, start=True)
    assert (await engine.await_(key, SOON)).state == {"n": 10}
    for read in (await engine.get_graph("line"), await engine.flow_graph(key)):
        read.add_task("add")
        read.set_entry_point("add")
        read.add_transition("add", "double")
        assert (await engine.run("line", {"n": 5}, timeout=SOON)).state == {"n": 10}
    await engine.put_graph(read)
    assert (await engine.run("line", {"n": 5}, timeout=SOON)).state == {"n": 12}


async def test_tasks_receive_what_the_contract_promises(engine: Engine, proxy: TaskProxy) -> None:
    """X3, X11, wire section 2: keys, names, attempt, state, baggage, times."""
    graph = Graph("named")
    graph.add_task("first node", "probe")
    graph.add_transition("first node", "END")
    seen: list[Flow] = []

    async def probe(flow: Flow) -> None:
        seen.append(flow)

    proxy.handle_task("probe", probe)
    options = FlowOptions(baggage={"tenant": "t", "n": 2**60 + 1}, time_budget_ms=5000)
    before = datetime.now(UTC)
    outcome = await engine.run(graph, {"a": 1}, options, timeout=SOON)
    (flow,) = seen
    (step,) = await engine.history(outcome.flow_key)
    assert (flow.flow_key, flow.step_key, flow.workflow, flow.task, flow.url, flow.attempt) == (
        outcome.flow_key, step.step_key, "named", "first node", "probe", 0,
    )  # fmt: skip
    assert (dict(flow.state), flow.baggage) == ({"a": 1}, {"tenant": "t", "n": 2**60 + 1})
    assert abs(flow.created_at - before) < timedelta(seconds=60)
    assert flow.created_at == flow.updated_at
    assert flow.deadline - before < timedelta(seconds=60)


# -- idempotency (O1)


async def test_an_idempotency_key_returns_the_flow_made_before(engine: Engine, proxy: TaskProxy) -> None:
    options = FlowOptions(idempotency_key="order 1")
    keys = await asyncio.gather(*(engine.create("line", {"n": 1}, options) for _ in range(5)))
    assert len(set(keys)) == 1
    first = await engine.run("line", b'{ "n": 1 }', options, SOON)
    assert (first.flow_key, first.state) == (keys[0], {"n": 4})
    assert await engine.run("line", {"n": 1}, options, SOON) == first
    assert proxy.calls["add"] == 1


async def test_an_idempotency_key_is_for_one_workflow_and_state_and_fairness_key(engine: Engine) -> None:
    options = FlowOptions(idempotency_key="k")
    key = await engine.create("line", {"n": 1}, options)
    for workflow, state in (("line", {"n": 2}), ("single", {"n": 1})):
        with pytest.raises(Conflict, match="idempotency key 'k' was used before"):
            await engine.create(workflow, state, options)
    assert await engine.create("line", {"n": 1}, FlowOptions(idempotency_key="k", fairness_key="other")) != key
    await engine.delete(key)
    assert await engine.create("line", {"n": 2}, options) != key


async def test_many_runs_of_one_idempotency_key_all_get_the_one_outcome(engine: Engine, proxy: TaskProxy) -> None:
    gate = Gate({"done": True})
    proxy.handle_task("gate", gate)
    proxy.handle_graph(line("gated", "gate"))
    options = FlowOptions(idempotency_key="k")
    runs = [asyncio.create_task(engine.run("gated", {}, options, SOON)) for _ in range(10)]
    await gate.began()
    gate.open()
    outcomes = await asyncio.gather(*runs)
    assert {outcome.flow_key for outcome in outcomes} == {outcomes[0].flow_key}
    assert [outcome.state for outcome in outcomes] == [{"done": True}] * 10
    assert gate.entered == 1


# -- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (FlowOptions(priority=0), "priority must be at least 1"),
        (FlowOptions(priority=2**31), "priority"),
        (FlowOptions(fairness_weight=0), "fairnessWeight must be above 0"),
        (FlowOptions(fairness_weight=-1), "fairnessWeight"),
        (FlowOptions(fairness_weight=float("nan")), "fairnessWeight"),
        (FlowOptions(fairness_weight=float("inf")), "fairnessWeight"),
        (FlowOptions(time_budget_ms=0), "timeBudgetMs"),
        (FlowOptions(time_budget_ms=2**31), "timeBudgetMs"),
        (FlowOptions(fairness_key="x" * 257), "fairnessKey must be at most 256"),
        (FlowOptions(fairness_key="a\0b"), "fairnessKey must not contain NUL"),
        (FlowOptions(fairness_key="\ud800"), "lone surrogates"),
        (FlowOptions(idempotency_key="\udfff"), "lone surrogates"),
        (FlowOptions(notify="has space"), "notify target"),
        (FlowOptions(notify="a.*"), "notify target"),
        (FlowOptions(start_at=datetime(2030, 1, 1)), "time zone"),
        (FlowOptions(thread="nonsense"), "malformed thread key"),
        (FlowOptions(thread=NO_FLOW, idempotency_key="k"), "cannot be used together"),
        (FlowOptions(baggage={"a": float("nan")}), "baggage"),
        (FlowOptions(baggage={1, 2}.__iter__()), "baggage"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_options_no_flow_can_have_are_refused(timed: Engine, options: FlowOptions, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        await timed.create("line", {"n": 1}, options)
    assert (await timed.list())[0] == []


async def test_options_are_kept(engine: Engine) -> None:
    options = FlowOptions(priority=3, fairness_key="tenant é", fairness_weight=0.5)
    key = await engine.create("line", None, options)
    ((summary,), _) = await engine.list()
    assert (summary.flow_key, summary.priority, summary.fairness_key) == (key, 3, "tenant é")


async def test_a_flow_can_join_a_thread(engine: Engine) -> None:
    """O1 thread."""
    first = await engine.create("line", {"n": 1})
    second = await engine.create("line", {"n": 1}, FlowOptions(thread=first))
    third = await engine.create("line", {"n": 1}, FlowOptions(thread=second))
    await engine.create("line")
    summaries, _ = await engine.list(Query(thread=third))
    assert [summary.flow_key for summary in summaries] == [third, second, first]
    assert {summary.thread_key for summary in summaries} == {first}
    with pytest.raises(NotFound, match="no thread 1-999999"):
        await engine.create("line", None, FlowOptions(thread=NO_FLOW))
    with pytest.raises(NotFound, match="no thread"):
        await engine.list(Query(thread=NO_FLOW))


# -- waiting (O3, O4)


async def test_waits_that_time_out_leave_the_flow_going(engine: Engine, proxy: TaskProxy) -> None:
    gate = Gate({"late": 1})
    proxy.handle_task("gate", gate)
    proxy.handle_graph(line("gated", "gate"))
    with pytest.raises(TimedOut, match="it goes on: await it again") as refused:
        await engine.run("gated", {}, None, 0)
    key = refused.value.details["flowKey"]
    await gate.began()
    for timeout in (0, 0.001):
        with pytest.raises(TimedOut) as again:
            await engine.await_(key, timeout)
        assert again.value.details["flowKey"] == key
        polled = await engine.poll(key, timeout)
        assert (polled.status, polled.state) == (Status.RUNNING, {})
    gate.open()
    assert (await engine.poll(key, SOON)).state == {"late": 1}
    assert (await engine.await_(key, 0)).state == {"late": 1}


async def test_many_wait_for_one_flow(engine: Engine) -> None:
    key = await engine.create("line", {"n": 1})
    waits = [asyncio.create_task(engine.await_(key, SOON)) for _ in range(50)]
    given_up = asyncio.create_task(engine.await_(key, None))
    await asyncio.sleep(0)
    given_up.cancel()
    await engine.start(key)
    assert {outcome.state["n"] for outcome in await asyncio.gather(*waits)} == {4}
    assert engine.shards[1].waiters.waited_for() == set()


async def test_a_wait_for_a_flow_that_is_deleted_ends(engine: Engine) -> None:
    key = await engine.create("line")
    wait = asyncio.create_task(engine.await_(key, SOON))
    while not engine.shards[1].waiters.waited_for():
        await asyncio.sleep(0)
    await engine.fingerprint(key)
    await engine.delete(key)
    with pytest.raises(NotFound):
        await wait


async def test_a_wait_at_a_replica_that_stops_is_refused(dsn: str, proxy: TaskProxy) -> None:
    """O4: a 503, the caller asks again."""
    engine = replica(dsn, proxy, drain_ms=0)
    await engine.startup()
    key = await engine.create("line")
    gate = Gate()
    proxy.handle_task("add", gate)
    wait = asyncio.create_task(engine.run("line", timeout=SOON))
    await gate.began()
    await engine.shutdown()
    with pytest.raises(Unavailable, match="ask again"):
        await wait
    for refused in (engine.create("line"), engine.run("line"), engine.snapshot(key), engine.start(key), engine.list()):
        with pytest.raises(Unavailable):
            await refused


# -- reading (O5-O7)


async def test_history_and_step_show_what_happened(engine: Engine) -> None:
    """O7, F7."""
    outcome = await engine.run("line", {"n": 4, "kept": "é"}, timeout=SOON)
    first, second = await engine.history(outcome.flow_key)
    assert [(step.task, step.depth, step.status, step.attempt) for step in (first, second)] == [
        ("add", 1, Status.COMPLETED, 0),
        ("double", 2, Status.COMPLETED, 0),
    ]
    assert (first.successor_id, second.predecessor_id) == (second.step_id, first.step_id)
    assert (first.predecessor_id, second.successor_id) == (None, None)
    assert (first.state_json, first.changes_json, first.next_key) == (None, None, None)
    assert first.created_at <= (first.started_at or 0) <= first.updated_at <= second.updated_at
    whole = await engine.step(first.step_key)
    assert (whole.state_json, whole.changes_json) == ('{"n":4,"kept":"é"}'.encode(), b'{"n":5}')
    assert (whole.prev_key, whole.next_key) == (None, second.step_key)
    last = await engine.step(second.step_key)
    assert (last.state_json, last.prev_key, last.next_key) == ('{"n":5,"kept":"é"}'.encode(), first.step_key, None)


async def test_the_fingerprint_changes_exactly_when_something_does(engine: Engine) -> None:
    """O6."""
    key = await engine.create("line", {"n": 1})
    created = await engine.fingerprint(key)
    assert created == await engine.fingerprint(key)
    assert created[1] is Status.CREATED
    await engine.start(key)
    await engine.await_(key, SOON)
    done = await engine.fingerprint(key)
    assert done[1] is Status.COMPLETED
    assert done[0] != created[0]
    assert await engine.fingerprint(key) == done


async def test_keys_that_name_nothing_are_404_and_malformed_ones_400(engine: Engine) -> None:
    key = await engine.create("line")
    forged = key.rsplit("-", 1)[0] + "-" + "x" * 16
    asks = (
        engine.start, engine.await_, engine.poll, engine.snapshot, engine.fingerprint, engine.history, engine.step,
        engine.delete, engine.cancel,
    )  # fmt: skip
    for ask in asks:
        for unknown in (NO_FLOW, forged, "9-1-" + "x" * 16):
            with pytest.raises(NotFound, match="no (flow|step) "):
                await ask(unknown)
        for malformed in ("", "1-2", "0-1-" + "x" * 16, "1-1-short", key + "\n", "1-1-" + "é" * 16):
            with pytest.raises(BadRequest, match="malformed (flow|step) key"):
                await ask(malformed)
    assert (await engine.snapshot(key)).status is Status.CREATED


# -- O9


async def test_list_shows_root_flows_newest_first(engine: Engine) -> None:
    done = (await engine.run("line", {"n": 1}, timeout=SOON)).flow_key
    made = await engine.create("single")
    summaries, cursor = await engine.list(Query(limit=1))
    assert [summary.flow_key for summary in summaries] == [made]
    ((second,), cursor) = await engine.list(Query(limit=1), cursor)
    assert cursor == ""
    assert (second.flow_key, second.thread_key, second.workflow, second.status, second.task) == (
        done, done, "line", Status.COMPLETED, "double",
    )  # fmt: skip
    assert second.created_at <= (second.started_at or 0) <= second.updated_at
    assert [summary.flow_key for summary in (await engine.list(Query(search="SINGLE")))[0]] == [made]


BAD_QUERIES = [
    (Query(limit=0), "limit must be between 1 and 1000"),
    (Query(limit=1001), "limit"),
    (Query(shard=2), "there is no shard 2"),
    (Query(thread="x"), "malformed thread key"),
    (Query(search="a\0"), "search must not contain NUL"),
    (Query(task="\ud800"), "task"),
    (Query(workflow="\0"), "workflow"),
    (Query(fairness_key="\0"), "fairnessKey"),
    (Query(priority=2**40), "priority"),
    (Query(older_than_ms=2**62), "olderThanMs"),
    (Query(newer_than_ms=-1), "newerThanMs"),
]


async def test_queries_that_make_no_sense_are_refused(engine: Engine) -> None:
    for query, words in BAD_QUERIES:
        with pytest.raises(BadRequest, match=words):
            await engine.list(query)
    with pytest.raises(BadRequest, match="malformed cursor"):
        await engine.list(Query(), "not a cursor")


async def test_purge_asks_for_a_reason_and_spares_what_runs(engine: Engine, proxy: TaskProxy) -> None:
    gate = Gate()
    proxy.handle_task("gate", gate)
    proxy.handle_graph(line("gated", "gate"))
    running = await engine.create("gated", start=True)
    await engine.run("line", {"n": 1}, timeout=SOON)
    await gate.began()
    for query in (Query(), Query(search="x"), Query(status=Status.RUNNING), Query(priority=1)):
        with pytest.raises(BadRequest):
            await engine.purge(query)
    assert await engine.purge(Query(older_than_ms=3_600_000)) == 0
    assert await engine.purge(Query(older_than_ms=0)) == 1
    assert await engine.purge(Query(workflow="gated")) == 0
    gate.open()
    assert (await engine.await_(running, SOON)).status is Status.COMPLETED
    assert await engine.purge(Query(status=Status.COMPLETED)) == 1
    assert (await engine.list())[0] == []


async def test_delete_refuses_a_running_flow(engine: Engine, proxy: TaskProxy) -> None:
    gate = Gate()
    proxy.handle_task("gate", gate)
    key = await engine.create_task("gate", start=True)
    await gate.began()
    with pytest.raises(Conflict, match="cancel it first"):
        await engine.delete(key)
    gate.open()
    await engine.await_(key, SOON)
    await engine.delete(key)
    with pytest.raises(NotFound):
        await engine.delete(key)


# -- O10


async def test_cancel_tells_the_task_and_discards_its_late_answer(
    engine: Engine, proxy: TaskProxy, heard: Remembered
) -> None:
    released = asyncio.Event()
    began = asyncio.Event()
    late = asyncio.Event()

    async def stubborn() -> dict[str, int]:
        began.set()
        try:
            await released.wait()
        except asyncio.CancelledError:
            await released.wait()
        late.set()
        return {"late": 1}

    proxy.handle_task("stubborn", stubborn)
    proxy.handle_graph(line("stubborn", "stubborn", "double"))
    key = await engine.create("stubborn", {"kept": 1}, start=True)
    async with asyncio.timeout(SOON):
        await began.wait()
    (step,) = await engine.history(key)
    wait = asyncio.create_task(engine.await_(key, SOON))
    await engine.cancel(key, "changed my mind")
    outcome = await wait
    assert (outcome.status, outcome.cancel_reason, outcome.state) == (Status.CANCELLED, "changed my mind", {"kept": 1})
    assert proxy.cancelled == [step.step_key]
    released.set()
    async with asyncio.timeout(SOON):
        await late.wait()
        while engine.replica.slots.in_use:
            await asyncio.sleep(0)
    assert await engine.snapshot(key) == outcome
    assert [one.status for one in await engine.history(key)] == [Status.CANCELLED]
    assert heard.of(flow_id(key)) == [Status.CREATED, Status.RUNNING, Status.CANCELLED]
    with pytest.raises(Conflict, match="the flow is cancelled"):
        await engine.cancel(key)


class Linked(Remembered):
    """Signals that reach another engine as they would over a bus."""

    to: Engine

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        self.to.peers.notify_status_change(flows)


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False], ids=["by a signal", "by the database"])
async def test_cancel_tells_the_task_another_replica_runs(pg_dsn: str, proxy: TaskProxy, told: bool) -> None:
    """O10, B1: at once where signals arrive, else when that replica looks; siblings of other flows go on."""
    gate, spared = Gate(), Gate({"spared": True})
    proxy.handle_graph(line("gated", "gate"))
    proxy.handle_graph(line("other", "spared"))
    proxy.handle_task("gate", gate)
    proxy.handle_task("spared", spared)
    signals = Linked()
    deputy = open_engine(
        pg_dsn, tasks=TaskProxy(), signals=signals if told else None, settings=EngineSettings(drain_ms=0)
    )
    async with replica(pg_dsn, proxy, drain_ms=0) as running:
        signals.to = running
        key = await running.create("gated", start=True)
        other = await running.create("other", start=True)
        await gate.began()
        await spared.began()
        (step,) = await running.history(key)
        async with deputy:
            deputy.stop_claiming()
            await deputy.cancel(key, "changed my mind")
            if not told:
                await maintenance_of(running).lease_reaper.sweep()
            assert proxy.cancelled == [step.step_key]
            async with asyncio.timeout(SOON):
                while running.replica.slots.in_use > 1:
                    await running.snapshot(key)
        assert (gate.cancelled, spared.cancelled) == (1, 0)
        assert (await running.snapshot(key)).cancel_reason == "changed my mind"
        spared.open()
        assert (await running.await_(other, SOON)).state == {"spared": True}
        await maintenance_of(running).lease_reaper.sweep()
        assert proxy.cancelled == [step.step_key]


@pytest.mark.slow
async def test_cancel_of_a_tree_tells_the_tasks_another_replica_runs_for_its_children(
    pg_dsn: str, proxy: TaskProxy
) -> None:
    """O10: the signal names every flow of the tree that was cancelled."""
    gate = Gate()
    proxy.handle_graph(line("parent", "call"))
    proxy.handle_graph(line("child", "gate"))
    proxy.handle_task("call", lambda flow: flow.subgraph("child"))
    proxy.handle_task("gate", gate)
    signals = Linked()
    deputy = open_engine(pg_dsn, tasks=TaskProxy(), signals=signals, settings=EngineSettings(drain_ms=0))
    async with replica(pg_dsn, proxy, drain_ms=0) as running:
        signals.to = running
        key = await running.create("parent", start=True)
        await gate.began()
        async with deputy:
            deputy.stop_claiming()
            await deputy.cancel(key)
            async with asyncio.timeout(SOON):
                while not gate.cancelled:
                    await running.snapshot(key)
        assert len(proxy.cancelled) == 1


async def test_cancel_of_a_created_flow(engine: Engine) -> None:
    key = await engine.create("line", {"n": 1})
    await engine.cancel(key)
    outcome = await engine.snapshot(key)
    assert (outcome.status, outcome.cancel_reason, outcome.state) == (Status.CANCELLED, "", {"n": 1})
    with pytest.raises(Conflict):
        await engine.start(key)
    for reason in ("a\0b", "\ud800"):
        with pytest.raises(BadRequest, match="reason"):
            await engine.cancel(key, reason)


# -- the rest


async def test_shard_info_counts(engine: Engine) -> None:
    """O16."""
    await engine.run("line", {"n": 1}, timeout=SOON)
    (info,) = await engine.shard_info()
    assert (info.shard, info.error, info.flows, info.steps) == (1, "", 1, 2)
    assert info.latency_ms > 0
    assert await engine.breaker_tripped("add") is False
    with pytest.raises(BadRequest):
        await engine.breaker_tripped("a b")


@pytest.mark.parametrize("name", ["", "a b", "a.*", "a.>", ".a", "a..b", "a.", "x" * 257, "é", "a\n"])
async def test_names_that_are_no_subjects_are_refused(timed: Engine, name: str) -> None:
    for ask in (timed.create(name), timed.create_task(name), timed.run(name)):
        with pytest.raises(BadRequest, match="invalid (workflow|task)"):
            await ask


async def test_an_unknown_workflow_says_where_it_was_looked_for(timed: Engine) -> None:
    with pytest.raises(NotFound, match=r"no workflow 'nope'.*registry.*graph\.nope"):
        await timed.create("nope")


async def test_a_source_that_answers_another_graph_is_refused(timed: Engine, proxy: TaskProxy) -> None:
    """O1: a 400 that names both."""
    proxy.handle_graph(line("other", "add"), "mine")
    with pytest.raises(BadRequest, match="'mine' with a graph named 'other'"):
        await timed.create("mine")


async def test_a_graph_that_is_not_sound_is_refused(timed: Engine) -> None:
    graph = Graph("broken")
    graph.add_task("a")
    for ask in (timed.create(graph), timed.put_graph(graph)):
        with pytest.raises(BadRequest, match="broken"):
            await ask
