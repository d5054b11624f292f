"""Progress of running steps: shown, kept, and handed to the next execution as its checkpoint (B7); both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.engine.shard import Shard
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.flows import SOON, Bench, bench, line
from tests.support.stores import look


class Import:
    """A task that reports page after page, and ends, or fails, when told; `checkpoints`: what each execution began with."""

    def __init__(self) -> None:
        self.checkpoints: list[Any] = []
        self.reported = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, flow: Flow) -> None:
        self.checkpoints.append(flow.checkpoint)
        page = (flow.checkpoint or {"page": 0})["page"] + 1
        flow.progress(page / 10, f"page {page}", {"page": page})
        self.reported.set()
        await self.go_on.wait()
        if self.error is not None:
            error, self.error = self.error, None
            flow.retry(initial_delay=0)
            raise error


async def running(b: Bench, work: Import) -> tuple[str, Step]:
    b.tasks(work=work)
    key = await b.engine.create("single", start=True)
    async with asyncio.timeout(SOON):
        await work.reported.wait()
    (step,) = await b.engine.history(key)
    return key, step


async def stored(shard: Shard) -> list[Any]:
    return await look(shard.store, "select progress, progress_at from dwarf_steps")


async def test_b7_a_running_step_shows_its_last_progress_and_a_completed_one_none(dsn: str) -> None:
    async with bench(dsn, line("single", "work")) as b:
        work = Import()
        key, step = await running(b, work)
        assert step.progress is not None
        assert (step.progress.fraction, step.progress.text, step.progress.data) == (0.1, "page 1", {"page": 1})
        assert step.started_at is not None
        assert step.started_at <= step.progress.at
        assert (await b.engine.step(step.step_key)).progress == step.progress
        page, _ = await b.engine.history_page(key)
        assert page == [step]
        assert "10 %, page 1" in (await b.engine.mermaid(key)).replace("#37;", "%")
        work.go_on.set()
        await b.stopped(key)
        assert [one.progress for one in await b.engine.history(key)] == [None]


async def test_b7_it_is_written_apart_and_in_a_group_and_changes_the_fingerprint(dsn: str) -> None:
    """B7, O6: so that another replica shows it; the row is otherwise as it was."""
    async with bench(dsn, line("single", "work")) as b:
        work = Import()
        key, step = await running(b, work)
        shard = b.engine.shards[1]
        before = await b.engine.fingerprint(key)
        columns = "select status, updated_at, lease_seq, attempt, claimed_by is null from dwarf_steps"
        row = await look(shard.store, columns)
        await shard.progress.save()
        ((text, at),) = await stored(shard)
        assert text == '{"fraction":0.1,"text":"page 1","data":{"page":1}}'
        assert at is not None
        assert await look(shard.store, columns) == row
        assert await b.engine.fingerprint(key) != before
        assert not shard.progress.wanted.is_set()
        live = shard.in_flight.find(step.step_id)
        assert live is not None
        live.progress = None  # as on a replica that does not run the step
        (shown,) = await b.engine.history(key)
        assert shown.progress is not None
        assert (shown.progress.text, shown.progress.data) == ("page 1", {"page": 1})
        work.go_on.set()
        await b.stopped(key)


@pytest.mark.parametrize("saved", [False, True])
async def test_b7_the_next_attempt_begins_at_the_checkpoint(dsn: str, *, saved: bool) -> None:
    """B7, X5: whether the progress was in the database before or went along with the failed attempt."""
    async with bench(dsn, line("single", "work")) as b:
        work = Import()
        work.error = TaskError("the connection broke")
        key, _ = await running(b, work)
        if saved:
            await b.engine.shards[1].progress.save()
        work.go_on.set()
        outcome = await b.stopped(key)
        assert outcome.status is Status.COMPLETED
        assert work.checkpoints == [None, {"page": 1}]


async def test_b7_a_failed_step_shows_how_far_it_had_come_and_a_restart_begins_anew(dsn: str) -> None:
    """B7, O13, O14: restart, restart_from and fork know of no checkpoint."""
    checkpoints: list[Any] = []

    def work(flow: Flow) -> None:
        checkpoints.append(flow.checkpoint)
        flow.progress(data=[1])
        if len(checkpoints) < 4:
            raise TaskError("no")

    async with bench(dsn, line("single", "work")) as b:
        b.tasks(work=work)
        outcome = await b.run("single")
        (step,) = await b.engine.history(outcome.flow_key)
        assert step.status is Status.FAILED
        assert step.progress is not None
        assert step.progress.data == [1]
        await b.engine.restart(outcome.flow_key)
        await b.stopped(outcome.flow_key)
        copy = await b.engine.fork(step.step_key)
        await b.stopped(copy)
        await b.engine.restart_from(step.step_key)
        assert (await b.stopped(outcome.flow_key)).status is Status.COMPLETED
        assert checkpoints == [None] * 4


async def test_b7_after_a_resume_the_task_has_its_checkpoint(dsn: str) -> None:
    """B7, P2: an execution that asked a person is an earlier execution as well."""
    seen: list[Any] = []

    def work(flow: Flow) -> None:
        seen.append(flow.checkpoint)
        flow.progress(text="asked", data="before")
        flow.interrupt("?")

    async with bench(dsn, line("single", "work")) as b:
        b.tasks(work=work)
        outcome = await b.run("single")
        (step,) = await b.engine.history(outcome.flow_key)
        assert step.progress is not None
        assert step.progress.text == "asked"
        await b.engine.resume(outcome.flow_key, None)
        await b.stopped(outcome.flow_key)
        assert seen == [None, "before"]


async def test_b7_a_step_that_was_taken_away_writes_no_progress(dsn: str) -> None:
    """B7, X1: it is fenced by the lease generation, like a result."""
    async with bench(dsn, line("single", "work")) as b:
        work = Import()
        key, _ = await running(b, work)
        shard = b.engine.shards[1]
        await look(shard.store, "update dwarf_steps set lease_seq = lease_seq + 1")
        await shard.progress.save()
        assert await stored(shard) == [(None, None)]
        await look(shard.store, "update dwarf_steps set lease_seq = lease_seq - 1")
        work.go_on.set()
        await b.stopped(key)


async def test_b7_progress_of_another_step_or_of_a_wrong_key_is_ignored(dsn: str) -> None:
    async with bench(dsn, line("single", "work")) as b:
        work = Import()
        key, step = await running(b, work)
        assert step.progress is not None
        progress = b.engine.shards[1].progress
        progress.report(f"{step.step_key[:-1]}{'x' if step.step_key[-1] != 'x' else 'y'}", step.progress)
        progress.report("1-999999-a1B2c3D4e5F6g7H8", step.progress)
        await progress.save()
        assert len(await stored(b.engine.shards[1])) == 1
        work.go_on.set()
        await b.stopped(key)


async def test_b7_many_steps_are_written_in_one_statement_and_steps_without_progress_in_none(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(dsn, line("single", "work")) as b:
        groups: list[int] = []
        reads: list[int] = []
        steps = b.engine.shards[1].store.steps
        save, checkpoints = steps.save_progress, steps.checkpoints

        async def saving(rows: Any) -> Any:
            groups.append(len(rows))
            return await save(rows)

        async def reading(step_ids: Any) -> Any:
            reads.append(len(step_ids))
            return await checkpoints(step_ids)

        monkeypatch.setattr(steps, "save_progress", saving)
        monkeypatch.setattr(steps, "checkpoints", reading)
        gate = asyncio.Event()
        began = asyncio.Semaphore(0)

        async def work(flow: Flow) -> None:
            if flow.get("tell"):
                flow.progress(0.5)
            began.release()
            await gate.wait()

        b.tasks(work=work)
        keys = [await b.engine.create("single", {"tell": at < 5}, start=True) for at in range(8)]
        for _ in keys:
            await began.acquire()
        await b.engine.shards[1].progress.save()
        gate.set()
        for key in keys:
            await b.stopped(key)
        await b.engine.shards[1].progress.save()
        assert (groups, reads) == ([5], [])


async def test_b7_what_cannot_be_progress_is_an_error_of_the_task(dsn: str) -> None:
    """B7: a fraction outside 0 to 1, more than 4 KiB; nothing of it is reported."""

    def work(flow: Flow) -> None:
        flow.progress(**flow.get("how"))

    async with bench(dsn, line("single", "work")) as b:
        b.tasks(work=work)
        for how, code in (({"fraction": 1.5}, 400), ({"data": "x" * 4_096}, 413), ({"fraction": float("1e999")}, 400)):
            outcome = await b.run("single", {"how": {**how, "fraction": min(how.get("fraction", 0), 9)}})
            assert outcome.error is not None
            assert outcome.error.code == code
