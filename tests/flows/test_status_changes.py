"""The table of status changes against the running engine: every legal change happens, and no other."""

from __future__ import annotations

import asyncio

from dwarf_nats.rules.lifecycle import FLOW_CHANGES, STEP_CHANGES
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.flows import Bench, ask, bench, call, line

WATCH = """
create table seen (what text, was text, became text);
create trigger flows_seen after update of status on dwarf_flows when old.status <> new.status
  begin insert into seen values ('flow', old.status, new.status); end;
create trigger steps_seen after update of status on dwarf_steps when old.status <> new.status
  begin insert into seen values ('step', old.status, new.status); end
"""


async def test_every_legal_change_happens_and_no_other(sqlite_dsn: str) -> None:
    async with bench(sqlite_dsn, line("child", "ok"), line("bad", "broken")) as it:
        store = it.engine.shards[1].store
        await store.database.call(lambda connection: connection.executescript(WATCH))  # type: ignore[attr-defined]
        await _everything(it)
        rows = await store.database.fetch("select distinct what, was, became from seen")  # type: ignore[attr-defined]
    found = {(what, Status(was), Status(became)) for what, was, became in rows}
    legal = {("flow", *cell) for cell in FLOW_CHANGES} | {("step", *cell) for cell in STEP_CHANGES}
    assert found - legal == set()
    assert legal - found == set()


async def _everything(it: Bench) -> None:
    it.idle("ok", "again")
    began = asyncio.Event()

    async def stuck() -> None:
        began.set()
        await asyncio.Event().wait()

    def broken() -> None:
        raise TaskError("broken")

    def retrying(flow: Flow) -> None:
        if flow.attempt == 0:
            flow.retry(max_attempts=2, initial_delay=0)

    it.tasks(stuck=stuck, broken=broken, ask=ask(), retrying=retrying, calls=call("child"), fails=call("bad"))
    key = await it.engine.create(line("x", "ok", "retrying"))
    await it.engine.start(key)
    await it.stopped(key)
    await it.engine.restart(key)
    await it.ended(key)
    await it.engine.cancel(await it.engine.create(line("x", "ok")))

    failed = (await it.run(line("x", "broken"))).flow_key
    await it.engine.restart(failed)
    await it.ended(failed)

    for go_on in ("resume", "cancel"):
        paused = (await it.run(line("x", "ask"))).flow_key
        await (it.engine.resume(paused) if go_on == "resume" else it.engine.cancel(paused))
        await it.ended(paused)

    running = await it.engine.create(line("x", "stuck"), start=True)
    async with asyncio.timeout(20):
        await began.wait()
    await it.engine.cancel(running)
    it.idle("stuck")
    await it.engine.restart(running)
    await it.ended(running)

    sleeping = await it.engine.create(line("x", "retrying"))
    it.tasks(retrying=lambda flow: flow.retry(max_attempts=2, initial_delay=3600))
    await it.engine.start(sleeping)
    await it.until_steps(sleeping, lambda steps: steps[0].attempt == 1)
    await it.engine.cancel(sleeping)

    for caller in ("calls", "fails"):
        parent = (await it.run(line("x", caller))).flow_key
        (step,) = await it.engine.history(parent)
        await it.engine.restart_from(step.sub_history[0].step_key)
        await it.ended(parent)
