"""The registry of steps in flight: identity after a second claim, and how executions are ended."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from dwarf_nats.engine.execution.in_flight import InFlight
from dwarf_nats.rules.steps import ClaimedStep, StepRef
from dwarf_nats.workflow.keys import Key
from tests.support.stores import born, new_flow

log = logging.getLogger("tests")


def claimed(step_id: int, flow_id: int = 10) -> ClaimedStep:
    step = born(new_flow())
    step.step_id, step.flow.flow_id, step.flow.token = step_id, flow_id, "f" * 16
    return step


class Tasks:
    """A port that notes the steps it is to end, or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.ended: list[str] = []
        self.error = error

    def cancel(self, step_key: str) -> None:
        self.ended.append(step_key)
        if self.error is not None:
            raise self.error


def registry(tasks: Tasks) -> InFlight:
    port: Any = tasks
    return InFlight(1, port, log)


class Execution:
    """An execution as the executor runs it, which waits until it is let go or ended."""

    def __init__(self, in_flight: InFlight, step: ClaimedStep) -> None:
        self.go_on = asyncio.Event()
        self.outcome = ""
        self._in_flight = in_flight
        self._step = step

    async def run(self) -> None:
        self._step.begun = True
        try:
            if self._step.called_off:
                self.outcome = "called off"
                return
            await self.go_on.wait()
            self.outcome = "done"
        except asyncio.CancelledError:
            self.outcome = "cancelled"
        finally:
            self._in_flight.executed(self._step)


async def test_a_step_is_in_flight_from_its_dispatch_to_its_commit() -> None:
    in_flight = registry(Tasks())
    step = claimed(7)
    execution = Execution(in_flight, step)
    in_flight.start(step, execution.run())
    assert (in_flight.steps, in_flight.executing) == ([step], {7: step.token})
    execution.go_on.set()
    await asyncio.gather(*in_flight.executions)
    assert (in_flight.steps, in_flight.executing, execution.outcome) == ([step], {}, "done")
    in_flight.drop(step)
    assert in_flight.steps == []


async def test_what_belongs_to_an_earlier_claim_touches_nothing_of_the_later_one() -> None:
    """X1: the step was taken away and claimed again here while its first execution went on."""
    in_flight = registry(Tasks())
    first, second = claimed(7), claimed(7)
    executions = Execution(in_flight, first), Execution(in_flight, second)
    in_flight.start(first, executions[0].run())
    (earlier,) = in_flight.executions
    in_flight.start(second, executions[1].run())
    executions[0].go_on.set()
    await earlier
    in_flight.drop(first)
    assert (in_flight.steps, in_flight.executing) == ([second], {7: second.token})
    executions[1].go_on.set()
    await asyncio.gather(*in_flight.executions)
    in_flight.drop(second)
    assert (in_flight.steps, list(in_flight.executions)) == ([], [])


async def test_a_step_that_is_cancelled_before_it_begins_is_called_off() -> None:
    tasks = Tasks()
    in_flight = registry(tasks)
    step = claimed(7)
    execution = Execution(in_flight, step)
    in_flight.start(step, execution.run())
    in_flight.cancel([StepRef(7, step.token)])
    await asyncio.gather(*in_flight.executions)
    assert (step.cancelled, execution.outcome, tasks.ended) == (True, "called off", [f"1-7-{step.token}"])


async def test_cancelling_a_flow_ends_its_steps_whatever_the_port_raises() -> None:
    """O10, B4."""
    tasks = Tasks(ValueError("no"))
    in_flight = registry(tasks)
    steps = [claimed(1, flow_id=10), claimed(2, flow_id=10), claimed(3, flow_id=11)]
    executions = [Execution(in_flight, step) for step in steps]
    for step, execution in zip(steps, executions, strict=True):
        in_flight.start(step, execution.run())
    await asyncio.sleep(0)  # they have begun
    in_flight.cancel_flow(Key(1, 10, steps[0].flow.token))
    executions[2].go_on.set()
    await asyncio.gather(*in_flight.executions)
    assert [step.cancelled for step in steps] == [True, True, False]
    assert [execution.outcome for execution in executions] == ["cancelled", "cancelled", "done"]


async def test_a_step_that_was_started_directly_is_ended_by_its_function() -> None:
    """O10, B3."""
    in_flight = registry(Tasks())
    ended: list[int] = []

    def end(step: ClaimedStep) -> None:
        ended.append(step.step_id)
        in_flight.executed(step)

    steps = [claimed(number) for number in (1, 2, 3)]
    for step in steps:
        step.begun = True
        in_flight.start_directly(step, partial(end, step))
    assert (in_flight.count, list(in_flight.executions)) == (3, [])
    in_flight.cancel([StepRef(2, steps[1].token)])
    assert (ended, in_flight.count, steps[1].cancelled) == ([2], 2, True)
    await in_flight.release_all()
    assert (sorted(ended), in_flight.count) == ([1, 2, 3], 0)
    assert len(in_flight.steps) == 3  # until they are written


async def test_an_earlier_claim_that_goes_on_touches_nothing_of_the_later_one() -> None:
    """X1: it was started directly, and its answer needs more than a decision."""
    in_flight = registry(Tasks())
    first, second = claimed(7), claimed(7)
    in_flight.start_directly(first, lambda: None)
    in_flight.start_directly(second, lambda: None)
    in_flight.executed(first)
    assert in_flight.executing == {7: second.token}
    execution = Execution(in_flight, first)
    in_flight.go_on(first, execution.run())
    execution.go_on.set()
    while not execution.outcome:
        await asyncio.sleep(0)
    assert (in_flight.steps, in_flight.executing, execution.outcome) == ([second], {7: second.token}, "done")


async def test_releasing_all_waits_for_every_execution() -> None:
    """B3: those that have begun and those that have not."""
    in_flight = registry(Tasks())
    begun, fresh = claimed(1), claimed(2)
    executions = Execution(in_flight, begun), Execution(in_flight, fresh)
    in_flight.start(begun, executions[0].run())
    await asyncio.sleep(0)
    in_flight.start(fresh, executions[1].run())
    await in_flight.release_all()
    assert [execution.outcome for execution in executions] == ["cancelled", "called off"]
    assert list(in_flight.executions) == []
