"""Steps that wait for events, under the operations on their flow (E2, O10, O13, O14), on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON
from tests.support.flows import Bench, bench, line


def waits(flow: Flow) -> None:
    flow.set("seen", flow.get("seen", 0) + 1)
    flow.set("got", flow.wait_for("paid"))


async def waiting(it: Bench, count: int = 1) -> None:
    """Wait until so many steps wait for an event."""
    database: Any = it.engine.shards[1].store
    async with asyncio.timeout(SOON):
        while True:
            ((found,),) = await database.database.fetch("select count(*) from dwarf_steps where parked = 3")
            if found == count:
                return
            await asyncio.sleep(0.01)


async def step_of(it: Bench, key: str, task: str) -> Step:
    return next(step for step in await it.engine.history(key) if step.task == task)


async def test_the_changes_before_the_wait_are_kept(dsn: str) -> None:
    """E2: the task runs again from its beginning, and sees them."""
    async with bench(dsn) as it:
        it.tasks(a=waits)
        key = await it.engine.create(line("x", "a"), {}, start=True)
        await waiting(it)
        assert (await it.engine.snapshot(key)).status is Status.RUNNING
        await it.engine.signal("paid", data=1)
        assert (await it.ended(key)).state == {"seen": 2, "got": 1}


async def test_cancel_ends_the_wait_and_a_restart_waits_again(dsn: str) -> None:
    """O10, O13: what is signalled in between is kept for it."""
    async with bench(dsn) as it:
        it.tasks(a=waits)
        key = await it.engine.create(line("x", "a"), {}, start=True)
        await waiting(it)
        await it.engine.cancel(key)
        await waiting(it, 0)
        await it.engine.restart(key)
        await waiting(it)
        assert (await it.engine.signal("paid", data=1)).delivered == 1
        assert (await it.ended(key)).state == {"seen": 2, "got": 1}


async def test_a_step_that_waits_is_at_rest(dsn: str) -> None:
    """O13: it, and the steps before it, can be run again at once; its wait ends."""
    async with bench(dsn) as it:
        it.tasks(a=lambda flow: {"n": flow.get("n", 0) + 1}, b=waits)
        key = await it.engine.create(line("x", "a", "b"), {}, start=True)
        await waiting(it)
        await it.engine.restart_from((await step_of(it, key, "b")).step_key, {"seen": 10})
        await waiting(it)
        await it.engine.restart_from((await step_of(it, key, "a")).step_key, {"n": 5})
        await waiting(it)
        await it.engine.signal("paid", data=1)
        assert (await it.ended(key)).state == {"n": 6, "seen": 2, "got": 1}


async def test_a_fork_of_a_flow_that_was_cancelled_while_it_waited_waits_again(dsn: str) -> None:
    """O14."""
    async with bench(dsn) as it:
        it.tasks(a=waits)
        key = await it.engine.create(line("x", "a"), {}, start=True)
        await waiting(it)
        await it.engine.cancel(key)
        copy = await it.engine.fork((await step_of(it, key, "a")).step_key)
        await waiting(it)
        await it.engine.signal("paid", data=1)
        assert (await it.ended(copy)).state == {"seen": 2, "got": 1}


async def test_a_retry_forgets_the_event_and_waits_again(dsn: str) -> None:
    """X5."""
    async with bench(dsn) as it:

        def a(flow: Flow) -> None:
            got = flow.wait_for("paid")
            flow.set("got", [*flow.get("got", []), got])
            if flow.attempt == 0:
                flow.retry(initial_delay=0)

        it.tasks(a=a)
        key = await it.engine.create(line("x", "a"), {}, start=True)
        await it.engine.signal("paid", data=1)
        await it.engine.signal("paid", data=2)
        assert (await it.ended(key)).state == {"got": [1, 2]}
