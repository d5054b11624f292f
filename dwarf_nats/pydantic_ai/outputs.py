"""The output types of an agent: what a run may end with, and how a stored output becomes a value again."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai import Agent
from pydantic_ai.tools import DeferredToolRequests


def run_output_type(agent: Agent[Any, Any]) -> Any:
    """The output type of a run that may end with calls of tools; `None` if the agent's own allows that."""
    kinds = list(_flattened(agent.output_type))
    return None if DeferredToolRequests in kinds else [agent.output_type, DeferredToolRequests]


def read_output(agent: Agent[Any, Any], value: Any) -> Any:
    """The output as its type says; JSON values if the types are not known from the agent, of output functions for example."""
    kinds = [kind for kind in _flattened(agent.output_type) if kind is not DeferredToolRequests]
    if not kinds or not all(isinstance(kind, type) for kind in kinds):
        return value
    union: Any = functools.reduce(operator.or_, kinds)
    return TypeAdapter(union).validate_python(value)


def _flattened(spec: Any) -> Iterator[Any]:
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        for one in spec:
            yield from _flattened(one)
    else:
        yield spec
