"""One round: an installation, callers, faults for a while; then rest, and the checker's look at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import nats
import nats.errors
from nats.aio.msg import Msg

from dwarf_nats.errors import Conflict, DwarfError
from dwarf_nats.sdk import Client
from tests.chaos import rows
from tests.chaos.account import Account
from tests.chaos.checker import WAITING, Checker, Evidence, Finding, of_members
from tests.chaos.driver import Driver, Ticket
from tests.chaos.faults import Faults, Timeline
from tests.chaos.moments import Moments
from tests.chaos.node_shapes import ALL_SHAPES, NODE_SHAPES
from tests.chaos.plain_services import PlainServices
from tests.chaos.processes import Arrangement, Installation
from tests.chaos.random_flows import CHILDREN, random_flows

SETTLING_SECONDS = 120.0
"""After the faults every flow comes to its end within so long; a lease that has to run out is the longest that may take."""
SAID_BEFORE_SECONDS = 12.0
"""Of what the members said before a step that is not explained: longer than any timeout that may have begun with a fault."""
SHOWN = 12
CALM_FLOWS = 300
"""So many at least in a calm round, however slow the machine."""
DRAWN = 80
"""Random graphs of a round."""


@dataclass
class Result:
    """What a round came to."""

    arrangement: str
    seed: int
    evidence: Evidence
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    settled_seconds: float = 0.0

    def report(self) -> str:
        """Everything one needs to see what happened, and to have it happen again."""
        lines = [
            f"chaos: arrangement {self.arrangement}, seed {self.seed}: {len(self.findings)} findings",
            self.summary(),
        ]
        if self.findings:
            lines += ["timeline:", *(f"  {line}" for line in self.evidence.timeline.shown())]
        shown: set[Ticket] = set()
        for finding in self.findings:
            ticket = finding.ticket
            lines.append(f"FINDING {ticket.shown + ': ' if ticket else ''}{finding.text}")
            if ticket not in shown and len(shown) < SHOWN:
                if ticket is not None:
                    shown.add(ticket)
                lines += [f"    {line}" for line in finding.where]
        if self.findings:
            lines.append(f"again: {self.again}")
        return "\n".join(lines)

    def summary(self) -> str:
        numbers = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        flows = len(self.evidence.tickets)
        return f"{self.arrangement}, seed {self.seed}: {flows} flows; {numbers}; settled after {self.settled_seconds:.1f} s"

    @property
    def again(self) -> str:
        return f"python -m tests.chaos --arrangement {self.arrangement} --seed {self.seed}"


async def perform(
    arrangement: Arrangement, seed: int, seconds: float, *, calm: bool = False, folder: Path | None = None
) -> Result:
    """A round in which flows are made for so many seconds, and things break unless it is `calm`."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        where = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dwarf-chaos-")))
        async with arrangement.built(where) as installation, _clients(installation) as clients, _provider(installation):
            result = Result(arrangement.name, seed, Evidence(timeline=Timeline()))
            moments = Moments()
            shapes = (*ALL_SHAPES, *NODE_SHAPES, *NODE_SHAPES)
            driver = Driver(clients, random.Random(rng.random()), shapes, random_flows(seed, DRAWN), moments)
            services = PlainServices(moments, driver.signaller.race)
            result.evidence.tickets, result.evidence.calls = driver.tickets, services.calls
            for graph in (graph for shape in ALL_SHAPES for graph in shape.graphs()):
                await clients[0].put_graph(graph)
            faults = None
            if not calm:
                faults = Faults(installation, random.Random(rng.random()), result.evidence.timeline, moments, services)
            async with services.serving(installation.nats.url):
                await _play(installation, driver, faults, seconds, result)
            for one in installation.members:
                await one.drain()
            await _gather(installation, result.evidence)
            checker = Checker(result.evidence)
            result.findings += checker.findings()
            result.findings += of_members(installation.members)
            result.counts |= _counted(result.evidence)
    return result


@contextlib.asynccontextmanager
async def _clients(installation: Installation) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Client(installation.nats.url, timeout=4, patience=4, name=f"chaos-caller-{number}")
            )
            for number in range(2)
        ]


@contextlib.asynccontextmanager
async def _provider(installation: Installation) -> AsyncIterator[None]:
    """Answers for the graphs that random flows call by name: which one it is stands in their baggage (wire section 3)."""
    connection = await nats.connect(
        installation.nats.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_ignore
    )

    async def answer(message: Msg) -> None:
        request = json.loads(message.data)
        graphs = {graph["name"]: graph for graph in request["baggage"].get("example", {}).get("children", [])}
        found = graphs.get(request["workflow"])
        reply = json.dumps(found) if found else '{"error":{"code":404,"message":"no such graph"}}'
        with contextlib.suppress(nats.errors.Error):
            await message.respond(reply.encode())

    for name in CHILDREN:
        await connection.subscribe(f"graph.{name}", cb=answer)
    await connection.flush()
    try:
        yield
    finally:
        await connection.close()


async def _ignore(error: Exception) -> None:
    del error


async def _play(
    installation: Installation, driver: Driver, faults: Faults | None, seconds: float, result: Result
) -> None:
    """Until everything has come to its end, or has had the time to."""
    callers = asyncio.create_task(driver.run())
    try:
        if faults is None:
            end = time.monotonic() + seconds
            while time.monotonic() < end or len(driver.tickets) < CALM_FLOWS:
                await asyncio.sleep(0.1)
        else:
            await faults.run(seconds)
            result.counts |= faults.counts
        driver.stop()
        began = time.monotonic()
        async with asyncio.timeout(SETTLING_SECONDS):
            await asyncio.shield(callers)
            result.settled_seconds = time.monotonic() - began
            await _mend(installation, driver, result)
    except TimeoutError:
        result.findings.append(Finding(f"not everything came to its end within {SETTLING_SECONDS:.0f} s"))
    finally:
        callers.cancel()
        await asyncio.gather(callers, return_exceptions=True)


async def _mend(installation: Installation, driver: Driver, result: Result) -> None:
    """Flows that a killed worker made fail are run again, as their operator would; nothing is in their way any more."""
    await asyncio.gather(*(driver.until_stopped(one) for one in driver.tickets if one.late and not one.deleted))
    await _gather(installation, result.evidence)
    checker = Checker(result.evidence)
    disturbed = {ticket: why for ticket in driver.tickets if (why := checker.disturbed(ticket))}
    result.counts["disturbed"] = len(disturbed)
    result.counts |= checker.struck()  # before any of it is run again
    for ticket in disturbed:
        result.findings += [
            Finding(text, ticket, [*checker.rows(ticket), *installation.said(began - SAID_BEFORE_SECONDS, failed)])
            for text, began, failed in checker.unexplained(ticket)
        ]
        result.findings += [Finding(text, ticket, checker.rows(ticket)) for text in checker.undone(ticket).problems()]

    async def again(ticket: Ticket) -> None:
        ticket.story.append(f"run again, for it was disturbed: {disturbed[ticket]}")
        ticket.again = True
        try:
            await driver.run_again(ticket, lambda: driver.client().restart(ticket.key))
        except Conflict as error:
            ticket.findings.append(f"it cannot be restarted: {error}")
        except DwarfError as error:
            ticket.findings.append(f"the service refused what it should not: {error.code} {error}")

    await asyncio.gather(*map(again, disturbed))
    await driver.signaller.finish()
    for dsn in installation.dsns:
        await rows.until_events_are_settled(dsn)


async def _gather(installation: Installation, evidence: Evidence) -> None:
    evidence.shards = [await rows.read(number, dsn) for number, dsn in enumerate(installation.dsns, 1)]
    evidence.account = Account.read(installation.accounts())


def _counted(evidence: Evidence) -> dict[str, int]:
    """How much was executed, and how much of it more than once without having been asked to (X11)."""
    again = {ticket.number for ticket in evidence.tickets if ticket.again}
    executions = evidence.account.executions
    ended = Counter(
        (one.step_key, one.attempt) for one in executions if one.said not in WAITING and one.ticket not in again
    )
    return {"executions": len(executions), "executed again": sum(count > 1 for count in ended.values())}
