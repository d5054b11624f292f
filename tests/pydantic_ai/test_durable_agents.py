"""Agents served as workflows, over a real service: what they answer, ask, repeat and remember."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.usage import UsageLimits

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest
from dwarf_nats.pydantic_ai import AgentPolicy, DurableAgent, current_flow, serve_agent
from dwarf_nats.sdk import Client, Outcome, Status, Worker
from tests.support.caller import WAIT, deployment

PREFIX = "agents"


class Script:
    """A model that answers by a script; keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[list[ModelMessage]] = []
        self.model = FunctionModel(self._answer)

    def _answer(self, messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        self.asked.append(list(messages))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        parts = answer if isinstance(answer, list) else [answer]
        return ModelResponse(parts=[TextPart(part) if isinstance(part, str) else part for part in parts])


def call(tool: str, /, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments)


class Bench:
    """Serves agents with a worker and runs them."""

    def __init__(self, url: str, client: Client) -> None:
        self.url, self.client = url, client

    @asynccontextmanager
    async def serving(self, agent: Agent[Any, Any], **options: Any) -> AsyncIterator[DurableAgent[Any, Any]]:
        worker = Worker(self.url, task_prefix=f"{PREFIX}task")
        served = serve_agent(worker, agent, name="assistant", register=False, **options)
        worker.graphs(served.graph, prefix=PREFIX)
        async with worker:
            yield served

    async def run(self, served: DurableAgent[Any, Any], prompt: str, **state: Any) -> Outcome:
        return await self.client.await_(await served.create(self.client, prompt, **state), WAIT)

    async def path(self, outcome: Outcome) -> list[str]:
        """The nodes that were visited, without those that only arrange fields."""
        steps = await self.client.history(outcome.flow_key)
        return [step.task for step in steps if step.task not in ("begin", "calls", "results")]


@pytest.fixture
async def bench(nats_server: NatsServer, sqlite_dsn: str) -> AsyncIterator[Bench]:
    async with (
        deployment(nats_server.url, sqlite_dsn, PREFIX),
        Client(nats_server.url, prefix=PREFIX) as client,
    ):
        yield Bench(nats_server.url, client)


class Weather(BaseModel):
    city: str
    degrees: int


@dataclass
class Station:
    offset: int
    open: bool = False

    async def __aenter__(self) -> Station:
        self.open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open = False


async def test_tools_run_beside_each_other_and_the_result_has_its_type(bench: Bench) -> None:
    """Both tools wait for each other, so they can only finish if they run at once; each call is a step of its own."""
    script = Script(
        [call("measure", city="Rome"), call("nonsense"), call("measure", city="Oslo")],
        call("final_result", city="Rome", degrees="warm"),
        call("final_result", city="Rome", degrees=31),
    )
    together = asyncio.Barrier(2)
    agent: Agent[Station, Weather] = Agent(
        script.model, output_type=Weather, deps_type=Station, instructions="Be brief."
    )
    stations: list[Station] = []
    keys: set[str] = set()

    @agent.tool
    async def measure(ctx: RunContext[Station], city: str) -> int:
        assert ctx.deps.open
        stations.append(ctx.deps)
        keys.add(current_flow().step_key)
        async with asyncio.timeout(WAIT):
            await together.wait()
        return len(city) + ctx.deps.offset

    async with bench.serving(agent, deps=lambda flow: Station(flow.get("offset"))) as served:
        outcome = await bench.run(served, "Where is it warmest?", offset=27)
        assert outcome.status is Status.COMPLETED, outcome.error
        assert served.output(outcome) == Weather(city="Rome", degrees=31)
        assert await bench.path(outcome) == ["model", "measure", "measure", "model", "model"]
        returns = [part for part in script.asked[1][-1].parts if isinstance(part, ToolReturnPart)]
        assert [part.content for part in returns if part.tool_name == "measure"] == [31, 31]
        assert "Unknown tool" in str(next(part.content for part in returns if part.tool_name == "nonsense"))
        assert "valid integer" in str(script.asked[2][-1])
        assert len(keys) == 2
        assert not any(station.open for station in stations)
        assert outcome.state["usage"]["requests"] == 3
        assert outcome.state["usage"]["tool_calls"] == 2
        assert not {name for name in outcome.state if name.startswith("calls")}
        assert len(served.messages(outcome)) == 7


async def test_a_dangerous_tool_waits_for_a_person_and_the_conversation_goes_on_in_a_thread(bench: Bench) -> None:
    script = Script(
        [call("refund", order=7), call("look", order=7)], "Refunded.", [call("refund", order=8)], "Not refunded."
    )
    agent = Agent(script.model)
    refunded: list[int] = []

    @agent.tool_plain(requires_approval=True)
    def refund(order: int) -> str:
        refunded.append(order)
        return "done"

    @agent.tool_plain
    def look(order: int) -> str:
        return f"order {order}"

    async with bench.serving(agent) as served:
        outcome = await bench.run(served, "Give back order 7")
        assert outcome.status is Status.INTERRUPTED
        assert refunded == []
        (pause,) = outcome.pauses
        assert (pause.payload["tool"], pause.payload["arguments"]) == ("refund", {"order": 7})
        await bench.client.resume(step_key=pause.step_key, data={"approved": True, "override_args": {"order": 77}})
        outcome = await bench.client.await_(outcome.flow_key, WAIT)
        assert (served.output(outcome), refunded) == ("Refunded.", [77])

        second = await served.create(bench.client, "And order 8?", thread=outcome.flow_key)
        outcome = await bench.client.await_(second, WAIT)
        await bench.client.resume(second, {"approved": False, "message": "Too late."})
        outcome = await bench.client.await_(second, WAIT)
        assert (served.output(outcome), refunded) == ("Not refunded.", [77])
        assert "Too late." in str(script.asked[3][-1])
        assert "Give back order 7" in str(script.asked[3][0])
        assert outcome.state["usage"]["requests"] == 2


async def test_limits_of_usage_and_of_repetitions_end_a_flow_with_a_reason(bench: Bench) -> None:
    async def failed(agent: Agent[Any, Any], **options: Any) -> tuple[int, str, list[str]]:
        async with bench.serving(agent, **options) as served:
            outcome = await bench.run(served, "go")
            assert outcome.status is Status.FAILED
            assert outcome.error is not None
            return outcome.error.code, outcome.error.message, await bench.path(outcome)

    def stubborn(*answers: Any, **options: Any) -> Agent[Any, Any]:
        agent: Agent[Any, Any] = Agent(Script(*answers).model, retries=1, **options)

        @agent.tool_plain
        def work() -> str:
            raise ModelRetry("not yet")

        return agent

    code, message, path = await failed(stubborn(*[call("work")] * 3))
    assert (code, path) == (502, ["model", "work", "model", "work"])
    assert "2 times in a row" in message
    code, message, path = await failed(stubborn(*[call("final_result", city=1)] * 3, output_type=Weather))
    assert (code, path) == (502, ["model", "model"])
    assert "2 answers in a row" in message
    endless: Agent[Any, Any] = Agent(Script(*[call("work")] * 5).model)
    endless.tool_plain(lambda: "done", name="work")
    code, message, path = await failed(endless, usage_limits=UsageLimits(request_limit=2))
    assert (code, path) == (400, ["model", "work", "model", "work", "model"])
    assert "request_limit of 2" in message


async def test_a_provider_that_cannot_serve_is_asked_again_and_a_refusal_is_final(bench: Bench) -> None:
    """A rate limit and a failure of the provider fail no flow; a bad request does, at once."""
    script = Script(ModelHTTPError(429, "m"), ModelHTTPError(500, "m"), "hello", ModelHTTPError(401, "m"))
    agent = Agent(script.model)
    async with bench.serving(agent) as served:
        outcome = await bench.run(served, "hi")
        assert outcome.status is Status.COMPLETED, outcome.error
        assert len(script.asked) == 3
        outcome = await bench.run(served, "hi")
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.extra["status"]) == (400, 401)
        assert len(script.asked) == 4


async def test_tools_that_must_not_run_at_once_run_in_line_and_others_by_the_generic_node(bench: Bench) -> None:
    running: list[str] = []
    agent = Agent(TestModel(call_tools=["first", "second", "late"]))

    async def alone(name: str) -> str:
        assert not running
        running.append(name)
        await asyncio.sleep(0)
        running.remove(name)
        return name

    agent.tool_plain(lambda: alone("first"), name="first", sequential=True)
    agent.tool_plain(lambda: alone("second"), name="second", sequential=True)
    async with bench.serving(agent) as served:
        agent.tool_plain(lambda: alone("late"), name="late")  # after the graph was made
        outcome = await bench.run(served, "go")
        assert outcome.status is Status.COMPLETED, outcome.error
        path = await bench.path(outcome)
        assert path == ["model", "first", "model", "second", "model", "tool", "model"]


async def test_an_agent_with_output_validators_says_itself_that_a_run_may_end_with_calls(bench: Bench) -> None:
    def checked(output_type: Any, *answers: Any) -> Agent[Any, Any]:
        agent: Agent[Any, Any] = Agent(Script(*answers).model, output_type=output_type, tools=[len_of])

        @agent.output_validator
        def warm_enough(output: Any) -> Any:
            if isinstance(output, Weather) and output.degrees < 20:
                raise ModelRetry("too cold")
            return output

        return agent

    def len_of(word: str) -> int:
        return len(word)

    answers = [call("len_of", word="Rome"), *(call("final_result", city="Rome", degrees=n) for n in (4, 31))]
    async with bench.serving(checked([Weather, DeferredToolRequests], *answers)) as served:
        outcome = await bench.run(served, "go")
        assert served.output(outcome) == Weather(city="Rome", degrees=31)
        assert await bench.path(outcome) == ["model", "len_of", "model", "model"]
    async with bench.serving(checked(Weather, *answers)) as served:
        outcome = await bench.run(served, "go")
        assert outcome.error is not None
        assert "[Output, DeferredToolRequests]" in outcome.error.message


async def test_an_answer_that_is_no_decision_fails_the_step_which_can_be_run_again(bench: Bench) -> None:
    agent = Agent(Script(call("refund", order=7), "done").model)
    agent.tool_plain(lambda order: f"refunded {order}", name="refund", requires_approval=True)
    async with bench.serving(agent) as served:
        outcome = await bench.run(served, "go")
        await bench.client.resume(outcome.flow_key, "perhaps")
        outcome = await bench.client.await_(outcome.flow_key, WAIT)
        assert outcome.error is not None
        assert "answered with true or false" in outcome.error.message
        (step,) = [one for one in await bench.client.history(outcome.flow_key) if one.task == "refund"]
        await bench.client.restart_from(step.step_key)
        outcome = await bench.client.await_(outcome.flow_key, WAIT)
        await bench.client.resume(outcome.flow_key, data=True)
        outcome = await bench.client.await_(outcome.flow_key, WAIT)
        assert served.output(outcome) == "done"


def test_a_graph_has_a_node_for_each_tool_and_an_agent_needs_a_name() -> None:
    agent = Agent(TestModel())
    agent.tool_plain(lambda: "", name="model")
    agent.tool_plain(lambda: "", name="search")
    with pytest.raises(BadRequest, match="needs a name"):
        serve_agent(Worker(), agent)
    worker = Worker()
    served = serve_agent(worker, agent, name="helper", policy=AgentPolicy(tool_attempts=3))
    nodes = {"begin", "model", "calls", "results", "model_tool", "search", "tool"}
    assert set(served.graph.nodes) == nodes
    assert [graph.name for graph in worker.registered_graphs] == [served.graph.name]
    unregistered = Worker()
    serve_agent(unregistered, agent, name="quiet", register=False)
    assert unregistered.registered_graphs == []
    assert set(worker.tasks) == {"helper.model", "helper.tool", "helper.tool.model", "helper.tool.search"}
    with pytest.raises(LookupError, match="serve_agent"):
        current_flow()
