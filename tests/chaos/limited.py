"""Limits under kill -9: replicas die at random, and the task service itself counts what it is asked (K1).

`python -m tests.chaos.limited --seconds 1800 --seed 7 --shards 2`. The service knows each request's replica by its inbox.
What a killed replica has asked for is not counted any more: the rules leave that beyond a limit, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer, PostgresServer
from tests.recovery.processes import Replica, ask, ask_until_served, client, until_ready

WORK, RATED = "work", "rated"
LONGEST_TASK_SECONDS = 0.05
SETTLING_SECONDS = 4.0
"""After a change, replicas may follow the limit before it for so long: two seconds, and the tasks that began by then."""
WINDOW_SECONDS = 10.0
DONE_SECONDS = 120.0
_numbers = itertools.count(1)


@dataclass(slots=True)
class Allowed:
    """What a limit has allowed lately."""

    concurrency: int
    changes: deque[tuple[float, int]] = field(default_factory=deque)

    def change(self, concurrency: int) -> None:
        self.changes.append((time.monotonic(), self.concurrency))
        self.concurrency = concurrency

    @property
    def most(self) -> int:
        """The greatest that may be in force."""
        now = time.monotonic()
        while self.changes and self.changes[0][0] < now - SETTLING_SECONDS:
            self.changes.popleft()
        return max([self.concurrency, *(before for _, before in self.changes)])


class CountingService:
    """Serves both tasks over plain NATS and counts executions by key and replica. `exceeded`: each time there were too many."""

    def __init__(self, connection: Client, prefix: str, *, each: int, in_all: int) -> None:
        self._connection = connection
        self._prefix = prefix
        self.each, self.in_all = Allowed(each), Allowed(in_all)
        self.exceeded: list[str] = []
        self.most = 0
        self.executions = 0
        self.began: list[float] = []
        self._running: dict[int, tuple[str, str]] = {}
        self._dead: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Serve."""
        for task in (WORK, RATED):
            await self._connection.subscribe(f"{self._prefix}task.{task}", queue="service", cb=self._take)
        await self._connection.flush()

    def bury(self, inbox: str) -> None:
        """The replica of this inbox was killed: what it asked for counts no more."""
        self._dead.add(inbox)

    async def _take(self, message: Msg) -> None:
        task = asyncio.create_task(self._run(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, message: Msg) -> None:
        self.executions += 1
        if message.subject.endswith(RATED):
            self.began.append(time.monotonic())
            await message.respond(b"")
            return
        number = next(_numbers)
        inbox = ".".join(message.reply.split(".")[:2])
        self._running[number] = (json.loads(message.data)["state"]["key"], inbox)
        self._check()
        await asyncio.sleep(random.uniform(0, LONGEST_TASK_SECONDS))
        del self._running[number]
        await message.respond(b"")

    def _check(self) -> None:
        counted = Counter(key for key, inbox in self._running.values() if inbox not in self._dead)
        total = counted.total()
        self.most = max(self.most, total)
        if total > self.in_all.most:
            self.exceeded.append(f"{total} at once, {self.in_all.most} are allowed")
        for key, number in counted.items():
            if number > self.each.most:
                self.exceeded.append(f"{number} of key {key}, {self.each.most} are allowed")

    def rates(self) -> tuple[int, int]:
        """The least and the most beginnings in any ten seconds that were served throughout."""
        began, counts, first = self.began, [], 0
        for last, at in enumerate(began):
            while began[first] <= at - WINDOW_SECONDS:
                first += 1
            if at - began[0] >= WINDOW_SECONDS:
                counts.append(last - first + 1)
        return (min(counts), max(counts)) if counts else (0, 0)


class Crew:
    """Replicas that are killed and replaced."""

    def __init__(self, nats_url: str, dsns: Sequence[str], connection: Client, prefix: str) -> None:
        self._nats_url = nats_url
        self._dsns = dsns
        self._connection = connection
        self._prefix = prefix
        self.members: list[tuple[Replica, str]] = []
        self.kills = 0

    async def add(self) -> None:
        """Start one more replica, and wait until it serves."""
        inbox = f"_INBOX.limited{next(_numbers)}"
        more = [flag for dsn in self._dsns[1:] for flag in ("--dsn", dsn)]
        flags = ["--prefix", self._prefix, "--task-prefix", f"{self._prefix}task", "--inbox-prefix", inbox]
        one = await Replica.spawn(
            self._nats_url, self._dsns[0], *more, *flags, "--replica-timeout-ms", "4000", "--workers", "24"
        )
        self.members.append((one, inbox))
        await until_ready(self._connection, one)

    async def kill_one(self, service: CountingService) -> None:
        """kill -9 of any of them."""
        one, inbox = self.members.pop(random.randrange(len(self.members)))
        one.process.kill()
        service.bury(inbox)
        await one.process.communicate()
        self.kills += 1

    async def close(self) -> None:
        """End them all."""
        for one, _ in self.members:
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()
            await one.process.communicate()


@dataclass(slots=True)
class Round:
    """One run: its service and crew, and how many flows it made."""

    connection: Client
    prefix: str
    service: CountingService
    crew: Crew
    flows: int = 0

    async def put(self, **limit: Any) -> None:
        """Set a limit."""
        reply = await ask_until_served(self.connection, f"{self.prefix}.limit.put", limit)
        assert "error" not in reply, reply

    async def feed(self, count: int) -> None:
        """Make so many flows, twenty of them at the rated task."""
        body: dict[str, Any]
        for number in range(count):
            key = f"key{random.randrange(6)}"
            body = {"task": WORK if number % 4 else RATED, "state": {"key": key}, "start": True}
            body["options"] = {"fairnessKey": key, "priority": random.choice((10, 10, 20))}
            reply = await ask_until_served(self.connection, f"{self.prefix}.flow.create_task", body)
            self.flows += "flowKey" in reply

    async def left(self) -> int:
        """Flows that have not ended."""
        with contextlib.suppress(Exception):
            reply = await ask(self.connection, f"{self.prefix}.flow.list", {"status": "running", "limit": 1000}, 5)
            return len(reply.get("flows", [0]))
        return 1000

    async def until_done(self) -> None:
        """Wait until no flow runs."""
        async with asyncio.timeout(DONE_SECONDS):
            while await self.left():
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def new_round(nats_url: str, dsns: Sequence[str], *, each: int = 2, in_all: int = 5) -> AsyncIterator[Round]:
    """A service with two limits of one task and a rate of another, without a replica yet."""
    prefix = f"limited{next(_numbers)}"
    async with client(nats_url) as connection:
        service = CountingService(connection, prefix, each=each, in_all=in_all)
        await service.start()
        crew = Crew(nats_url, dsns, connection, prefix)
        try:
            yield Round(connection, prefix, service, crew)
        finally:
            await crew.close()


async def limits_of(one: Round, per_second: float) -> None:
    """Put the limits."""
    await one.put(name="all", task=WORK, concurrency=one.service.in_all.concurrency)
    await one.put(name="each", task=WORK, by="fairnessKey", concurrency=one.service.each.concurrency)
    await one.put(name="rate", task=RATED, perSecond=per_second)


async def main(seconds: float, seed: int, shards: int, replicas: int) -> int:
    """Kill and replace replicas for so long; return the exit code."""
    random.seed(seed)
    nats, postgres = NatsServer(), PostgresServer(fast=True)
    await nats.start()
    await postgres.start()
    try:
        dsns = [await postgres.create_database(f"limited_{number}") for number in range(shards)]
        async with new_round(nats.url, dsns) as one:
            for _ in range(replicas):
                await one.crew.add()
            await limits_of(one, 20)
            await until_exhausted(one, seconds, replicas)
            return told(one)
    finally:
        await nats.stop()
        await postgres.stop("immediate")


async def until_exhausted(one: Round, seconds: float, replicas: int) -> None:
    """Feed, kill, change limits, until the time is over; then wait for the last flow."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not one.service.exceeded:
        if await one.left() < 300:
            await one.feed(60)
        await asyncio.sleep(random.uniform(0, 2))
        if random.random() < 0.3:
            allowed = random.choice((3, 5, 8))
            one.service.in_all.change(allowed)
            await one.put(name="all", task=WORK, concurrency=allowed)
        if random.random() < 0.3:
            await one.crew.kill_one(one.service)
        while len(one.crew.members) < replicas:
            await one.crew.add()
        sys.stdout.write(
            f"\r{one.flows} flows, {one.service.executions} executions, {one.crew.kills} kills, most {one.service.most}"
        )
        sys.stdout.flush()
    await one.until_done()


def told(one: Round) -> int:
    """Print what was found; the exit code."""
    least, most = one.service.rates()
    print(
        f"\n{one.flows} flows, {one.service.executions} executions, {one.crew.kills} kills;"
        f" at once {one.service.most} at most; in ten seconds {least} to {most} beginnings at 20 a second"
    )
    for text in one.service.exceeded[:10]:
        print(f"exceeded: {text}")
    return 1 if one.service.exceeded else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=2)
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.seconds, given.seed, given.shards, given.replicas)))
