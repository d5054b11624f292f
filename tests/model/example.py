"""One example: graphs, what their tasks do, the initial state, breakpoints. It goes through JSON unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.tags import TagValue
from tests.model.behaviours import Behaviour


class Encore(msgspec.Struct, frozen=True):
    """What is done with the flow once it is over (O13-O15): `restart` or `continue` with this state, `restart_from` or
    `fork` at one of its steps, subgraphs' included. `cancelled fork`: it is cancelled on the way, and forked then."""

    kind: Literal["restart", "continue", "restart_from", "fork", "cancelled fork"]
    state: dict[str, Any] = {}
    step: int = 0
    culprit: bool = False
    """Rather one that failed or led to one that did, if there is any."""
    cut: int = 0
    """How many executions begin before a flow is cancelled."""
    paused: bool = False
    """It is cancelled the next time it is paused after that."""


class Bound(msgspec.Struct, frozen=True, omit_defaults=True):
    """A limit on a task, by its url, or on the workflow of the root (K1).

    `later`: the number that may run at once after a while; it is removed then if that is 0.
    """

    task: str = ""
    by: str = ""
    concurrency: int | None = None
    per_second: float | None = None
    burst: int | None = None
    later: int | None = None


class Crowd(msgspec.Struct, frozen=True, omit_defaults=True):
    """Flows of an example that run at once, under limits and a hold."""

    keys: list[str] = []
    """The fairness key of each of them, which is the value of its tag `key`, too; none if it is empty."""
    bounds: list[Bound] = []
    held: str | None = None
    """The task that is on hold at first (K2); the empty name stands for the workflow of the root."""
    after: int = 0
    """How many executions begin before the hold ends and the limits change; or nothing begins any more."""


class Example(msgspec.Struct, frozen=True):
    """A flow to be run: `root` and `children` are graphs as JSON (G8), `behaviours` by workflow and node."""

    root: dict[str, Any]
    behaviours: dict[str, dict[str, Behaviour]]
    state: dict[str, Any]
    children: list[dict[str, Any]] = []
    breakpoints: list[str] = []
    early: list[str] = []
    """Keys with which the event that is signalled for whoever waits is signalled before there is a flow."""
    overrides: dict[str, Any] = {}
    patience: int = 0
    """How many turns the driver leaves to the other branches before it resumes a paused one."""
    encore: Encore | None = None
    tags: dict[str, TagValue] = {}
    """The tags with which the flow is created (Q1)."""
    crowd: Crowd | None = None

    def all_graphs(self) -> list[Graph]:
        return [Graph.from_values(values) for values in (self.root, *self.children)]

    def answer_to(self, payload: Any) -> Any:
        """What whoever resumes this one says."""
        return answer_to(payload)

    def to_json(self) -> str:
        """Readable: a line for every node, edge and behaviour."""
        return "{\n" + ",\n".join(_shown(msgspec.to_builtins(self), 2)) + "\n}"

    @classmethod
    def from_json(cls, text: str | bytes) -> Example:
        return msgspec.json.decode(text, type=cls)


def _shown(values: dict[str, Any], depth: int) -> Iterator[str]:
    for name, value in values.items():
        text = json.dumps(value, ensure_ascii=False)
        if len(text) > 100 and depth and isinstance(value, dict):
            text = "{\n" + ",\n".join(_shown(value, depth - 1)) + "}"
        elif len(text) > 100 and isinstance(value, list):
            text = "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in value) + "]"
        yield f'"{name}": {text}'


def event_for(key: str) -> Any:
    """The data of every event that is signalled with this key: so it makes no difference which of them a step receives."""
    return {"for": key}


def answer_to(payload: Any) -> Any:
    """What whoever resumes says: it tells which interrupt it was meant for."""
    return {"to": payload}
