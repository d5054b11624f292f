"""The limits: just under passes, just over is refused by name, with the size and the remedy, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.answer import Answer, ErrorInfo, Subgraph, TaskCall
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.limits import Limits
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON, line, rows

BYTES = 1_000


def of_size(size: int, **more: Any) -> dict[str, Any]:
    """A state whose JSON text has exactly so many bytes."""
    bare = len(json.dumps({"f": "", **more}, separators=(",", ":")))
    return {"f": "x" * (size - bare), **more}


@asynccontextmanager
async def limited(dsn: str, proxy: TaskProxy, **limits: int) -> AsyncIterator[Engine]:
    settings = EngineSettings(drain_ms=0, **limits)  # type: ignore[arg-type]
    async with workflow_engine(dsn, proxy=proxy, settings=settings) as (engine, _):
        yield engine


async def flows_and_steps(engine: Engine) -> tuple[int, int]:
    ((flows,),) = await rows(engine, "select count(*) from dwarf_flows")
    ((steps,),) = await rows(engine, "select count(*) from dwarf_steps")
    return flows, steps


def failed_with(outcome: Outcome, name: str, code: int = 413) -> str:
    """The message of a failure that must name a limit."""
    assert outcome.status is Status.FAILED, outcome
    assert outcome.error is not None
    assert (outcome.error.code, f"({name})" in outcome.error.message) == (code, True), outcome.error
    return outcome.error.message


# -- what comes in at the door


async def test_states_and_baggage_at_the_door(dsn: str, proxy: TaskProxy) -> None:
    """S1, O1."""
    async with limited(dsn, proxy, max_state_bytes=BYTES) as engine:
        for state, baggage, what in (
            (of_size(BYTES + 1), None, "the state"),
            (json.dumps(of_size(BYTES + 1), separators=(",", ":")).encode(), None, "the state"),
            ({}, of_size(BYTES + 1), "the baggage"),
        ):
            with pytest.raises(
                TooLarge, match=rf"{what} is 1001 bytes, over the limit of 1000 \(max_state_bytes\): keep"
            ):
                await engine.create("single", state, FlowOptions(baggage=baggage))
        assert await flows_and_steps(engine) == (0, 0)
        key = await engine.create("single", of_size(BYTES), FlowOptions(baggage=of_size(BYTES)))
        assert await flows_and_steps(engine) == (1, 1)
        assert (await engine.snapshot(key)).status is Status.CREATED


async def test_depth_at_the_door(dsn: str, proxy: TaskProxy) -> None:
    """S1: 400, the state object being level one."""
    async with limited(dsn, proxy, max_depth=3) as engine:
        for state, baggage in (({"a": {"b": {"c": {}}}}, None), ({"a": {"b": [[]]}}, None), ({}, [[[[]]]])):
            with pytest.raises(BadRequest, match="nested deeper than 3 levels"):
                await engine.create("single", state, FlowOptions(baggage=baggage))
        assert await flows_and_steps(engine) == (0, 0)
        await engine.create("single", {"a": {"b": {}}}, FlowOptions(baggage=[[[]]]))


async def test_a_deeper_limit_than_the_default_holds_for_tasks_too(dsn: str, proxy: TaskProxy) -> None:
    deep: Any = 1
    for _ in range(79):
        deep = [deep]
    proxy.handle_task("dig", lambda: {"deep": deep})
    async with limited(dsn, proxy, max_depth=80) as engine:
        assert (await engine.run(line("l", "dig"), {"first": deep}, timeout=SOON)).state["deep"] == deep


async def test_overrides_and_resume_data(dsn: str, proxy: TaskProxy) -> None:
    """O11, O13, O14: refused by themselves, and where the state would be too large with them; the flow is as it was."""
    proxy.handle_task("ask", lambda flow: {"said": flow.interrupt({"q": 1})})
    async with limited(dsn, proxy, max_state_bytes=BYTES) as engine:
        graph = line("l", "ask")
        asking = (await engine.run(graph, {"big": "x" * 500}, timeout=SOON)).flow_key
        held = await engine.create(graph, {"big": "x" * 500})
        await engine.break_before(held, "ask")
        await engine.start(held)
        await engine.await_(held, SOON)
        done = await engine.run("single", {"big": "x" * 500}, timeout=SOON)
        (step,) = await engine.history(done.flow_key)
        calls: list[tuple[Callable[[Any], Any], dict[str, Any]]] = [
            (lambda data: engine.resume(asking, data), of_size(BYTES + 1)),
            (lambda data: engine.resume_break(held, data), of_size(BYTES + 1)),
            (lambda data: engine.resume_break(held, data), {"more": "x" * 500}),
            (lambda data: engine.restart(done.flow_key, data), of_size(BYTES + 1)),
            (lambda data: engine.restart(done.flow_key, data), {"more": "x" * 500}),
            (lambda data: engine.restart_from(step.step_key, data), {"more": "x" * 500}),
            (lambda data: engine.fork(step.step_key, data), {"more": "x" * 500}),
        ]
        before = [await engine.fingerprint(key) for key in (asking, held, done.flow_key)]
        for call, data in calls:
            with pytest.raises(TooLarge, match=r"over the limit of 1000 \(max_state_bytes\)"):
                await call(data)
        assert [await engine.fingerprint(key) for key in (asking, held, done.flow_key)] == before
        assert await flows_and_steps(engine) == (3, 3)
        await engine.fork(step.step_key, {"big": "y" * 900})
        await engine.restart(done.flow_key, {"big": None, "more": "x" * 900})
        assert (await engine.await_(done.flow_key, SOON)).status is Status.COMPLETED
        await engine.resume(asking, "x" * 300)
        assert (await engine.await_(asking, SOON)).status is Status.COMPLETED


async def test_what_a_continue_merges_to(dsn: str, proxy: TaskProxy) -> None:
    """O15: a 413 that makes no flow."""
    graph = line("l", "add")
    graph.set_reducer("all", "append")
    async with limited(dsn, proxy, max_state_bytes=BYTES) as engine:
        thread = (await engine.run(graph, {"all": ["x" * 500]}, timeout=SOON)).flow_key
        with pytest.raises(
            TooLarge, match=r"the merged state is 10\d\d bytes, over the limit of 1000 \(max_state_bytes\)"
        ):
            await engine.continue_(thread, {"all": ["x" * 500]})
        assert await flows_and_steps(engine) == (1, 1)
        await engine.continue_(thread, {"all": ["x" * 400]})
        assert await flows_and_steps(engine) == (2, 2)


async def test_the_reason_of_a_cancel(dsn: str, proxy: TaskProxy) -> None:
    async with limited(dsn, proxy, max_error_bytes=100) as engine:
        key = await engine.create("single")
        with pytest.raises(TooLarge, match=r"101 bytes, over the limit of 100 \(max_error_bytes\): say it shorter"):
            await engine.cancel(key, "x" * 101)
        assert (await engine.snapshot(key)).status is Status.CREATED
        await engine.cancel(key, "x" * 100)


# -- what a task answers with


def grows(graph: Graph) -> Graph:
    """A graph whose first node hands its errors to `handler`."""
    graph.add_on_error(graph.entry_point, "handler")
    graph.add_transition("handler", END)
    return graph


@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("kind", ["changes", "interrupt", "input", "retry"])
async def test_an_answer_over_the_limit_is_an_error_of_its_step(
    dsn: str, proxy: TaskProxy, kind: str, handled: bool
) -> None:
    """X4: on_error may take it; nothing of the answer stays."""
    sizes: list[int] = [BYTES + 1]

    def task(flow: Flow) -> dict[str, Any] | None:
        big = of_size(sizes[0])
        if kind == "changes":
            return big
        if kind == "interrupt":
            flow.interrupt(big)
        if kind == "input":
            flow.subgraph("quiet", big)
        if kind == "retry" and flow.attempt == 0:
            flow.set("f", big["f"])
            flow.retry(max_attempts=2, initial_delay=0)
        return None

    proxy.handle_task("task", task)
    proxy.handle_task("nothing", lambda: None)
    proxy.handle_graph(line("quiet", "nothing"))
    proxy.handle_task("handler", lambda: {"handled": True})
    graph = line("l", "task")
    async with limited(dsn, proxy, max_state_bytes=BYTES) as engine:
        outcome = await engine.run(grows(graph) if handled else graph, {}, timeout=SOON)
        if handled:
            assert outcome.state["handled"] is True
            assert (outcome.state["onErr"]["code"], "(max_state_bytes)" in outcome.state["onErr"]["message"]) == (
                413,
                True,
            )
            assert "f" not in outcome.state
        else:
            assert "1001 bytes" in failed_with(outcome, "max_state_bytes")
            assert outcome.state == {}
        assert await flows_and_steps(engine) == (1, 2 if handled else 1)
        sizes[0] = BYTES
        again = await engine.run(graph, {}, timeout=SOON)
        assert again.status is (Status.INTERRUPTED if kind == "interrupt" else Status.COMPLETED), again.error


async def test_removed_fields_cannot_be_piled_up(dsn: str, proxy: TaskProxy) -> None:
    """S3, X5: tombstones are kept with the step, though no state shows them."""

    def task(flow: Flow) -> dict[str, Any] | None:
        flow.set(f"{'n' * 300}{flow.attempt}", None)
        flow.retry(max_attempts=5, initial_delay=0)
        return None

    proxy.handle_task("task", task)
    async with limited(dsn, proxy, max_state_bytes=BYTES) as engine:
        message = failed_with(await engine.run(line("l", "task"), {}, timeout=SOON), "max_state_bytes")
        assert message.startswith("what task task changed is ")


class Host:
    """A host that looks at nothing."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def load(self, workflow: str, _baggage: Raw) -> Graph | None:
        return line(workflow, "one")

    async def execute(self, _call: TaskCall) -> Answer:
        return self.answer

    async def ready(self) -> None: ...

    def cancel(self, step_key: str) -> None: ...


@pytest.mark.parametrize("text", [b'{"a":[[[1]]]}', b"[[[[1]]]]", b"{", b"1e999", b'"\xff"'])
async def test_an_answer_of_a_host_that_does_not_look_is_looked_at(dsn: str, text: bytes) -> None:
    """S1: it fails its step, never the group."""
    from dwarf_nats.library import open_engine

    for answer in (
        Answer(changes={"f": Raw(text)}),
        Answer(interrupt=Raw(text)),
        Answer(subgraph=Subgraph("sub", {"f": Raw(text)})),
    ):
        host = Host(answer)
        async with open_engine(dsn, tasks=host, graphs=host, settings=EngineSettings(max_depth=3)) as engine:
            outcome = await engine.run("x", {}, timeout=SOON)
            assert outcome.status is Status.FAILED
            assert outcome.error is not None
            assert "cannot be stored" in outcome.error.message


async def test_an_error_is_cut(dsn: str, proxy: TaskProxy) -> None:
    """First what else the task put there goes, then the end of the message; code and fate stay (X4)."""

    def fails(message: str, extra: str) -> None:
        raise TaskError(message, 402, more=extra)

    proxy.handle_task("fails", fails)
    async with limited(dsn, proxy, max_error_bytes=200) as engine:

        async def error(message: str, extra: str) -> ErrorInfo:
            outcome = await engine.run(line("l", "fails"), {"message": message, "extra": extra}, timeout=SOON)
            assert outcome.status is Status.FAILED
            assert outcome.error is not None
            return outcome.error

        assert await error("no", "e" * 100) == ErrorInfo("no", 402, {"more": "e" * 100})
        assert await error("no", "e" * 1000) == ErrorInfo("no", 402, {"cut": True})
        long = await error("é" * 1000, "")
        assert (long.code, long.extra, long.message.strip("é")) == (402, {"cut": True}, "…")
        assert 50 < len(long.message.encode()) < 210


# -- fan-outs


def each() -> Graph:
    graph = Graph("each")
    graph.add_for_each("split", "work", "items")
    graph.add_transition("work", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("all", "append")
    return graph


@pytest.fixture
def fans(proxy: TaskProxy) -> TaskProxy:
    for name in ("split", "work", "join"):
        proxy.handle_task(name, lambda: None)
    return proxy


async def test_the_width_of_a_fan_out(dsn: str, fans: TaskProxy) -> None:
    """F1, X7."""
    async with limited(dsn, fans, max_branches=10) as engine:
        assert (await engine.run(each(), {"items": list(range(10))}, timeout=SOON)).status is Status.COMPLETED
        outcome = await engine.run(each(), {"items": list(range(11))}, timeout=SOON)
        assert "fans out to 11 branches" in failed_with(outcome, "max_branches")
        assert len(await engine.history(outcome.flow_key)) == 1
        # Commas are no elements.
        nested = {"items": [[1] * 30, {"a": 1, "b": 2, "c": 3}]}
        assert (await engine.run(each(), nested, timeout=SOON)).status is Status.COMPLETED


async def test_several_edges_of_one_fan_out_count_together(dsn: str, fans: TaskProxy) -> None:
    graph = Graph("both")
    graph.add_for_each("split", "work", "items")
    graph.add_for_each("split", "more", "others")
    for name in ("work", "more"):
        graph.add_transition(name, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    fans.handle_task("more", lambda: None)
    async with limited(dsn, fans, max_branches=4) as engine:
        assert (await engine.run(graph, {"items": [1, 2], "others": [3, 4]}, timeout=SOON)).status is Status.COMPLETED
        failed_with(await engine.run(graph, {"items": [1, 2], "others": [3, 4, 5]}, timeout=SOON), "max_branches")


async def test_the_inputs_of_the_branches_together(dsn: str, fans: TaskProxy) -> None:
    """Each branch has a copy of the state: many branches of a large one would fill a replica's memory."""
    async with limited(dsn, fans, max_fan_out_bytes=5_000) as engine:
        state = {"items": list(range(10)), "big": "x" * 400}
        assert (await engine.run(each(), state, timeout=SOON)).status is Status.COMPLETED
        outcome = await engine.run(each(), {**state, "big": "x" * 500}, timeout=SOON)
        assert "of 10 branches after task split" in failed_with(outcome, "max_fan_out_bytes")
        assert len(await engine.history(outcome.flow_key)) == 1


@pytest.mark.parametrize("handled", [False, True])
async def test_what_the_branches_bring_to_their_fan_in(dsn: str, proxy: TaskProxy, handled: bool) -> None:
    """F3: more than is read into memory, or merges to too large a state, fails the fan-in step and nothing else."""
    proxy.handle_task("split", lambda: None)
    proxy.handle_task("join", lambda: None)
    proxy.handle_task("work", lambda size: {"all": ["y" * size]})
    proxy.handle_task("handler", lambda: {"handled": True})
    graph = each()
    if handled:
        graph.add_on_error("join", "handler")
        graph.add_transition("handler", END)
    async with limited(dsn, proxy, max_fan_out_bytes=5_000, max_state_bytes=3_000) as engine:
        for size, name in ((200, ""), (350, "max_state_bytes"), (600, "max_fan_out_bytes")):
            outcome = await engine.run(graph, {"items": list(range(10)), "size": size}, timeout=SOON)
            last = (await engine.history(outcome.flow_key))[-1]
            if not name:
                assert outcome.status is Status.COMPLETED
            elif handled:
                assert (outcome.state["handled"], outcome.state["onErr"]["code"]) == (True, 413)
                assert f"({name})" in outcome.state["onErr"]["message"]
            else:
                failed_with(outcome, name)
                assert last.task == "join"
                # The final state is the spawn step's (F3).
                assert outcome.state == {"items": list(range(10)), "size": size}


async def test_a_flow_cancelled_in_a_fan_out_that_has_brought_too_much(dsn: str, proxy: TaskProxy) -> None:
    """O10, X9: the final state is the spawn step's."""
    proxy.handle_task("split", lambda: None)
    proxy.handle_task("work", lambda flow, item: flow.interrupt() if item == 9 else {"all": ["y" * 500]})
    async with limited(dsn, proxy, max_state_bytes=3_000) as engine:
        outcome = await engine.run(each(), {"items": list(range(10))}, timeout=SOON)
        while sum(step.status is Status.COMPLETED for step in await engine.history(outcome.flow_key)) < 10:
            pass
        await engine.cancel(outcome.flow_key)
        assert (await engine.snapshot(outcome.flow_key)).state == {"items": list(range(10))}


# -- loops


def loop() -> Graph:
    graph = Graph("loop")
    graph.add_switch("round", "round", "n < most")
    graph.add_switch("round", END, "true")
    return graph


async def test_a_loop_ends_with_an_error_of_its_step(dsn: str, proxy: TaskProxy) -> None:
    proxy.handle_task("round", lambda n: {"n": n + 1})
    async with limited(dsn, proxy, max_steps=20) as engine:
        assert (await engine.run(loop(), {"n": 0, "most": 20}, timeout=SOON)).state["n"] == 20
        outcome = await engine.run(loop(), {"n": 0, "most": 10**9}, timeout=SOON)
        assert "node 'round' is step 20 in a row" in failed_with(outcome, "max_steps")
        assert len(await engine.history(outcome.flow_key)) == 20


async def test_a_loop_that_is_too_long_can_be_handled_but_not_go_on(dsn: str, proxy: TaskProxy) -> None:
    """X4: the handler has a few steps of its own, also where it leads back into the loop."""
    proxy.handle_task("round", lambda n: {"n": n + 1})
    proxy.handle_task("handler", lambda: {"handled": True})
    ends, back = loop(), loop()
    for graph, after in ((ends, END), (back, "round")):
        graph.add_on_error("round", "handler")
        graph.add_transition("handler", after)
    async with limited(dsn, proxy, max_steps=20) as engine:
        outcome = await engine.run(ends, {"n": 0, "most": 10**9}, timeout=SOON)
        assert (outcome.status, outcome.state["handled"]) == (Status.COMPLETED, True)
        outcome = await engine.run(back, {"n": 0, "most": 10**9}, timeout=SOON)
        failed_with(outcome, "max_steps")
        assert len(await engine.history(outcome.flow_key)) < 40


async def test_branches_beside_each_other_count_once(dsn: str, fans: TaskProxy) -> None:
    """F6: many branches in a loop are no long flow."""
    fans.handle_task("join", lambda n: {"n": n + 1})
    graph = Graph("rounds")
    graph.add_for_each("split", "work", "items")
    graph.add_transition("work", "join")
    graph.set_fan_in("join")
    graph.add_switch("join", "split", "n < most")
    graph.add_switch("join", END, "true")
    async with limited(dsn, fans, max_steps=9) as engine:
        state = {"items": list(range(30)), "n": 0, "most": 3}
        outcome = await engine.run(graph, state, timeout=SOON)
        assert outcome.status is Status.COMPLETED
        assert len(await engine.history(outcome.flow_key)) == 3 * 32
        failed_with(await engine.run(graph, {**state, "most": 4}, timeout=SOON), "max_steps")


# -- graphs and histories


async def test_graphs(dsn: str, proxy: TaskProxy) -> None:
    """G6 and beyond: put, validate, inline and from a source; nothing is kept of one that is too large."""
    small, wide, tall = line("g", "a", "b", "c"), line("g", "a", "b", "c"), line("g", "a", "b", "c", "d")
    wide.add_transition_goto("a", "c")
    noted = line("g", "a", "b", "c")
    noted.annotate("a", "x" * 400)
    proxy.handle_graph(tall, "g")
    async with limited(dsn, proxy, max_nodes=3, max_transitions=3, max_graph_bytes=400) as engine:
        for graph, name in ((tall, "max_nodes"), (wide, "max_transitions"), (noted, "max_graph_bytes")):
            for call in (engine.put_graph, engine.validate_graph, engine.create):
                with pytest.raises(
                    TooLarge, match=rf"graph 'g' has \d+ \w+, over the limit of \d+ \({name}\): make a part"
                ):
                    await call(graph)  # type: ignore[operator]
        with pytest.raises(TooLarge, match="max_nodes"):
            await engine.create("g")
        assert await engine.list_graphs() == []
        assert await rows(engine, "select digest from dwarf_graphs") == []
        await engine.validate_graph(small)
        await engine.put_graph(small)
        await engine.create("g")


async def test_a_child_workflow_beyond_the_limits_is_an_error_of_the_step(dsn: str, proxy: TaskProxy) -> None:
    """X4, P1."""
    proxy.handle_graph(line("tall", "a", "b", "c", "d"))
    proxy.handle_task("calls", lambda flow: flow.subgraph("tall"))
    async with limited(dsn, proxy, max_nodes=3) as engine:
        failed_with(await engine.run(line("l", "calls"), timeout=SOON), "max_nodes")


async def test_histories_and_diagrams(dsn: str, proxy: TaskProxy) -> None:
    """O7, O8: the steps of sub-workflows count; each of these has a history of its own."""
    proxy.handle_task("calls", lambda flow: {"sub": flow.subgraph("line", {"n": 1})})
    async with limited(dsn, proxy, max_history=3) as engine:
        fits = await engine.run(line("l", "calls"), timeout=SOON)
        assert len((await engine.history(fits.flow_key))[0].sub_history) == 2
        assert "flowchart" in await engine.mermaid(fits.flow_key)
        long = await engine.run(line("l", "calls", "add"), timeout=SOON)
        for call in (engine.history, engine.mermaid):
            with pytest.raises(
                TooLarge, match=r"has more than 3 steps, over the limit of 3 \(max_history\): read its history page"
            ):
                await call(long.flow_key)


def test_every_limit_is_a_setting_of_at_least_one() -> None:
    for name in (one.name for one in fields(Limits)):
        with pytest.raises(BadRequest, match=f"setting {name} must be at least 1"):
            EngineSettings(**{name: 0})  # type: ignore[arg-type]


async def test_one_answer_over_the_limit_leaves_its_group_alone(dsn: str, proxy: TaskProxy) -> None:
    """S1: never the batch it travels in."""
    import asyncio

    proxy.handle_task("grow", lambda size: {"f": "x" * size})
    async with limited(dsn, proxy, max_state_bytes=BYTES) as engine:
        outcomes = await asyncio.gather(
            *(engine.run(line("l", "grow"), {"size": 2_000 if n % 7 == 0 else 100}, timeout=SOON) for n in range(50))
        )
        assert [one.status is Status.FAILED for one in outcomes] == [n % 7 == 0 for n in range(50)]
