"""Events of a whole engine: tasks wait for them, on one database and over several, also if a replica dies (E1-E3)."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.engine.events import EventExchange
from dwarf_nats.errors import BadRequest, TooLarge, Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.ports import EventStore
from dwarf_nats.rules.events import NewEvent, Topic
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.records import EventReceipt, Outcome
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import WaitTimeout
from tests.support.engines import SOON, Dsns, line

PAID = Topic("order.paid", "7")


def waiting(flow: Flow) -> None:
    """A task that waits for an event, with the key and the timeout of its state."""
    try:
        flow.set("got", flow.wait_for("order.paid", flow.get("key", "7"), flow.get("timeout")))
    except WaitTimeout as error:
        flow.set("late", error.code)


@pytest.fixture
def events_proxy() -> TaskProxy:
    proxy = TaskProxy()
    proxy.handle_graph(line("wait", "waiting"))
    proxy.handle_task("waiting", waiting)
    return proxy


async def parked(engine: Engine, count: int, topic: Topic = PAID) -> None:
    """Wait until so many steps of all shards wait for an event."""
    async with asyncio.timeout(SOON):
        while True:
            rows = [await waiters(shard.store, topic) for shard in engine.shards.values()]
            if sum(rows) == count:
                return
            await asyncio.sleep(0.01)


async def waiters(store: Any, topic: Topic = PAID) -> int:
    ((count,),) = await store.database.fetch(
        "select count(*) from dwarf_steps where parked = 3 and wait_event = $1 and wait_key = $2", *topic
    )
    return int(count)


async def started(engine: Engine, shard: int, **state: Any) -> str:
    """A flow that waits, on this shard."""
    while True:
        key = await engine.create("wait", state)
        if key.startswith(f"{shard}-"):
            await engine.start(key)
            return key


async def test_a_task_waits_for_an_event_and_gets_its_data(dsns: Dsns, events_proxy: TaskProxy) -> None:
    """E2: also in the in-process engine; the flow stays running meanwhile."""
    async with open_engine(dsns(1), tasks=events_proxy, graphs=events_proxy) as engine:
        key = await engine.create("wait", start=True)
        await parked(engine, 1)
        assert (await engine.snapshot(key)).status is Status.RUNNING
        receipt = await engine.signal("order.paid", "7", {"amount": 3})
        assert (receipt.delivered, receipt.kept) == (1, False)
        outcome = await engine.await_(key, SOON)
        assert outcome.state == {"got": {"amount": 3}}


async def test_an_event_that_came_first_is_received_at_once(dsns: Dsns, events_proxy: TaskProxy) -> None:
    """E3: it is not lost, whoever comes first."""
    async with open_engine(dsns(1), tasks=events_proxy, graphs=events_proxy) as engine:
        receipt = await engine.signal("order.paid", "7")
        assert (receipt.delivered, receipt.kept) == (0, True)
        outcome = await engine.run("wait", timeout=SOON)
        assert outcome.state == {}  # null removes a field
        assert outcome.status is Status.COMPLETED


async def test_a_wait_ends_when_its_time_has_passed(dsns: Dsns, events_proxy: TaskProxy) -> None:
    """E3: the event that comes later is kept for another."""
    async with open_engine(dsns(1), tasks=events_proxy, graphs=events_proxy) as engine:
        outcome = await engine.run("wait", {"timeout": 0.01}, timeout=SOON)
        assert outcome.state["late"] == 408
        assert (await engine.signal("order.paid", "7")).kept


@pytest.mark.parametrize(
    ("arguments", "more", "why"),
    [
        (("no spaces", "k"), {}, "invalid event"),
        (("", "k"), {}, "invalid event"),
        (("e", "x" * 257), {}, "key must be at most 256 bytes"),
        (("e", "é" * 129), {}, "got 258"),
        (("e", "a\0b"), {}, "NUL"),
        (("e", "k"), {"event_id": ""}, "id is empty"),
        (("e", "k"), {"event_id": "x" * 257}, "id must be at most 256 bytes"),
        (("e", "k"), {"keep_ms": -1}, "keepMs must be between 0 and"),
        (("e", "k"), {"keep_ms": 10**12}, "keepMs must be between 0 and"),
    ],
)
async def test_a_signal_that_makes_no_sense_is_refused(
    events_proxy: TaskProxy, arguments: tuple[str, str], more: dict[str, Any], why: str
) -> None:
    """E1: a 400 that says what is allowed."""
    async with open_engine(["sqlite://"], tasks=events_proxy, graphs=events_proxy) as engine:
        with pytest.raises(BadRequest, match=why):
            await engine.signal(*arguments, **more)


async def test_the_data_of_an_event_has_the_limits_of_a_state(events_proxy: TaskProxy) -> None:
    """E1, S1."""
    settings = EngineSettings(max_state_bytes=1024)
    async with open_engine(["sqlite://"], tasks=events_proxy, graphs=events_proxy, settings=settings) as engine:
        with pytest.raises(TooLarge, match="the data of the event"):
            await engine.signal("e", "k", "x" * 2000)


# -- several shards


async def test_an_event_reaches_the_steps_of_every_shard(dsns: Dsns, events_proxy: TaskProxy) -> None:
    """E1: and it counts them all."""
    async with open_engine(dsns(3), tasks=events_proxy, graphs=events_proxy) as engine:
        keys = [await started(engine, shard) for shard in (1, 2, 3, 1)]
        await parked(engine, 4)
        receipt = await engine.signal("order.paid", "7", "x", event_id="m1")
        assert (receipt.delivered, receipt.kept) == (4, False)
        outcomes = [await engine.await_(key, SOON) for key in keys]
        assert [one.state for one in outcomes] == [{"got": "x"}] * 4
        again = await engine.signal("order.paid", "7", "y", event_id="m1")
        assert again == receipt


@pytest.mark.parametrize("key", ["a", "b", "c", "d"])
async def test_a_kept_event_finds_the_first_step_on_whichever_shard(
    dsns: Dsns, events_proxy: TaskProxy, key: str
) -> None:
    """E1: once, and oldest first (E3), wherever its home is."""
    async with open_engine(dsns(3), tasks=events_proxy, graphs=events_proxy) as engine:
        for number in range(3):
            assert (await engine.signal("order.paid", key, number)).kept
        outcomes: list[Outcome] = []
        for shard in (3, 1, 2):
            flow = await started(engine, shard, key=key)
            outcomes.append(await engine.await_(flow, SOON))
        assert [one.state["got"] for one in outcomes] == [0, 1, 2]
        await started(engine, 2, key=key)
        await parked(engine, 1, Topic("order.paid", key))


class Killed(Exception):
    """The replica is gone."""


class Mortal:
    """The events of a shard for a replica that dies at its n-th call to any of them: before it, or once it is committed."""

    def __init__(self, store: EventStore, calls: Any, dies_at: int, *, after: bool, committed: list[str]) -> None:
        self.committed = committed
        self._store = store
        self._calls = calls
        self._dies_at = dies_at
        self._after = after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*args: Any, **more: Any) -> Any:
            number = next(self._calls)
            if number > self._dies_at or (number == self._dies_at and not self._after):
                raise Killed
            result = await method(*args, **more)
            self.committed.append(name)
            if number == self._dies_at:
                raise Killed
            return result

        return call


class Stores:
    """What the exchange uses of a shard's store."""

    def __init__(self, store: Any, events: Mortal) -> None:
        self.deployment = store.deployment
        self.events = events


class MortalShard:
    """A shard, as a replica sees it that dies."""

    def __init__(self, shard: Any, events: Mortal) -> None:
        self.number = shard.number
        self.announcer = shard.announcer
        self.store = Stores(shard.store, events)


class Deployed:
    """The agreement, with the shards of a replica that dies."""

    def __init__(self, engine: Engine, shards: dict[int, Any]) -> None:
        self._deployment = engine.replica.deployment
        self._shards = shards

    def __getattr__(self, name: str) -> Any:
        return getattr(self._deployment, name)

    async def home(self, *topic: str) -> tuple[Any, int]:
        home, count = await self._deployment.home(*topic)
        return self._shards[home.number], count


def dying(engine: Engine, dies_at: int, *, after: bool, committed: list[str] | None = None) -> EventExchange:
    """The exchange of another replica on the same databases, which dies at some call; `committed`: the calls that it did."""
    done = [] if committed is None else committed
    calls = itertools.count()
    shards: Any = {
        number: MortalShard(shard, Mortal(shard.store.events, calls, dies_at, after=after, committed=done))
        for number, shard in engine.shards.items()
    }
    deployment: Any = Deployed(engine, shards)
    return EventExchange(shards, deployment, engine.replica.logger)


async def swept(engine: Engine) -> None:
    """The sweeps of a replica that lives have found what was left behind."""
    for _ in range(2):
        for shard in engine.shards.values():
            await engine.replica.events.sweep(shard, 0)


def new_event(key: str, data: str = "x", event_id: str = "") -> NewEvent:
    made = event_id or f"made-{key}"
    return NewEvent(topic=Topic("order.paid", key), id=made, repeatable=bool(event_id), data=f'"{data}"')


@pytest.fixture
async def three(dsns: Dsns, events_proxy: TaskProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """An engine on three databases which itself never looks for events that are kept elsewhere."""
    async with open_engine(dsns(3), tasks=events_proxy, graphs=events_proxy) as engine:
        monkeypatch.setattr(engine.replica.events, "ask", lambda *_: None)
        yield engine


async def each_death(
    engine: Engine, act: Callable[[EventExchange, str], Awaitable[object]]
) -> AsyncIterator[tuple[str, bool]]:
    """Let a replica do something and die at each of its calls in turn, before and after its commit.

    Yields a key of its own for each death, before it, and then whether it had committed anything.
    """
    for number in itertools.count():
        dies_at, after = number // 2, number % 2 == 1
        committed: list[str] = []
        key = f"{dies_at}-{after}"
        yield key, False
        try:
            await act(dying(engine, dies_at, after=after, committed=committed), key)
        except Killed:
            yield key, "signal" in committed
        else:
            assert dies_at > 0
            return


@pytest.mark.slow
async def test_a_signal_that_dies_anywhere_reaches_each_step_once(three: Engine) -> None:
    """E1: whatever was committed is finished by the sweep of another replica; the client's second attempt changes nothing."""
    flows: list[str] = []
    deaths = 0

    async def signal(exchange: EventExchange, key: str) -> None:
        await exchange.signal(new_event(key, event_id="m1"))

    async for key, died in each_death(three, signal):
        topic = Topic("order.paid", key)
        if not flows:
            flows = [await started(three, shard, key=key) for shard in (1, 2, 3)]
            await parked(three, 3, topic)
            continue
        deaths += 1
        await swept(three)
        receipt = await three.replica.events.signal(new_event(key, "second", event_id="m1"))
        assert receipt == EventReceipt(3, kept=False)
        wanted = "x" if died else "second"
        assert [(await three.await_(flow, SOON)).state["got"] for flow in flows] == [wanted] * 3
        assert not await three.replica.events.match(topic) or not await kept_events(three)
        flows = []
    assert deaths >= 6


async def test_an_event_whose_signal_dies_anywhere_is_kept_once(three: Engine) -> None:
    """E1: the first step that comes has it, on whichever shard, and no second one."""
    begun, deaths = False, 0

    async def signal(exchange: EventExchange, key: str) -> None:
        await exchange.signal(new_event(key))

    async for key, died in each_death(three, signal):
        begun = not begun
        if begun:
            continue
        deaths += 1
        await swept(three)
        topic = Topic("order.paid", key)
        flows = [await started(three, shard, key=key) for shard in (1, 2, 3)]
        wanted = 1 if died else 0
        await parked_or_done(three, flows, topic)
        await swept(three)
        await parked(three, 3 - wanted, topic)
        done = [await three.poll(flow, 0.0) for flow in flows]
        assert Counter(one.status for one in done)[Status.RUNNING] >= 3 - wanted
        assert await kept_events(three) == 0
    assert deaths >= 6


async def test_a_kept_event_that_is_handed_over_by_a_dying_replica_is_received_once(three: Engine) -> None:
    """E1: a reservation is finished or given up by the record on the shard of the step."""
    flows: list[str] = []
    deaths = 0

    async def match(exchange: EventExchange, key: str) -> None:
        await exchange.match(Topic("order.paid", key))

    async for key, _ in each_death(three, match):
        topic = Topic("order.paid", key)
        home, _ = await three.replica.deployment.home(*topic)
        others = [number for number in three.shards if number != home.number]
        if not flows:
            assert (await three.signal(*topic, "x")).kept
            flows = [await started(three, shard, key=key) for shard in (others[0], others[0], others[1])]
            await parked(three, 3, topic)
            continue
        deaths += 1
        await swept(three)
        await parked(three, 2, topic)
        assert (await three.signal(*topic, "rest")).delivered == 2
        got = Counter([(await three.await_(flow, SOON)).state["got"] for flow in flows])
        assert got == {"x": 1, "rest": 2}
        flows = []
    assert deaths >= 8


async def test_a_reservation_for_a_step_that_is_gone_is_given_up(three: Engine) -> None:
    """E1: the event is kept again, for the next step on whichever shard."""
    topic = Topic("order.paid", "k")
    home, _ = await three.replica.deployment.home(*topic)
    other, third = (number for number in three.shards if number != home.number)
    await three.signal(*topic, "x")
    flow = await started(three, other, key="k")
    await parked(three, 1, topic)
    event = await home.store.events.oldest_kept(topic)
    assert event is not None
    assert await home.store.events.reserve(event, other) is not None
    await three.cancel(flow)
    await swept(three)
    assert await kept_events(three) == 1
    last = await started(three, third, key="k")
    await parked_or_done(three, [last], topic)
    await swept(three)
    assert (await three.await_(last, SOON)).state == {"key": "k", "got": "x"}


async def test_records_of_visits_are_removed_once_nobody_repeats_them(three: Engine) -> None:
    """E1: and not before."""
    exchange = three.replica.events
    with pytest.raises(Killed):
        await dying(three, 2, after=True).signal(new_event("k"))
    assert await visits(three) > 0
    for shard in three.shards.values():
        await exchange.remove_visits(shard, 0)
    assert await visits(three) > 0
    await swept(three)
    for shard in three.shards.values():
        await exchange.remove_visits(shard, 0)
    assert await visits(three) == 0


@pytest.mark.slow
async def test_a_signal_is_durable_although_a_shard_is_away(
    sqlite_dsn: str, pg_dsn: str, events_proxy: TaskProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E1: it reaches the steps there when the shard is back; only its home must be there."""
    async with open_engine([sqlite_dsn, pg_dsn], tasks=events_proxy, graphs=events_proxy) as engine:
        keys = {}
        for number in itertools.count():
            home, _ = await engine.replica.deployment.home("order.paid", f"k{number}")
            keys[home.number] = f"k{number}"
            if len(keys) == 2:
                break
        flow = await started(engine, 2, key=keys[1])
        await parked(engine, 1, Topic("order.paid", keys[1]))
        away = engine.shards[2].store.events

        async def refuse(*_: object, **__: object) -> None:
            raise Unavailable("away")

        with monkeypatch.context() as patched:
            for name in ("deliver", "signal", "find"):
                patched.setattr(away, name, refuse)
            receipt = await engine.signal("order.paid", keys[1], "x", event_id="m1")
            assert (receipt.delivered, receipt.kept) == (0, True)
            with pytest.raises(Unavailable):
                await engine.signal("order.paid", keys[2], "y")
        await swept(engine)
        assert (await engine.await_(flow, SOON)).state["got"] == "x"
        again = await engine.signal("order.paid", keys[1], "x", event_id="m1")
        assert again == receipt


async def kept_events(engine: Engine) -> int:
    counts = [await shard_count(shard.store, "dwarf_events where state <> 'done'") for shard in engine.shards.values()]
    return sum(counts)


async def visits(engine: Engine) -> int:
    return sum([await shard_count(shard.store, "dwarf_event_visits") for shard in engine.shards.values()])


async def shard_count(store: Any, what: str) -> int:
    ((count,),) = await store.database.fetch(f"select count(*) from {what}")
    return int(count)


async def parked_or_done(engine: Engine, flows: Sequence[str], topic: Topic) -> None:
    """Wait until each flow waits for the event, or has received it."""
    async with asyncio.timeout(SOON):
        while True:
            done = [(await engine.snapshot(flow)).status for flow in flows].count(Status.COMPLETED)
            if done + sum([await waiters(shard.store, topic) for shard in engine.shards.values()]) == len(flows):
                return
            await asyncio.sleep(0.01)
