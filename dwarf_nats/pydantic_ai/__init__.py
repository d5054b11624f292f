"""Durable Pydantic AI agents: each model call and each tool call is a step of a flow. Needs the extra `pydantic-ai`.

from pydantic_ai import Agent
from dwarf_nats.pydantic_ai import serve_agent

assistant = serve_agent(worker, Agent("openai:gpt-5", tools=[search]), name="assistant")
"""

from __future__ import annotations

from .agent import DurableAgent, serve_agent
from .policy import AgentPolicy
from .tool_step import current_flow

__all__ = ["AgentPolicy", "DurableAgent", "current_flow", "serve_agent"]
