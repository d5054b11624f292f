"""The test kit: a clock that jumps, fakes, services, histories, and the page that documents them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dwarf_nats.engine import graphs
from dwarf_nats.errors import BadRequest, Conflict, NotFound
from dwarf_nats.sdk import END, Flow, Graph, Schedule, Status, TaskError, Worker
from dwarf_nats.testing import FlowEnv, FlowStuck, StillBusy, activity, flow_env, history_lines, kit
from tests.operating.snippets import blocks

ROOT = Path(__file__).parents[2]
TWO_DAYS = 2 * 86_400


def line(name: str, *nodes: str) -> Graph:
    graph = Graph(name)
    graph.add_chain(*nodes, END)
    return graph


def asking(timeout: float | None = TWO_DAYS) -> Graph:
    graph = Graph("asking")
    graph.add_ask("approve", {"question": "?"}, timeout=timeout)
    graph.add_chain("approve", END)
    return graph


def retried(attempts: int | None = 3) -> Graph:
    graph = line("retried", "work")
    graph.set_retry("work", attempts, 60)
    return graph


# -- time


async def test_a_deadline_of_two_days_passes_when_the_test_waits_for_the_end(flow_env: FlowEnv) -> None:
    flow_env.graphs(asking())
    paused = await flow_env.run("asking")
    assert (paused.status, flow_env.now) == (Status.INTERRUPTED, kit.START)
    ended = await flow_env.finish(paused.flow_key)
    assert (ended.status, flow_env.now - kit.START) == (Status.FAILED, timedelta(days=2))


async def test_an_answer_waits_for_the_pause_and_no_longer(flow_env: FlowEnv) -> None:
    graph = Graph("later")
    graph.add_sleep("rest", 3_600)
    graph.add_ask("approve", timeout=TWO_DAYS, into="approval")
    graph.add_chain("rest", "approve", END)
    key = await flow_env.start(graph)
    await flow_env.answer(key, {"yes": True}, "approve")
    assert (await flow_env.finish(key)).state == {"approval": {"yes": True}}
    assert flow_env.now - kit.START == timedelta(hours=1)
    with pytest.raises(Conflict, match="completed, and nothing asks"):
        await flow_env.answer(key)


async def test_skipping_does_what_is_due_in_its_turn_and_ends_at_the_time_asked_for(flow_env: FlowEnv) -> None:
    seen: list[timedelta] = []
    flow_env.fake("work", side_effect=lambda: seen.append(flow_env.now - kit.START))
    for hours in (3, 1, 30):
        graph = Graph(f"after-{hours}")
        graph.add_sleep("rest", hours * 3_600)
        graph.add_chain("rest", "work", END)
        await flow_env.start(graph)
    await flow_env.skip(days=1)
    assert seen == [timedelta(hours=1), timedelta(hours=3)]
    assert flow_env.now - kit.START == timedelta(days=1)
    await flow_env.skip(timedelta(days=1))
    assert seen[2:] == [timedelta(hours=30)]


async def test_settling_does_what_is_due_now_only(flow_env: FlowEnv) -> None:
    graph = Graph("two")
    graph.add_task("first")
    graph.add_sleep("rest", 5)
    graph.add_chain("first", "rest", "second", END)
    first, second = flow_env.fake("first"), flow_env.fake("second")
    await flow_env.start(graph)
    await flow_env.settle()
    assert (first.call_count, second.called, flow_env.now) == (1, False, kit.START)


async def test_schedules_fire_while_time_is_skipped(flow_env: FlowEnv) -> None:
    """R3."""
    flow_env.graphs(line("report", "collect"))
    collect = flow_env.fake("collect", returns={"rows": 3})
    await flow_env.engine.put_schedule(Schedule(name="nightly", workflow="report", cron="0 3 * * *"))
    await flow_env.skip(days=3)
    assert collect.call_count == 3


async def test_a_year_of_upkeep_is_skipped_with_one_jump(flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "MAX_JUMPS", 3)
    await flow_env.engine.put_hold(task="nothing", reason="its keeper looks now and then")
    flow_env.graphs(asking(365 * 86_400))
    assert (await flow_env.finish(await flow_env.start("asking"))).status is Status.FAILED


async def test_a_flow_that_waits_for_nothing_that_comes_is_reported_with_the_reason(flow_env: FlowEnv) -> None:
    graph = Graph("paid")
    graph.add_wait("payment", "payment.settled", "=order_id")
    graph.add_chain("payment", END)
    key = await flow_env.start(graph, {"order_id": "A-1"})
    with pytest.raises(FlowStuck, match=r"nothing is due any more.*payment\.settled"):
        await flow_env.finish(key)
    receipt = await flow_env.signal("payment.settled", "A-1", {"by": "card"})
    assert receipt.delivered == 1
    assert (await flow_env.finish(key)).state["payment"] == {"by": "card"}


async def test_a_flow_without_an_end_is_given_up(flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "MAX_JUMPS", 20)
    flow_env.fake("work", raises=TaskError("never"))
    with pytest.raises(FlowStuck, match="20 due times have passed"):
        await flow_env.run(retried(1_000))


async def test_a_task_that_never_ends_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "PATIENCE_SECONDS", 0.05)
    async with flow_env() as env:

        async def hangs() -> None:
            await asyncio.Event().wait()

        env.use({"work": hangs})
        with pytest.raises(StillBusy, match="task work"):
            await env.run(line("hangs", "work"))


async def test_an_environment_begins_at_the_time_it_is_given() -> None:
    start = datetime(2031, 5, 1, 12, tzinfo=UTC)
    async with flow_env(start=start) as env:
        env.fake("when", side_effect=lambda flow: {"at": flow.created_at.isoformat()})
        assert (await env.run(line("when", "when"))).state == {"at": start.isoformat()}


# -- tasks, fakes, services


async def test_the_tasks_of_a_worker_are_registered_at_once_and_a_fake_comes_first(flow_env: FlowEnv) -> None:
    worker = Worker()

    @worker.task("reserve")
    async def reserve(article: str) -> dict[str, int]:
        return {"price": len(article)}

    @worker.task("charge")
    def charge(price: int) -> dict[str, str]:
        return {"receipt": f"R-{price}"}

    fake = flow_env.fake("charge", returns={"receipt": "none"})
    flow_env.use(worker)
    outcome = await flow_env.run(line("order", "reserve", "charge"), {"article": "desk"})
    assert outcome.state == {"article": "desk", "price": 4, "receipt": "none"}
    assert [call.state for call in fake.calls] == [{"article": "desk", "price": 4}]
    assert [call.task for call in flow_env.calls["reserve"]] == ["reserve"]


async def test_the_graphs_of_a_worker_come_with_it(flow_env: FlowEnv) -> None:
    worker = Worker()
    worker.add_task("work", lambda: {"done": True})
    worker.graphs(line("brought", "work"))
    flow_env.use([worker])
    assert (await flow_env.run("brought")).state == {"done": True}


async def test_plain_functions_run_in_threads_and_report_progress(flow_env: FlowEnv) -> None:
    """B7."""

    def work(flow: Flow) -> dict[str, int]:
        flow.progress(0.5, "half", {"page": 7})
        if flow.checkpoint is None:
            raise TaskError("again")
        return {"page": flow.checkpoint["page"]}

    flow_env.use(work)
    outcome = await flow_env.run(retried())
    assert (outcome.error, outcome.state) == (None, {"page": 7})


async def test_a_task_may_be_named_by_its_subject(flow_env: FlowEnv) -> None:
    fake = flow_env.fake("task.work", returns={"done": True})
    flow_env.use({"work": lambda: None})
    flow_env.fail("task.work")
    outcome = await flow_env.run(retried())
    assert (outcome.state, fake.call_count, len(flow_env.calls["work"])) == ({"done": True}, 1, 2)


async def test_what_running_tasks_emit_is_kept(flow_env: FlowEnv) -> None:
    """B8."""

    def work(flow: Flow) -> None:
        for data in ("a text", {"json": 1}, b"bytes"):
            flow.emit(data)

    flow_env.use(work)
    await flow_env.run(line("emits", "work"))
    assert [(one.data, one.by.task) for one in flow_env.emitted] == [
        ("a text", "work"),
        ({"json": 1}, "work"),
        (b"bytes", "work"),
    ]


async def test_a_graph_that_is_checked_in_a_thread_is_waited_for(
    flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one is: meanwhile nothing shows that the step goes on, and the clock must not move."""
    checked, validate = threading.Event(), Graph.validate
    child = Graph("child")
    child.add_chain("inner", END)

    def slowly(graph: Graph) -> None:
        if graph.name == "child" and threading.current_thread() is not threading.main_thread():
            checked.wait(0.1)
        validate(graph)

    parent = Graph("parent")
    parent.add_workflow("call", "child")
    parent.add_chain("call", END)
    flow_env.graphs(parent, child)
    flow_env.fake("inner", returns={"done": True})
    monkeypatch.setattr(graphs, "THREAD_MIN_CHARACTERS", 0)
    monkeypatch.setattr(Graph, "validate", slowly)
    monkeypatch.setattr(kit, "UPKEEP_ROUNDS", 0)
    assert (await flow_env.run("parent")).state["call"] == {"done": True}
    assert flow_env.now == kit.START


async def test_a_list_of_side_effects_gives_one_at_each_call_and_complains_at_its_end(flow_env: FlowEnv) -> None:
    flow_env.fake("work", side_effect=[TaskError("first"), ValueError])
    outcome = await flow_env.run(retried())
    assert outcome.error is not None
    assert "its side_effect has no more values" in outcome.error.message
    await flow_env.assert_history(outcome, "work failed (attempt 3)")


async def test_a_fake_that_cannot_be_is_refused(flow_env: FlowEnv) -> None:
    with pytest.raises(BadRequest, match="one of returns, raises and side_effect"):
        flow_env.fake("work", returns={}, raises=ValueError)
    with pytest.raises(BadRequest, match="a function, or an iterable"):
        flow_env.fake("work", side_effect=3)
    with pytest.raises(BadRequest, match="counted from 1"):
        flow_env.fail("work", nth=0)
    with pytest.raises(BadRequest, match="tasks come from a Worker"):
        flow_env.use(3)


async def test_a_task_without_a_function_says_what_to_do(flow_env: FlowEnv) -> None:
    flow_env.fake("other")
    outcome = await flow_env.run(line("lonely", "nobody"))
    assert outcome.error is not None
    assert 'env.fake("nobody", returns={})' in outcome.error.message


async def test_requests_are_answered_by_fakes_and_messages_are_kept(flow_env: FlowEnv) -> None:
    """N3, N4."""
    graph = Graph("services")
    graph.add_request("quote", "='pricing.' + sku", {"n": "=n"}, headers={"Tenant": "a"})
    graph.add_request("stock", "stock.reserve")
    graph.add_publish("tell", "orders.placed", {"price": "=quote.price"}, stream=True)
    graph.add_chain("quote", "stock", "tell", END)
    graph.set_retry("stock", 2, 1)
    quote = flow_env.service("pricing.*", side_effect=lambda request: {"price": request.payload["n"] * 10})
    flow_env.service("stock.>", side_effect=[TaskError("none left", 409), None])
    outcome = await flow_env.run(graph, {"sku": "a1", "n": 3})
    assert (outcome.error, outcome.state["quote"]) == (None, {"price": 30})
    assert (quote.calls[0].subject, quote.calls[0].headers["Tenant"]) == ("pricing.a1", "a")
    assert [(one.subject, one.payload, one.stream) for one in flow_env.published] == [
        ("orders.placed", {"price": 30}, True)
    ]


async def test_a_request_that_no_fake_answers_says_what_to_do(flow_env: FlowEnv) -> None:
    graph = Graph("services")
    graph.add_request("quote", "pricing.quote")
    graph.add_chain("quote", END)
    outcome = await flow_env.run(graph)
    assert outcome.error is not None
    assert 'env.service("pricing.quote"' in outcome.error.message


async def test_graphs_come_from_files_and_folders(flow_env: FlowEnv, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("name: one\ntasks: [{name: work}]\ntransitions: [{from: work, to: END}]\n")
    (tmp_path / "two.json").write_bytes(line("two", "work").to_json())
    flow_env.graphs(tmp_path)
    flow_env.fake("work", returns={"done": True})
    assert (await flow_env.run("one")).state == (await flow_env.run("two")).state == {"done": True}
    (tmp_path / "bad.yaml").write_text("name: bad\ntasks: [{name: work}]\ntransitions: [{from: work, to: nowhere}]\n")
    with pytest.raises(BadRequest, match=r"bad\.yaml.*nowhere"):
        flow_env.graphs(tmp_path)
    with pytest.raises(NotFound, match="no graph file"):
        flow_env.graphs(tmp_path / "missing.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="has no graph files"):
        flow_env.graphs(tmp_path / "empty")


async def test_a_sub_workflow_runs_and_its_steps_are_indented(flow_env: FlowEnv) -> None:
    parent = Graph("parent")
    parent.add_workflow("call", "child")
    parent.add_chain("call", "after", END)
    flow_env.graphs(parent, line("child", "inner"))
    flow_env.fake("inner")
    flow_env.fake("after")
    outcome = await flow_env.run("parent")
    await flow_env.assert_history(
        outcome,
        """
        call
          inner
        after
        """,
    )


# -- histories


async def test_a_history_that_differs_is_shown_beside_what_was_expected(flow_env: FlowEnv) -> None:
    flow_env.fake("first")
    flow_env.fake("second", raises=TaskError("no stock", 409))
    outcome = await flow_env.run(line("order", "first", "second"))
    await flow_env.assert_history(outcome, ["first", "second failed: no stock"])
    await flow_env.assert_history(outcome.flow_key, ["first", "second failed"])
    with pytest.raises(AssertionError) as shown:
        await flow_env.assert_history(outcome, ["first", "second", "third"])
    assert str(shown.value).splitlines() == [
        "order is failed, and the history is another one (- expected, + found):",
        "  first",
        "- second",
        "- third",
        "+ second failed: no stock",
    ]


async def test_branches_are_in_their_order_and_errors_that_are_handled_are_seen(flow_env: FlowEnv) -> None:
    graph = Graph("each")
    graph.add_for_each("split", "work", "items")
    graph.add_transition("work", "join")
    graph.add_transition_on_error("work", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    flow_env.use({"split": lambda: None, "work": lambda item: {}, "join": lambda: None})
    flow_env.fail("work", error=TaskError("no", 402), when=lambda call: call.state["item"] == 3)
    outcome = await flow_env.run(graph, {"items": [1, 2, 3, 4]})
    lines = history_lines(await flow_env.history(outcome.flow_key))
    assert lines == ["split", "work[0]", "work[1]", "work[2] handled: no", "work[3]", "join"]


# -- the package


def test_the_page_about_testing_runs_as_it_stands(tmp_path: Path) -> None:
    """Every file of the page, in a folder of its own, with nothing but the package."""
    for block in blocks(ROOT / "docs" / "testing.md"):
        name = block.text.split("\n", 1)[0].removeprefix("# ")
        if block.language in ("python", "yaml", "toml"):
            (tmp_path / name).write_text(block.text)
    (tmp_path / "conftest.py").write_text("from dwarf_nats.testing.plugin import flow_env as flow_env\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "7 passed" in ran.stdout, ran.stdout
