"""The callers: they make flows, resume, cancel and run them again while things break, and ask again when they are refused.

What a caller cannot know (whether a request was carried out whose reply was lost) is written down on the ticket.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from dwarf_nats.errors import Conflict, DwarfError, TimedOut, TooMany, Unavailable
from dwarf_nats.sdk import Client
from dwarf_nats.workflow.nodes import COMPENSATION_SUFFIX
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status
from tests.chaos.moments import Moments
from tests.chaos.shapes import Expected, Shape, State
from tests.chaos.signals import Signal, Signaller

T = TypeVar("T")
AT_ONCE = 24
"""Flows under way at a time."""


@dataclass(eq=False)
class Ticket:
    """One flow as its caller knows it."""

    number: int
    shape: Shape
    state: State
    key: str = ""
    outcome: Outcome | None = None
    """What the caller was told last."""
    cancelled: str = ""
    """`yes` if a cancel was acknowledged, `perhaps` if its reply was lost."""
    made_from: Ticket | None = None
    """The flow that this one is a copy of, or continues."""
    lost_copies: int = 0
    """Copies of which the key was lost with the reply: flows that may be there without a ticket."""
    deleted: str = ""
    """`yes` if it was deleted, `perhaps` if the reply was lost."""
    unclear: bool = False
    """The reply of a resume was lost: it may have been for another pause than the one that was seen."""
    late: bool = False
    """The reply of a restart was lost: a replica that stood still may carry it out after its caller saw the flow end."""
    again: bool = False
    """It was made to run again: steps that were executed may be gone."""
    signals: list[Signal] = field(default_factory=list)
    """Events that were signalled for it."""
    story: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def expected(self) -> Expected:
        return self.shape.expected(self.state)

    @property
    def shown(self) -> str:
        return f"{self.shape.name} #{self.number} ({self.key.rpartition('-')[0] or 'no key'})"


class Driver:
    """All callers of one round."""

    def __init__(
        self, clients: list[Client], rng: random.Random, shapes: Sequence[Shape], random_flows: Sequence[Shape],
        moments: Moments,
    ) -> None:  # fmt: skip
        self.tickets: list[Ticket] = []
        self._clients = clients
        self._rng = rng
        self._shapes = shapes
        self._drawn = random_flows
        self.signaller = Signaller(self.client, random.Random(rng.random()), moments)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Keep `AT_ONCE` flows going until `stop`, and see all of them to their end."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._caller())

    def stop(self) -> None:
        """No more new flows."""
        self._stop.set()

    async def _caller(self) -> None:
        while not self._stop.is_set():
            shape = self._rng.choice(self._drawn if self._drawn and self._rng.random() < 0.3 else self._shapes)
            cargo = {"cargo": "x" * 3_000} if shape.marked and self._rng.random() < 0.4 else {}  # stored once
            await self.see_through(self._ticket(shape, {**shape.draw(self._rng), **cargo}))

    def _ticket(self, shape: Shape, state: State, made_from: Ticket | None = None) -> Ticket:
        ticket = Ticket(len(self.tickets) + 1, shape, state, made_from=made_from)
        self.tickets.append(ticket)
        return ticket

    # -- one flow

    async def see_through(self, ticket: Ticket) -> None:
        """From its creation to its end, and sometimes further."""
        chance = self._rng.random()
        try:
            await self.signaller.before(ticket)
            await self._create(ticket)
            if chance < ticket.shape.cancel_odds:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._cancel_later(ticket, self._rng.uniform(0, 1.5)))
                    group.create_task(self.until_stopped(ticket))
            else:
                await self.until_stopped(ticket)
            if chance > 0.8:
                await self._once_more(ticket)
        except DwarfError as error:
            ticket.findings.append(f"the service refused what it should not: {error.code} {error}")

    async def _create(self, ticket: Ticket) -> None:
        later = self._rng.random() < 0.1
        start_at = datetime.now(UTC) + timedelta(seconds=self._rng.uniform(0.2, 2)) if later else None
        options = FlowOptions(
            idempotency_key=f"ticket-{ticket.number}", baggage={"ticket": ticket.number, **ticket.shape.baggage},
            start_at=start_at, priority=self._rng.choice([None, None, 50]),
        )  # fmt: skip
        start = not ticket.shape.breakpoints

        async def create() -> str:
            return await self.client().create(ticket.shape.workflow, ticket.state, options, start=start)

        # Some ask twice at a time: it is one flow all the same (O1).
        keys = await asyncio.gather(*(self._insist(ticket, create) for _ in range(self._rng.choice([1, 1, 1, 2, 3]))))
        ticket.key = keys[0]
        ticket.story.append(f"created as {ticket.key.rpartition('-')[0]}")
        if len(set(keys)) > 1:
            ticket.findings.append(f"one idempotency key made several flows: {sorted(set(keys))} (O1)")
        for node in ticket.shape.breakpoints:
            await self._insist(ticket, lambda node=node: self.client().break_before(ticket.key, node))
        if not start:
            await self._start(ticket)

    async def _start(self, ticket: Ticket) -> None:
        try:
            await self._insist(ticket, lambda: self.client().start(ticket.key))
        except Conflict:
            outcome = await self._insist(ticket, lambda: self.client().snapshot(ticket.key))
            if outcome.status is Status.CREATED:
                raise

    async def until_stopped(self, ticket: Ticket) -> None:
        """Wait until it is completed, failed or cancelled, resuming whatever pauses and signalling what it waits for."""
        async with self.signaller.meanwhile(ticket):
            await self._until_stopped(ticket)

    async def _until_stopped(self, ticket: Ticket) -> None:
        while True:
            try:
                outcome = await self._insist(ticket, lambda: self.client().await_(ticket.key, timeout=20))
            except TimedOut:
                continue
            if outcome.status.terminal:
                ticket.outcome = outcome
                ticket.story.append(f"heard that it is {outcome.status}")
                return
            try:
                await self._resume(ticket, outcome)
            except Conflict:
                pass  # somebody else did
            except (TimedOut, TooMany, Unavailable) as error:
                ticket.unclear = True
                ticket.story.append(f"a resume whose reply was lost: {error}")

    async def _resume(self, ticket: Ticket, outcome: Outcome) -> None:
        """The oldest pause shows: an interrupt with its payload, a breakpoint without (O5)."""
        if outcome.interrupt_json is not None:
            await self.client().resume(ticket.key, ticket.shape.answer(outcome.interrupt_payload))
        else:
            await self.client().resume_break(ticket.key, ticket.shape.overrides)

    async def _cancel_later(self, ticket: Ticket, seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            await self.client().cancel(ticket.key, "chaos")
        except Conflict:
            ticket.story.append("too late for a cancel")
        except (TimedOut, TooMany, Unavailable) as error:
            ticket.cancelled = "perhaps"
            ticket.story.append(f"a cancel whose reply was lost: {error}")
        else:
            ticket.cancelled = "yes"
            ticket.story.append("cancelled")

    # -- and once more

    async def _once_more(self, ticket: Ticket) -> None:
        """Run a flow that has ended again, or a part of it; or make another one of it."""
        ways: list[Callable[[Ticket], Awaitable[None]]] = [self._restart, self._restart_from]
        if ticket.shape.forkable and not ticket.cancelled:
            ways += [self._fork, self._continue] if ticket.shape.continuable else [self._fork]
        chance = self._rng.random()
        if chance < 0.4:
            ways = [self._create_again if chance < 0.25 else self._delete]
        await self._rng.choice(ways)(ticket)

    async def _restart(self, ticket: Ticket) -> None:
        ticket.again = True
        ticket.story.append("restart")
        await self.run_again(ticket, lambda: self.client().restart(ticket.key))

    async def _restart_from(self, ticket: Ticket) -> None:
        if ticket.cancelled:  # a 409
            return
        steps = _done(_flat(await self._insist(ticket, lambda: self.client().history(ticket.key))))
        step = self._rng.choice(steps)
        whole = await self._insist(ticket, lambda: self.client().step(step.step_key))
        if b"reducer on field" in (whole.changes_json or b"") or "reducer on field" in str(whole.error):
            return  # a fan-in that failed without having run would run, on what there was before the fan-out
        ticket.again = True
        ticket.story.append(f"restart from {step.task} ({step.step_id})")
        await self.run_again(ticket, lambda: self.client().restart_from(step.step_key))

    async def run_again(self, ticket: Ticket, ask: Callable[[], Awaitable[None]]) -> None:
        """Have it run again, and wait for its end. If the reply is lost, either is right."""
        before = ticket.cancelled
        ticket.cancelled = ""
        try:
            await ask()
        except (TimedOut, TooMany, Unavailable) as error:
            ticket.cancelled = "perhaps" if before else ""
            ticket.late = True
            ticket.story.append(f"its reply was lost: {error}")
        await self.until_stopped(ticket)

    async def _fork(self, ticket: Ticket) -> None:
        step = self._rng.choice(_done(await self._insist(ticket, lambda: self.client().history(ticket.key))))
        ticket.story.append(f"copied from {step.task} ({step.step_id})")
        try:
            key = await self.client().fork(step.step_key)
        except (TimedOut, TooMany, Unavailable) as error:
            ticket.lost_copies += 1
            ticket.story.append(f"a copy whose key was lost: {error}")
            return
        copy = self._ticket(ticket.shape, ticket.state, ticket)
        copy.key = key
        copy.story.append(f"a copy of {ticket.shown} from {step.task} ({step.step_id})")
        await self.until_stopped(copy)

    async def _continue(self, ticket: Ticket) -> None:
        if ticket.outcome is None or ticket.outcome.status is not Status.COMPLETED:
            return
        given = {"trace": None}
        after = self._ticket(ticket.shape, {**ticket.outcome.state}, ticket)
        after.state.pop("trace", None)
        options = FlowOptions(
            idempotency_key=f"ticket-{after.number}", baggage={"ticket": after.number, **ticket.shape.baggage}
        )

        async def continue_() -> str:
            return await self.client().continue_(ticket.key, given, options, start=True)

        after.key = await self._insist(after, continue_)
        after.story.append(f"continues {ticket.shown}")
        await self.until_stopped(after)

    async def _delete(self, ticket: Ticket) -> None:
        """It goes, and all it called with it (O9)."""
        try:
            await self.client().delete(ticket.key)
        except (TimedOut, TooMany, Unavailable) as error:
            ticket.deleted = "perhaps"
            ticket.story.append(f"a delete whose reply was lost: {error}")
        else:
            ticket.deleted = "yes"

    async def _create_again(self, ticket: Ticket) -> None:
        """The same request long after: the flow made before, and nothing else (O1)."""
        if ticket.made_from is not None:
            return
        options = FlowOptions(idempotency_key=f"ticket-{ticket.number}", baggage={"ticket": ticket.number})
        key = await self._insist(
            ticket, lambda: self.client().create(ticket.shape.workflow, ticket.state, options, start=True)
        )
        if key != ticket.key:
            ticket.findings.append(f"its idempotency key, used again, made another flow: {key} (O1)")

    # -- manners

    def client(self) -> Client:
        return self._rng.choice(self._clients)

    async def _insist(self, ticket: Ticket, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until it is answered: what may be asked twice."""
        while True:
            try:
                return await ask()
            except (TooMany, Unavailable) as error:
                if not ticket.story or ticket.story[-1] != str(error):
                    ticket.story.append(str(error))
            await asyncio.sleep(0.1)


def _done(steps: list[Step]) -> list[Step]:
    """Without compensations, from which nothing can run again."""
    return [step for step in steps if not step.task.endswith(COMPENSATION_SUFFIX)]


def _flat(steps: list[Step]) -> list[Step]:
    return [one for step in steps for one in (step, *_flat(step.sub_history))]
