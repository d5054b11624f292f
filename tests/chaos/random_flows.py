"""Random flows: graphs and tasks drawn as the model's tests draw them, and what the model says has to come out."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase, settings

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from tests.chaos.shapes import Mark, Shape, State
from tests.model.behaviours import play
from tests.model.example import Example, answer_to
from tests.model.interpreter import Expected, Model, TooLong
from tests.model.tasks import EVENT_KEYS, examples
from tests.model.values import Error, canonical, normalised

CHILDREN = ("first", "second")
"""Workflows that an example calls by name; which graph that is stands in its baggage."""
_NAMES = [f"{prefix}{number}" for prefix in "nfs" for number in range(40)]
RANDOM_URLS = ("task.shared", "task.common", *_NAMES, *(f"task.{name}" for name in _NAMES))
"""Every task url that an example may have."""


class RandomFlow(Shape):
    """One example."""

    name = "random_flows"
    linger = 0.1
    marked = False

    def __init__(self, example: Example, expected: Expected | None = None) -> None:
        self.example = example
        self.breakpoints = tuple(example.breakpoints)
        self.overrides = example.overrides
        self.awaited = EVENT_KEYS if b'"is":"await"' in msgspec.json.encode(example) else ()
        self._expected = expected

    @property
    def workflow(self) -> Graph:
        return Graph.from_values(self.example.root)

    @property
    def baggage(self) -> State:
        return {"example": msgspec.to_builtins(self.example)}

    def graphs(self) -> list[Graph]:
        return []

    def draw(self, rng: random.Random) -> State:  # noqa: ARG002
        return dict(self.example.state)

    def answer(self, payload: Any) -> Any:
        return answer_to(payload)

    def perform(self, flow: Flow, mark: Mark) -> None:  # noqa: ARG002
        act = self.example.behaviours[flow.workflow][flow.task].act(flow)
        play(act, flow, lambda _what, _value: None)

    def differences(self, state: State, status: str, final: State, error: str | None) -> Iterator[str]:  # noqa: ARG002
        expected = self._expected
        assert expected is not None
        again = f"; the example, for `Example.from_json`: {msgspec.json.encode(self.example).decode()}"
        if status != expected.status:
            yield f"it is {status} ({error}), should be {expected.status}{again}"
            return
        if canonical(normalised(final)) != canonical(normalised(expected.state)):
            yield f"its final state is {canonical(final)}, should be {canonical(expected.state)}{again}"
        if error is not None:
            found = json.loads(error)
            shown = Error(found.pop("message"), found.pop("code"), found).shown()
            if shown not in {one.shown() for one in expected.errors}:
                yield f"its error is {shown}, and none of {[one.shown() for one in expected.errors]}{again}"


def of_baggage(baggage: State) -> RandomFlow | None:
    """The example a flow carries along, if it does."""
    values = baggage.get("example")
    return None if values is None else RandomFlow(msgspec.convert(values, Example))


def _calls_nobody(example: Example) -> bool:
    return b'"is":"child","workflow":"nowhere"' in msgspec.json.encode(example)


def random_flows(seed: int, count: int) -> list[RandomFlow]:
    """About so many examples of which the model knows the end, the same for the same seed."""
    found: list[RandomFlow] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )  # fmt: skip
    @hypothesis.given(examples())
    def draw(example: Example) -> None:
        urls = {node["url"] for graph in (example.root, *example.children) for node in graph["tasks"]}
        # A workflow nobody knows counts as away, not as unknown, on a connection that has just come back: no certain end.
        if not urls <= set(RANDOM_URLS) or _calls_nobody(example):
            return
        try:
            expected = Model(example, max_executions=100).run()
        except TooLong:
            return
        if not expected.ambiguous:
            found.append(RandomFlow(example, expected))

    draw()
    return found
