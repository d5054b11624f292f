"""Events in one database: handed to the steps that wait, kept for the first to come, and counted once (E1-E3)."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from dwarf_nats.ports import Signalled
from dwarf_nats.rules.events import DEFAULT_KEEP_MS, EventState, NewEvent, StoredEvent, Topic
from dwarf_nats.rules.parking import waiting_for_event
from dwarf_nats.rules.settlement import SettleResult
from dwarf_nats.rules.steps import ClaimedStep
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.answer import EventWait
from tests.support.stores import BUDGET, cancel, claim_all, look, one_claimed

PAID = Topic("order.paid", "42")


def new_event(data: Any = None, *, topic: Topic = PAID, id: str = "", keep_ms: int = DEFAULT_KEEP_MS) -> NewEvent:  # noqa: A002
    return NewEvent(topic=topic, id=id or f"made-{data}", repeatable=bool(id), data=json.dumps(data), keep_ms=keep_ms)


async def signal(store: SqlStore, data: Any = None, **more: Any) -> tuple[int, bool]:
    """Signal an event; how many steps received it, and whether it is kept."""
    signalled = await store.events.signal(new_event(data, **more), shards=1)
    assert signalled is not None
    assert signalled.event.delivered is not None
    return signalled.event.delivered, bool(signalled.event.kept)


async def begin(
    store: SqlStore, topic: Topic = PAID, timeout_ms: int | None = None
) -> tuple[ClaimedStep, SettleResult]:
    """A step of a new flow that begins to wait."""
    step = await one_claimed(store)
    wait = EventWait(topic.event, topic.key, timeout_ms)
    return step, await store.steps.settle([waiting_for_event(step, {}, wait)], BUDGET)


async def received(store: SqlStore, step: ClaimedStep) -> Any:
    """The data of the event that woke a step; an error if it still waits."""
    ((status, parked, event),) = await look(
        store, "select status, parked, event from dwarf_steps where step_id = $1", step.step_id
    )
    assert (status, parked) == ("pending", 0)
    return json.loads(event)["data"]


async def waits(store: SqlStore, step: ClaimedStep) -> bool:
    ((status, parked),) = await look(store, "select status, parked from dwarf_steps where step_id = $1", step.step_id)
    return (status, parked) == ("running", 3)


async def test_an_event_reaches_every_step_that_waits_for_it_and_no_other(store: SqlStore) -> None:
    """By event and by key (E1)."""
    first, _ = await begin(store)
    second, _ = await begin(store)
    other_key, _ = await begin(store, Topic("order.paid", "43"))
    other_event, _ = await begin(store, Topic("order.sent", "42"))
    assert await signal(store, {"amount": 3}) == (2, False)
    assert await received(store, first) == await received(store, second) == {"amount": 3}
    assert await waits(store, other_key)
    assert await waits(store, other_event)
    assert await look(store, "select count(*) from dwarf_events") == [(0,)]
    assert {row.step_id for row in await claim_all(store, 10, BUDGET)} == {first.step_id, second.step_id}


async def test_an_event_that_nobody_waits_for_is_kept_for_the_first_that_does(store: SqlStore) -> None:
    """An event that came before the wait is not lost (E1, E3), and only one step has it."""
    assert await signal(store, "early") == (0, True)
    first, result = await begin(store)
    assert [woken.step_id for woken in result.woken] == [first.step_id]
    assert await received(store, first) == "early"
    second, result = await begin(store)
    assert await waits(store, second)
    assert not result.woken
    assert await look(store, "select count(*) from dwarf_events") == [(0,)]


async def test_kept_events_are_handed_out_oldest_first(store: SqlStore) -> None:
    """In the order in which they came (E3)."""
    for number in range(4):
        await signal(store, number)
    steps = [await one_claimed(store) for _ in range(4)]
    for step in steps:
        await store.steps.settle([waiting_for_event(step, {}, EventWait(*PAID))], BUDGET)
    assert [await received(store, step) for step in steps] == [0, 1, 2, 3]


async def test_one_group_hands_each_kept_event_to_one_of_its_steps(store: SqlStore) -> None:
    """Steps that begin to wait together do not share an event (E1)."""
    await signal(store, "a")
    await signal(store, "b")
    steps = [await one_claimed(store) for _ in range(3)]
    wait = EventWait(*PAID)
    result = await store.steps.settle([waiting_for_event(step, {}, wait) for step in steps], BUDGET)
    assert len(result.applied) == 3
    assert [await received(store, step) for step in steps[:2]] == ["a", "b"]
    assert await waits(store, steps[2])


async def test_an_id_counts_once_for_its_event_and_key(store: SqlStore) -> None:
    """A repetition is answered as the first was, whatever became of the event meanwhile (E1)."""
    assert await signal(store, 1, id="m1") == (0, True)
    assert await signal(store, 2, id="m1") == (0, True)
    step, _ = await begin(store)
    assert await received(store, step) == 1
    assert await signal(store, 3, id="m1") == (0, True)
    later, _ = await begin(store)
    assert await waits(store, later)
    assert await signal(store, 4, id="m2") == (1, False)
    again, _ = await begin(store)
    assert await signal(store, 4, id="m2") == (1, False)
    assert await waits(store, again)
    assert await signal(store, 5, id="m2", topic=Topic("order.paid", "43")) == (0, True)
    assert await signal(store, 5, id="m2", topic=Topic("order.sent", "42")) == (0, True)


async def test_an_event_is_kept_no_longer_than_it_is_to_be(store: SqlStore) -> None:
    """After `keepMs` it is neither handed out nor does its id count; with 0 it is not kept at all (E1)."""
    assert await signal(store, "never", keep_ms=0, id="m0") == (0, False)
    assert await signal(store, "never", keep_ms=0, id="m0") == (0, False)
    assert await look(store, "select count(*) from dwarf_events") == [(0,)]
    await signal(store, "old", id="m1", keep_ms=60_000)
    await signal(store, "new", id="m2", keep_ms=120_000)
    await _pass(store, 60_000)
    step, _ = await begin(store)
    assert await received(store, step) == "new"
    assert await signal(store, "again", id="m1") == (0, True)
    later, _ = await begin(store)
    assert await received(store, later) == "again"


async def test_what_is_old_is_removed_in_batches(store: SqlStore) -> None:
    """Kept events and ids go after their time, a bounded number at once (E1)."""
    for number in range(5):
        await signal(store, number, id=f"m{number}", keep_ms=60_000)
    await signal(store, "young", id="young")
    assert await store.events.remove_old(3) == 0
    await _pass(store, 120_001)
    assert [await store.events.remove_old(3) for _ in range(3)] == [3, 2, 0]
    assert await look(store, "select id from dwarf_events") == [("young",)]


async def test_a_wait_that_was_cancelled_receives_nothing(store: SqlStore) -> None:
    """Cancel ends the wait; the event is kept for another (E2)."""
    step, _ = await begin(store)
    await cancel(store, step.flow.flow_id)
    assert await signal(store, "late") == (0, True)
    assert await look(store, "select status, parked from dwarf_steps") == [("cancelled", 0)]


async def test_a_settlement_that_is_written_twice_waits_once(store: SqlStore) -> None:
    """If the answer of the commit was lost, the second attempt is fenced off (X1) and takes no second event."""
    await signal(store, "first")
    await signal(store, "second")
    step = await one_claimed(store)
    settlement = waiting_for_event(step, {}, EventWait(*PAID))
    await store.steps.settle([settlement], BUDGET)
    assert not (await store.steps.settle([settlement], BUDGET)).applied
    assert await received(store, step) == "first"
    kept = await store.events.oldest_kept(PAID)
    assert kept is not None
    assert json.loads(kept.data) == "second"


async def test_steps_that_wait_keep_no_lease(store: SqlStore) -> None:
    """A replica that dies or drains changes nothing about them (E2)."""
    step, _ = await begin(store)
    assert await store.replicas.reclaim_expired_leases(0) == 0
    assert await store.replicas.release_unowned_leases([]) == 0
    assert await waits(store, step)
    change = await store.integrity.resume_orphaned_parents()
    assert not change.due
    assert await waits(store, step)


async def test_the_deadline_of_a_wait_stands_in_its_row(store: SqlStore) -> None:
    """The event removes it (E3)."""
    step, _ = await begin(store, timeout_ms=5_000)
    deadline = "select wait_until - updated_at from dwarf_steps where step_id = $1"
    assert await look(store, deadline, step.step_id) == [(5_000_000,)]
    await signal(store)
    assert await look(store, deadline, step.step_id) == [(None,)]


async def test_a_step_of_a_task_with_a_tripped_breaker_is_held_when_its_event_comes(store: SqlStore) -> None:
    """It becomes pending as any other does (V4)."""
    step, _ = await begin(store)
    await store.breakers.trip(step.url, "unavailable")
    assert await signal(store) == (1, False)
    assert await look(store, "select status, parked from dwarf_steps") == [("pending", 2)]


async def test_one_event_of_another_shard_is_handed_to_one_of_many_steps(store: SqlStore) -> None:
    """By reservation (E1); a repeated delivery does nothing, the next reservation reaches the next step."""
    steps = [await one_claimed(store) for _ in range(20)]
    await store.steps.settle([waiting_for_event(step, {}, EventWait(*PAID)) for step in steps], BUDGET)
    event = stored("x")
    for turn, still in ((1, 19), (1, 19), (2, 18)):
        delivered = await store.events.deliver(event, turn=turn)
        assert delivered.steps == 1
        assert await waiting(store) == still
    assert (await store.events.deliver(event, turn=0)).steps == 18
    assert await waiting(store) == 0


async def test_kept_events_of_this_shard_are_handed_out_one_by_one(store: SqlStore) -> None:
    """If a step has begun to wait while its event was still open (E1)."""
    steps = [await one_claimed(store) for _ in range(3)]
    await store.steps.settle([waiting_for_event(step, {}, EventWait(*PAID)) for step in steps], BUDGET)
    await insert(store, "a", 1)
    await insert(store, "b", 2)
    assert [(await store.events.hand_out(PAID)).steps for _ in range(3)] == [1, 1, 0]
    assert await waiting(store) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_signals_and_steps_that_begin_to_wait_never_miss_each_other(
    pg_stores: tuple[SqlStore, SqlStore], seed: int
) -> None:
    """Two replicas at once in hundreds of random orders (E3): every event is received once, and nothing is left over."""
    chance = random.Random(seed)
    one, other = pg_stores
    topics = [Topic("order.paid", str(number)) for number in range(4)]
    steps = [await one_claimed(one) for _ in range(120)]
    wanted: Counter[Topic] = Counter()
    work: list[Coroutine[Any, Any, Any]] = []

    async def after(action: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        return await action()

    while steps:
        group = [(steps.pop(), chance.choice(topics)) for _ in range(min(len(steps), chance.randrange(1, 6)))]
        settlements = [waiting_for_event(step, {}, EventWait(*topic)) for step, topic in group]
        wanted.update(topic for _, topic in group)
        store = chance.choice(pg_stores)
        work.append(after(partial(store.steps.settle, settlements, BUDGET)))
    for topic in topics:
        for number in range(wanted[topic]):
            store = chance.choice((one, other))
            event = new_event(number, topic=topic, id=f"{topic.key}-{number}")
            work.append(after(partial(store.events.signal, event, shards=1)))
    chance.shuffle(work)
    results = await asyncio.gather(*work)
    answers = {one.event.id: one.event for one in results if isinstance(one, Signalled)}
    rows = await look(one, "select event from dwarf_steps where status = 'pending'")
    received = Counter(json.loads(event)["id"] for (event,) in rows)
    assert received.total() == 120  # as many events as steps, so that none can still wait
    for event_id, answer in answers.items():
        if answer.delivered:
            assert received[event_id] == answer.delivered
        else:
            assert received[event_id] <= 1  # kept, and handed out once
    left = {event_id for (event_id,) in await look(one, "select id from dwarf_events where state = 'kept'")}
    assert left == {event_id for event_id in answers if not received[event_id]}


async def waiting(store: SqlStore) -> int:
    ((count,),) = await look(store, "select count(*) from dwarf_steps where parked = 3")
    return int(count)


def stored(data: str, number: int = 1) -> StoredEvent:
    return StoredEvent(
        event=PAID.event,
        key=PAID.key,
        number=number,
        id=data,
        repeatable=0,
        data=json.dumps(data),
        at=1,
        keep_until=2**53,
        state=EventState.KEPT,
        delivered=0,
        kept=1,
        visited="{}",
        turn=0,
        shard=None,
    )


async def insert(store: SqlStore, data: str, number: int) -> None:
    """Have an event kept although a step waits."""
    event = stored(data, number)
    names = StoredEvent.__struct_fields__
    marks = ", ".join(f"${at}" for at in range(1, len(names) + 1))
    values = [getattr(event, name) for name in names]
    await store.database.fetch(f"insert into dwarf_events ({', '.join(names)}) values ({marks})", *values)


@pytest.mark.parametrize("key", ["", "ключ", "'; drop table dwarf_events; --", "a\tb", "x" * 256])
async def test_any_text_is_a_key(store: SqlStore, key: str) -> None:
    topic = Topic("order.paid", key)
    await signal(store, 1, topic=topic)
    step, _ = await begin(store, topic)
    assert await received(store, step) == 1


def test_the_lock_of_a_topic_is_its_own() -> None:
    """Two topics rarely share one, and the text of one does not run into that of the other."""
    assert Topic("a", "bc").lock != Topic("ab", "c").lock
    assert -(2**63) <= PAID.lock < 2**63


def test_the_columns_of_an_event_are_read_in_their_order() -> None:
    assert StoredEvent.__struct_fields__[:3] == ("event", "key", "number")
    assert {state.value for state in EventState} == {"open", "kept", "reserved", "done"}


async def _pass(store: SqlStore, ms: int) -> None:
    """Let time pass for the events."""
    await store.database.fetch("update dwarf_events set keep_until = keep_until - $1", ms * 1000)
