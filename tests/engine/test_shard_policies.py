"""Which shards take new flows: cordons and weights (O17)."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest, Conflict
from dwarf_nats.library import open_engine
from dwarf_nats.rules.shard_counts import home_of
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Dsns, Gate, line


def opened(dsns: list[str], proxy: TaskProxy) -> Engine:
    return open_engine(dsns, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0))


def key_at(number: int, count: int) -> str:
    """An idempotency key whose home is this shard."""
    return next(key for key in map(str, range(10_000)) if home_of(count, "", key) == number)


def shard_of_key(flow: str) -> int:
    return int(flow.split("-")[0])


async def test_o17_a_cordoned_shard_takes_no_new_flows_and_goes_on_with_its_own(dsns: Dsns, proxy: TaskProxy) -> None:
    """O17: it drains by itself; the lists show it, and uncordoned it takes flows again."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    proxy.handle_graph(line("slow", "slow"))
    engine = opened(dsns(2), proxy)
    async with engine:
        running = []
        while not any(shard_of_key(flow) == 1 for flow in running):
            running.append(await engine.create("slow", start=True))
        assert await engine.put_shard(1, cordoned=True) == await engine.put_shard(1)
        assert [(one.shard, one.cordoned) for one in await engine.shard_info()] == [(1, True), (2, False)]
        made = [await engine.create("single", start=True) for _ in range(20)]
        assert {shard_of_key(flow) for flow in made} == {2}
        gate.open()
        for flow in running:
            assert (await engine.await_(flow)).status is Status.COMPLETED
        with pytest.raises(BadRequest, match="no shard would take new flows"):
            await engine.put_shard(2, cordoned=True)
        await engine.put_shard(1, cordoned=False)
        async with asyncio.timeout(SOON):
            while shard_of_key(await engine.create("single")) != 1:
                pass


async def test_o17_a_key_whose_home_is_cordoned_makes_its_flow_elsewhere_and_once(dsns: Dsns, proxy: TaskProxy) -> None:
    """O1, O17: the key stays at its home, so that a repetition finds the flow, before and after the cordon."""
    engine = opened(dsns(2), proxy)
    async with engine:
        key = key_at(1, 2)
        options = FlowOptions(idempotency_key=key)
        await engine.put_shard(1, cordoned=True)
        flows = await asyncio.gather(*(engine.create("single", {"n": 1}, options, start=True) for _ in range(5)))
        assert len(set(flows)) == 1
        assert shard_of_key(flows[0]) == 2
        assert (await engine.await_(flows[0])).state == {"n": 2}
        outcome = await engine.run("single", {"n": 1}, options)
        assert (outcome.flow_key, outcome.state) == (flows[0], {"n": 2})
        with pytest.raises(Conflict, match="used before"):
            await engine.create("single", {"n": 2}, options)
        await engine.put_shard(1, cordoned=False)
        assert await engine.create("single", {"n": 1}, options) == flows[0]
        await engine.delete(flows[0])
        again = await engine.create("single", {"n": 1}, options, start=True)
        assert again != flows[0]
        assert shard_of_key(again) == 1


async def test_o17_new_flows_follow_the_weights(dsns: Dsns, proxy: TaskProxy) -> None:
    """O17: of a thousand flows a shard with a thousandth of the weight gets a few."""
    engine = opened(dsns(2), proxy)
    async with engine:
        await engine.put_shard(1, weight=0.001)
        deployment = engine.replica.deployment
        counts = Counter(deployment.any_shard().number for _ in range(1_000))
        assert counts[1] < 50
        assert [one.weight for one in await engine.shard_info()] == [0.001, 1.0]


@pytest.mark.parametrize(
    ("number", "weight", "says"), [(3, None, "no shard 3"), (1, 0.0, "weight is 0"), (1, 10_000.0, "weight is 10000")]
)
async def test_policies_that_make_no_sense_are_refused(
    engine: Engine, number: int, weight: float | None, says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        await engine.put_shard(number, weight=weight)
