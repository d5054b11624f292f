"""Following flows in the terminal: their steps as they change, and an answer to interrupts that nobody else answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from rich.text import Text

from dwarf_nats.cli.output import coloured, error_line, show
from dwarf_nats.errors import Conflict, TimedOut
from dwarf_nats.render.terminal import in_json, one_line
from dwarf_nats.sdk import Client
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status

FOLLOW_SECONDS = 60.0
"""Longest time to follow a flow, beside the wait for a person; the example orders take seconds."""
POLL_SECONDS = 0.02
"""Pause between two reads of a flow; short, so that the demonstration shows each step."""


class Follower:
    """Prints the changes of flows, and answers their interrupts if nobody else does.

    `answer`: the data that resumes them, after `wait_seconds`. `url`: of NATS, for the command lines that are printed.
    """

    def __init__(self, client: Client, url: str, answer: Any, wait_seconds: float) -> None:
        self._client = client
        self._url = url
        self._answer = answer
        self._wait_seconds = wait_seconds
        self._printed: dict[str, Printed] = {}

    async def follow(self, flow_key: str, name: str, *, afresh: bool = False) -> tuple[Outcome, list[Step]]:
        """Print the changes of a flow, each line beginning with `name`, until it ends. Returns its outcome and history.

        Changes that were printed before are not printed again, unless `afresh`. Raises `TimedOut` if it takes too long.
        """
        if afresh or flow_key not in self._printed:
            self._printed[flow_key] = Printed(name)
        printed = self._printed[flow_key]
        answering: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(FOLLOW_SECONDS + self._wait_seconds):
                async for change in self._client.watch(flow_key, POLL_SECONDS):
                    printed.print_changes(change.steps)
                    paused = change.outcome.status is Status.INTERRUPTED
                    if paused and (answering is None or answering.done()):
                        answering = asyncio.create_task(self._answered(change.outcome, name))
                    if not paused and answering is not None:
                        answering.cancel()
                    last = change
            return last.outcome, last.steps
        except TimeoutError:
            raise TimedOut(f"{name} is still going after {FOLLOW_SECONDS:g} s", flow_key=flow_key) from None
        finally:
            if answering is not None:
                answering.cancel()

    async def _answered(self, outcome: Outcome, name: str) -> None:
        """Print the question of a flow and how to answer it; answer it after the wait."""
        key, payload = outcome.flow_key, in_json((outcome.interrupt_json or b"null").decode())
        request, data = compact({"flowKey": key, "data": self._answer}), compact(self._answer)
        show(Text.assemble(f"  {name}  ", ("waits for a person: ", "magenta"), payload))
        if self._wait_seconds:
            show(f"  {name}  answer within {self._wait_seconds:g} s, in another terminal; else the demo does:")
        else:
            show(f"  {name}  the demo answers; by hand it would be:")
        show(f"    nats req --server {self._url} dwarf.flow.resume '{request}'")
        show(f"    dwarf-nats flow resume {key} --data '{data}' --nats {self._url}")
        await asyncio.sleep(self._wait_seconds)
        try:
            await self._client.resume(key, self._answer)
        except Conflict:
            return  # somebody was a moment quicker
        show(f"  {name}  answered by the demo: {data}")


class Printed:
    """The steps of a flow as they were last printed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[str, tuple[Status, int]] = {}

    def print_changes(self, steps: Sequence[Step]) -> None:
        """Print the steps that stopped, paused or were sent back since the last call."""
        for step, path in _flat(steps):
            before = self._seen.get(step.step_key)
            self._seen[step.step_key] = now = (step.status, step.attempt)
            if before == now:
                continue
            if step.attempt > (before[1] if before else 0):
                show(
                    Text.assemble(f"  {self._name}  {path:<18} ", ("again", "yellow"), f"  attempt {step.attempt + 1}")
                )
            if step.status.stopped:
                line = Text.assemble(f"  {self._name}  {path:<18} ", coloured(step.status))
                show(line.append(f"  {error_line(step.error)}" if step.error else ""))


def _flat(steps: Sequence[Step], above: str = "") -> Iterator[tuple[Step, str]]:
    for step in steps:
        path = above + one_line(step.task)
        yield from _flat(step.sub_history, f"{path} › ")
        yield step, path


def compact(value: Any) -> str:
    """JSON in one line."""
    return msgspec.json.encode(value).decode()
