"""Tags in the database: found, paged, changed and removed with their flows (Q1), on each kind of database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.rules import parking
from dwarf_nats.rules.forking import Forked
from dwarf_nats.rules.steps import NewFlow
from dwarf_nats.store.sqlite import Session as SqliteSession
from dwarf_nats.store.statements import create
from dwarf_nats.store.statements.create import CreateFlows
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import read, tag_texts
from tests.support.stores import BUDGET, born, cancel, ended, failed, look, new_flow, one_claimed, went_on


async def running(store: SqlStore, **more: Any) -> NewFlow:
    """A flow whose entry step runs on this replica."""
    new = new_flow(eager=True, **more)
    new.flow.root_id = new.flow.flow_id
    await store.steps.create([new], BUDGET)
    return new


async def made(store: SqlStore, **more: Any) -> NewFlow:
    new = new_flow(**more)
    await store.steps.create([new], BUDGET)
    return new


async def found(store: SqlStore, **tags: Any) -> list[int]:
    rows, _ = await store.flows.list_page(Query(tags=tags), 100, None, "")
    return [row.flow_id for row in rows]


async def rows_of(store: SqlStore, flow_id: int) -> list[str]:
    return sorted(tag for (tag,) in await look(store, "select tag from dwarf_tags where flow_id = $1", flow_id))


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
async def test_flows_with_tags_are_created_beside_flows_without(store: SqlStore, keyed: bool) -> None:
    """Q1, O1: in one group, with idempotency keys and without."""
    key = {"idempotency_key": "k"} if keyed else {}
    tagged, plain = new_flow(tags={"customer": 4711, "channel": "web"}, **key), new_flow()
    assert set(await store.steps.create([tagged, plain], BUDGET)) == {tagged.flow.flow_id, plain.flow.flow_id}
    assert await rows_of(store, tagged.flow.flow_id) == ["channel=web", "customer=4711"]
    assert await rows_of(store, plain.flow.flow_id) == []
    assert await found(store, customer="4711") == [tagged.flow.flow_id]
    assert await found(store, customer=4711.0, channel="web") == [tagged.flow.flow_id]
    assert await found(store, customer=4711, channel="shop") == []
    assert await found(store, customer=471) == []
    rows, _ = await store.flows.list_page(Query(), 100, None, "")
    assert {row.flow_id: row.tags for row in rows} == {
        tagged.flow.flow_id: '{"customer":4711,"channel":"web"}',
        plain.flow.flow_id: None,
    }


async def test_a_flow_that_is_not_created_leaves_no_tags(store: SqlStore) -> None:
    """Q1: its idempotency key was taken, or its graph is kept no longer."""
    first = await made(store, tags={"a": 1}, idempotency_key="k")
    second, late = new_flow(tags={"b": 1}, idempotency_key="k"), new_flow(tags={"b": 1}, kept_until=0)
    assert await store.steps.create([second, late], BUDGET) == {}
    assert await found(store, b=1) == []
    assert await found(store, a=1) == [first.flow.flow_id]


async def test_pages_of_a_tag_follow_each_other_newest_first(store: SqlStore) -> None:
    """Q1, O9: without gap or repeat, by whichever tag they are read."""
    ids = []
    for number in range(7):
        new = await made(store, tags={"all": True, "few": "x" if number % 2 else "y"})
        ids.append(new.flow.flow_id)
        await made(store)
    for query, expected in ((Query(tags={"all": True}), ids), (Query(tags={"all": True, "few": "y"}), ids[::2])):
        seen: list[int] = []
        cursor, pages = "", 0
        while pages == 0 or cursor:
            rows, cursor = await store.flows.list_page(query, 2, None, cursor)
            seen += [row.flow_id for row in rows]
            pages += 1
        assert seen == expected[::-1]
        assert pages == (len(expected) + 1) // 2


async def test_tags_combine_with_every_other_filter(store: SqlStore) -> None:
    """Q1, O9."""
    first = await made(store, tags={"a": 1}, workflow="one", priority=3, fairness_key="k")
    second = await made(store, tags={"a": 1}, workflow="two", start=False)
    other = await made(store, workflow="one")
    for query, expected in (
        (Query(tags={"a": 1}, workflow="one"), [first]),
        (Query(tags={"a": 1}, status=Status.CREATED), [second]),
        (Query(tags={"a": 1}, search="TWO"), [second]),
        (Query(tags={"a": 1}, task="a", priority=3, fairness_key="k"), [first]),
        (Query(tags={"a": 1}, newer_than_ms=3_600_000), [second, first]),
        (Query(tags={"a": 1}, older_than_ms=3_600_000), []),
        (Query(workflow="one"), [other, first]),
    ):
        rows, _ = await store.flows.list_page(query, 10, None, "")
        assert [row.flow_id for row in rows] == [new.flow.flow_id for new in expected], query
    rows, _ = await store.flows.list_page(Query(tags={"a": 1}), 10, second.flow.flow_id, "")
    assert [row.flow_id for row in rows] == [second.flow.flow_id]


async def test_a_change_is_found_at_once_and_what_was_before_is_not(store: SqlStore) -> None:
    """Q1."""
    new = await made(store, tags={"a": 1, "b": "x"})
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    assert await store.control.tag(row, {"a": 2, "b": None, "c": True}) == '{"a":2,"c":true}'
    assert await rows_of(store, row.flow_id) == ["a=2", "c=true"]
    assert await found(store, a=1) == []
    assert await found(store, a=2) == [row.flow_id]
    assert await store.control.tag(row, {"a": "2"}) == '{"a":"2","c":true}'  # equal, of another type
    assert await rows_of(store, row.flow_id) == ["a=2", "c=true"]
    assert await store.control.tag(row, {}) == '{"a":"2","c":true}'
    assert await store.control.tag(row, {"a": None, "c": None}) is None
    assert await rows_of(store, row.flow_id) == []


async def test_a_flow_takes_no_more_tags_than_it_may_have(store: SqlStore) -> None:
    """Q1: and a refused change changes nothing."""
    new = await made(store, tags={f"t{number}": 1 for number in range(31)})
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    with pytest.raises(BadRequest, match="at most 32 tags, and there is no room for y: remove others with null"):
        await store.control.tag(row, {"x": 1, "y": 1})
    assert len(await rows_of(store, row.flow_id)) == 31
    assert await found(store, x=1) == []
    await store.control.tag(row, {"x": 1, "y": 1, "t0": None})
    assert len(await rows_of(store, row.flow_id)) == 32


async def test_a_change_of_a_flow_that_is_gone_is_a_404(store: SqlStore) -> None:
    """Q1."""
    new = await made(store, start=False)
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    await store.control.delete(row.flow_id)
    with pytest.raises(NotFound):
        await store.control.tag(row, {"a": 1})


async def test_the_rows_of_a_removed_flow_are_removed(store: SqlStore) -> None:
    """Q1, O1, O9: by delete, purge and the removal on completion; those of other flows stay."""
    flows = [await made(store, tags={"all": 1, "own": number}, start=False) for number in range(3)]
    plain = await made(store, start=False)
    await store.control.delete(flows[0].flow.flow_id)
    assert await store.control.purge(Query(status=Status.CREATED, tags={"own": 1, "all": 1}), None, 10) == 1
    assert [await rows_of(store, new.flow.flow_id) for new in flows] == [[], [], ["all=1", "own=2"]]
    assert await store.control.purge(Query(status=Status.CREATED, tags={"all": 1}), None, 10) == 1
    assert await store.flows.by_id(plain.flow.flow_id) is not None
    leaving = await running(store, tags={"all": 1}, delete_on_completion=True)
    await store.steps.settle([ended(born(leaving))], BUDGET)
    await store.control.remove_completed(-60_000, 10)
    assert await look(store, "select * from dwarf_tags") == []


async def test_purge_by_tag_takes_the_oldest_and_no_flow_that_runs(store: SqlStore) -> None:
    """Q1, O9."""
    running = await made(store, tags={"a": 1})
    flows = [await made(store, tags={"a": 1}, start=False) for _ in range(3)]
    assert await store.control.purge(Query(workflow="line", tags={"a": 1}), None, 2) == 2
    assert await found(store, a=1) == [flows[2].flow.flow_id, running.flow.flow_id]


async def test_the_tags_of_a_reply_are_written_with_its_settlement(store: SqlStore) -> None:
    """Q1, X1: once; a settlement that is fenced off sets none."""
    step = await one_claimed(store)
    settlement = went_on(step)
    settlement.tags = {"a": 1, "gone": None}
    await store.steps.settle([settlement], BUDGET)
    late = went_on(step)
    late.tags = {"late": 1}
    assert (await store.steps.settle([late], BUDGET)).applied == {}
    assert await rows_of(store, step.flow.flow_id) == ["a=1"]


async def test_the_end_of_a_flow_is_told_with_its_tags(store: SqlStore) -> None:
    """Q1, O5: those it had, those set meanwhile by an operation, and those of the last reply."""
    new = await running(store, tags={"a": 1})
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    await store.control.tag(row, {"b": 2})
    settlement = ended(born(new))
    result = await store.steps.settle([settlement], BUDGET)
    assert result.applied[new.step_id].tags == '{"a":1,"b":2}'

    other = await running(store, tags={"a": 1})
    settlement = ended(born(other))
    settlement.tags = {"a": None, "c": 3}
    result = await store.steps.settle([settlement], BUDGET)
    assert result.applied[other.step_id].tags == '{"c":3}'
    assert await found(store, c=3) == [other.flow.flow_id]


async def test_a_pause_and_a_failure_are_told_with_the_tags(store: SqlStore) -> None:
    """Q1, O5, P2: what a cascade stops, too."""
    new = await running(store, tags={"a": 1})
    settlement = parking.interrupted(born(new), {}, Raw(b'"?"'))
    settlement.tags = {"b": 2}
    result = await store.steps.settle([settlement], BUDGET)
    assert [one.tags for one in result.ended] == ['{"a":1,"b":2}']

    other = await running(store, tags={"a": 1})
    other.flow.compensable = True
    result = await store.steps.settle([failed(born(other))], BUDGET)
    assert [(one.flow.flow_id, one.tags) for one in result.ended] == [(other.flow.flow_id, '{"a":1}')]


async def test_tags_of_replies_beyond_the_most_are_left_out_with_a_problem(store: SqlStore) -> None:
    """Q1: two branches that did not know of each other."""
    new = await running(store, tags={f"t{number}": 1 for number in range(31)})
    settlement = went_on(born(new))
    settlement.tags = {"x": 1, "y": 1}
    settlement.problems = ["another"]
    await store.steps.settle([settlement], BUDGET)
    ((problems,),) = await look(store, "select problems from dwarf_steps where step_id = $1", new.step_id)
    assert problems == '["another","a flow has at most 32 tags: not set were y"]'
    assert await found(store, x=1) == [new.flow.flow_id]
    assert await found(store, y=1) == []


async def test_a_copy_is_found_by_its_tags(store: SqlStore) -> None:
    """Q1, O14."""
    new = await made(store, tags={"a": 1})
    await cancel(store, new.flow.flow_id, "", lambda _: b"{}")
    row = await store.flows.by_id(new.flow.flow_id)
    step = await store.flows.step_by_id(new.step_id)
    assert row is not None
    assert step is not None
    copy = replace(row, flow_id=70_001, root_id=70_001, status=Status.RUNNING, tags='{"b":2}')
    target = replace(step, step_id=70_001, flow_id=70_001, status=Status.PENDING)
    await store.control.insert_fork(row, Forked(flows=[copy], steps=[target], root=copy, target=target, others=[]))
    assert await found(store, b=2) == [70_001]
    assert await found(store, a=1) == [new.flow.flow_id]


async def test_a_flow_without_tags_costs_no_statement_and_no_row(store: SqlStore) -> None:
    """Q1: its group is written as it was before there were tags."""
    statements: list[str] = []

    class Noting:
        def __init__(self, session: Any) -> None:
            self._session = session
            self.trips = 0

        async def fetch(self, sql: str, *args: Any) -> Any:
            statements.append(sql)
            return await self._session.fetch(sql, *args)

    if store.dsn.startswith("sqlite"):
        traced: list[str] = []

        def traced_create(session: SqliteSession) -> dict[int, int]:
            session.connection.set_trace_callback(traced.append)
            try:
                return CreateFlows(flows=[new_flow()]).on_sqlite(session)
            finally:
                session.connection.set_trace_callback(None)

        operation: Any = type("Traced", (), {"on_sqlite": staticmethod(traced_create)})()
        await store.database.run(operation)
        assert len(traced) == 2
        assert not [one for one in traced if "tags" in one]
        return
    async with store.database.transaction() as tx:
        await CreateFlows(flows=[new_flow(), new_flow()]).on_postgres(Noting(tx))
        await CreateFlows(flows=[new_flow(idempotency_key="k")]).on_postgres(Noting(tx))
    assert statements == [create.CREATE, create.CREATE_KEYED]
    assert not [one for one in statements if "tags" in one]
    assert await look(store, "select * from dwarf_tags") == []


@pytest.mark.slow
async def test_changes_of_two_replicas_at_once_are_all_kept(pg_stores: tuple[SqlStore, SqlStore]) -> None:
    """Q1: by operations and by replies of tasks; what is shown and what is found agree."""
    one, two = pg_stores
    new = await running(one, tags={"first": 1})
    row = await one.flows.by_id(new.flow.flow_id)
    assert row is not None
    settlement = went_on(born(new))
    settlement.tags = {"reply": 1, "first": None}
    changes = [one.control.tag(row, {f"a{number}": number, "same": number}) for number in range(8)]
    changes += [two.control.tag(row, {f"b{number}": number, "same": -number}) for number in range(8)]
    await asyncio.gather(*changes, one.steps.settle([settlement], BUDGET))
    after = await one.flows.by_id(new.flow.flow_id)
    assert after is not None
    names = {*(f"a{number}" for number in range(8)), *(f"b{number}" for number in range(8)), "same", "reply"}
    assert set(read(after.tags)) == names
    assert await rows_of(one, after.flow_id) == sorted(tag_texts(read(after.tags)))


@pytest.mark.slow
async def test_a_change_and_a_removal_at_once_leave_no_row_behind(pg_stores: tuple[SqlStore, SqlStore]) -> None:
    """Q1, O9: whichever comes first."""
    one, two = pg_stores
    for _ in range(10):
        new = await made(one, tags={"a": 1}, start=False)
        row = await one.flows.by_id(new.flow.flow_id)
        assert row is not None
        told = await asyncio.gather(
            two.control.tag(row, {"b": 1}), one.control.delete(row.flow_id), return_exceptions=True
        )
        assert told[1] is None
        assert told[0] == '{"a":1,"b":1}' or isinstance(told[0], NotFound)
    assert await look(one, "select * from dwarf_tags") == []
