"""Answers outlive the connection of their worker: they wait for the next one as long as the engine waits for the step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client as Nats

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Worker, connection, task_server, task_subscriptions
from dwarf_nats.workflow.answer import Answer
from dwarf_nats.workflow.state import Raw
from tests.support.engine_side import PATIENCE, EngineSide

DONE = Answer(changes={"done": Raw(b"true")})


class Held:
    """A task that is held until `gate` is set, and connections that are not made before `may_connect` is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.gate, self.may_connect = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.opened: list[Nats] = []
        self.may_connect.set()
        real = connection.connect

        async def connect(*args: Any, **more: Any) -> Nats:
            await self.may_connect.wait()
            self.opened.append(await real(*args, **more))
            return self.opened[-1]

        monkeypatch.setattr(connection, "connect", connect)

    async def work(self) -> dict[str, bool]:
        self.begun.set()
        await self.gate.wait()
        return {"done": True}

    async def answer_without_a_connection(self, worker: Worker) -> None:
        """Have the task answer, and return when that answer is ready."""
        server = worker._server
        assert server is not None
        assert server.executor is not None
        (execution,) = server.executor._running
        self.gate.set()
        async with asyncio.timeout(PATIENCE):
            while not execution.answered:
                await asyncio.sleep(0)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture
async def worker(nats_server: NatsServer, prefix: str, held: Held) -> AsyncIterator[Worker]:
    worker = Worker(nats_server.url, task_prefix=prefix)
    worker.add_task("work", held.work)
    yield worker
    held.may_connect.set()
    await worker.stop(0)


@pytest.fixture
def engine(nc: Nats, prefix: str) -> EngineSide:
    return EngineSide(nc, prefix)


async def test_an_answer_ready_while_a_start_begins_anew_is_sent(
    engine: EngineSide, worker: Worker, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server went away before its PONG, so the connection is given up. It has served meanwhile: nothing may get lost."""
    real = task_subscriptions.round_trip

    async def first_lost(nc: Nats) -> None:
        await real(nc)
        if len(held.opened) == 1:
            await engine.send("work")
            await held.begun.wait()
            held.may_connect.clear()
            raise nats.errors.ConnectionReconnectingError

    monkeypatch.setattr(task_subscriptions, "round_trip", first_lost)
    start = asyncio.ensure_future(worker.start_patiently())
    async with asyncio.timeout(PATIENCE):
        while worker._link.nc is not None or not held.opened:
            await asyncio.sleep(0)
    await held.answer_without_a_connection(worker)
    held.may_connect.set()
    assert await engine.answer() == DONE
    await asyncio.wait_for(start, PATIENCE)
    assert [nc.is_closed for nc in held.opened] == [True, False]


async def test_an_answer_ready_while_a_new_connection_is_made_is_sent_over_it(prefix: str, held: Held) -> None:
    """The connection is closed for good and the server gone; it comes back, and with it the engine, then the worker."""
    async with NatsServer() as server:
        worker = Worker(server.url, task_prefix=prefix)
        worker.add_task("work", held.work)
        async with worker:
            nc = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0, error_cb=_ignore)
            engine = EngineSide(nc, prefix)
            await engine.send("work")
            await asyncio.wait_for(held.begun.wait(), PATIENCE)
            held.may_connect.clear()
            await server.kill()
            await held.opened[0].close()
            await held.answer_without_a_connection(worker)
            await server.start()
            async with asyncio.timeout(PATIENCE):
                while not nc.is_connected:
                    await asyncio.sleep(0)
                await nc.flush()
            held.may_connect.set()
            assert await engine.answer() == DONE
            assert await engine.call("work") == DONE
            await nc.close()


async def test_an_answer_nobody_waits_for_any_more_is_dropped_and_said(
    engine: EngineSide, worker: Worker, held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the deadline of its step, or after a while."""
    monkeypatch.setattr(task_server, "RECONNECT_SECONDS", 0)
    await worker.start()
    await engine.send("work")
    await asyncio.wait_for(held.begun.wait(), PATIENCE)
    held.may_connect.clear()
    await held.opened[0].close()
    await held.answer_without_a_connection(worker)
    assert worker._server is not None
    assert worker._server.executor is not None
    await asyncio.wait_for(worker._server.executor.wait_idle(), PATIENCE)
    assert "an answer could not be sent" in caplog.text


@pytest.mark.parametrize("given", [True, False])
async def test_a_stop_waits_for_no_connection_that_does_not_come(
    engine: EngineSide, nats_server: NatsServer, prefix: str, held: Held, caplog: pytest.LogCaptureFixture, given: bool
) -> None:
    """No further one is made: a worker that is told to stop makes none, nor one whose connection was the user's."""
    caplog.set_level(logging.WARNING)
    nc = await nats.connect(nats_server.url)
    worker = Worker("" if given else nats_server.url, nc=nc if given else None, task_prefix=prefix)
    worker.add_task("work", held.work)
    await worker.start()
    await engine.send("work")
    await asyncio.wait_for(held.begun.wait(), PATIENCE)
    held.may_connect.clear()
    await (nc if given else held.opened[0]).close()
    await held.answer_without_a_connection(worker)
    await asyncio.wait_for(worker.stop(100_000), PATIENCE)
    assert "an answer could not be sent" in caplog.text
    await nc.close()


async def _ignore(error: Exception) -> None:
    del error
