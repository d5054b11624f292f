"""Retention on both databases: what goes and what stays, what goes with it, and what survives a death (M2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest, NotFound, Unavailable
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.retention import RetentionRule
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import Gate, crash, line, maintenance_of, replica, rows
from tests.support.flows import SOON, Bench, bench, call

DAY_MS = 86_400_000


async def age(engine: Engine, keys: Sequence[str], days: int = 2) -> None:
    """Make trees look as if all of it had been so many days ago."""
    ids = [int(key.split("-")[1]) for key in keys]
    away = days * DAY_MS * 1000
    for flow_id in ids:
        await rows(
            engine,
            "update dwarf_tags set created_at = created_at - $2 where flow_id = $1",
            flow_id,
            away,
        )
        await rows(
            engine,
            "update dwarf_flows set created_at = created_at - $2, updated_at = updated_at - $2 where root_id = $1",
            flow_id,
            away,
        )


def rule(name: str = "old", **fields: Any) -> RetentionRule:
    return RetentionRule(name=name, **{"older_than_ms": DAY_MS, **fields})


async def once(engine: Engine) -> None:
    """One pass."""
    await maintenance_of(engine).retention.run_once()


async def there(it: Bench) -> set[str]:
    return {one.flow_key for one in (await it.engine.list(Query(limit=1000)))[0]}


async def counted(engine: Engine) -> dict[str, int]:
    return {one.rule.name: one.removed for one in await engine.list_retention()}


async def test_only_ended_flows_that_are_old_enough_go_with_all_that_is_theirs(dsn: str) -> None:
    """M2: by workflow and status; trees whole; tags, steps and idempotency keys with them; all others stay."""
    async with bench(
        dsn, line("one", "a"), line("tree", "c"), line("child", "a"), line("bad", "b"), line("slow", "z")
    ) as it:
        gate = Gate()

        def b() -> None:
            raise TaskError("no", 500)

        it.tasks(b=b, c=call("child"), z=gate)
        it.idle("a")
        with_key = FlowOptions(idempotency_key="k", tags={"n": 1})
        keyed = (await it.run("one", options=with_key)).flow_key
        tree, bad = (await it.run("tree")).flow_key, (await it.run("bad")).flow_key
        cancelled = await it.engine.create("one")
        await it.engine.cancel(cancelled)
        running = await it.engine.create("slow", start=True)
        created = await it.engine.create("one")
        await age(it.engine, [keyed, tree, bad, cancelled, running, created])
        young = (await it.run("one")).flow_key
        assert not maintenance_of(it.engine).retention.wanted.is_set()
        await once(it.engine)
        assert len(await there(it)) == 7
        await it.engine.put_retention(rule("failures", status="failed", older_than_ms=3 * DAY_MS))
        await it.engine.put_retention(rule("orders", workflow="one"))
        await it.engine.put_retention(rule("trees", workflow="tree", status="completed"))
        assert maintenance_of(it.engine).retention.wanted.is_set()
        await once(it.engine)
        assert await there(it) == {bad, running, created, young}
        assert await counted(it.engine) == {"failures": 0, "orders": 2, "trees": 1}
        assert all(one.last_run for one in await it.engine.list_retention())
        assert await rows(it.engine, "select count(*) from dwarf_tags") == [(0,)]
        assert await rows(it.engine, "select count(*) from dwarf_flows where surgraph_flow_id is not null") == [(0,)]
        left = "select count(*) from dwarf_steps s where not exists (select 1 from dwarf_flows f where f.flow_id = s.flow_id)"
        assert await rows(it.engine, left) == [(0,)]
        assert await it.engine.create("one", options=with_key) != keyed
        await it.engine.delete_retention("orders")
        assert set(await counted(it.engine)) == {"failures", "trees"}
        assert len(await rows(it.engine, "select name from dwarf_retention")) == 2
        gate.open()


async def test_tags_keep_flows(dsn: str) -> None:
    """M2: all of them, as they are when the flow would be removed."""
    async with bench(dsn, line("one", "a")) as it:
        it.idle("a")
        held, half, late = [
            (await it.run("one", options=FlowOptions(tags=tags))).flow_key
            for tags in ({"legal": "hold", "n": 7}, {"legal": "hold"}, {"x": 1})
        ]
        await age(it.engine, [held, half, late])
        await it.engine.put_retention(rule(keep_tagged={"legal": "hold", "n": 7}))
        store = it.engine.shards[1].store.retention
        remove = store.remove

        async def tagged_first(flow_ids: Sequence[int], rule_for: Callable[..., str]) -> int:
            await it.engine.tag(late, {"legal": "hold", "n": 7})
            return await remove(flow_ids, rule_for)

        store.remove = tagged_first  # type: ignore[method-assign]
        await once(it.engine)
        assert await there(it) == {held, late}
        assert await counted(it.engine) == {"old": 1}


async def test_a_flow_that_is_restarted_at_the_last_moment_stays(dsn: str) -> None:
    """M2, O13."""
    async with bench(dsn, line("slow", "z")) as it:
        it.idle("z")
        key = (await it.run("slow")).flow_key
        await age(it.engine, [key])
        gate = Gate()
        it.tasks(z=gate)
        await it.engine.put_retention(rule())
        store = it.engine.shards[1].store.retention
        remove = store.remove

        async def restarted_first(flow_ids: Sequence[int], rule_for: Callable[..., str]) -> int:
            await it.engine.restart(key)
            return await remove(flow_ids, rule_for)

        store.remove = restarted_first  # type: ignore[method-assign]
        await once(it.engine)
        assert await there(it) == {key}
        gate.open()
        assert (await it.ended(key)).status is Status.COMPLETED
        store.remove = remove  # type: ignore[method-assign]
        await once(it.engine)  # its end is young
        assert await there(it) == {key}


async def test_a_pass_reads_on_where_a_page_ends_and_ends_when_the_rules_change(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2."""
    monkeypatch.setattr("dwarf_nats.engine.maintenance.retention.LOOKED_AT", 3)
    async with bench(dsn, line("one", "a")) as it:
        it.idle("a")
        keys = [(await it.run("one")).flow_key for _ in range(8)]
        await age(it.engine, keys)
        await it.engine.put_retention(rule())
        store = it.engine.shards[1].store.retention
        remove, calls = store.remove, 0

        async def changed_meanwhile(flow_ids: Sequence[int], rule_for: Callable[..., str]) -> int:
            nonlocal calls
            calls += 1
            if calls == 2:
                await it.engine.put_retention(rule(older_than_ms=9 * DAY_MS))
            return await remove(flow_ids, rule_for)

        store.remove = changed_meanwhile  # type: ignore[method-assign]
        await once(it.engine)
        assert len(await there(it)) == 2  # the group under way is finished
        assert (await it.engine.list_retention())[0].last_run is None
        await it.engine.put_retention(rule())
        await once(it.engine)
        assert await there(it) == set()
        assert await counted(it.engine) == {"old": 8}


async def test_a_preview_counts_what_a_rule_would_remove(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """M2: of a rule that is there, by name, and of one that is not; nothing is removed, and the time is bounded."""
    monkeypatch.setattr("dwarf_nats.engine.operations.retention.LOOKED_AT", 2)
    async with bench(dsn, line("one", "a")) as it:
        it.idle("a")
        keys = [(await it.run("one")).flow_key for _ in range(5)]
        await age(it.engine, keys[:2], days=5)
        await age(it.engine, keys[2:4])
        ended = {one.flow_key: one.updated_at for one in (await it.engine.list())[0]}
        assert await it.engine.preview_retention(rule("new")) == (4, min(ended[keys[0]], ended[keys[1]]), False)
        assert await it.engine.preview_retention(rule("new", status="failed")) == (0, None, False)
        with pytest.raises(NotFound):
            await it.engine.preview_retention(RetentionRule(name="new"))
        with pytest.raises(BadRequest, match="use completed"):
            await it.engine.preview_retention(rule("new", status="created"))
        await it.engine.put_retention(rule(older_than_ms=3 * DAY_MS))
        assert (await it.engine.preview_retention(RetentionRule(name="old"))).flows == 2
        monkeypatch.setattr("dwarf_nats.engine.operations.retention.PREVIEW_SECONDS", -1)
        found = await it.engine.preview_retention(rule("new"))
        assert (found.flows, found.truncated) == (2, True)
        assert len(await there(it)) == 5
        with pytest.raises(NotFound):
            await it.engine.delete_retention("new")


async def test_a_replica_that_dies_counts_what_it_removed_and_the_next_one_goes_on(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2, B1: the count is in the transaction that removes."""
    for name in ("MIN_GROUP", "MAX_GROUP"):
        monkeypatch.setattr(f"dwarf_nats.rules.pacing.{name}", 2)
    proxy = TaskProxy()
    proxy.handle_graph(line("one", "a"))
    proxy.handle_task("a", lambda: None)
    dying = replica(dsn, proxy)
    await dying.startup()
    keys = [(await dying.run("one")).flow_key for _ in range(5)]
    await age(dying, keys)
    await dying.put_retention(rule())
    shard, groups = dying.shards[1], 0
    shard.pace.size = 2
    store = shard.store.retention
    remove = store.remove

    async def dies(flow_ids: Sequence[int], rule_for: Callable[..., str]) -> int:
        nonlocal groups
        groups += 1
        count = await remove(flow_ids, rule_for)
        if groups == 2:
            await crash(dying)
            raise Unavailable("it is gone")
        return count

    store.remove = dies  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await once(dying)
    async with replica(dsn, proxy, replica_timeout_ms=500) as other:
        assert await counted(other) == {"old": 4}
        async with asyncio.timeout(SOON):
            while await counted(other) != {"old": 5}:  # until it is the leader
                await once(other)
        assert (await other.list())[0] == []


async def test_only_the_leader_removes(pg_dsn: str) -> None:
    """M2, B5: several replicas have the rules, one carries them out."""
    proxy = TaskProxy()
    proxy.handle_graph(line("one", "a"))
    proxy.handle_task("a", lambda: None)
    async with replica(pg_dsn, proxy) as first, replica(pg_dsn, proxy) as second:
        key = (await first.run("one")).flow_key
        await age(first, [key])
        await first.put_retention(rule())
        await second.replica.definitions.refresh()
        await once(second)
        assert len((await first.list())[0]) == 1
        await once(first)
        assert (await first.list())[0] == []


async def test_the_pass_rests_longer_the_longer_it_looks(dsn: str) -> None:
    """M2: looking at flows that stay costs at most a small share of the time."""
    async with bench(dsn, line("one", "a")) as it:
        duty = maintenance_of(it.engine).retention
        assert duty.interval() == 60
        duty._looking_seconds = 10
        assert duty.interval() == 500
        duty._looking_seconds = 1e6
        assert duty.interval() == 3600
