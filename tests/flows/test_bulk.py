"""Bulk operations on both databases: each action, pages, what moves meanwhile, and what is refused (M1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dwarf_nats.engine.operations.bulk_actions import WEIGHTS
from dwarf_nats.errors import BadRequest, Conflict, NotFound, Unavailable
from dwarf_nats.ports import DatabaseAway
from dwarf_nats.rules.rows import TreeChange
from dwarf_nats.store.parts.bulk import SqlBulk
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.bulk import Bulk, BulkAction, BulkPage
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.flows.test_compensation import undone_by
from tests.support.engines import Gate, crash, replica
from tests.support.flows import SOON, Bench, ask, bench, call, each, line

MINE = Query(tags={"batch": 1})
TAGGED = FlowOptions(tags={"batch": 1})


async def whole(it: Bench, action: str, query: Query = MINE, *, page: int | None = None, **more: Any) -> BulkPage:
    """All pages as one."""
    order = {"action": BulkAction(action), "query": query, "limit": page, **more}
    total, cursor = BulkPage(), ""
    while True:
        one = await it.engine.bulk(Bulk(**order, cursor=cursor))
        total.matched, total.done = total.matched + one.matched, total.done + one.done
        total.failed += one.failed
        cursor = one.cursor
        if not cursor:
            return total


async def made(
    it: Bench, count: int, graph: Any = "one", options: FlowOptions = TAGGED, *, start: bool = True
) -> list[str]:
    return [await it.engine.create(graph, {"n": number}, options, start=start) for number in range(count)]


def public(key: str) -> str:
    return key.rpartition("-")[0]


async def test_flows_are_cancelled_page_by_page_and_refusals_are_told(dsn: str) -> None:
    """M1, O10: a created, a running, a paused flow, a tree and one that is compensated first; a completed one is refused."""
    graph = undone_by(line("saga", "book", "hold"), "book")
    async with bench(dsn, line("one", "a"), line("asks", "q"), line("tree", "c"), line("child", "a"), graph) as it:
        gate = Gate()
        it.tasks(a=gate, q=ask(), c=call("child"), hold=gate)
        it.idle("book", "undo-book", "z")
        ended = (await it.run(line("quick", "z"), options=TAGGED)).flow_key
        keys = await made(it, 3) + await made(it, 1, "asks") + await made(it, 1, "tree") + await made(it, 1, "saga")
        keys += await made(it, 2, start=False)
        other = await it.engine.create("one", start=True)
        await it.stopped(keys[3])
        await it.until_steps(keys[4], lambda steps: bool(steps and steps[0].sub_history))
        await it.until_steps(keys[5], lambda steps: len(steps) == 2)
        total = await whole(it, "cancel", page=2, reason="recalled")
        assert (total.matched, total.done) == (9, 8)
        assert [(one.flow_id, one.code) for one in total.failed] == [(public(ended), 409)]
        assert "to be cancelled it must be" in total.failed[0].message
        for key in keys:
            outcome = await it.ended(key)
            assert (outcome.status, outcome.cancel_reason) == (Status.CANCELLED, "recalled")
        assert (await it.engine.snapshot(keys[0])).state == {"n": 0}
        assert [step.task for step in await it.engine.history(keys[5])] == ["book", "hold", "book:compensate"]
        (step,) = await it.engine.history(keys[4])
        assert step.sub_history[0].status is Status.CANCELLED
        assert (await it.engine.snapshot(other)).status is Status.RUNNING
        await it.heard.until(lambda: sum(one.status is Status.CANCELLED for one in it.heard.changes) >= 9)
        gate.open()
        assert gate.cancelled >= 4


async def test_flows_are_restarted_from_their_entry_steps(dsn: str) -> None:
    """M1, O13: ended ones and a tree run again with the state they had; a running one is refused."""
    async with bench(dsn, line("one", "a", "b"), line("tree", "c"), line("child", "a")) as it:
        seen: list[int] = []
        it.tasks(a=lambda flow: seen.append(flow.get("n")), c=call("child", n=7))
        it.idle("b")
        keys = await made(it, 4) + await made(it, 1, "tree")
        for key in keys:
            await it.ended(key)
        gate = Gate()
        it.tasks(z=gate)
        running = await it.engine.create(line("slow", "z"), options=TAGGED, start=True)
        await gate.began()
        seen.clear()
        total = await whole(it, "restart", page=3)
        assert (total.matched, total.done) == (6, 5)
        assert [(one.flow_id, one.code) for one in total.failed] == [(public(running), 409)]
        for key in keys:
            assert (await it.ended(key)).status is Status.COMPLETED
        assert sorted(seen) == [0, 1, 2, 3, 7]
        assert [step.task for step in await it.engine.history(keys[0])] == ["a", "b"]
        gate.open()


async def test_only_failed_steps_run_again(dsn: str) -> None:
    """M1, O13: every failed branch, and the step of a called flow rather than its caller; what has completed stays."""
    async with bench(dsn, each(), line("tree", "c"), line("child", "a")) as it:
        broken, ran = True, list[str]()

        def work(item: int) -> dict[str, Any]:
            ran.append(f"work {item}")
            if broken and item != 2:
                raise TaskError("no", 500)
            return {"done": [item]}

        def a() -> None:
            ran.append("a")
            if broken:
                raise TaskError("no", 500)

        def c(flow: Flow) -> None:
            ran.append("c")
            flow.subgraph("child")

        it.tasks(work=work, a=a, c=c)
        it.idle("split", "join")
        fan = await it.engine.create("each", {"items": [1, 2, 3]}, TAGGED, start=True)
        tree = await it.engine.create("tree", options=TAGGED, start=True)
        for key in (fan, tree):
            assert (await it.ended(key)).status is Status.FAILED
        fine = (await it.run(line("fine", "split"), options=TAGGED)).flow_key
        broken = False
        ran.clear()
        total = await whole(it, "restart_failed")
        assert (total.matched, total.done) == (3, 2)
        assert total.failed == [(public(fine), 409, "no step of the flow has failed, so none can run again")]
        assert (await it.ended(fan)).state["done"] == [1, 2, 3]
        assert (await it.ended(tree)).status is Status.COMPLETED
        assert sorted(set(ran) - {"c"}) == ["a", "work 1", "work 3"]


async def test_interrupts_are_answered_flows_tagged_and_deleted(dsn: str) -> None:
    """M1, O9, O11, Q1: with the fields of the action."""
    async with bench(dsn, line("one", "a"), line("slow", "z")) as it:
        gate = Gate()
        it.tasks(a=ask(), z=gate)
        keys = await made(it, 3)
        for key in keys:
            await it.stopped(key)
        running = (await made(it, 1, "slow"))[0]
        total = await whole(it, "resume", page=2, data={"ok": True})
        assert [one.code for one in total.failed] == [409]
        assert total.done == 3
        for key in keys:
            assert (await it.ended(key)).state["answer"] == {"ok": True}
        total = await whole(it, "tag", tags={"reviewed": True, "batch": None}, page=3)
        assert (total.matched, total.done, total.failed) == (4, 4, [])
        reviewed = Query(tags={"reviewed": True})
        assert len((await it.engine.list(reviewed))[0]) == 4
        total = await whole(it, "delete", reviewed, page=2)
        assert (total.done, [(one.flow_id, one.code) for one in total.failed]) == (3, [(public(running), 409)])
        assert [one.flow_key for one in (await it.engine.list())[0]] == [running]
        with pytest.raises(NotFound):
            await it.engine.snapshot(keys[0])
        gate.open()


async def test_what_moves_meanwhile_is_neither_missed_nor_done_twice(dsn: str) -> None:
    """M1: flows leave the query by the action, new ones come, a page is asked for again after its reply was lost."""
    async with bench(dsn, line("one", "a")) as it:
        runs: dict[int, int] = {}

        def a(n: int) -> None:
            runs[n] = runs.get(n, 0) + 1
            raise TaskError("no", 500)

        it.tasks(a=a)
        keys = await made(it, 5)
        for key in keys:
            await it.ended(key)
        order = {"action": BulkAction.RESTART, "query": Query(tags={"batch": 1}, status="failed"), "limit": 2}
        start = await it.engine.bulk(Bulk(**{**order, "limit": 0}))
        assert (start.matched, start.done, start.failed) == (0, 0, [])
        late = await it.engine.create("one", {"n": 99}, TAGGED, start=True)
        await it.ended(late)
        cursor, done = start.cursor, 0
        while cursor:
            for attempt in (1, 2):
                page = await it.engine.bulk(Bulk(**order, cursor=cursor))
                assert page.failed == []
                done += page.done if attempt == 1 else 0
                for key in keys:
                    await it.ended(key)
                if attempt == 1:
                    following = page.cursor
            cursor = following
        assert runs == {**dict.fromkeys(range(5), 2), 99: 1}


async def test_the_steps_that_failed_since_it_began_do_not_run_again(dsn: str) -> None:
    """M1: a page of restart_failed and of resume that is asked for again finds the flows as changed since."""
    async with bench(dsn, line("one", "a"), line("asks", "q", "again")) as it:
        runs = 0

        def a() -> None:
            nonlocal runs
            runs += 1
            raise TaskError("no", 500)

        it.tasks(a=a, q=ask(), again=ask("again?"))
        failing, asking = (await made(it, 1))[0], (await made(it, 1, "asks"))[0]
        await it.ended(failing)
        await it.stopped(asking)
        for action, query, more in (
            (BulkAction.RESTART_FAILED, Query(workflow="one"), {}),
            (BulkAction.RESUME, Query(workflow="asks"), {"data": True}),
        ):
            cursor = (await it.engine.bulk(Bulk(action=action, query=query, limit=0, **more))).cursor
            for attempt in (1, 2):
                page = await it.engine.bulk(Bulk(action=action, query=query, cursor=cursor, **more))
                assert (page.matched, page.done) == ((1, 1) if attempt == 1 else (0, 0))
                await it.stopped(failing)
                await it.stopped(asking)
        assert runs == 2
        assert (await it.engine.snapshot(asking)).interrupt_payload == "again?"


async def test_a_dry_run_counts_shows_some_and_changes_nothing(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: also where the flows are counted in several statements, and where there is no time for all."""
    async with bench(dsn, line("one", "a")) as it:
        keys = await made(it, 7, start=False)
        monkeypatch.setattr("dwarf_nats.engine.operations.bulk.COUNT_BATCH_FLOWS", 3)
        order = {"action": BulkAction.DELETE, "query": MINE, "dry_run": True}
        page = await it.engine.bulk(Bulk(**order))
        assert page.sample is not None
        assert (page.matched, page.done, page.failed, page.cursor) == (7, 0, [], "")
        assert [(one.flow_id, one.workflow, one.status) for one in page.sample] == [
            (public(key), "one", Status.CREATED) for key in reversed(keys)
        ]
        assert len((await it.engine.list(MINE))[0]) == 7
        monkeypatch.setattr("dwarf_nats.engine.operations.bulk.PAGE_SECONDS", -1)
        counted, cursor, samples = 0, "", []
        for _ in range(9):
            page = await it.engine.bulk(Bulk(**order, cursor=cursor))
            counted, cursor = counted + page.matched, page.cursor
            samples.append(len(page.sample or []))
            if not cursor:
                break
        assert (counted, samples) == (7, [3, 0, 0])


async def test_a_page_without_time_does_nothing_and_goes_on_later(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: the cursor stands where it stood."""
    async with bench(dsn, line("one", "a")) as it:
        await made(it, 3, start=False)
        with monkeypatch.context() as patch:
            patch.setattr("dwarf_nats.engine.operations.bulk.PAGE_SECONDS", -1)
            page = await it.engine.bulk(Bulk(action=BulkAction.DELETE, query=MINE))
        assert (page.matched, page.done) == (0, 0)
        assert (await it.engine.bulk(Bulk(action=BulkAction.DELETE, query=MINE, cursor=page.cursor))).done == 3


async def test_ages_count_from_the_beginning(dsn: str) -> None:
    """M1: a flow that grows old enough while pages go by is not taken."""
    async with bench(dsn, line("one", "a")) as it:
        await made(it, 2, start=False)
        (member,) = await it.engine.shards[1].store.bulk.members(
            Query(older_than_ms=0, tags={"batch": 1}),
            None,
            BulkAction.TAG,
            after=(await it.engine.shards[1].store.bulk.begin()),
            limit=1,
        )
        begun = (await it.engine.shards[1].store.bulk.begin())._replace(moment=member.created_at)
        store = it.engine.shards[1].store.bulk
        args = (Query(older_than_ms=0, tags={"batch": 1}), None, BulkAction.TAG)
        assert (
            len(await store.members(*args, after=begun, limit=9)) == 1
        )  # the other one; this one changed at that moment


async def test_a_database_that_goes_away_ends_the_page_before_what_is_not_done(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1, B6: nothing is passed over, and nothing of it is listed as refused."""
    async with bench(dsn, line("one", "a")) as it:
        keys = await made(it, 4, start=False)
        control = it.engine.shards[1].store.control
        tag, calls = control.tag, 0

        async def away(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise DatabaseAway("gone")
            return await tag(*args)

        monkeypatch.setattr(control, "tag", away)
        order = {"action": BulkAction.TAG, "query": MINE, "tags": {"seen": 1}}
        page = await it.engine.bulk(Bulk(**order))
        assert (page.matched, page.done, page.failed) == (3, 3, [])
        calls = 2
        with pytest.raises(Unavailable):
            await it.engine.bulk(Bulk(**order, cursor=page.cursor, limit=1))
        page = await it.engine.bulk(Bulk(**order, cursor=page.cursor))
        assert page.cursor == ""
        assert len((await it.engine.list(Query(tags={"seen": 1})))[0]) == len(keys)


async def test_a_thread_is_deleted_to_the_end(dsn: str) -> None:
    """M1, O15: the last page is empty where the thread itself is gone."""
    async with bench(dsn, line("one", "a")) as it:
        it.idle("a")
        first = (await it.run("one")).flow_key
        await it.engine.continue_(first)
        order = {"action": BulkAction.DELETE, "query": Query(thread=first), "limit": 1}
        page = await it.engine.bulk(Bulk(**order))
        assert page.done == 1
        page = await it.engine.bulk(Bulk(**order, cursor=page.cursor))
        assert page.done == 1
        with pytest.raises(NotFound):
            await it.engine.bulk(Bulk(**order))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"query": Query()}, "the query is empty"),
    ({"query": Query(limit=5)}, "the query is empty"),
    ({"query": Query(status="failed", limit=5)}, "limit has no place in the query"),
    ({"action": BulkAction.TAG}, "`tags` belongs to the action tag"),
    ({"tags": {"a": 1}}, "`tags` belongs to the action tag"),
    ({"data": 1}, "`data` belongs to the action resume"),
    ({"limit": 1001}, "limit must be between 0 and 1000"),
    ({"cursor": "nonsense"}, "malformed cursor"),
    ({"cursor": "MS4xLjEuLTE"}, "malformed cursor"),
    ({"cursor": "OC4xLjEuMQ"}, "the cursor is of another query"),
    ({"query": Query(workflow="")}, "workflow is empty"),
    ({"query": Query(shard=9)}, "there is no shard 9"),
    ({"reason": "\0"}, "reason must not contain NUL"),
    ({"action": BulkAction.TAG, "tags": {"a.b": 1}}, "tags has the name 'a.b'"),
]


async def test_bad_orders_say_what_to_do() -> None:
    """M1: a 400 with a remedy, and nothing is done."""
    async with bench("sqlite://", line("one", "a")) as it:
        for fields, why in BAD:
            with pytest.raises(BadRequest, match=why):
                await it.engine.bulk(Bulk(**{"action": BulkAction.CANCEL, "query": MINE, **fields}))
    with pytest.raises(BadRequest, match="'vanish' is no action: use one of cancel, restart"):
        BulkAction.of("vanish")


async def test_a_flow_that_calls_another_meanwhile_is_cancelled_by_itself(dsn: str) -> None:
    """M1, X10: the group is undone, and each flow of it is cancelled with its tree."""
    async with bench(dsn, line("one", "a"), line("tree", "c"), line("child", "a")) as it:
        gate = Gate()
        it.tasks(a=gate, c=call("child"))
        keys = [*(await made(it, 1)), *(await made(it, 1, "tree"))]

        def called(steps: list[Step]) -> bool:
            return bool(steps and steps[0].sub_history)

        await it.until_steps(keys[1], called)
        store = it.engine.shards[1].store
        rows = await store.database.fetch("select flow_id from dwarf_flows where surgraph_flow_id is null")  # type: ignore[attr-defined]
        change = await store.bulk.cancel(
            [one for (one,) in rows], "no", lambda _flow, _steps: b"{}", lambda _flow: False
        )
        assert [f"1-{flow.flow_id}" for flow in change.changed] == [public(keys[0])]
        with pytest.raises(Conflict):
            await it.engine.cancel(keys[0])
        assert (await it.engine.snapshot(keys[1])).status is Status.RUNNING
        gate.open()


async def test_a_replica_that_dies_within_a_page_leaves_nothing_undone_and_nothing_done_twice(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1, B1: another replica is asked for the same page, from the same cursor."""
    runs: dict[int, int] = {}
    proxy = TaskProxy()
    proxy.handle_graph(line("one", "a"))

    def a(n: int) -> None:
        runs[n] = runs.get(n, 0) + 1

    proxy.handle_task("a", a)
    dying = replica(dsn, proxy)
    await dying.startup()
    for number in range(6):
        await dying.run("one", {"n": number}, TAGGED)
    order = {"action": BulkAction.RESTART, "query": MINE}
    cursor = (await dying.bulk(Bulk(**order, limit=0))).cursor
    store, groups = dying.shards[1].store.bulk, 0
    for name in ("MIN_GROUP", "MAX_GROUP"):
        monkeypatch.setattr(f"dwarf_nats.rules.pacing.{name}", 2 * WEIGHTS[BulkAction.RESTART])
    dying.shards[1].pace.size = 2 * WEIGHTS[BulkAction.RESTART]

    async def restart(flow_ids: Sequence[int]) -> TreeChange:
        nonlocal groups
        groups += 1
        change = await SqlBulk.restart(store, flow_ids)  # type: ignore[arg-type]
        if groups == 2:
            await crash(dying)  # after the commit, before anybody hears of it
            raise Died
        return change

    store.restart = restart  # type: ignore[method-assign]
    with pytest.raises(Died):
        await dying.bulk(Bulk(**order, cursor=cursor))
    async with replica(dsn, proxy, replica_timeout_ms=500) as other:
        page = await other.bulk(Bulk(**order, cursor=cursor))
        assert (page.matched, page.done, page.failed, page.cursor) == (2, 2, [], "")
        for flow in (await other.list(MINE))[0]:
            assert (await other.await_(flow.flow_key, SOON)).status is Status.COMPLETED
    assert runs == dict.fromkeys(range(6), 2)


class Died(Exception):
    """The replica is gone."""
