"""The facts that replicas agree on, and idempotency keys over all shards and operations (O1, O15, O17)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest, Conflict, DwarfError, NotFound, Unavailable
from dwarf_nats.library import add_shard, open_engine
from dwarf_nats.rules.shard_counts import home_of
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Dsns, maintenance_of, rows

pytestmark = pytest.mark.slow

QUICK = 500
SLOW = 600_000
"""Milliseconds of silence until a replica is taken for dead: soon, or not while a test runs, however busy the machine is."""


def opened(given: list[str], proxy: TaskProxy, timeout_ms: int = 10_000) -> Engine:
    return open_engine(
        given, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0, replica_timeout_ms=timeout_ms)
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0)


async def everywhere(engine: Engine, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    found = []
    for number in sorted(engine.shards):
        found += await rows(engine, sql, *args, shard=number)
    return found


def key_at(home: int, shards: int, but: str = "") -> str:
    """An idempotency key whose home is that shard."""
    return next(key for key in map("key-{}".format, range(1000)) if home_of(shards, "", key) == home and key != but)


async def completed_on(engine: Engine, shard: int) -> str:
    """A completed flow on that shard, made without a key."""
    while True:
        outcome = await engine.run("line", {"n": 1}, timeout=SOON)
        if outcome.flow_key.startswith(f"{shard}-"):
            return outcome.flow_key


# -- one flow for each key


@pytest.mark.slow
async def test_o1_one_flow_for_each_key_while_a_shard_is_added_replica_by_replica(
    shared: Dsns, proxy: TaskProxy
) -> None:
    """O1, O15, O17: create, run and continue at once, at two replicas, before, while and after the third shard comes.

    Every answer names the one flow of its key, or is a 409; every flow that was answered is found at both replicas.
    """
    given = shared(3)
    one, two = opened(given[:2], proxy, SLOW), opened(given[:2], proxy, SLOW)
    async with one, two:
        threads = [await completed_on(one, 1 + number % 2) for number in range(8)]
        found: dict[str, set[str]] = {}
        lost: list[str] = []
        codes: set[int] = set()

        async def ask(engine: Engine, other: Engine, key: str, kind: str, thread: str) -> None:
            options = FlowOptions(idempotency_key=key)
            try:
                if kind == "create":
                    flow = await engine.create("line", {"n": 1}, options, start=True)
                elif kind == "run":
                    flow = (await engine.run("line", {"n": 1}, options, SOON)).flow_key
                else:
                    flow = await engine.continue_(thread, {"n": 2}, options, start=True)
            except DwarfError as error:
                codes.add(error.code)
                return
            found.setdefault(key, set()).add(flow)
            for reader in (engine, other):
                try:
                    await reader.snapshot(flow)
                except NotFound:
                    lost.append(flow)

        async def load(name: str) -> None:
            for number in range(12):
                key, thread = f"{name}-{number}", threads[number % len(threads)]
                kinds = ("create", "run", "continue", "continue") if number % 2 else ("continue", "create", "run")
                await asyncio.gather(
                    *(ask(*pair, key, kind, thread) for kind in kinds for pair in ((one, two), (two, one)))
                )

        await load("before")
        during = asyncio.ensure_future(load("during"))
        await add_shard(one, given[2])
        assert one.replica.deployment.count == 2
        await load("between")
        assert not [flow for flows in found.values() for flow in flows if flow.startswith("3-")]
        await add_shard(two, given[2])
        await during
        await one.replica.deployment.agree()  # as its next beat would
        assert one.replica.deployment.count == two.replica.deployment.count == 3
        await load("after")
        for name in ("before", "between", "during"):  # keys outlive the move of their home
            await load(name)
        assert lost == []
        assert codes <= {409, 503}
        assert {key: len(flows) for key, flows in found.items() if len(flows) > 1} == {}
        assert len(found) == 48
        made = await everywhere(one, "select idempotency_key from dwarf_flows where idempotency_key <> ''")
        assert sorted(key for (key,) in made) == sorted(found)
        # Above, each key whose home is the new shard may have gone to a continue, whose flow lies with its thread.
        alone = [await one.create("line", {"n": 1}, FlowOptions(idempotency_key=f"alone-{n}")) for n in range(30)]
        assert any(flow.startswith("3-") for flow in alone)


async def test_o15_a_continue_whose_key_has_its_home_elsewhere_reserves_it_first(dsns: Dsns, proxy: TaskProxy) -> None:
    async with opened(dsns(2), proxy) as engine:
        thread = await completed_on(engine, 2)
        key = key_at(1, 2)
        flow = await engine.continue_(thread, {"n": 5}, FlowOptions(idempotency_key=key))
        assert flow.startswith("2-")
        assert await rows(engine, "select shard, flow_id from dwarf_keys") == [(2, int(flow.split("-")[1]))]
        assert await engine.continue_(thread, {"n": 5}, FlowOptions(idempotency_key=key)) == flow
        with pytest.raises(Conflict, match="used before for another workflow, thread or state"):
            await engine.create("line", {"n": 1}, FlowOptions(idempotency_key=key))
        with pytest.raises(Conflict, match="used before"):
            await engine.continue_(thread, {"n": 6}, FlowOptions(idempotency_key=key))
        other = FlowOptions(idempotency_key=key_at(1, 2, but=key))
        made = await engine.create("line", {"n": 1}, other)
        assert made.startswith("1-")
        with pytest.raises(Conflict, match="used before"):
            await engine.continue_(thread, {"n": 5}, other)


async def test_o1_the_next_request_finishes_what_a_crash_left_between_key_and_flow(
    dsns: Dsns, proxy: TaskProxy
) -> None:
    """O1, O15: the flow gets the reserved id, from whichever of several requests comes first."""
    async with opened(dsns(2), proxy) as engine:
        thread = await completed_on(engine, 2)
        options = FlowOptions(idempotency_key=key_at(1, 2))
        store: Any = engine.shards[2].store
        create_next = store.control.create_next

        async def crashes(*_: Any) -> None:
            raise Unavailable("the replica was killed here")

        store.control.create_next = crashes
        with pytest.raises(Unavailable, match="killed"):
            await engine.continue_(thread, {"n": 5}, options, start=True)
        store.control.create_next = create_next
        ((shard, flow_id, token),) = await rows(engine, "select shard, flow_id, token from dwarf_keys")
        with pytest.raises(Conflict, match="used before"):
            await engine.create("line", {"n": 1}, options)
        finished = await asyncio.gather(*(engine.continue_(thread, {"n": 5}, options, start=True) for _ in range(5)))
        assert set(finished) == {f"{shard}-{flow_id}-{token}"}
        assert (await engine.await_(finished[0], SOON)).status is Status.COMPLETED
        assert len((await engine.list(Query(thread=thread)))[0]) == 2


async def test_o1_a_reservation_that_was_given_up_does_not_block_its_key_for_ever(dsns: Dsns, proxy: TaskProxy) -> None:
    """O1: another request gets the key after a minute; the first one, late, makes no second flow."""
    async with opened(dsns(2), proxy) as engine:
        thread = await completed_on(engine, 2)
        key = key_at(1, 2)
        options = FlowOptions(idempotency_key=key)
        store: Any = engine.shards[2].store
        create_next = store.control.create_next
        held: list[Any] = []
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def stands_still(latest: Any, new: Any) -> Any:
            held.append(new)
            reached.set()
            await go_on.wait()
            store.control.create_next = create_next
            return await create_next(latest, new)

        store.control.create_next = stands_still
        late = asyncio.ensure_future(engine.continue_(thread, {"n": 5}, options))
        await reached.wait()
        with pytest.raises(Conflict, match="used before"):
            await engine.create("line", {"n": 1}, options)
        await rows(engine, "update dwarf_keys set created_at = created_at - 61000000")
        made = await engine.create("line", {"n": 1}, options)
        go_on.set()
        with pytest.raises(Conflict, match="used before"):
            await late
        assert made.startswith("1-")
        flows = await everywhere(engine, "select flow_id from dwarf_flows where idempotency_key = $1", key)
        assert flows == [(int(made.split("-")[1]),)]


async def test_o15_a_continue_that_is_refused_after_all_leaves_its_key_free(dsns: Dsns, proxy: TaskProxy) -> None:
    """O15: two continues of one thread with different keys: one makes the next flow, the other is a 409 and takes nothing."""
    async with opened(dsns(2), proxy) as engine:
        thread = await completed_on(engine, 2)
        key = key_at(1, 2)
        store: Any = engine.shards[2].store
        create_next = store.control.create_next

        async def overtaken(latest: Any, new: Any) -> Any:
            store.control.create_next = create_next
            await engine.continue_(thread, {"n": 7})
            return await create_next(latest, new)

        store.control.create_next = overtaken
        with pytest.raises(Conflict, match="the latest flow of the thread is created"):
            await engine.continue_(thread, {"n": 5}, FlowOptions(idempotency_key=key))
        assert await rows(engine, "select * from dwarf_keys") == []
        assert (await engine.create("line", {"n": 1}, FlowOptions(idempotency_key=key))).startswith("1-")


@pytest.mark.parametrize("way", ["delete", "purge", "restart", "delete_on_completion"])
async def test_o1_a_key_is_remembered_for_as_long_as_its_flow_exists(dsns: Dsns, proxy: TaskProxy, way: str) -> None:
    """O1: here and on another shard than the key; what is gone neither blocks the key nor comes to life again."""
    leaves = way == "delete_on_completion"
    async with opened(dsns(2), proxy) as engine:
        thread = await completed_on(engine, 2)
        here = FlowOptions(idempotency_key=key_at(1, 2), delete_on_completion=leaves)
        there = FlowOptions(idempotency_key=key_at(1, 2, but=here.idempotency_key or ""), delete_on_completion=leaves)
        made = [
            (await engine.run("line", {"n": 1}, here, SOON)).flow_key,
            await engine.continue_(thread, {"n": 5}, there, start=True),
        ]
        await engine.await_(made[1], SOON)
        assert [key[0] for key in made] == ["1", "2"]
        for key in made:
            if way == "delete":
                await engine.delete(key)
            elif way == "purge":
                assert await engine.purge(Query(thread=key, status=Status.COMPLETED, newer_than_ms=10**12)) >= 1
            elif way == "restart":
                await engine.restart(key)
                await engine.await_(key, SOON)
            else:
                await rows(engine, "update dwarf_flows set updated_at = 1", shard=int(key[0]))
                await maintenance_of(engine, int(key[0])).flow_pruner.run_once()
        if way == "restart":
            assert await engine.create("line", {"n": 1}, here) == made[0]
            assert await engine.continue_(thread, {"n": 5}, there) == made[1]
            return
        if way == "purge":
            thread = await completed_on(engine, 2)
        again = [await engine.create("line", {"n": 9}, here), await engine.continue_(thread, {"n": 9}, there)]
        assert not set(again) & set(made)
        for key in made:
            with pytest.raises(NotFound):
                await engine.snapshot(key)
        for key in again:
            await engine.delete(key)
        for shard in engine.shards.values():
            await engine.replica.deployment.free_deleted_keys(shard)
        assert await everywhere(engine, "select * from dwarf_keys") == []
        assert await everywhere(engine, "select * from dwarf_placed where gone < 2") == []
        await everywhere(engine, "update dwarf_placed set updated_at = 1")
        for shard in engine.shards.values():
            await engine.replica.deployment.free_deleted_keys(shard)
        assert await everywhere(engine, "select * from dwarf_placed") == []


async def test_o1_a_run_repeated_with_the_key_of_a_flow_elsewhere_waits_for_it(dsns: Dsns, proxy: TaskProxy) -> None:
    """O1: a key that was taken while there were fewer shards is found where it was."""
    given = dsns(2)
    async with opened(given[:1], proxy) as engine:
        key = key_at(2, 2)
        options = FlowOptions(idempotency_key=key)
        made = await engine.create("line", {"n": 1}, options)
        await add_shard(engine, given[1])
        assert engine.replica.deployment.count == 2
        outcome = await engine.run("line", {"n": 1}, options, SOON)
        assert (outcome.flow_key, outcome.status) == (made, Status.COMPLETED)
        with pytest.raises(Conflict):
            await engine.create("line", {"n": 2}, options)
        assert (await engine.create("line", {"n": 2}, FlowOptions(idempotency_key=key_at(2, 2, but=key)))).startswith(
            "2-"
        )


async def test_a_keyed_create_costs_no_more_round_trips_and_one_without_a_key_none(
    dsns: Dsns, proxy: TaskProxy
) -> None:
    """O1: the key is taken in the transaction that makes the flow."""
    (dsn,) = dsns(1)
    async with opened([dsn], proxy) as engine:
        database: Any = engine.shards[1].store.database
        fetched: list[str] = []
        original = database.fetch

        async def counted(sql: str, *args: Any) -> Any:
            fetched.append(sql)
            return await original(sql, *args)

        await engine.create("line", {"n": 1})
        database.fetch = counted
        await engine.create("line", {"n": 1})
        assert [sql for sql in fetched if "dwarf_flows" in sql or "dwarf_deployment" in sql] == []
        groups = engine.shards[1].committer.groups
        await engine.create("line", {"n": 1}, FlowOptions(idempotency_key="once"))
        assert len([sql for sql in fetched if "dwarf_replicas" not in sql and "dwarf_registry" not in sql]) == 1
        assert engine.shards[1].committer.groups == groups + 1


# -- what replicas agree on


async def test_o17_databases_in_another_order_twice_or_of_another_deployment_are_refused(
    dsns: Dsns, proxy: TaskProxy
) -> None:
    """O17: the refusal says which one, and what to do; nothing is taken up, and nothing is written."""
    first, second, third = dsns(3)
    (stranger,) = dsns(1)
    async with opened([first, second], proxy) as engine:
        flow = await engine.create("line", {"n": 1})
    async with opened([stranger], proxy):
        pass
    wrong = [
        (
            [second, first],
            r"is shard 2 of its deployment, but was given as shard 1: give each database once, in the order",
        ),
        ([first], r"has 2 shards, but 1 databases were given: give all of them, in order"),
        ([first, stranger], r"is shard 1 of its deployment, but was given as shard 2"),
        ([stranger, second], r"belongs to another deployment than|has 2 shards"),
        (
            [first, third],
            r"was given as shard 2 of 2, but holds nothing of this deployment: give the one that held this shard",
        ),
    ]
    for given, words in wrong:
        engine = opened(given, proxy)
        with pytest.raises(BadRequest, match=words):
            await engine.startup()
        assert not engine.ready
        assert not any(shard.opened for shard in engine.shards.values())
    engine = opened([first, second], proxy)
    async with engine:
        assert (await engine.snapshot(flow)).status is Status.CREATED
        with pytest.raises(BadRequest, match="is shard 1 of its deployment, but was given as shard 3"):
            await add_shard(engine, stranger)
        assert engine.shard_count == 2
        await add_shard(engine, third)
        assert engine.replica.deployment.count == 3


@pytest.mark.slow
async def test_o17_a_database_given_twice_is_refused_at_the_very_first_start(shared: Dsns, proxy: TaskProxy) -> None:
    (dsn,) = shared(1)
    with pytest.raises(
        BadRequest, match="is shard 1 of its deployment, but was given as shard 2: give each database once"
    ):
        await opened([dsn, dsn + "?"], proxy).startup()


async def test_o17_the_same_file_twice_is_refused_as_what_it_is(sqlite_dsn: str, proxy: TaskProxy) -> None:
    with pytest.raises(BadRequest, match="was given twice, as shard 1 and as shard 2: give each database once"):
        opened([sqlite_dsn, sqlite_dsn], proxy)
    await opened(["sqlite://", "sqlite://"], proxy).startup()


@pytest.mark.slow
async def test_o17_nothing_is_placed_on_a_new_shard_before_every_living_replica_knows_it(
    shared: Dsns, proxy: TaskProxy
) -> None:
    """O17: it is served at once where it is known; a replica that fell silent holds up nobody."""
    given = shared(2)
    one, two = opened(given[:1], proxy, SLOW), opened(given[:1], proxy, SLOW)
    async with one, two:
        three = opened(given, proxy, SLOW)
        async with three:
            assert three.replica.deployment.count == 1
            await add_shard(one, given[1])
            assert one.replica.deployment.count == 1
            keys = [await one.create("line", {"n": 1}) for _ in range(20)]
            keys += [await three.create("line", {"n": 1}, FlowOptions(idempotency_key=str(n))) for n in range(20)]
            assert {key[0] for key in keys} == {"1"}
            for key in keys:
                await two.snapshot(key)
            with pytest.raises(BadRequest, match="there is no shard 2"):
                await two.list(Query(shard=2))
            assert (await three.list(Query(shard=2)))[0] == []
            assert [info.joining for info in await three.shard_info()] == [False, True]
            dead = two.shards[1].store.replicas.replica_id  # type: ignore[attr-defined]
            await three.replica.deployment.agree()
            assert three.replica.deployment.count == 1
            await rows(one, "update dwarf_replicas set seen_at = 1 where replica_id = $1", dead)
            await three.replica.deployment.agree()
            await one.replica.deployment.agree()
            assert one.replica.deployment.count == three.replica.deployment.count == 2
            assert [info.joining for info in await three.shard_info()] == [False, False]
            keys = [await one.create("line", {"n": 1}) for _ in range(40)]
            assert {key[0] for key in keys} == {"1", "2"}
            for key in keys:
                await three.snapshot(key)


@pytest.mark.slow
async def test_o17_a_replica_that_stood_still_while_a_shard_came_answers_503_for_it(
    shared: Dsns, proxy: TaskProxy
) -> None:
    """O17: not 404 for flows that exist; and it makes no flow by the old number of shards."""
    given = shared(2)
    one, two = opened(given[:1], proxy, SLOW), opened(given[:1], proxy, SLOW)
    async with one, two:
        key = key_at(2, 2)
        await add_shard(one, given[1])
        frozen = two.shards[1].store.replicas.replica_id  # type: ignore[attr-defined]
        await rows(one, "update dwarf_replicas set seen_at = 1 where replica_id = $1", frozen)
        await one.replica.deployment.agree()
        assert one.replica.deployment.count == 2
        made = await one.create("line", {"n": 1}, FlowOptions(idempotency_key=key))
        assert made.startswith("2-")
        with pytest.raises(Unavailable, match="has 2 shards, but 1 databases were given: give all"):
            await two.create("line", {"n": 1}, FlowOptions(idempotency_key=key))
        with pytest.raises(Unavailable, match="start it with the DSNs of all"):
            await two.snapshot(made)
        assert (await two.run("line", {"n": 1}, timeout=SOON)).flow_key.startswith("1-")


async def test_o17_an_agreement_that_was_broken_off_is_brought_to_its_end(dsns: Dsns, proxy: TaskProxy) -> None:
    """O17: a replica that died while it raised the number of shards leaves one that holds here and not there."""
    given = dsns(3)
    async with opened(given[:2], proxy):
        pass
    async with opened(given, proxy) as engine:
        assert engine.replica.deployment.count == 3
        await rows(engine, "update dwarf_deployment set shards = 2", shard=3)
        engine.replica.deployment._counts[3] = 2
        key = key_at(3, 3)
        assert (await engine.create("line", {"n": 1}, FlowOptions(idempotency_key=key))).startswith("3-")
        assert await everywhere(engine, "select shards from dwarf_deployment") == [(3,), (3,), (3,)]
    async with opened(given, proxy) as engine:
        await everywhere(engine, "update dwarf_deployment set shards = 4")
        with pytest.raises(Unavailable, match="has 4 shards, but 3 databases were given"):
            await engine.create("line", {"n": 1}, FlowOptions(idempotency_key=key_at(4, 4)))


async def test_o17_databases_from_before_are_taken_as_they_are_given(dsns: Dsns, proxy: TaskProxy) -> None:
    """O17: the first start of this version, flows and keys of the one before included."""
    given = dsns(2)
    async with opened(given, proxy) as engine:
        keys = {n: await engine.create("line", {"n": n}, FlowOptions(idempotency_key=f"k{n}")) for n in range(12)}
        await everywhere(engine, "delete from dwarf_deployment")
        await everywhere(engine, "delete from dwarf_keys")
    async with opened(given, proxy) as engine:
        assert engine.replica.deployment.count == 2
        for n, key in keys.items():
            assert await engine.create("line", {"n": n}, FlowOptions(idempotency_key=f"k{n}")) == key
            await engine.delete(key)
            assert await engine.create("line", {"n": n}, FlowOptions(idempotency_key=f"k{n}")) != key


@pytest.mark.slow
async def test_o17_a_shard_away_at_the_start_breaks_neither_the_agreement_nor_other_keys(
    sqlite_dsn: str, proxy: TaskProxy
) -> None:
    """O17, B6: keys at home elsewhere wait for the database that may know them; flows without a key go where one is there."""
    server = PostgresServer()
    await server.start()
    try:
        dsn = await server.create_database("away")
        async with opened([sqlite_dsn, dsn], proxy):
            pass
        await server.kill()
        engine = opened([sqlite_dsn, dsn], proxy, QUICK)
        await engine.startup(patient=True)
        try:
            assert engine.replica.deployment.count == 2
            for _ in range(5):
                assert (await engine.run("line", {"n": 1}, timeout=SOON)).flow_key.startswith("1-")
            with pytest.raises(Unavailable):
                await engine.create("line", {"n": 1}, FlowOptions(idempotency_key=key_at(2, 2)))
            await server.restart()
            await until(lambda: not engine.shards[2].availability.is_away)
            made = await engine.create("line", {"n": 1}, FlowOptions(idempotency_key=key_at(2, 2)))
            assert made.startswith("2-")
        finally:
            await engine.shutdown()
    finally:
        await server.stop("immediate")


@pytest.mark.slow
async def test_b6_a_flow_without_a_key_goes_elsewhere_the_moment_its_shard_is_found_to_be_away(
    sqlite_dsn: str, proxy: TaskProxy
) -> None:
    """B6: also before the replica has missed an answer of that database; a thread and a key stay where they are."""
    server = PostgresServer()
    await server.start()
    try:
        dsn = await server.create_database("going")
        engine = opened([sqlite_dsn, dsn], proxy, SLOW)
        async with engine:
            thread = await completed_on(engine, 2)
            await server.kill()
            for _ in range(12):
                assert (await engine.run("line", {"n": 1}, timeout=SOON)).flow_key.startswith("1-")
            with pytest.raises(Unavailable):
                await engine.create("line", {"n": 1}, FlowOptions(thread=thread))
            await server.restart()
            maintenance = maintenance_of(engine, 2)
            async with asyncio.timeout(SOON):
                while not await maintenance.runner.attempt(maintenance.heartbeat):
                    await asyncio.sleep(0)
            await completed_on(engine, 2)
    finally:
        await server.stop("immediate")


async def test_o13_a_restart_does_not_hide_a_flow_from_who_is_turning_pages(dsns: Dsns, proxy: TaskProxy) -> None:
    """O9, O13: each flow once, though flows are restarted between the pages; and the latest of a thread stays the latest."""
    async with opened(dsns(2), proxy) as engine:
        made = [(await engine.run("line", {"n": 1}, timeout=SOON)).flow_key for _ in range(12)]
        seen: list[str] = []
        cursor = ""
        while True:
            page, cursor = await engine.list(Query(limit=3), cursor)
            seen += [flow.flow_key for flow in page]
            for key in (seen[0], made[0], made[len(seen) % 12]):
                await engine.restart(key)
                await engine.await_(key, SOON)
            if not cursor:
                break
        assert sorted(seen) == sorted(made)
        second = await engine.continue_(made[0], {"n": 2}, start=True)
        await engine.await_(second, SOON)
        before = {flow.flow_key: flow for flow in (await engine.list(Query(thread=second)))[0]}
        await engine.restart(made[0])
        await engine.await_(made[0], SOON)
        after = {flow.flow_key: flow for flow in (await engine.list(Query(thread=second)))[0]}
        assert list(before) == list(after) == [second, made[0]]
        assert after[made[0]].created_at > before[second].created_at  # O13: times are reset
        assert (await engine.history(second))[0].step_key
        third = await engine.continue_(made[0], {}, start=True)
        assert (await engine.await_(third, SOON)).state["n"] == ((2 + 1) * 2 + 1) * 2
