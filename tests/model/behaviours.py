"""The behaviour of tasks, as data: the same data drives the model's flow API and the real one.

A behaviour is chosen by node, by the attempt and by the state, and played on a flow API, which is the real `Flow` or the
model's. Everything here goes through JSON unchanged, so that a failing example can be printed and run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from dwarf_nats.workflow.tags import TagChanges
from dwarf_nats.workflow.task_error import SubgraphError, TaskError
from tests.model.values import classified

SIGNALLED = "paid"
"""The event that is signalled whenever a step waits for it; every other never comes."""


class FlowApi(Protocol):
    """The part of a flow that a behaviour needs; `dwarf_nats.workflow.flow.Flow` has it."""

    @property
    def attempt(self) -> int: ...
    def get(self, name: str, default: Any = None) -> Any: ...
    def set(self, name: str, value: Any) -> None: ...
    def goto(self, node: str) -> None: ...
    def tag(self, tags: TagChanges | None = None, /) -> None: ...
    def sleep(self, delay: float) -> None: ...
    def retry(
        self, max_attempts: int | None = None, initial_delay: float = 0, *, give_up_after: float | None = None
    ) -> None: ...
    def interrupt(self, payload: Any = None) -> Any: ...
    def wait_for(self, event: str, key: str = "") -> Any: ...
    def subgraph(self, workflow: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]: ...  # noqa: A002


class _Data(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes through JSON."""


class _Kind(_Data, frozen=True, tag_field="is", tag=str.lower):
    """Tagged, so that every kind is told apart in JSON."""


# -- values


class Lit(_Kind, frozen=True):
    """This value; null deletes."""

    value: Any = None


class Copy(_Kind, frozen=True):
    """What the field holds; null, which deletes, if it is absent."""

    field: str


class Plus(_Kind, frozen=True):
    """The field plus a number; the number alone if the field holds none."""

    field: str
    by: float | int


class Answered(_Kind, frozen=True):
    """What the last interrupt or child came back with; the text of the error if the child failed."""


Value = Lit | Copy | Plus | Answered


def value_of(value: Value, flow: FlowApi, answered: Any = None) -> Any:
    match value:
        case Lit():
            return value.value
        case Copy():
            return flow.get(value.field)
        case Plus():
            before = flow.get(value.field)
            return before + value.by if type(before) in (int, float) else value.by
        case Answered():
            return answered


# -- how an execution ends


class Done(_Kind, frozen=True):
    """It completes."""


class Fail(_Kind, frozen=True):
    """It raises."""

    message: str
    code: int = 500
    extra: dict[str, Any] = {}


class Retry(_Kind, frozen=True):
    """It asks to run again (X5), with an error for the day it is given up, or without. `late`: the next attempt would
    come after `give_up_after`, so it is never granted."""

    max_attempts: int | None = None
    delay_ms: int = 0
    late: bool = False
    error: Fail | None = None


class Loop(_Kind, frozen=True):
    """It asks to go to `target`, by name or url, until `counter` has reached `rounds`: bounded, should that lead back."""

    target: str
    counter: str
    rounds: int


class Ask(_Kind, frozen=True):
    """It pauses with a payload (P2), and goes on with `then` when resumed."""

    payload: Value
    then: Act


class Await(_Kind, frozen=True):
    """It waits for the event that is signalled for whoever waits (E2), and goes on with `then`."""

    key: str
    then: Act


class Child(_Kind, frozen=True):
    """It runs a child flow (P1), and goes on with `then`; if the child failed, with `caught`, or fails as it did."""

    workflow: str
    input: dict[str, Value]
    then: Act
    caught: Act | None = None


class Clash(_Kind, frozen=True):
    """It asks for several of goto, retry, interrupt, wait, subgraph at once (X4)."""

    wishes: list[str]
    target: str


class Unstorable(_Kind, frozen=True):
    """It sets what no state holds (S1)."""


Ending = Done | Fail | Retry | Loop | Ask | Await | Child | Clash | Unstorable


class Act(_Data, frozen=True):
    """One execution: what is written, in this order, the tags it sets, and how it ends.

    `turns`: how often it lets others go first.
    """

    end: Ending = Done()
    writes: dict[str, Value] = {}
    turns: int = 0
    sleep_ms: int = 0
    tags: dict[str, str | int | None] = {}


class Special(_Data, frozen=True):
    """Other acts where a field of the input has this value: another element, another round."""

    field: str
    equals: Any
    acts: list[Act]


class Behaviour(_Data, frozen=True):
    """What a node's task does at its first attempt, its second, …; from the last on always the last."""

    acts: list[Act]
    specials: list[Special] = []

    def act(self, flow: FlowApi) -> Act:
        acts = self.acts
        for special in self.specials:
            if flow.get(special.field) == special.equals:
                acts = special.acts
                break
        return acts[min(flow.attempt, len(acts) - 1)]


Note = Callable[[str, Any], None]
"""Told what a resume or a child brought: `resumed`, `child` or `child failed`, and what."""


def play(act: Act, flow: FlowApi, note: Note, answered: Any = None) -> None:
    """One execution on a flow. Raises what a task raises; the flow's own way of ending an execution passes."""
    for name, value in act.writes.items():
        flow.set(name, value_of(value, flow, answered))
    if act.tags:
        flow.tag(act.tags)
    if act.sleep_ms:
        flow.sleep(act.sleep_ms / 1000)
    _end(act.end, flow, note, answered)


def _end(end: Ending, flow: FlowApi, note: Note, answered: Any) -> None:
    match end:
        case Done():
            pass
        case Fail():
            raise TaskError(end.message, end.code, **end.extra)
        case Retry():
            flow.retry(
                end.max_attempts, max(end.delay_ms, 5 * end.late) / 1000, give_up_after=0.001 if end.late else None
            )
            if end.error is not None:
                _end(end.error, flow, note, answered)
        case Loop():
            rounds = flow.get(end.counter, 0)
            if rounds < end.rounds:
                flow.set(end.counter, rounds + 1)
                flow.goto(end.target)
        case Ask():
            data = flow.interrupt(value_of(end.payload, flow, answered))
            note("resumed", data)
            play(end.then, flow, note, data)
        case Await():
            data = flow.wait_for(SIGNALLED, end.key)
            note("event", data)
            play(end.then, flow, note, data)
        case Child():
            _call(end, flow, note, answered)
        case Clash():
            _clash(end, flow)
        case Unstorable():
            flow.set("a", 2**63)


def _call(end: Child, flow: FlowApi, note: Note, answered: Any) -> None:
    given = {name: value_of(value, flow, answered) for name, value in end.input.items()}
    try:
        result = flow.subgraph(end.workflow, given)
    except SubgraphError as error:
        text = classified(error.message)
        note("child failed", text)
        if end.caught is None:
            raise
        play(end.caught, flow, note, text)
    else:
        note("child", result)
        play(end.then, flow, note, result)


def _clash(end: Clash, flow: FlowApi) -> None:
    if "goto" in end.wishes:
        flow.goto(end.target)
    if "retry" in end.wishes:
        flow.retry(9)
    if "interrupt" in end.wishes:
        flow.interrupt("clash")
    if "wait" in end.wishes:
        flow.wait_for(SIGNALLED, "clash")
    if "subgraph" in end.wishes:
        flow.subgraph("nowhere")
