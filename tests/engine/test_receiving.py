"""R1: flows of messages in groups, one for each message; the outbox; on one and on several databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.maintenance.outbox import OutboxSweep
from dwarf_nats.errors import BadRequest, NotFound, Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.ports import OutboxStore
from dwarf_nats.rules.receiving import REMEMBERED_US, MessageFlow, OutboxRow, Receipt, SourceProgress
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions, Query
from tests.support.engines import SOON, Dsns, line, maintenance_of, rows, until_rows

COUNT = "select count(*) from dwarf_flows"
SCOPE = 77


def proxy(name: str = "order") -> TaskProxy:
    one = TaskProxy()
    one.handle_graph(line(name, "work"))
    one.handle_task("work", lambda: {"done": True})
    return one


def order(
    sequence: int, state: bytes = b"{}", workflow: str = "order", options: FlowOptions | None = None
) -> MessageFlow:
    return MessageFlow(receipt=Receipt(SCOPE, sequence), workflow=workflow, state=state, options=options)


async def flows(engine: Engine) -> int:
    found = await asyncio.gather(*(rows(engine, COUNT, shard=number) for number in engine.shards))
    return sum(int(count) for ((count,),) in found)


async def test_messages_start_flows_in_one_group_and_each_once(dsn: str) -> None:
    """R1: in whatever group and order they come again, also side by side."""
    async with open_engine(dsn, tasks=(tasks := proxy()), graphs=tasks) as engine:
        first = await engine.receive([order(n, b'{"n": %d}' % n) for n in range(1, 51)])
        assert (first.errors, first.started) == ([None] * 50, 50)
        again = await engine.receive([order(n) for n in range(40, 61)])
        assert (again.errors, again.started) == ([None] * 21, 10)
        twice = await asyncio.gather(
            *(engine.receive([order(n) for n in turn]) for turn in (range(61, 81), range(80, 60, -1)))
        )
        assert sum(one.started for one in twice) == 20
        within = await engine.receive([order(90), order(90), order(91)])
        assert (within.errors, within.started) == ([None] * 3, 2)
        assert await flows(engine) == 82
        listed, _ = await engine.list(Query(workflow="order", limit=100))
        assert len(listed) == 82


async def test_a_message_is_remembered_when_its_flow_is_gone(dsn: str) -> None:
    """R1: deleted, purged or removed at its completion; forgotten after two days."""
    async with open_engine(dsn, tasks=(tasks := proxy()), graphs=tasks) as engine:
        assert (await engine.receive([order(1)])).started == 1
        await until_rows(engine, [(1,)], "select count(*) from dwarf_flows where status = 'completed'")
        assert await engine.purge(Query(workflow="order")) == 1
        assert (await engine.receive([order(1)])).started == 0
        receiving = engine.shards[1].store.receiving
        assert await receiving.remove_old(REMEMBERED_US, 10) == 0
        await rows(engine, "update dwarf_received set received_at = received_at - $1 returning 1", REMEMBERED_US + 1)
        assert await receiving.remove_old(REMEMBERED_US, 10) == 1
        assert (await engine.receive([order(1)])).started == 1


async def test_bad_messages_of_a_group_fail_alone(dsn: str) -> None:
    """R2: what cannot be used does not hold up the others, whether this replica or the database finds it."""
    async with open_engine(dsn, tasks=(tasks := proxy()), graphs=tasks) as engine:
        group = [
            order(1),
            order(2, b"[]"),
            order(3, workflow="nowhere"),
            order(4, options=FlowOptions(idempotency_key="k")),
            order(5, options=FlowOptions(priority=0)),
            order(6, options=FlowOptions(priority=2**40)),
            order(7),
        ]
        received = await engine.receive(group)
        kinds = [type(one) if one is not None else None for one in received.errors]
        assert kinds[:5] == [None, BadRequest, NotFound, BadRequest, BadRequest]
        assert kinds[6] is None
        assert received.started == 2 + (kinds[5] is None)
        assert "idempotency key" in str(received.errors[3])


async def test_flows_of_messages_run_and_are_announced(dsn: str) -> None:
    async with open_engine(dsn, tasks=(tasks := proxy()), graphs=tasks) as engine:
        await engine.receive([order(n) for n in range(20)])
        await until_rows(engine, [(20,)], "select count(*) from dwarf_flows where status = 'completed'")


async def test_a_message_makes_one_flow_over_shards_also_when_there_are_more(dsns: Dsns) -> None:
    """R1: the shard of a message follows from the number of shards; the others are asked first."""
    databases = dsns(2)
    tasks = proxy()
    async with open_engine(databases[:1], tasks=tasks, graphs=tasks) as engine:
        assert (await engine.receive([order(n) for n in range(30)])).started == 30
    async with open_engine(databases, tasks=tasks, graphs=tasks) as engine:
        assert (await engine.receive([order(n) for n in range(60)])).started == 30
        assert await flows(engine) == 60
        ((second,),) = await rows(engine, "select count(*) from dwarf_received", shard=2)
        assert 0 < second < 30
        assert (await engine.receive([order(n) for n in range(60)])).started == 0


async def test_the_progress_of_a_source_only_rises(dsn: str) -> None:
    async with open_engine(dsn, tasks=proxy()) as engine:
        receiving = engine.shards[1].store.receiving
        await receiving.note(SourceProgress("orders", "ORDERS 1", 10, 0, None, None))
        await receiving.note(SourceProgress("orders", "ORDERS 1", 7, 2, "bad", 5))
        await receiving.note(SourceProgress("orders", "ORDERS 1", 0, 1, None, None))
        assert await receiving.progress(["orders", "other"]) == [SourceProgress("orders", "ORDERS 1", 10, 3, "bad", 5)]
        await receiving.remove_progress(-1, ["orders"])
        assert await receiving.progress(["orders"])
        await receiving.remove_progress(-1, [])
        assert await receiving.progress(["orders"]) == []


# -- the outbox


def sweep_of(engine: Engine) -> OutboxSweep:
    found = maintenance_of(engine, 1).outbox
    assert found is not None
    return found


def outbox_of(engine: Engine) -> OutboxStore:
    found = engine.shards[1].store.outbox
    assert found is not None
    return found


async def enqueue(dsn: str, *rows_: tuple[Any, ...], commit: bool = True) -> None:
    """As an application does, in a transaction of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        for workflow, state, options in rows_:
            await connection.execute(
                "select dwarf_enqueue($1, $2::jsonb, $3::jsonb)", workflow, json.dumps(state), json.dumps(options)
            )
        await (transaction.commit() if commit else transaction.rollback())
    finally:
        await connection.close()


async def test_what_is_enqueued_in_a_transaction_runs_after_its_commit(pg_dsn: str) -> None:
    """The outbox: one flow for each row, none for a transaction that was rolled back; with a key, the flow of that key."""
    async with open_engine(pg_dsn, tasks=(tasks := proxy()), graphs=tasks) as engine:
        await enqueue(pg_dsn, ("order", {}, {}), commit=False)
        await enqueue(
            pg_dsn,
            *(("order", {"n": n}, {"fairnessKey": "acme"}) for n in range(20)),
            ("order", {"n": 1}, {"idempotencyKey": "k"}),
            ("order", {"n": 1}, {"idempotencyKey": "k"}),
        )
        await until_rows(engine, [(21,)], "select count(*) from dwarf_flows where status = 'completed'")
        await until_rows(engine, [(0,)], "select count(*) from dwarf_outbox")
        assert await rows(engine, "select count(*) from dwarf_flows where fairness_key = 'acme'") == [(20,)]


async def test_rows_that_were_enqueued_before_are_found_without_a_notification(pg_dsn: str) -> None:
    await enqueue(pg_dsn, *(("order", {}, {}) for _ in range(3)))
    async with open_engine(pg_dsn, tasks=(tasks := proxy()), graphs=tasks) as engine:
        await sweep_of(engine).run_once()
        await until_rows(engine, [(3,)], COUNT)


async def test_a_notification_alone_has_rows_used_at_once(pg_dsn: str) -> None:
    """R1: the time of this replica stands still, so that its sweep never comes: rows that tell nobody stay."""
    async with open_engine(pg_dsn, tasks=(tasks := proxy()), graphs=tasks, clock=ManualClock()) as engine:
        await rows(
            engine,
            "insert into dwarf_outbox (workflow, state, options, created_at, due_at) values ('order', '{}', '{}', 1, 1)"
            " returning 1",
        )
        for _ in range(50):
            assert await rows(engine, "select count(*) from dwarf_outbox") == [(1,)]
        await enqueue(pg_dsn, ("order", {}, {}))
        await until_rows(engine, [(0,)], "select count(*) from dwarf_outbox")
        assert await flows(engine) == 2


async def test_o17_rows_of_a_cordoned_shard_become_flows_elsewhere(shared: Dsns) -> None:
    """R1, O17: those that join a thread there excepted; and those that were sent away stay so after the cordon."""
    databases = shared(2)
    tasks = proxy()
    async with open_engine(databases, tasks=tasks, graphs=tasks) as engine:
        while not await rows(engine, COUNT + " having count(*) > 0", shard=2):
            thread = await engine.create("order", {}, start=True)
        before = await flows(engine)
        await engine.put_shard(2, cordoned=True)
        await enqueue(
            databases[1],
            *(("order", {"n": n}, {}) for n in range(20)),
            ("order", {"n": 1}, {"idempotencyKey": "k"}),
            ("order", {"n": 1}, {"threadKey": thread}),
        )
        await until_rows(engine, [(0,)], "select count(*) from dwarf_outbox", shard=2)
        assert await flows(engine) == before + 22
        assert await rows(engine, COUNT, shard=2) == [(2,)]


async def test_o17_a_row_sent_away_makes_one_flow_whoever_dies_and_whoever_has_not_heard(
    shared: Dsns,
) -> None:
    """R1, O17: a replica that has not heard of the cordon; one that died before the flow, or between flow and row."""
    databases = shared(2)
    tasks = proxy()
    async with open_engine(databases, tasks=tasks, graphs=tasks, clock=ManualClock()) as engine:
        sweep = maintenance_of(engine, 2).outbox
        outbox: Any = engine.shards[2].store.outbox
        assert sweep is not None
        await engine.put_shard(2, cordoned=True)
        policies = dict(engine.replica.deployment.policies)
        insert = (
            "insert into dwarf_outbox (workflow, state, options, created_at, due_at)"
            " select 'order', '{}', '{}', 1, 1 from generate_series(1, 10) returning 1"
        )

        async def taken() -> list[OutboxRow]:
            await rows(engine, "update dwarf_outbox set due_at = 0 returning 1", shard=2)
            found: list[OutboxRow] = await outbox.take(100, 30_000)
            return found

        async def use(group: list[OutboxRow], *, cordoned: bool = True) -> None:
            engine.replica.deployment.policies = policies if cordoned else {}
            await sweep._use(group)

        # Taken by a replica that stands still, then by one that sends them away; or the other way round.
        await rows(engine, insert, shard=2)
        slow = await taken()
        await use(await taken())
        await use(slow, cordoned=False)
        assert (await flows(engine), await rows(engine, COUNT, shard=2)) == (10, [(0,)])
        await rows(engine, insert, shard=2)
        slow = await taken()
        await use(await taken(), cordoned=False)
        await use(slow)
        assert (await flows(engine), await rows(engine, COUNT, shard=2)) == (20, [(10,)])
        # It dies after it has sent them away, then between the flows and the removal of the rows.
        await rows(engine, insert, shard=2)
        assert len(await outbox.send_away([row.row_id for row in await taken()])) == 10
        await use(await taken(), cordoned=False)
        assert await flows(engine) == 30
        await rows(engine, insert, shard=2)
        remove = outbox.remove

        async def dies(_row_id: int) -> bool:
            raise Unavailable("the replica was killed here")

        outbox.remove = dies
        with pytest.raises(Unavailable, match="killed"):
            await use(await taken())
        outbox.remove = remove
        await use(await taken())
        assert await flows(engine) == 40
        assert await rows(engine, "select count(*) from dwarf_outbox", shard=2) == [(0,)]


async def test_two_replicas_share_an_outbox(pg_dsn: str) -> None:
    tasks = proxy()
    async with (
        open_engine(pg_dsn, tasks=tasks, graphs=tasks) as one,
        open_engine(pg_dsn, tasks=tasks, graphs=tasks),
    ):
        for _ in range(5):
            await enqueue(pg_dsn, *(("order", {}, {}) for _ in range(100)))
        await until_rows(one, [(0,)], "select count(*) from dwarf_outbox")
        assert await flows(one) == 500


async def test_a_row_taken_twice_makes_one_flow(pg_dsn: str) -> None:
    """The replica that took a row stood still; another took it, too, and both come to write."""
    async with open_engine(pg_dsn, tasks=(tasks := proxy()), graphs=tasks, clock=ManualClock()) as engine:
        sweep = sweep_of(engine)
        outbox: Any = outbox_of(engine)
        take = outbox.take
        own = {"under way": 0, "ended": False}

        async def own_take(*args: Any) -> list[OutboxRow]:
            if own["ended"]:
                return []
            own["under way"] += 1
            try:
                return list(await take(*args))
            finally:
                own["under way"] -= 1

        outbox.take = own_take  # by the engine's own sweep, which a notification may wake
        await rows(engine, "select dwarf_enqueue('nowhere')")
        await until_rows(engine, [(1,)], "select count(*) from dwarf_outbox where attempts > 0")
        own["ended"] = True
        while own["under way"]:
            await asyncio.sleep(0)
        await rows(engine, "update dwarf_outbox set workflow = 'order' returning 1")
        taken = []
        for _ in range(2):
            await rows(engine, "update dwarf_outbox set due_at = 0 returning 1")
            taken.append(await take(10, 30_000))
        assert len(taken[0]) == 1
        for group in taken:
            await sweep._use(group)
        assert await flows(engine) == 1


async def test_what_cannot_be_used_is_kept_with_its_reason_and_holds_up_nobody(pg_dsn: str) -> None:
    """The outbox: put aside for good, or tried again later; listed, taken up again, removed."""
    async with open_engine(pg_dsn, tasks=(tasks := proxy()), graphs=tasks) as engine:
        await enqueue(pg_dsn, ("order", {}, {"prio": 1}), ("nowhere", {}, {}), ("order", {}, {}), ("no spaces", {}, {}))
        await until_rows(engine, [(1,)], COUNT)
        await until_rows(engine, [(3,)], "select count(*) from dwarf_outbox where attempts = 1")
        rejected, cursor = await engine.list_outbox(rejected=True)
        assert [(shard, one.workflow) for shard, one in rejected] == [(1, "order"), (1, "no spaces")]
        assert cursor == ""
        assert "unknown field `prio`" in (rejected[0][1].reason or "")
        everything, cursor = await engine.list_outbox(2)
        assert (len(everything), cursor) == (2, f"1-{everything[1][1].row_id}")
        assert "no workflow 'nowhere'" in (everything[1][1].reason or "")
        assert len((await engine.list_outbox(2, cursor)).rows) == 1
        assert (await outbox_of(engine).depth(10))[:2] == (1, 2)
        tasks.handle_graph(line("nowhere", "work"))
        await engine.retry_outbox(f"1-{everything[1][1].row_id}")
        await sweep_of(engine).run_once()
        await until_rows(engine, [(2,)], COUNT)
        await engine.delete_outbox(f"1-{rejected[0][1].row_id}")
        with pytest.raises(NotFound, match="no row 1-1 in an outbox"):
            await engine.delete_outbox("1-1")
        with pytest.raises(BadRequest, match="such as 1-42"):
            await engine.retry_outbox("one")


async def test_enqueuing_refuses_what_is_no_object_and_needs_a_right(pg_dsn: str) -> None:
    async with open_engine(pg_dsn, tasks=proxy()) as engine:
        for arguments, why in (
            ("''", "workflow is missing"),
            ("'w', '[]'", "state must be a JSON object"),
            ("'w', '{}', '5'", "options must be a JSON object"),
        ):
            with pytest.raises(BadRequest, match=why):
                await rows(engine, f"select dwarf_enqueue({arguments})")
        await rows(engine, "create role app_of_outbox")
        try:
            for granted in (False, True):
                if granted:
                    await rows(engine, "grant execute on function dwarf_enqueue(text, jsonb, jsonb) to app_of_outbox")
                connection = await asyncpg.connect(pg_dsn)
                try:
                    await connection.execute("set role app_of_outbox")
                    if granted:
                        assert await connection.fetchval("select dwarf_enqueue('order')")
                    else:
                        with pytest.raises(asyncpg.InsufficientPrivilegeError):
                            await connection.execute("select dwarf_enqueue('order')")
                finally:
                    await connection.close()
        finally:
            await rows(engine, "drop owned by app_of_outbox")
            await rows(engine, "drop role app_of_outbox")


async def test_sqlite_has_no_outbox(sqlite_dsn: str) -> None:
    async with open_engine(sqlite_dsn, tasks=proxy()) as engine:
        assert engine.shards[1].store.outbox is None
        assert (await engine.list_outbox()).rows == []


async def test_an_outage_leaves_messages_for_later(dsn: str) -> None:
    """R2: while the database is away nothing is rejected."""
    engine = open_engine(dsn, tasks=(tasks := proxy()), graphs=tasks)
    async with engine:
        async with asyncio.timeout(SOON):
            await engine.shards[1].store.close()
            received = await engine.receive([order(1), order(2)])
        assert len(received.errors) == 2
        assert all(isinstance(one, Unavailable) for one in received.errors)
