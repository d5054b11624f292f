"""Where model and engine meet: an example is interpreted and performed, and the two are compared."""

from __future__ import annotations

import asyncio
import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from hypothesis import currently_in_test_context, event, reject

from dwarf_nats.engine import Engine
from dwarf_nats.engine.peers import PeerSignals
from dwarf_nats.engine.ports import Ports
from dwarf_nats.errors import BadRequest, Conflict
from dwarf_nats.library import engine_on
from dwarf_nats.ports import TaskCapabilities
from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.settings import EngineSettings
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.nodes import COMPENSATION_SUFFIX
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import TagValue
from tests.model import tagging
from tests.model.crowds import limited
from tests.model.engine_run import EngineRun, Observed, StagedTasks
from tests.model.example import Crowd, Encore, Example
from tests.model.interpreter import Expected, Model, TooLong, Twist
from tests.model.records import COMPLETED, FAILED, Effects, effects_from, identity, shown_history
from tests.model.values import CannotMerge, Error, canonical, merged, normalised, reduced
from tests.support.direct import DirectTasks


class PeerBus:
    """The signals of one replica to the others of its group (B1)."""

    def __init__(self, replicas: list[Engine], mine: int) -> None:
        self._replicas = replicas
        self._mine = mine

    def _others(self) -> Iterator[PeerSignals]:
        return (one.peers for at, one in enumerate(self._replicas) if at != self._mine and one.ready)

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        for peer in self._others():
            peer.enqueue(shard, steps)

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        for peer in self._others():
            peer.notify_status_change(flows)

    def sync_valve(self, task: str, w: float, t: int) -> None:
        for peer in self._others():
            peer.sync_valve(task, w, t)

    def trip_breaker(self, task: str) -> None:
        for peer in self._others():
            peer.trip_breaker(task)

    def change_definitions(self) -> None:
        for peer in self._others():
            peer.change_definitions()


class EngineGroup:
    """Engines that live longer than an example, on an event loop that runs while one is performed.

    Several are replicas that share the database; each operation goes to the next of them. `direct`: the tasks are asked without
    a coroutine that waits, as over NATS.
    """

    def __init__(self, dsn: str, replicas: int = 1, *, direct: bool = False) -> None:
        self._runner = asyncio.Runner()
        self._tasks = StagedTasks()
        self._engines: list[Engine] = []
        for at in range(replicas):
            ports = Ports(
                tasks=self._tasks,
                capabilities=DirectTasks(self._tasks).capabilities if direct else TaskCapabilities(),
                graphs=self._tasks,
                signals=PeerBus(self._engines, at),
            )
            engine = engine_on([dsn], ports, EngineSettings(drain_ms=0), name=f"replica {at}")
            self._engines.append(engine)
            self._runner.run(engine.startup())

    def check(self, example: Example) -> None:
        """Run the example in the model and on the engine; fail with all that is needed to see and repeat the difference."""
        expected = predicted(example)
        if currently_in_test_context():
            event(expected.status)
        self._runner.run(self._checked(example, expected))

    async def _checked(self, example: Example, expected: Expected) -> None:
        if example.crowd is not None:
            await self._crowd(example, example.crowd, expected)
            return
        async with self._tasks.play(self._engines, example) as play:
            if example.encore is not None and example.encore.kind == "cancelled fork":
                await cut_off(play, example, example.encore, expected)
                return
            observed = await play.perform()
            compare(example, "", expected, expected.effects, observed)
            check_undone(example, observed, "", whole=True)
            check_tags(example, "", expected, example.tags, observed)
            if example.encore is not None:
                after = {"restart": restarted, "continue": continued}.get(example.encore.kind, from_a_step)
                await after(play, example, example.encore, expected, observed)

    async def _crowd(self, example: Example, crowd: Crowd, expected: Expected) -> None:
        """Several flows at once, each of which ends as without limits; and no limit is exceeded (K1, K2)."""
        async with limited(self._engines, example, crowd) as tally, AsyncExitStack() as stack:
            plays = [
                await stack.enter_async_context(self._tasks.play(self._engines, example, tally, member))
                for member in range(len(crowd.keys))
            ]
            everything = await asyncio.gather(*(play.perform() for play in plays))
        for key, observed in zip(crowd.keys, everything, strict=True):
            compare(example, "under limits", expected, expected.effects, observed)
            check_undone(example, observed, "under limits", whole=True)
            check_tags(example, "under limits", expected, {**example.tags, **({"key": key} if key else {})}, observed)
        if not expected.effects.pauses and not expected.effects.breaks:
            tally.check_flows()
        if currently_in_test_context():
            event(f"a crowd: {tally.waited} waited" if tally.waited < 3 else "a crowd: several waited")
        if tally.problems:
            raise AssertionError("\n".join([*tally.problems, example.to_json()]))

    def close(self) -> None:
        for engine in self._engines:
            self._runner.run(engine.shutdown())
        self._runner.close()


def predicted(example: Example, twist: Twist | None = None) -> Expected:
    """What the model says; examples that are too long or whose outcome is open do not count."""
    try:
        expected = Model(example, twist).run()
    except TooLong:
        reject()
    if expected.ambiguous:
        reject()
    return expected


# -- encores


async def restarted(play: EngineRun, example: Example, encore: Encore, _: Expected, before: Observed) -> None:
    """O13: the whole flow once more, from its entry state with some fields replaced."""
    expected = predicted(msgspec.structs.replace(example, state=merged(example.state, encore.state)))
    observed = await play.restart(encore.state)
    compare(example, "after restart", expected, expected.effects, observed)
    check_tags(example, "after restart", expected, before.outcome.tags, observed)


async def continued(play: EngineRun, example: Example, encore: Encore, before: Expected, first: Observed) -> None:
    """O15: the next flow of the thread, its state merged through the reducers; breakpoints are not inherited."""
    if before.status != COMPLETED:
        with pytest.raises(Conflict):
            await play.continue_(encore.state)
        return
    try:
        state = reduced(example.root.get("reducers", {}), before.state, [encore.state])
    except CannotMerge:
        with pytest.raises(BadRequest):
            await play.continue_(encore.state)
        return
    expected = predicted(msgspec.structs.replace(example, state=state, breakpoints=[]))
    observed = await play.continue_(encore.state)
    compare(example, "after continue", expected, expected.effects, observed)
    check_tags(example, "after continue", expected, first.outcome.tags, observed)


async def from_a_step(play: EngineRun, example: Example, encore: Encore, before: Expected, observed: Observed) -> None:
    """restart_from (O13) and fork (O14): what comes out is what would have, had that step got its overrides at once; and
    only that step, what it led to and who waited for that runs again."""
    if encore.kind == "fork" and example.breakpoints:
        return  # they are not inherited
    step, twist = await _chosen(play, example, encore, before, observed)
    if step is None:
        return
    expected = predicted(example, twist)
    assert expected.twisted is not None
    again = await (play.restart_from if encore.kind == "restart_from" else play.fork)(step.step_key, encore.state)
    compare(
        example, f"after {encore.kind} at {step.task}", expected, effects_from(expected.twisted), again, undone=False
    )


async def cut_off(play: EngineRun, example: Example, encore: Encore, before: Expected) -> None:
    """A flow that is cancelled on the way, and forked from one of its steps (O14): what comes out is what would have without
    the cancel, had that step got its overrides at once. What was done before the cut, and is done again, nobody can tell."""
    if example.breakpoints:
        return
    observed = await play.perform_until_cut(encore.cut, paused=encore.paused)
    check_undone(example, observed, "after the cancel", whole=True)
    if currently_in_test_context():
        event(f"{observed.outcome.status} to be forked")
    step, twist = await _chosen(play, example, encore, before, observed)
    if step is None:
        return
    expected = predicted(example, twist)
    assert expected.twisted is not None
    again = await play.fork(step.step_key, encore.state)
    compare(example, f"after {encore.kind} at {step.task}", expected, again.effects, again, undone=False)


async def _chosen(
    play: EngineRun, example: Example, encore: Encore, before: Expected, observed: Observed
) -> tuple[Step | None, Twist]:
    """A step of the flow or of a subgraph which the model can tell from all others."""
    steps = _every_step(example.root["name"], observed.history)
    culprits = _culprits(observed.history)
    if encore.culprit and culprits:
        steps = [one for one in steps if one[1].step_id in culprits]
    known = [record.identity() for record in before.run.everything()]
    for at in range(len(steps)):
        workflow, step = steps[(encore.step + at) % len(steps)]
        mark = identity(workflow, step.task, await play.input_of(step))
        if known.count(mark) == 1:
            return step, Twist(mark, encore.state)
    return None, Twist("", {})


def _every_step(workflow: str, steps: list[Step]) -> list[tuple[str, Step]]:
    found = []
    for step in steps:
        if step.task.endswith(COMPENSATION_SUFFIX):
            continue  # nothing runs again from there
        found.append((workflow, step))
        if step.sub_workflow is not None:
            found += _every_step(step.sub_workflow, step.sub_history)
    return found


def _culprits(steps: list[Step]) -> set[int]:
    """The steps that failed, and those that led to them."""
    by_id = {step.step_id: step for step in steps}
    found: set[int] = set()
    for step in steps:
        at: Step | None = step if step.status is Status.FAILED else None
        if at is not None:
            found |= _culprits(step.sub_history)
        while at is not None and at.step_id not in found:
            found.add(at.step_id)
            at = None if at.predecessor_id is None else by_id[at.predecessor_id]
    return found


# -- tags


def check_tags(
    example: Example, when: str, expected: Expected, before: Mapping[str, TagValue], observed: Observed
) -> None:
    """The tags of a flow that has ended, and began with those of `before` (Q1)."""
    wrong = tagging.problems(expected.run, before, observed.outcome.tags)
    if wrong:
        raise AssertionError("\n".join([f"tags {when}:", *wrong, example.to_json()]))


# -- compensations


def check_undone(example: Example, observed: Observed, when: str, *, whole: bool = False) -> None:
    """What holds of compensations whatever was cut off or runs again (N9): each is of a step that did its work, its only one.

    `whole`: no step was copied or stands from an earlier end, so each such step has one, in the reverse order of completion.
    """
    graphs = {graph.name: graph for graph in example.all_graphs()}
    ended = observed.outcome.status in (Status.FAILED, Status.CANCELLED)
    if whole and currently_in_test_context():
        event(f"{min(canonical(_shown_history(observed.history)).count(COMPENSATION_SUFFIX), 5)} compensations")
    problems = list(_undone(graphs, example.root["name"], observed.history, ended=ended and whole, ordered=whole))
    if problems:
        lines = "\n".join([*problems, *(canonical(one) for one in _shown_history(observed.history))])
        raise AssertionError(f"compensations {when}:\n{lines}\n{example.to_json()}")


def _undone(
    graphs: Mapping[str, Graph], workflow: str, steps: list[Step], *, ended: bool, ordered: bool
) -> Iterator[str]:
    undoing = [step for step in steps if step.task.endswith(COMPENSATION_SUFFIX)]
    by_id = {step.step_id: step for step in steps}
    for step in steps:
        if step in undoing:
            continue
        if step.sub_workflow is not None:
            yield from _undone(graphs, step.sub_workflow, step.sub_history, ended=ended, ordered=ordered)
        count = sum(one.predecessor_id == step.step_id for one in undoing)
        worked = step.status is Status.COMPLETED and step.handled_error is None
        wanted = worked and f"{step.task}{COMPENSATION_SUFFIX}" in graphs[workflow].compensations
        if count > 1 or (count and not wanted) or (ended and wanted and not count):
            yield f"{workflow}: step {step.task} is {step.status} ({step.handled_error}), compensated {count} times"
    if not ordered:
        return
    undoing.sort(key=lambda one: (one.started_at is None, one.started_at, one.step_id))
    for before, after in itertools.pairwise(undoing):
        if before.updated_at > (after.started_at or after.updated_at):
            yield f"{workflow}: {after.task} began before {before.task} had ended"
        first, second = (by_id[one.predecessor_id or 0] for one in (before, after))
        if first.updated_at < second.updated_at:
            yield f"{workflow}: {first.task} was compensated before {second.task}, which completed later"


# -- comparing


def compare(
    example: Example, when: str, expected: Expected, effects: Effects, observed: Observed, *, undone: bool = True
) -> None:
    """`undone`: compensations, too; else their rules are checked, but neither what they do nor the state they leave."""
    if not undone and any(graph.compensates for graph in example.all_graphs()):
        check_undone(example, observed, when)
        left_open = expected.state.keys() | observed.outcome.state.keys() if expected.status == FAILED else set()
        wanted, got = (
            [line for line in lines if COMPENSATION_SUFFIX not in line]
            for lines in (
                _expected(expected, effects, left_open, undone=False),
                _observed(observed, expected.errors, left_open, undone=False),
            )
        )
    else:
        wanted = _expected(expected, effects, expected.open)
        got = _observed(observed, expected.errors, expected.open)
    if wanted != got:
        difference = "\n".join(difflib.unified_diff(wanted, got, "model", "engine", n=100, lineterm=""))
        raise AssertionError(
            f"the model and the engine differ {when}\n{difference}\n"
            f"the example, to be kept as a file in tests/model/kept:\n{example.to_json()}"
        )


def _expected(expected: Expected, effects: Effects, left_open: Set[str], *, undone: bool = True) -> list[str]:
    error = "one of those expected" if expected.errors else "none"
    history = shown_history(expected.run.history)
    state = _without(expected.state, left_open)
    return _lines(expected.status, state, error, effects, history if undone else _not_undone(history))


def _without(state: dict[str, Any], names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in names}


def _not_undone(history: list[Any]) -> list[Any]:
    """A history without the steps that compensate others."""
    left = (
        [task, *more, child and [child[0], _not_undone(child[1])], *rest]
        for task, *more, child, handled, branch, failures in history
        for rest in [[handled, branch, failures]]
        if not task.endswith(COMPENSATION_SUFFIX)
    )
    return sorted(left, key=canonical)  # anew: what is left out decided on their order, too


def _observed(observed: Observed, errors: list[Error], left_open: Set[str], *, undone: bool = True) -> list[str]:
    outcome = observed.outcome
    error = "none"
    if outcome.error is not None:
        error = _error(outcome.error).shown()
        possible = {one.shown() for one in errors}
        error = "one of those expected" if error in possible else f"{error}, and not one of {sorted(possible)}"
    history = _shown_history(observed.history)
    state = _without(outcome.state, left_open)
    return _lines(outcome.status.value, state, error, observed.effects, history if undone else _not_undone(history))


def _lines(status: str, state: dict[str, Any], error: str, effects: Effects, history: list[Any]) -> list[str]:
    return [
        f"status: {status}",
        f"state: {canonical(normalised(state))}",
        f"error: {error}",
        f"interrupts: {effects.pauses}, breakpoints: {effects.breaks}",
        *(f"step {canonical(step)}" for step in history),
        *effects.log,
    ]


def _shown_history(steps: list[Step]) -> list[Any]:
    by_id = {step.step_id: step for step in steps}
    return sorted((_shown(step, _origins(step, by_id)) for step in steps), key=canonical)


def _shown(step: Step, origins: list[str]) -> list[Any]:
    child = [step.sub_workflow, _shown_history(step.sub_history)] if step.subgraph else None
    branch = None if step.branch is None else [step.branch.index, step.branch.count, step.branch.of]
    handled = None if step.handled_error is None else _error(step.handled_error).shown()
    failures = [_error(one.error).shown() for one in step.attempts]
    return [step.task, step.status.value, step.attempt, origins, child, handled, branch, failures]


def _error(error: ErrorInfo) -> Error:
    return Error(error.message, error.code, error.extra)


def _origins(step: Step, by_id: dict[int, Step]) -> list[str]:
    """The nodes a step follows, as its own row and theirs have it (F7)."""
    if step.successor_id is not None and step.successor_id not in by_id:
        return ["something, and leads to a step that is not there"]
    if step.predecessor_id is None:
        return []
    led_here = [other for other in by_id.values() if other.successor_id == step.step_id]
    if not led_here:  # a branch: the step that fanned out has many
        return [by_id[step.predecessor_id].task]
    if by_id[step.predecessor_id] not in led_here:
        return [f"{by_id[step.predecessor_id].task}, which leads elsewhere"]
    return sorted(other.task for other in led_here)
