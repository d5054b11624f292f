"""A support agent for a shop, as a durable workflow. Try it with::

    dwarf-nats dev examples/agent/agent.py
    python examples/agent/page.py

Without settings the model is a fake that needs no key. `AGENT_MODEL` names a model of an OpenAI-compatible endpoint,
`AGENT_URL` is the endpoint and `AGENT_KEY` its key; that needs `pip install "pydantic-ai-slim[openai]"`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic_ai import Agent, ModelRetry
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.usage import UsageLimits

from dwarf_nats.pydantic_ai import current_flow, serve_agent
from dwarf_nats.sdk import Worker

INSTRUCTIONS = """\
You help customers of a shop. Look up an order and its payment before you say anything about it; look up both at once.
Refund an order only if the customer asks for it. Be brief."""


@dataclass(frozen=True)
class Order:
    """An order of the shop; the total in cents."""

    item: str
    total: int
    state: str


ORDERS = {
    4711: Order("vertical mouse", 5_490, "delivered on Monday"),
    4712: Order("monitor arm", 8_400, "on its way"),
    4713: Order("desk pad", 2_250, "lost by the carrier"),
}


async def find_order(order: int) -> str:
    """Find an order by its number."""
    await asyncio.sleep(PAUSE)
    found = ORDERS.get(order)
    if found is None:
        raise ModelRetry(f"there is no order {order}; known are {', '.join(map(str, ORDERS))}")
    return f"order {order}: {found.item}, {found.state}"


async def find_payment(order: int) -> str:
    """Find the payment of an order."""
    await asyncio.sleep(PAUSE)
    found = ORDERS.get(order)
    return f"{found.total / 100:.2f} EUR paid by card" if found else "no payment"


async def refund(order: int) -> str:
    """Pay the price of an order back to the customer. A person must approve it."""
    # The step's key is the same if this runs again after a crash: a bank that knows it pays once.
    step = current_flow().step_key.rpartition("-")[0]
    await asyncio.sleep(PAUSE)
    return f"order {order} is refunded, receipt R-{step}"


# --- a model that needs no key ---

PAUSE = float(os.environ.get("AGENT_PAUSE", "0.04"))
"""Seconds between two words of the fake model, and for each look-up."""


def plan(messages: list[ModelMessage]) -> str | list[ToolCallPart]:
    """The next thing the fake model does: the text of an answer, or calls of tools."""
    parts = [part for message in messages for part in message.parts]
    begin = max(at for at, part in enumerate(parts) if isinstance(part, UserPromptPart))
    prompts = [str(part.content) for part in parts if isinstance(part, UserPromptPart)]
    numbers = re.findall(r"\d+", " ".join(prompts))
    if not numbers:
        return "Which order is it about? Tell me its number, 4711 for example."
    order = int(numbers[-1])
    known = {part.tool_name: part for part in parts[begin:] if isinstance(part, ToolReturnPart)}
    if not known:
        return [ToolCallPart("find_order", {"order": order}), ToolCallPart("find_payment", {"order": order})]
    if known["find_order"].outcome != "success":
        return f"I am sorry: {known['find_order'].content}."
    facts = f"{known['find_order'].content}; {known['find_payment'].content}."
    if "refund" not in prompts[-1].lower():
        return f"I have looked: {facts} Shall I do anything about it?"
    if "refund" not in known:
        return [ToolCallPart("refund", {"order": order})]
    return f"I have looked: {facts} The refund: {known['refund'].content}"


def fake_answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """The fake model in one piece."""
    said = plan(messages)
    return ModelResponse(parts=[TextPart(said)] if isinstance(said, str) else said)


async def fake_stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    """The fake model word by word."""
    said = plan(messages)
    if isinstance(said, str):
        for at, word in enumerate(said.split(" ")):
            await asyncio.sleep(PAUSE)
            yield f" {word}" if at else word
    else:
        yield {at: DeltaToolCall(call.tool_name, call.args_as_json_str()) for at, call in enumerate(said)}


def chosen_model() -> Model:
    """The model that the settings name, or the fake one."""
    name = os.environ.get("AGENT_MODEL", "")
    if not name:
        return FunctionModel(fake_answer, stream_function=fake_stream, model_name="fake")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=os.environ.get("AGENT_URL"), api_key=os.environ.get("AGENT_KEY", "none"))
    return OpenAIChatModel(name, provider=provider)


agent = Agent(chosen_model(), name="support", instructions=INSTRUCTIONS, tools=[find_order, find_payment])
agent.tool_plain(refund, requires_approval=True)

worker = Worker(name="support-agent")
support = serve_agent(worker, agent, usage_limits=UsageLimits(request_limit=20), stream=True)

if __name__ == "__main__":
    worker.main()
