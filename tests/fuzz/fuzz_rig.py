"""A real replica over a real NATS, and what must be true of it whatever it is asked."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats.engine import Engine
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from tests.support.caller import Caller, conforms

T = TypeVar("T")
SOON = 60.0
CODES = frozenset({400, 404, 408, 409, 413, 429, 503})
"""The codes of refusals (semantics: refusals), without 500, a defect of ours."""
FAR_US = 3_000_000
"""What comes due later than this from now is waiting on purpose."""
LIVE = """
select flow_id, step_id, node, status, parked, claimed_by from dwarf_steps
where status in ('pending', 'running') and parked <> 1 and not (status = 'pending' and not_before > {now} + $1)
limit 20
"""
LEASED = "select flow_id, step_id from dwarf_steps where claimed_by is not null and parked <> 1 limit 5"


CARRIED_OUT = re.compile(r"Service\._carry_out|Backlog\._work")
"""Tasks of the service that carry out a request, with and without a reply subject."""


class Heard(logging.Handler):
    """Whatever is logged as an error or with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            formatter = logging.Formatter("%(name)s: %(message)s")
            self.said.append(formatter.format(record))


class FuzzRig:
    """The replica, a client, and a loop of their own for the examples of one test."""

    def __init__(self, runner: asyncio.Runner, nats_url: str, dsn: str, prefix: str, **limits: int) -> None:
        self.runner = runner
        self.prefix = prefix
        self.heard = Heard()
        self.engine: Engine
        self.client: Nats
        self.caller: Caller
        self._url, self._dsn, self._limits = nats_url, dsn, limits
        self._stack = AsyncExitStack()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def open(self) -> None:
        limits = {"max_timeout_ms": 100, "max_steps": 60, "max_branches": 50, "drain_ms": 200, **self._limits}
        settings = ServerSettings.of(
            dsns=[self._dsn], nats_url=self._url, prefix=self.prefix, task_prefix=f"{self.prefix}task",
            graph_prefix=f"{self.prefix}graph", wait_for_servers=False, **limits,
        )  # fmt: skip
        self.engine = await self._stack.enter_async_context(replica(settings))
        self.client = await nats.connect(self._url)
        self._stack.push_async_callback(self.client.close)
        self.caller = Caller(self.client, self.prefix)

    async def close(self) -> None:
        await self._stack.aclose()

    # -- asking

    async def ask(self, operation: str, body: bytes, headers: dict[str, str] | None = None) -> Msg:
        return await self.client.request(f"{self.prefix}.{operation}", body, timeout=SOON, headers=headers)

    def checked(self, operation: str, message: Msg) -> int:
        """The code of a reply, 0 if it is none, which must be one of the rules."""
        if not message.headers:
            assert operation == "graph.get" or isinstance(json.loads(message.data), dict)
            return 0
        code = int(message.headers["Nats-Service-Error-Code"])
        assert code in CODES, (operation, code, message.data)
        line = message.headers["Nats-Service-Error"]
        assert line, operation
        assert line.isascii(), line
        assert not set(line) & {"\r", "\n"}
        error = conforms("error_reply", json.loads(message.data))["error"]
        assert error["code"] == code
        return code

    async def well(self) -> None:
        """It serves as ever, and has logged no error."""
        message = await self.ask("flow.run", b'{"task": 1}')
        assert self.checked("flow.run", message) == 400
        assert (await self.caller.ok("shard.info"))["shards"][0]["error"] == ""
        assert not self.heard.said, "\n".join(self.heard.said)

    # -- being at rest

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        return list(await self.engine.shards[1].store.database.fetch(sql, *args))  # type: ignore[attr-defined]

    async def at_rest(self) -> None:
        """Until nothing runs and nothing is due: what is left waits on purpose. Then nothing is leased."""
        await self.ask("flow.run", b'{"task": 1}')  # when this is answered, the replica has all that was sent before
        await self._end_definitions()
        loop = asyncio.get_running_loop()
        end = loop.time() + SOON
        while True:
            # Those without a reply subject are answered by nobody, so they are waited for as what they are.
            while carried := [one for one in asyncio.all_tasks() if CARRIED_OUT.search(str(one.get_coro()))]:
                await asyncio.wait(carried)
            left = await self.fetch(LIVE, FAR_US)
            left += await self.fetch(LEASED)
            if not left:
                return
            assert loop.time() < end, ("stuck", [tuple(row) for row in left])
            await asyncio.sleep(0.005)

    async def _end_definitions(self) -> None:
        """What holds steps, or makes new ones, ends: limits, holds, sources, schedules."""
        definitions = self.engine.replica.definitions
        for kind in ("source", "limit", "hold", "retention", "shard"):
            for one in await definitions.list(kind):
                await definitions.delete(kind, one.name)
        await self.fetch("delete from dwarf_schedules")

    async def clear(self) -> None:
        """Nothing of these examples is left for the next ones."""
        for table in ("dwarf_steps", "dwarf_flows"):
            await self.fetch(f"delete from {table}")


@contextmanager
def opened(nats_url: str, dsn: str, prefix: str, **limits: int) -> Iterator[FuzzRig]:
    logger = logging.getLogger()
    with asyncio.Runner() as runner:
        rig = FuzzRig(runner, nats_url, dsn, prefix, **limits)
        logger.addHandler(rig.heard)
        try:
            rig.run(rig.open())
            try:
                yield rig
            finally:
                rig.run(rig.close())
        finally:
            logger.removeHandler(rig.heard)
