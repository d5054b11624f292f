"""Straight chains are written in one statement, and come to the same as in waves (semantics: pipelined-flows, N8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dwarf_nats.rules.settlement import Settlement, SettleResult
from dwarf_nats.rules.steps import ClaimedStep, eager_step
from dwarf_nats.store.postgres import Postgres
from dwarf_nats.store.statements import settle
from dwarf_nats.store.statements.insert import INSERT_TOGETHER_ROWS
from dwarf_nats.store.statements.settle_chains import are_straight
from dwarf_nats.store.statements.settle_next import goes_on
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.status import Status
from tests.support.stores import BUDGET, born, cancel, ended, failed, look, new_flow, returned, went_on

BORING = "token, claimed_by"
"""Columns whose values differ from flow to flow, or say where a row was written."""


def chain(step: ClaimedStep, links: int, *, ends: bool = False, eager: bool = True, delay_us: int = 0) -> Settlement:
    """A step completed, with so many links behind it; the last ends the flow, or another step follows."""
    steps = [step]
    line: list[Settlement] = []
    for number in range(links + 1):
        last = number == links
        one = (
            ended(steps[-1], {"n": number})
            if last and ends
            else went_on(steps[-1], {"n": number}, eager=eager or not last, delay_us=delay_us if last else 0)
        )
        if line:
            line[-1].links = [one]
        line.append(one)
        if one.successor is not None:
            steps.append(eager_step(step.flow, one.successor))
    return line[0]


async def a_group(store: SqlStore) -> list[Settlement]:
    """Chains and single settlements of every kind that goes into one statement, each of a flow of its own."""
    news = [new_flow({"x": 1}, eager=True, time_budget_ms=7_000, priority=number) for number in range(1, 12)]
    await store.steps.create(news, BUDGET)
    steps = [born(new) for new in news]
    flow_ids = [new.flow.flow_id for new in news]
    await cancel(store, flow_ids[7])
    broken = await store.flows.by_id(flow_ids[8])
    assert broken is not None
    await store.control.break_before(broken, "b", enabled=True)
    tagged = went_on(steps[9], eager=True)
    tagged.tags = {"who": "ada"}
    await store.steps.settle([tagged], BUDGET)
    assert tagged.successor is not None
    steps[9] = eager_step(steps[9].flow, tagged.successor)
    steps[10].lease_seq += 1  # of a claim that it has lost
    return [
        chain(steps[0], 1),
        chain(steps[1], INSERT_TOGETHER_ROWS + 3, ends=True),
        chain(steps[2], 2, eager=False, delay_us=5_000_000),
        went_on(steps[3], {"n": 1}, eager=True),
        ended(steps[4], {"n": 1}),
        failed(steps[5]),
        returned(steps[6], 7_000_000),
        chain(steps[7], 2),
        chain(steps[8], 2, ends=True),
        chain(steps[9], 2, ends=True),
        chain(steps[10], 2, ends=True),
    ]


async def written(store: SqlStore, group: Sequence[Settlement], result: SettleResult) -> list[Any]:
    """The rows of the flows of a group, and the result, with ids counted from the flow's first and times from its end."""
    found: list[Any] = []
    for head in group:
        flow_id = head.step.flow.flow_id
        names = await column_names(store, "dwarf_steps")
        rows = await look(
            store, f"select {', '.join(names)} from dwarf_steps where flow_id = $1 order by step_id", flow_id
        )
        ids = {row[names.index("step_id")]: number for number, row in enumerate(rows)}
        made = {name: [row[number] for row in rows] for number, name in enumerate(names)}
        for name in ("lease_expires", "not_before"):
            del made[name]
        for name in ("step_id", "predecessor_id", "successor_id"):
            made[name] = [ids.get(value, value) for value in made[name]]
        for name in ("updated_at", "created_at", "started_at"):
            made[name] = [value is not None for value in made[name]]
        found.append(made)
        at = {one.step.step_id: done.at for one in head.chain() if (done := result.applied.get(one.step.step_id))}
        for row in rows:
            times = dict(zip(names, row, strict=True))
            step_id = times["step_id"]
            if step_id in at:
                found.append(times["updated_at"] <= at[step_id])
            if times["lease_expires"] is not None:
                found.append(times["lease_expires"] - times["updated_at"])
            found.append(times["not_before"] - times["updated_at"] if times["status"] == "pending" else 0)
        found += await look(
            store, "select status, final_state, final_borrowed, error from dwarf_flows where flow_id = $1", flow_id
        )
        found += [
            (ids.get(one.step.step_id), done and (done.alive, done.tags), one.step.step_id in result.with_breakpoints)
            for one in head.chain()
            for done in [result.applied.get(one.step.step_id)]
        ]
        found += [new.eager for new in head.made]
    return found


async def column_names(store: SqlStore, table: str) -> list[str]:
    """The columns to be compared."""
    if isinstance(store.database, Postgres):
        rows = await look(store, "select column_name from information_schema.columns where table_name = $1", table)
    else:
        rows = await look(store, "select name from pragma_table_info($1)", table)
    boring = {*BORING.split(", "), "flow_id", "priority", "lease_expires", "not_before"}
    return [name for (name,) in rows if name not in boring] + ["lease_expires", "not_before"]


async def test_a_chain_in_one_statement_comes_to_the_same_as_in_waves(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its flow was cancelled, has breakpoints, or its first step was taken away (X1, X2, O12)."""
    group = await a_group(store)
    assert are_straight(group)
    at_once = await written(store, group, await store.steps.settle(group, BUDGET))
    monkeypatch.setattr(settle, "are_straight", lambda _group: False)
    group = await a_group(store)
    in_waves = await written(store, group, await store.steps.settle(group, BUDGET))
    assert at_once == in_waves
    assert len(at_once) > 100


async def one_that_goes_on(store: SqlStore) -> list[Settlement]:
    """A settlement for each of these flows: one that lives, is cancelled, has breakpoints, and whose step was taken away."""
    news = [new_flow({"x": 1}, eager=True, time_budget_ms=7_000, priority=number) for number in range(1, 5)]
    await store.steps.create(news, BUDGET)
    await cancel(store, news[1].flow.flow_id)
    broken = await store.flows.by_id(news[2].flow.flow_id)
    assert broken is not None
    await store.control.break_before(broken, "b", enabled=True)
    steps = [born(new) for new in news]
    steps[3].lease_seq += 1
    return [went_on(step, {"n": 1}, eager=True) for step in steps]


async def test_a_lone_step_comes_to_the_same_as_one_in_a_group(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def all_of_them() -> list[Any]:
        group = await one_that_goes_on(store)
        return [await written(store, [one], await store.steps.settle([one], BUDGET)) for one in group]

    alone = await all_of_them()
    monkeypatch.setattr(settle, "goes_on", lambda _one: False)
    assert alone == await all_of_them()


def test_what_more_is_written_of_a_step_needs_the_statement_of_groups() -> None:
    def lone(**more: Any) -> bool:
        one = went_on(born(new_flow({}, eager=True)), eager=True)
        for name, value in more.items():
            setattr(one, name, value)
        return goes_on(one)

    assert lone()
    assert not lone(status=Status.PENDING)
    assert not lone(error_json="{}")
    assert not lone(arrives=True)
    assert not lone(successor=None)
    assert not lone(end=ended(born(new_flow())).end)
    assert not goes_on(went_on(born(new_flow({}, eager=True)), eager=False))
    assert not goes_on(went_on(born(new_flow({}, eager=True)), eager=True, delay_us=1))


async def test_a_chain_takes_one_round_trip(pg_stores: tuple[SqlStore, SqlStore]) -> None:
    pg_store, _ = pg_stores
    new = new_flow({}, eager=True)
    await pg_store.steps.create([new], BUDGET)
    assert isinstance(pg_store.database, Postgres)
    before = pg_store.database.round_trips
    result = await pg_store.steps.settle([chain(born(new), 5, ends=True)], BUDGET)
    assert len(result.applied) == 6
    assert pg_store.database.round_trips - before == 1


def test_what_has_more_consequences_goes_in_waves() -> None:
    def straight(**more: Any) -> bool:
        head = chain(born(new_flow({}, eager=True)), 2)
        (link,) = head.links
        for name, value in more.items():
            setattr(link, name, value)
        return are_straight([head])

    assert straight()
    assert not straight(arrives=True)
    assert not straight(status=Status.PENDING)
    assert not straight(status=Status.FAILED)
    assert not straight(tags={"a": "b"})
    assert not straight(problems=["no"])
    assert not straight(compensates=True)
    assert not straight(error_json="{}")
    head = chain(born(new_flow({}, eager=True)), 2)
    head.links = [*head.links, *head.links]
    assert not are_straight([head])
    head = chain(born(new_flow({}, eager=True)), 2)
    assert head.successor is not None
    head.successor.eager = False
    assert not are_straight([head])
    called = new_flow({}, eager=True, surgraph_step_id=9, surgraph_flow_id=8)
    assert not are_straight([chain(born(called), 1, ends=True)]), "who called it is woken"
