"""Histories tell error edges from ordinary ones, name the branches of fan-outs, and show pauses (Q3, O7); both databases."""

from __future__ import annotations

import asyncio

import pytest

from dwarf_nats.rules import pauses
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON
from tests.support.flows import Bench, ask, bench, each, line


def refunding() -> Graph:
    """charge → ship, or on an error refund."""
    graph = Graph("refunding")
    graph.add_transition("charge", "ship")
    graph.add_transition_on_error("charge", "refund")
    graph.add_transition("ship", END)
    graph.add_transition("refund", END)
    return graph


def declined() -> None:
    raise TaskError("card declined", code=402, card="visa")


async def whole_and_by_pages(b: Bench, key: str, limit: int = 1) -> list[Step]:
    """A history, which is the same whole and in pages."""
    whole = await b.engine.history(key)
    paged: list[Step] = []
    cursor = ""
    while True:
        steps, cursor = await b.engine.history_page(key, limit, cursor)
        paged += steps
        if not cursor:
            break
    assert paged == whole
    return whole


async def test_q3_a_step_that_took_its_error_edge_says_which_error_it_handled(dsn: str) -> None:
    """Q3: it counts as completed, has no error, and is told from one that simply completed."""
    async with bench(dsn) as b:
        b.tasks(charge=declined, refund=lambda: None)
        outcome = await b.run(refunding())
        assert outcome.status is Status.COMPLETED
        charge, refund = await whole_and_by_pages(b, outcome.flow_key)
        assert (charge.status, charge.error) == (Status.COMPLETED, None)
        assert charge.handled_error is not None
        assert (charge.handled_error.message, charge.handled_error.code) == ("card declined", 402)
        assert charge.handled_error.extra == {"card": "visa"}
        assert refund.handled_error is None
        assert (await b.engine.step(charge.step_key)).handled_error == charge.handled_error
        assert "on error" in await b.engine.mermaid(outcome.flow_key)


async def test_q3_a_failed_step_has_an_error_and_handled_none(dsn: str) -> None:
    async with bench(dsn) as b:
        b.tasks(add=declined)
        outcome = await b.run(line("single", "add"))
        (add,) = await whole_and_by_pages(b, outcome.flow_key)
        assert (add.status, add.handled_error) == (Status.FAILED, None)
        assert add.error is not None


async def test_q3_the_steps_of_a_branch_name_their_element(dsn: str) -> None:
    """Q3: the second of three elements reads 2/3, whatever page of the history the step is on."""
    async with bench(dsn) as b:
        b.idle("split", "join")
        b.tasks(work=lambda item: {"done": [item]})
        outcome = await b.run(each(), {"items": ["a", "b", "c"]})
        split, *work, join = await whole_and_by_pages(b, outcome.flow_key)
        places = [one.branch for one in work]
        assert [(one.index, one.count, one.of) for one in places if one is not None] == [
            (0, 3, "split"),
            (1, 3, "split"),
            (2, 3, "split"),
        ]
        assert [one.label for one in places if one is not None] == ["1/3", "2/3", "3/3"]
        assert (split.branch, join.branch) == (None, None)
        assert (await b.engine.step(work[1].step_key)).branch == work[1].branch
        assert "work 2/3" in await b.engine.mermaid(outcome.flow_key)


async def test_q3_in_a_nested_fan_out_a_step_names_the_innermost_one(dsn: str) -> None:
    graph = Graph("nested")
    graph.add_for_each("outer", "inner", "rows", "row")
    graph.add_for_each("inner", "cell", "row")
    graph.add_transition("cell", "line")
    graph.set_fan_in("line")
    graph.add_transition("line", "page")
    graph.set_fan_in("page")
    graph.add_transition("page", END)
    async with bench(dsn) as b:
        b.idle("outer", "inner", "cell", "line", "page")
        outcome = await b.run(graph, {"rows": [[1, 2], [3, 4, 5]]})
        assert outcome.status is Status.COMPLETED, outcome.error
        labels: dict[str, list[str]] = {}
        for step in await whole_and_by_pages(b, outcome.flow_key, 2):
            label = "" if step.branch is None else f"{step.branch.label} of {step.branch.of}"
            labels.setdefault(step.task, []).append(label)
        assert {name: sorted(found) for name, found in labels.items()} == {
            "outer": [""],
            "inner": ["1/2 of outer", "2/2 of outer"],
            "cell": ["1/2 of inner", "1/3 of inner", "2/2 of inner", "2/3 of inner", "3/3 of inner"],
            "line": ["1/2 of outer", "2/2 of outer"],
            "page": [""],
        }


async def test_q3_a_fork_keeps_handled_errors_and_branches(dsn: str) -> None:
    async with bench(dsn) as b:
        b.idle("split", "join")
        b.tasks(work=lambda item: {"done": [item]})
        outcome = await b.run(each(), {"items": [1, 2]})
        steps = await b.steps(outcome.flow_key)
        copy = await b.engine.fork(steps["join"].step_key)
        await b.stopped(copy)
        work = [one for one in await whole_and_by_pages(b, copy) if one.task == "work"]
        assert [one.branch.label for one in work if one.branch is not None] == ["1/2", "2/2"]


async def test_q3_a_step_says_since_when_it_waited_for_its_turn_and_when_it_got_it(dsn: str) -> None:
    """Q3, K2: time in the queue is told from the time that the step ran."""
    async with bench(dsn) as b:
        b.tasks(first=lambda: None, second=lambda: None)
        await b.engine.put_hold(task="second")
        key = await b.engine.create(line("l", "first", "second"), start=True)
        async with asyncio.timeout(SOON):
            while not (await b.engine.list_holds())[0].steps:
                await asyncio.sleep(0)
        first, second = await b.engine.history(key)
        assert (first.queued_at, first.claimed_at) == (first.created_at, first.started_at)
        assert (second.queued_at, second.claimed_at, second.status) == (second.created_at, None, Status.PENDING)
        (hold,) = await b.engine.list_holds()
        await b.engine.delete_hold(task="second")
        await b.engine.await_(key, SOON)
        _, done = await whole_and_by_pages(b, key)
        assert done.queued_at == second.queued_at
        assert done.claimed_at == done.started_at
        assert hold.since < (done.claimed_at or 0)
        assert (done.queued_at or 0) < (done.claimed_at or 0) <= done.updated_at


async def test_q3_of_a_later_attempt_the_time_in_the_queue_begins_when_it_is_due(dsn: str) -> None:
    """Q3, L3: the delay before an attempt is no time in the queue."""
    begun, held = asyncio.Event(), asyncio.Event()

    async def charge(flow: Flow) -> None:
        if not flow.attempt:
            flow.retry(2, 0.02)
            raise TaskError("away", 500)
        begun.set()
        await held.wait()

    async with bench(dsn) as b:
        b.tasks(charge=charge)
        key = await b.engine.create(line("l", "charge"), start=True)
        await asyncio.wait_for(begun.wait(), SOON)
        (running,) = await b.engine.history(key)
        ended = running.attempts[0].ended_at
        assert running.queued_at is not None
        assert running.claimed_at is not None
        assert ended < running.queued_at <= running.claimed_at == running.updated_at
        held.set()
        await b.engine.await_(key, SOON)
        (done,) = await whole_and_by_pages(b, key)
        assert (done.queued_at, done.claimed_at) == (running.queued_at, None)


async def test_o7_a_paused_step_shows_its_payload_kind_and_times(dsn: str) -> None:
    def approve(flow: Flow) -> None:
        flow.interrupt({"question": "ok?"}, timeout=3600)

    async with bench(dsn, line("single", "approve")) as b:
        b.tasks(approve=approve)
        outcome = await b.run("single")
        (step,) = await whole_and_by_pages(b, outcome.flow_key)
        assert step.pause is not None
        assert (step.pause.kind, step.pause.payload, step.pause.since) == (
            "interrupt",
            {"question": "ok?"},
            step.updated_at,
        )
        assert step.pause.until == step.pause.since + 3_600_000_000
        assert (await b.engine.step(step.step_key)).pause == step.pause
        await b.engine.cancel(outcome.flow_key)
        assert [one.pause for one in await b.engine.history(outcome.flow_key)] == [None]


async def test_o7_a_breakpoint_shows_no_payload(dsn: str) -> None:
    async with bench(dsn, line("single", "add")) as b:
        b.idle("add")
        key = await b.engine.create("single")
        await b.engine.break_before(key, "add")
        await b.engine.start(key)
        await b.stopped(key)
        (step,) = await whole_and_by_pages(b, key)
        assert step.pause is not None
        assert (step.pause.kind, step.pause.payload_json) == ("breakpoint", None)


async def test_o7_a_page_leaves_out_payloads_that_would_be_too_much(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of many paused steps stays small; each payload can be read with its step."""
    monkeypatch.setattr(pauses, "MAX_PAYLOAD_BYTES", 50)
    async with bench(dsn) as b:
        b.idle("split", "join")
        b.tasks(work=ask("x" * 30))
        outcome = await b.run(each(), {"items": [1, 2]})
        work = await b.until_steps(
            outcome.flow_key, lambda steps: sum(one.status is Status.INTERRUPTED for one in steps) == 2
        )
        page, _ = await b.engine.history_page(outcome.flow_key, 10)
        shown = [one.pause.payload for one in page if one.pause is not None]
        assert shown == ["x" * 30, None]
        assert [one.pause.payload for one in work if one.pause is not None] == ["x" * 30] * 2
        last = await b.engine.step(page[-1].step_key)
        assert last.pause is not None
        assert last.pause.payload == "x" * 30


# -- attempts (L3)


async def test_l3_earlier_attempts_are_listed_with_their_errors_and_times(dsn: str) -> None:
    """L3: those that a policy retries, in their order; the step that has completed has no error."""
    graph = Graph("retried")
    graph.add_task("charge")
    graph.set_retry("charge", 5, 0)
    graph.add_transition("charge", END)

    def charge(flow: Flow) -> None:
        if flow.attempt < 2:
            raise TaskError(f"no {flow.attempt}", code=500 + flow.attempt, bank="b")

    async with bench(dsn) as b:
        b.tasks(charge=charge)
        outcome = await b.run(graph)
        (step,) = await whole_and_by_pages(b, outcome.flow_key)
        assert (step.status, step.attempt, step.error) == (Status.COMPLETED, 2, None)
        told = [(one.attempt, one.error.message, one.error.code, one.error.extra) for one in step.attempts]
        assert told == [(0, "no 0", 500, {"bank": "b"}), (1, "no 1", 501, {"bank": "b"})]
        first, second = step.attempts
        assert step.started_at is not None
        assert step.created_at <= first.started_at <= first.ended_at <= second.started_at <= second.ended_at
        assert second.ended_at <= step.updated_at
        assert (await b.engine.step(step.step_key)).attempts == step.attempts


async def test_l3_while_a_step_waits_for_its_next_attempt_it_shows_the_last_error_and_when_it_is_due(dsn: str) -> None:
    """L3, X5: also if the task asked for the retry itself, with an error beside it."""

    def poll(flow: Flow) -> None:
        flow.retry(initial_delay=3600, max_delay=3600)
        raise TaskError("not there yet", code=404)

    async with bench(dsn, line("single", "poll")) as b:
        b.tasks(poll=poll)
        key = await b.engine.create("single", start=True)
        (step,) = await b.until_steps(key, lambda steps: bool(steps) and steps[0].attempt == 1)
        assert step.status is Status.PENDING
        assert step.due_at == step.updated_at + 3_600_000_000
        assert step.error is not None
        assert (step.error.message, step.error.code) == ("not there yet", 404)
        assert [(one.attempt, one.error.code, one.ended_at) for one in step.attempts] == [(0, 404, step.updated_at)]
        await b.engine.cancel(key)


async def test_l3_an_attempt_that_asks_for_another_without_an_error_has_not_failed(dsn: str) -> None:
    def poll(flow: Flow) -> None:
        if flow.attempt < 3:
            flow.retry(initial_delay=0)

    async with bench(dsn, line("single", "poll")) as b:
        b.tasks(poll=poll)
        outcome = await b.run("single")
        (step,) = await b.engine.history(outcome.flow_key)
        assert (step.attempt, step.attempts) == (3, [])


async def test_l3_of_very_many_attempts_the_newest_are_kept_and_their_errors_are_short(dsn: str) -> None:
    def charge(flow: Flow) -> None:
        if flow.attempt < 30:
            flow.retry(initial_delay=0)
            raise TaskError("é" * 3_000)

    async with bench(dsn, line("single", "charge")) as b:
        b.tasks(charge=charge)
        outcome = await b.run("single")
        (step,) = await b.engine.history(outcome.flow_key)
        assert [one.attempt for one in step.attempts] == list(range(10, 30))
        assert all(len(one.error.stored().encode()) <= 2_100 for one in step.attempts)


async def test_l3_a_step_that_runs_afresh_has_no_attempts_behind_it(dsn: str) -> None:
    """O13, O14: neither after a restart nor in a fork; a step that is copied as it was keeps them."""

    def charge(flow: Flow) -> None:
        if flow.get("good") is None and flow.attempt < 1:
            flow.retry(initial_delay=0)
            raise TaskError("no")

    async with bench(dsn, line("two", "charge", "ship")) as b:
        b.tasks(charge=charge, ship=lambda: None)
        outcome = await b.run("two")
        key = outcome.flow_key
        charged, shipped = await b.engine.history(key)
        assert len(charged.attempts) == 1
        copy = await b.engine.fork(charged.step_key, {"good": True})
        await b.stopped(copy)
        assert [one.attempts for one in await b.engine.history(copy)] == [[], []]
        later = await b.engine.fork(shipped.step_key)
        await b.stopped(later)
        assert [len(one.attempts) for one in await b.engine.history(later)] == [1, 0]
        await b.engine.restart_from(charged.step_key, {"good": True})
        await b.stopped(key)
        assert [one.attempts for one in await b.engine.history(key)] == [[], []]


async def test_l3_an_attempt_of_a_node_that_the_engine_carries_out_counts_too(dsn: str) -> None:
    """N8: also inside a chain, which is written in one transaction."""
    graph = Graph("chain")
    graph.add_task("first")
    graph.add_set("note", {"x": "=y.z"})
    graph.set_retry("note", 3, 0)
    graph.add_transition("first", "note")
    graph.add_transition("note", END)
    graph.add_transition_on_error("note", END)
    async with bench(dsn) as b:
        b.idle("first")
        outcome = await b.run(graph)
        assert outcome.status is Status.COMPLETED
        _, note = await whole_and_by_pages(b, outcome.flow_key)
        assert [one.attempt for one in note.attempts] == [0, 1]
        assert note.handled_error is not None
        assert note.handled_error.message.endswith("(tried 3 times)")
