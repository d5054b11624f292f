"""Failures that a test asks for: at which call they happen, and that they must."""

from __future__ import annotations

import pytest

from dwarf_nats.sdk import END, Flow, Graph, Status, TaskError
from dwarf_nats.testing import FlowEnv, flow_env, kit


def retried(attempts: int = 3) -> Graph:
    graph = Graph("retried")
    graph.add_chain("work", "after", END)
    graph.set_timeout("work", 10)
    graph.set_retry("work", attempts, 60, multiplier=1)
    return graph


@pytest.fixture
def env(flow_env: FlowEnv) -> FlowEnv:
    flow_env.use({"work": lambda: {"done": True}, "after": lambda: None})
    return flow_env


async def test_the_calls_that_were_named_fail_and_the_task_does_not_run(env: FlowEnv) -> None:
    env.fail("work", nth=(1, 2), error=TaskError("declined", 402))
    outcome = await env.run(retried())
    await env.assert_history(outcome, ["work (attempt 3)", "after"])
    (step, _) = await env.history(outcome.flow_key)
    assert [(one.attempt, one.error.code) for one in step.attempts] == [(0, 402), (1, 402)]
    assert (env.now - kit.START).total_seconds() == 120


async def test_a_task_that_times_out_takes_its_budget(env: FlowEnv) -> None:
    """X3."""
    env.time_out("work")
    outcome = await env.run(retried(1))
    assert outcome.error is not None
    assert (outcome.error.code, (env.now - kit.START).total_seconds()) == (408, 10)


async def test_a_malformed_reply_fails_the_step_as_it_does_on_the_bus(env: FlowEnv) -> None:
    env.malformed("work")
    outcome = await env.run(retried(1))
    assert outcome.error is not None
    assert outcome.error.code == 502
    assert "malformed reply" in outcome.error.message


async def test_a_crash_before_the_result_is_stored_runs_the_step_again_with_the_same_key(flow_env: FlowEnv) -> None:
    """B2, X11."""
    keys: list[str] = []

    def work(flow: Flow) -> dict[str, int]:
        keys.append(flow.step_key)
        return {"run": len(keys)}

    flow_env.use({"work": work, "after": lambda: None})
    flow_env.crash_in("work")
    outcome = await flow_env.run(retried())
    assert (outcome.status, outcome.state) == (Status.COMPLETED, {"run": 2})
    assert len(keys) == 2
    assert len(set(keys)) == 1
    await flow_env.assert_history(outcome, ["work", "after"])


async def test_a_crash_between_two_steps_keeps_what_is_stored(env: FlowEnv) -> None:
    graph = Graph("asking")
    graph.add_task("work")
    graph.add_ask("approve", timeout=86_400, into="approval")
    graph.add_chain("work", "approve", "after", END)
    paused = await env.run(graph)
    engine = env.engine
    await env.crash()
    await env.crash()
    assert env.engine is not engine
    await env.answer(paused.flow_key, "yes")
    ended = await env.finish(paused.flow_key)
    assert ended.state == {"done": True, "approval": "yes"}
    assert len(env.calls["work"]) == 1


async def test_services_fail_in_the_same_ways(env: FlowEnv) -> None:
    """N3."""
    graph = Graph("services")
    graph.add_request("quote", "pricing.quote")
    graph.add_publish("tell", "orders.placed")
    graph.add_chain("quote", "tell", END)
    graph.set_retry("quote", 4, 1)
    graph.set_retry("tell", 2, 1)
    quote = env.service("pricing.quote", returns={"price": 1})
    env.fail("pricing.quote")
    env.time_out("pricing.quote", nth=2)
    env.malformed("pricing.quote", nth=3)
    env.crash_in("pricing.quote", nth=4)
    env.fail("orders.placed")
    outcome = await env.run(graph)
    await env.assert_history(outcome, ["quote (attempt 4)", "tell (attempt 2)"])
    assert quote.call_count == 2  # that of the crash, and the one after it
    assert len(env.published) == 1


async def test_a_failure_that_does_not_happen_fails_the_test() -> None:
    async def mistyped() -> None:
        async with flow_env() as env:
            env.fail("wrok", nth=2)
            env.fake("work")
            await env.run(retried())

    with pytest.raises(AssertionError, match=r"error at call 2 of wrok \(there were 0 calls"):
        await mistyped()


async def test_the_error_of_the_test_itself_comes_first() -> None:
    async def failing() -> None:
        async with flow_env() as env:
            env.fail("work")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await failing()
