"""Tags of whole flows, on both databases: given, set by tasks, changed by hand, shared by a tree, inherited (Q1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import Gate
from tests.support.flows import SOON, Bench, ask, bench, call, line

WEB = FlowOptions(tags={"customer": 4711, "channel": "web"})


def tagging(*tags: dict[str, Any], **named: Any) -> Any:
    def task(flow: Flow) -> None:
        for one in tags:
            flow.tag(one)
        if named:
            flow.tag(**named)

    return task


async def found(it: Bench, **tags: Any) -> list[str]:
    flows, cursor = await it.engine.list(Query(tags=tags))
    assert cursor == ""
    return [one.flow_key for one in flows]


async def test_the_outcome_has_the_tags_of_creation_and_those_its_tasks_set(dsn: str) -> None:
    """Q1, O5: as the waiter hears it, and as it is read afterwards."""
    async with bench(dsn) as it:
        it.tasks(a=tagging({"order-id": 7, "gone": 1}, channel="app"), b=tagging(gone=None, customer="4711"))
        outcome = await it.run(line("two", "a", "b"), options=WEB)
        expected = {"customer": "4711", "channel": "app", "order-id": 7}
        assert outcome.tags == expected
        assert (await it.engine.snapshot(outcome.flow_key)).tags == expected
        ((summary,), _) = await it.engine.list(Query(tags={"customer": 4711, "order-id": "7"}))
        assert (summary.flow_key, summary.tags) == (outcome.flow_key, expected)
        assert await found(it, channel="web") == []


async def test_a_flow_without_tags_has_none(dsn: str) -> None:
    """Q1."""
    async with bench(dsn) as it:
        it.idle("a")
        outcome = await it.run(line("one", "a"))
        assert outcome.tags == {}
        assert await it.engine.tag(outcome.flow_key, {}) == {}


async def test_tags_are_changed_by_hand_in_every_status(dsn: str) -> None:
    """Q1: created, running, interrupted and ended; the waiter hears of it with the outcome."""
    async with bench(dsn) as it:
        gate = Gate()
        it.tasks(a=ask(), b=gate)
        key = await it.engine.create(line("two", "a", "b"), options=WEB)
        assert await it.engine.tag(key, {"created": True}) == {"customer": 4711, "channel": "web", "created": True}
        await it.engine.start(key)
        paused = await it.stopped(key)
        assert paused.tags == {"customer": 4711, "channel": "web", "created": True}
        await it.engine.tag(key, {"channel": None, "created": None, "interrupted": True})
        await it.engine.resume(key, "yes")
        waiting = asyncio.create_task(it.stopped(key))
        await gate.began()
        await it.engine.tag(key, {"running": True})
        gate.open()
        assert (await waiting).tags == {"customer": 4711, "interrupted": True, "running": True}
        await it.engine.tag(key, {"running": None, "interrupted": None, "ended": 1})
        assert (await it.engine.snapshot(key)).tags == {"customer": 4711, "ended": 1}
        assert await found(it, ended=1) == [key]
        assert await found(it, running=True) == []


async def test_a_change_of_tags_changes_the_fingerprint_and_nothing_else_of_the_flow(dsn: str) -> None:
    """Q1, O6: the time of the last change of status stays, and nothing is announced."""
    async with bench(dsn) as it:
        it.idle("a")
        outcome = await it.run(line("one", "a"))
        key = outcome.flow_key
        ((before,), _), heard = await it.engine.list(), len(it.heard.changes)
        first = await it.engine.fingerprint(key)
        await it.engine.tag(key, {"a": 1})
        second = await it.engine.fingerprint(key)
        assert first != second
        await it.engine.tag(key, {"a": 1})
        assert await it.engine.fingerprint(key) == second
        ((after,), _) = await it.engine.list()
        assert (after.updated_at, after.tags) == (before.updated_at, {"a": 1})
        assert len(it.heard.changes) == heard


async def test_all_flows_of_a_tree_share_the_tags_of_the_one_at_the_top(dsn: str) -> None:
    """Q1, P1: shown by each, changed through any, by a task or by hand; only the root is found."""
    async with bench(dsn, line("leaf", "c"), line("child", "b")) as it:
        gate = Gate()

        async def c(flow: Flow) -> None:
            await gate()
            flow.tag(leaf=True)

        it.tasks(a=call("child"), b=call("leaf"), c=c)
        key = await it.engine.create(line("root", "a"), options=WEB, start=True)
        await gate.began()
        (step,) = await it.engine.history(key)
        child, leaf = step.sub_flow_key, step.sub_history[0].sub_flow_key
        assert child is not None
        assert leaf is not None
        assert (await it.engine.snapshot(leaf)).tags == WEB.tags
        before = await it.engine.fingerprint(child)
        assert await it.engine.tag(leaf, {"channel": None, "by": "hand"}) == {"customer": 4711, "by": "hand"}
        assert await it.engine.fingerprint(child) != before
        waiting = asyncio.create_task(it.stopped(child))
        gate.open()
        everything = {"customer": 4711, "by": "hand", "leaf": True}
        assert (await it.stopped(key)).tags == everything
        assert (await waiting).tags == everything
        assert (await it.engine.snapshot(leaf)).tags == everything
        assert await found(it, leaf=True) == [key]
        await it.engine.delete(key)
        assert await found(it, customer=4711) == []


async def test_the_tags_of_an_answer_are_kept_if_its_changes_are(dsn: str) -> None:
    """Q1, S6: a retry that is granted keeps them, an error does not, whether it is handled or not."""
    async with bench(dsn) as it:

        def a(flow: Flow) -> None:
            flow.tag(attempt=flow.attempt, **{f"a{flow.attempt}": True})
            if flow.attempt < 2:
                flow.retry(initial_delay=0)
                raise TaskError("not yet")

        def b(flow: Flow) -> None:
            flow.tag(b=1)
            raise TaskError("no")

        it.tasks(a=a, b=b)
        it.idle("c")
        graph = line("handled", "a", "b")
        graph.add_transition_on_error("b", "c")
        graph.add_transition("c", END)
        assert (await it.run(graph)).tags == {"attempt": 2, "a0": True, "a1": True, "a2": True}
        failed = await it.run(line("failing", "b"), options=WEB)
        assert (failed.status, failed.tags) == (Status.FAILED, WEB.tags)


async def test_tags_set_before_an_interrupt_are_there_while_it_waits(dsn: str) -> None:
    """Q1, P2."""
    async with bench(dsn) as it:

        def a(flow: Flow) -> None:
            flow.tag(waits="for Ada")
            flow.interrupt("?")
            flow.tag(waits=None, done=True)

        it.tasks(a=a)
        outcome = await it.run(line("one", "a"))
        assert (outcome.status, outcome.tags) == (Status.INTERRUPTED, {"waits": "for Ada"})
        assert await found(it, waits="for Ada") == [outcome.flow_key]
        await it.engine.resume(outcome.flow_key)
        assert (await it.stopped(outcome.flow_key)).tags == {"done": True}


async def test_branches_set_tags_together(dsn: str) -> None:
    """Q1: none is lost, and those for which there is no room are problems of their steps, no errors."""
    async with bench(dsn) as it:
        graph = Graph("each")
        graph.add_for_each("split", "work", "items")
        graph.add_transition("work", "join")
        graph.set_fan_in("join")
        graph.add_transition("join", END)
        it.idle("split", "join")
        it.tasks(work=lambda flow: flow.tag({f"t{flow.get('item')}": flow.get("item")}))
        outcome = await it.run(graph, {"items": list(range(40))}, options=WEB)
        assert outcome.status is Status.COMPLETED
        assert len(outcome.tags) == 32
        steps = await it.engine.history(outcome.flow_key)
        problems = [problem for step in steps for problem in step.problems]
        assert len(problems) == 10
        assert all(one.startswith("a flow has at most 32 tags: not set were t") for one in problems)
        for name, value in outcome.tags.items():
            assert await found(it, **{name: value}) == [outcome.flow_key]


async def test_a_continued_flow_and_a_fork_inherit_the_tags_unless_others_are_given(dsn: str) -> None:
    """Q1, O14, O15."""
    async with bench(dsn) as it:
        it.tasks(a=tagging(by="task"))
        graph = line("one", "a")
        first = (await it.run(graph, options=WEB)).flow_key
        await it.engine.tag(first, {"later": 1})
        inherited = {"customer": 4711, "channel": "web", "by": "task", "later": 1}
        second = await it.engine.continue_(first, start=True)
        assert (await it.stopped(second)).tags == inherited
        third = await it.engine.continue_(first, options=FlowOptions(tags={"own": 1}), start=True)
        assert (await it.stopped(third)).tags == {"own": 1, "by": "task"}
        none = await it.engine.continue_(first, options=FlowOptions(tags={}))
        assert (await it.engine.snapshot(none)).tags == {}
        (step,) = await it.engine.history(first)
        copy = await it.engine.fork(step.step_key)
        assert (await it.stopped(copy)).tags == inherited
        other = await it.engine.fork(step.step_key, None, {"own": 2})
        assert (await it.stopped(other)).tags == {"own": 2, "by": "task"}
        assert await found(it, own=2) == [other]
        assert set(await found(it, later=1)) >= {first, copy}
        assert (await it.engine.snapshot(first)).tags == inherited


async def test_a_restart_keeps_the_tags(dsn: str) -> None:
    """Q1, O13."""
    async with bench(dsn) as it:
        it.tasks(a=tagging(ran=True))
        key = (await it.run(line("one", "a"), options=WEB)).flow_key
        await it.engine.tag(key, {"channel": "shop"})
        await it.engine.restart(key)
        assert (await it.stopped(key)).tags == {"customer": 4711, "channel": "shop", "ran": True}
        assert await found(it, channel="shop") == [key]


async def test_a_cancelled_flow_and_what_is_announced_have_the_tags(dsn: str) -> None:
    """Q1, B4, O10: the outcome that is announced has them, a change of status has none."""
    async with bench(dsn) as it:
        it.tasks(a=ask())
        options = FlowOptions(tags={"a": 1}, notify="done")
        key = (await it.run(line("one", "a"), options=options)).flow_key
        await it.engine.cancel(key, "enough")
        await it.heard.until(lambda: len(it.heard.announced) == 2)
        assert [(outcome.status, outcome.tags) for _, outcome in it.heard.announced] == [
            (Status.INTERRUPTED, {"a": 1}),
            (Status.CANCELLED, {"a": 1}),
        ]
        assert not any(hasattr(change, "tags") for change in it.heard.changes)


async def test_bad_tags_are_refused_and_change_nothing(dsn: str) -> None:
    """Q1: with the place and a remedy."""
    async with bench(dsn) as it:
        it.idle("a")
        graph = line("one", "a")
        bad: Any = {"a.b": 1}
        with pytest.raises(BadRequest, match=r"options\.tags has the name 'a\.b': use A-Z"):
            await it.engine.create(graph, options=FlowOptions(tags=bad))
        key = (await it.run(graph, options=WEB)).flow_key
        with pytest.raises(BadRequest, match=r"options\.tags\.a is null"):
            await it.engine.continue_(key, options=FlowOptions(tags={"a": None}))  # type: ignore[dict-item]
        with pytest.raises(BadRequest, match="tags has the name"):
            await it.engine.tag(key, bad)
        (step,) = await it.engine.history(key)
        with pytest.raises(BadRequest, match="tags has the name"):
            await it.engine.fork(step.step_key, None, bad)
        for query in (Query(tags=bad), Query(tags={}), Query(tags={"a": None})):  # type: ignore[dict-item]
            with pytest.raises(BadRequest, match="tags"):
                await it.engine.list(query)
        with pytest.raises(BadRequest, match="purge needs at least one of status, workflow, olderThanMs"):
            await it.engine.purge(Query(tags={"customer": 4711}))
        with pytest.raises(NotFound):
            await it.engine.tag("1-99-" + "x" * 16, {"a": 1})
        assert await found(it, customer=4711) == [key]
        assert await it.engine.purge(Query(tags={"customer": 4711}, workflow="one")) == 1


async def test_a_task_that_sets_bad_tags_fails(dsn: str) -> None:
    """Q1: a Python task at its call, and an answer of a host when it is looked at."""
    async with bench(dsn) as it:
        it.tasks(a=tagging({"a b": 1}))
        outcome = await it.run(line("one", "a"))
        assert outcome.error is not None
        assert (outcome.error.code, outcome.tags) == (400, {})
        assert outcome.error.message.startswith("tag: tags has the name 'a b': use A-Z")


async def test_the_answer_of_a_host_is_looked_at(sqlite_dsn: str) -> None:
    """Q1, X4."""
    from dwarf_nats.library import open_engine

    class Tasks:
        async def execute(self, _call: TaskCall) -> Answer:
            return Answer(tags={"a": [1]})  # type: ignore[dict-item]

        async def cancel(self, _flow: str, _step: str) -> None: ...

        async def ready(self) -> None: ...

    tasks: Any = Tasks()
    async with open_engine(sqlite_dsn, tasks=tasks) as engine:
        outcome = await engine.run(line("one", "a"), timeout=SOON)
        assert outcome.error is not None
        assert "cannot be stored: its tags.a must be a text" in outcome.error.message
