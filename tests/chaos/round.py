"""One round: a house, callers, faults for a while; then rest, and the checker's look at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from dwarf_nats.errors import Conflict, DwarfError
from dwarf_nats.sdk import Client
from tests.chaos import rows
from tests.chaos.account import Account
from tests.chaos.checker import Checker, Finding, of_members
from tests.chaos.driver import Driver, Ticket
from tests.chaos.faults import Faults, Timeline
from tests.chaos.processes import Arrangement, House
from tests.chaos.shapes import SHAPES

SETTLING_SECONDS = 60.0
"""After the faults every flow comes to its end within so long."""


@dataclass
class Result:
    """What a round came to."""

    arrangement: str
    seed: int
    tickets: list[Ticket] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)
    counts: dict[str, int] = field(default_factory=dict)

    def report(self) -> str:
        """Everything one needs to see what happened, and to have it happen again."""
        lines = [
            f"chaos: arrangement {self.arrangement}, seed {self.seed}: {len(self.findings)} findings",
            self.summary(),
        ]
        if self.findings:
            lines += ["timeline:", *(f"  {line}" for line in self.timeline.shown())]
        shown: set[Ticket] = set()
        for finding in self.findings:
            ticket = finding.ticket
            lines.append(f"FINDING {ticket.shown + ': ' if ticket else ''}{finding.text}")
            if ticket is not None and ticket not in shown and len(shown) < 12:
                shown.add(ticket)
                lines += [f"    {line}" for line in finding.where]
        if self.findings:
            lines.append(f"again: {self.again}")
        return "\n".join(lines)

    def summary(self) -> str:
        numbers = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{self.arrangement}, seed {self.seed}: {len(self.tickets)} flows; {numbers}"

    @property
    def again(self) -> str:
        return f"python -m tests.chaos --arrangement {self.arrangement} --seed {self.seed}"


async def perform(arrangement: Arrangement, seed: int, seconds: float, folder: Path | None = None) -> Result:
    """A round of faults for so many seconds; none of them if `seconds` is negative, which then is how long flows are made."""
    result = Result(arrangement.name, seed)
    with contextlib.ExitStack() as stack:
        where = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dwarf-chaos-")))
        async with arrangement.built(where) as house, _clients(house) as clients:
            await _play(house, clients, result, seconds)
            account = Account.read(house.accounts())
            for one in house.members:
                await one.drain()
            checker = Checker(result.tickets, await _shards(house), account, result.timeline)
            result.findings += checker.findings()
            result.findings += of_members(house.members)
            result.counts["executions"] = len(account.executions)
            counts = Counter((one.step_key, one.attempt, one.said == "answered") for one in account.executions)
            result.counts["repeated"] = sum(count > 1 for count in counts.values())
    return result


@contextlib.asynccontextmanager
async def _clients(house: House) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Client(house.nats.url, timeout=4, patience=4, name=f"chaos-caller-{number}")
            )
            for number in range(2)
        ]


async def _play(house: House, clients: list[Client], result: Result, seconds: float) -> None:
    rng = random.Random(result.seed)
    driver = Driver(clients, random.Random(rng.random()), result.timeline)
    result.tickets = driver.tickets
    for shape in SHAPES:
        for graph in shape.graphs():
            await clients[0].put_graph(graph)
    callers = asyncio.create_task(driver.run())
    try:
        if seconds < 0:
            await asyncio.sleep(-seconds)
        else:
            faults = Faults(house, random.Random(rng.random()), result.timeline)
            await faults.run(seconds)
            result.counts |= faults.counts
        driver.stop()
        async with asyncio.timeout(SETTLING_SECONDS):
            await asyncio.shield(callers)
            await _mend(house, driver, result)
    except TimeoutError:
        result.findings.append(Finding(f"not everything came to its end within {SETTLING_SECONDS:.0f} s"))
    finally:
        callers.cancel()
        await asyncio.gather(callers, return_exceptions=True)


async def _mend(house: House, driver: Driver, result: Result) -> None:
    """Flows that a killed worker made fail are run again, as their operator would; nothing is in their way any more."""
    checker = Checker(result.tickets, await _shards(house), Account.read(house.accounts()), result.timeline)
    disturbed = {ticket: why for ticket in result.tickets if (why := checker.disturbed(ticket))}
    result.counts["disturbed"] = len(disturbed)
    for ticket in disturbed:
        result.findings += [Finding(text, ticket, checker.rows(ticket)) for text in checker.unexplained(ticket)]

    async def again(ticket: Ticket) -> None:
        ticket.story.append(f"run again, for it was disturbed: {disturbed[ticket]}")
        ticket.again = True
        try:
            await driver.run_again(ticket, lambda: driver.client().restart(ticket.key))
        except Conflict as error:
            ticket.findings.append(f"it cannot be restarted: {error}")
        except DwarfError as error:
            ticket.findings.append(f"the service refused what it should not: {error.code} {error}")

    await asyncio.gather(*(again(ticket) for ticket in disturbed))


async def _shards(house: House) -> list[rows.Shard]:
    return [await rows.read(number, dsn) for number, dsn in enumerate(house.dsns, 1)]
