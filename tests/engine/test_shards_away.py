"""A shard that is away costs no create a 503 that another shard can answer; nothing is made twice (O1, O17, R1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import Conflict, DwarfError, Unavailable
from dwarf_nats.library import add_shard, open_engine
from dwarf_nats.rules.receiving import MessageFlow, Receipt
from dwarf_nats.rules.shard_counts import home_of, homes_of
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions
from tests.support.engines import SOON, Dsns, rows
from tests.support.outages import shard_away

SCOPE = 5
FLOWS = "select flow_id from dwarf_flows"


def opened(dsns: list[str], proxy: TaskProxy) -> Engine:
    # No beat comes by itself: the tests say who knows what.
    return open_engine(
        dsns, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0, replica_timeout_ms=3_600_000)
    )


def key_with(homes: set[int], *counts: int) -> FlowOptions:
    """An option with an idempotency key that has had these homes."""
    return FlowOptions(
        idempotency_key=next(key for key in map(str, range(10_000)) if homes_of(counts, "", key) == homes)
    )


def message(sequence: int, options: FlowOptions | None = None) -> MessageFlow:
    return MessageFlow(receipt=Receipt(SCOPE, sequence), workflow="single", state=b"{}", options=options)


def messages_at(number: int, shards: int, count: int) -> list[MessageFlow]:
    """Messages whose receipts have their home on a shard."""
    places = (n for n in range(10_000) if home_of(shards, str(SCOPE), str(n)) == number)
    return [message(next(places)) for _ in range(count)]


def shard_of_key(flow: str) -> int:
    return int(flow.split("-")[0])


async def flows_on(engine: Engine) -> dict[int, int]:
    """The number of flows on each shard."""
    return {number: len(await rows(engine, FLOWS, shard=number)) for number in sorted(engine.shards)}


# -- keys


@pytest.mark.parametrize("noticed", [False, True])
async def test_o1_a_key_needs_no_shard_but_its_home(dsns: Dsns, proxy: TaskProxy, *, noticed: bool) -> None:
    """O1: keys of a shard that is away are refused, since only there it is known whether they were used; others go on."""
    async with opened(dsns(2), proxy) as engine:
        here, away, used = key_with({1}, 2), key_with({2}, 2), FlowOptions(idempotency_key="used")
        before = await engine.create("single", {"n": 1}, used)
        with shard_away(2, engine, noticed=noticed):
            first = await engine.create("single", {"n": 1}, here, start=True)
            assert await engine.create("single", {"n": 1}, here, start=True) == first
            assert (await engine.run("single", {"n": 1}, here, timeout=SOON)).flow_key == first
            with pytest.raises(Conflict, match="used before"):
                await engine.create("single", {"n": 2}, here)
            with pytest.raises(Unavailable, match="shard 2 keeps this idempotency key, and its database is away"):
                await engine.create("single", {"n": 1}, away)
            for _ in range(8):
                assert shard_of_key(await engine.create("single", {"n": 1})) == 1
        assert await engine.create("single", {"n": 1}, used) == before
        second = await engine.create("single", {"n": 1}, away)
        assert shard_of_key(second) == 2
        with shard_away(1, engine, noticed=noticed):
            assert await engine.create("single", {"n": 1}, away) == second
            assert shard_of_key(await engine.create("single", {"n": 1}, key_with({2}, 2, 3))) == 2
            for _ in range(8):
                assert shard_of_key(await engine.create("single", {"n": 1})) == 2


async def test_o1_a_key_whose_home_has_moved_asks_its_former_home_and_no_other(dsns: Dsns, proxy: TaskProxy) -> None:
    """O1, O17: after a third shard came, which has taken some keys from the others."""
    given = dsns(3)
    async with opened(given[:2], proxy) as engine:
        stayed, moved, left = key_with({1}, 2, 3), key_with({1, 3}, 2, 3), key_with({2, 3}, 2, 3)
        before = [await engine.create("single", {"n": 1}, one) for one in (stayed, moved)]
        await add_shard(engine, given[2])
        await engine.replica.deployment.agree()
        assert engine.replica.deployment.count == 3
        with shard_away(2, engine):
            assert [await engine.create("single", {"n": 1}, one) for one in (stayed, moved)] == before
            with pytest.raises(Unavailable, match="shard 2 keeps this idempotency key"):
                await engine.create("single", {"n": 1}, left)
        with shard_away(3, engine):
            assert await engine.create("single", {"n": 1}, stayed) == before[0]
        assert shard_of_key(await engine.create("single", {"n": 1}, left)) == 3
    async with opened(given, proxy) as engine:  # the counts are kept
        with shard_away(2, engine):
            assert await engine.create("single", {"n": 1}, moved) == before[1]


async def test_o1_keys_from_a_time_without_counts_are_looked_for_everywhere(dsns: Dsns, proxy: TaskProxy) -> None:
    """O1: the databases of an earlier version, whose keys may lie on any shard."""
    given = dsns(2)
    async with opened(given, proxy) as engine:
        one = key_with({1}, 2)
        before = await engine.create("single", {"n": 1}, one)
        for number in (1, 2):
            await rows(engine, "delete from dwarf_deployment returning 1", shard=number)
    async with opened(given, proxy) as engine:
        with shard_away(2, engine), pytest.raises(Unavailable, match="shard 2 keeps"):
            await engine.create("single", {"n": 1}, one)
        assert await engine.create("single", {"n": 1}, one) == before


async def test_o17_a_number_is_not_raised_by_who_has_missed_the_one_before(dsns: Dsns, proxy: TaskProxy) -> None:
    """O17: otherwise the number in between would be missing among those that homes follow from."""
    async with opened(dsns(1), proxy) as engine:
        store = engine.shards[1].store.deployment
        assert not await store.raise_shards(4, {2, 4}, before=2)
        assert await store.raise_shards(3, {1, 3}, before=1)
        identity = await store.identity()
        assert identity is not None
        assert (identity.shards, identity.counts) == (3, {1, 3})


@pytest.mark.slow
async def test_o1_two_replicas_with_the_same_keys_while_a_shard_goes_and_comes(shared: Dsns, proxy: TaskProxy) -> None:
    """O1: every key that was answered names one flow, at both and afterwards, also if only one of them misses the shard."""
    given = shared(3)
    one, two = opened(given, proxy), opened(given, proxy)
    async with one, two:
        answers: dict[str, set[str]] = {}
        refused: set[str] = set()

        async def ask(engine: Engine, key: str) -> None:
            try:
                flow = await engine.create("single", {"n": 1}, FlowOptions(idempotency_key=key), start=True)
            except Unavailable:
                refused.add(key)
                return
            answers.setdefault(key, set()).add(flow)

        async def ask_both(name: str) -> None:
            await asyncio.gather(*(ask(engine, f"{name}-{n}") for n in range(20) for engine in (one, two, one)))

        with shard_away(2, one):
            await ask_both("half")
        with shard_away(2, one, two):
            await ask_both("away")
            await ask_both("half")
        assert {home_of(3, "", key) for key in refused} == {2}
        for name in ("half", "away"):
            await ask_both(name)
        assert {key: flows for key, flows in answers.items() if len(flows) > 1} == {}
        assert len(answers) == 40
        assert sum((await flows_on(one)).values()) == 40


async def test_o1_a_create_that_was_cut_off_beside_a_cordoned_home_is_finished_after_the_cordon(
    dsns: Dsns, proxy: TaskProxy
) -> None:
    """O1, O17: the replica died between key and flow; the flow gets the reserved id, whatever has been cordoned since."""
    async with opened(dsns(3), proxy) as engine:
        options = key_with({1}, 3)
        await engine.put_shard(1, cordoned=True)
        placed = {number: engine.shards[number].store.control.create_placed for number in (2, 3)}

        async def dies(_new: Any) -> int | None:
            raise Unavailable("the replica was killed here")

        for number in placed:
            engine.shards[number].store.control.create_placed = dies  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="killed"):
            await engine.create("single", {"n": 1}, options, start=True)
        for number, whole in placed.items():
            engine.shards[number].store.control.create_placed = whole  # type: ignore[method-assign]
        ((shard, flow_id, token),) = await rows(engine, "select shard, flow_id, token from dwarf_keys")
        await engine.put_shard(1, cordoned=False)
        await engine.put_shard(int(shard), cordoned=True)
        found = await asyncio.gather(*(engine.create("single", {"n": 1}, options, start=True) for _ in range(4)))
        assert set(found) == {f"{shard}-{flow_id}-{token}"}
        with shard_away(5 - int(shard), engine):
            assert await engine.create("single", {"n": 1}, options) == found[0]


# -- messages of sources


async def test_r1_messages_go_on_where_their_receipts_are_at_home(dsns: Dsns, proxy: TaskProxy) -> None:
    """R1: those whose home is away come again; each has made one flow in the end."""
    async with opened(dsns(2), proxy) as engine:
        group = [*messages_at(1, 2, 20), *messages_at(2, 2, 20)]
        with shard_away(2, engine):
            received = await engine.receive(group)
            assert received.started == 20
            assert [isinstance(one, Unavailable) for one in received.errors] == [False] * 20 + [True] * 20
            assert (await engine.receive(group)).started == 0
        assert (await engine.receive(group)).started == 20
        with shard_away(1, engine):
            assert (await engine.receive(group[20:])).errors == [None] * 20
        assert await flows_on(engine) == {1: 20, 2: 20}


async def test_r1_a_cordoned_shard_gets_no_flows_of_messages(dsns: Dsns, proxy: TaskProxy) -> None:
    """R1, O17: used once before, while and after the cordon, and by a replica that has not heard of it."""
    async with opened(dsns(2), proxy) as engine:
        group = messages_at(1, 2, 30)
        assert (await engine.receive(group[:10])).started == 10
        await engine.put_shard(1, cordoned=True)
        assert (await engine.receive(group)).started == 20
        assert await flows_on(engine) == {1: 10, 2: 20}
        assert (await engine.receive(group)).started == 0
        engine.replica.deployment.policies = {}  # as a replica that has not heard of it
        assert (await engine.receive(group)).started == 0
        await engine.put_shard(1, cordoned=False)
        received = await engine.receive(group)
        assert (received.started, received.errors) == (0, [None] * 30)
        assert await flows_on(engine) == {1: 10, 2: 20}


async def test_r1_a_message_that_was_cut_off_beside_a_cordoned_home_is_not_lost(dsns: Dsns, proxy: TaskProxy) -> None:
    """R1, O17: the replica died between the pointer and the flow; whoever has the message next makes it where it was begun."""
    async with opened(dsns(3), proxy) as engine:
        group = messages_at(1, 3, 12)
        await engine.put_shard(1, cordoned=True)
        await engine.put_shard(3, cordoned=True)
        receiving: Any = engine.shards[2].store.receiving
        create = receiving.create

        async def dies(*_: Any, **__: Any) -> None:
            raise Unavailable("the replica was killed here")

        receiving.create = dies
        assert (await engine.receive(group)).started == 0
        assert await rows(engine, "select count(*), min(shard) from dwarf_received") == [(12, 2)]
        receiving.create = create
        await engine.put_shard(1, cordoned=False)
        await engine.put_shard(2, cordoned=True)
        received = await engine.receive(group)
        assert (received.started, received.errors) == (12, [None] * 12)
        assert await flows_on(engine) == {1: 0, 2: 12, 3: 0}
        assert (await engine.receive(group)).started == 0


async def test_r1_messages_whose_flows_join_a_thread_elsewhere_are_decided_at_home(
    dsns: Dsns, proxy: TaskProxy
) -> None:
    """R1: also after the source was changed, so that they would join another thread, or none; and by their home alone."""
    async with opened(dsns(2), proxy) as engine:
        threads = {}
        while len(threads) < 2:
            flow = (await engine.run("single", {"n": 1}, timeout=SOON)).flow_key
            threads[shard_of_key(flow)] = flow
        before = await flows_on(engine)
        (first, second) = (one.receipt for one in messages_at(1, 2, 2))
        assert first is not None
        assert second is not None

        def joining(receipt: Receipt, thread: str | None) -> MessageFlow:
            options = FlowOptions(thread=thread) if thread else None
            return MessageFlow(receipt=receipt, workflow="single", state=b"{}", options=options)

        assert (await engine.receive([joining(first, threads[2])])).started == 1
        for thread in (threads[2], threads[1], None):
            assert await engine.receive([joining(first, thread)]) == ([None], 0)
        assert await flows_on(engine) == {1: before[1], 2: before[2] + 1}
        # Begun for the thread on shard 2, cut off, and now for one on shard 1: it can lie on neither.
        receiving = engine.shards[1].store.receiving
        assert await receiving.point([second], to=2, shards=2) == {second: 2}
        (error,) = (await engine.receive([joining(second, threads[1])])).errors
        assert isinstance(error, Conflict)
        assert "its source was changed meanwhile" in error.message
        assert await engine.receive([joining(second, None)]) == ([None], 1)
        assert await flows_on(engine) == {1: before[1], 2: before[2] + 2}


async def test_r1_two_deliveries_at_once_of_messages_with_a_cordoned_home(dsns: Dsns, proxy: TaskProxy) -> None:
    """R1: one replica follows the cordon, the other not yet; each message starts one flow."""
    async with opened(dsns(3), proxy) as engine:
        group = messages_at(1, 3, 40)
        await engine.put_shard(1, cordoned=True)
        policies = dict(engine.replica.deployment.policies)

        async def deliver(*, cordoned: bool) -> int:
            engine.replica.deployment.policies = policies if cordoned else {}
            return (await engine.receive(group)).started

        started = await asyncio.gather(*(deliver(cordoned=turn % 2 == 0) for turn in range(6)), return_exceptions=True)
        assert not [one for one in started if isinstance(one, BaseException) and not isinstance(one, DwarfError)]
        engine.replica.deployment.policies = policies
        again = await engine.receive(group)
        assert again.errors == [None] * 40
        assert sum((await flows_on(engine)).values()) == 40
