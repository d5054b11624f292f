"""Real replicas as processes of their own, for tests that end them the hard way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client


class Replica:
    """`dwarf-nats serve` as a child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def spawn(cls, nats_url: str, dsn: str, *flags: str) -> Replica:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dwarf_nats.cli.main", "serve", "--nats", nats_url, "--dsn", dsn, *flags),
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.communicate()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> tuple[int, str]:
        """Exit code and what it said on stderr."""
        _, said = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, said.decode()


@contextlib.asynccontextmanager
async def replica(nats_url: str, dsn: str, *flags: str) -> AsyncIterator[Replica]:
    """A replica that is gone at the end, whatever happened."""
    one = await Replica.spawn(nats_url, dsn, *flags)
    try:
        yield one
    finally:
        if one.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()
            await one.process.communicate()


@contextlib.asynccontextmanager
async def client(nats_url: str) -> AsyncIterator[Client]:
    """A connection that comes back quickly."""
    connection = await nats.connect(nats_url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_ignore)
    try:
        yield connection
    finally:
        await connection.close()


async def _ignore(error: Exception) -> None:
    del error


async def until_ready(connection: Client, one: Replica) -> None:
    """Wait until the replica answers `$SRV.PING.dwarf`."""
    async with asyncio.timeout(60):
        while True:
            if one.process.returncode is not None:
                raise AssertionError(f"the replica ended: {(await one.ended())[1]}")
            inbox = connection.new_inbox()
            answers = await connection.subscribe(inbox)
            try:
                await connection.publish("$SRV.PING.dwarf", b"", reply=inbox)
                message = await answers.next_msg(timeout=0.5)
                if not message.headers:
                    return
            except (nats.errors.Error, OSError):
                pass
            finally:
                with contextlib.suppress(Exception):
                    await answers.unsubscribe()
            await asyncio.sleep(0.05)


async def ask(connection: Client, subject: str, body: dict[str, Any], timeout: float = 30) -> dict[str, Any]:
    """One request; a refusal is in `error`."""
    message = await connection.request(subject, json.dumps(body).encode(), timeout=timeout)
    reply: dict[str, Any] = json.loads(message.data)
    return reply


async def ask_until_served(connection: Client, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    """As `ask`, again while the answer is 503, lost, or nobody is there."""
    async with asyncio.timeout(90):
        while True:
            with contextlib.suppress(nats.errors.Error, OSError):
                reply = await ask(connection, subject, body, timeout=5)
                if reply.get("error", {}).get("code") != 503:
                    return reply
            await asyncio.sleep(0.05)


def line(name: str, tasks: list[str]) -> dict[str, Any]:
    """A straight-line graph over `tasks`."""
    nodes = [{"name": f"n{index}", "url": url} for index, url in enumerate(tasks)]
    names = [node["name"] for node in nodes] + ["END"]
    return {
        "name": name,
        "entryPoint": "n0",
        "tasks": nodes,
        "transitions": [{"from": a, "to": b} for a, b in zip(names, names[1:], strict=False)],
    }


WORKER = """
import asyncio, os, signal, sys, time
from dwarf_nats.sdk import Flow, Worker

url, prefix, name = sys.argv[1:]
worker = Worker(url, task_prefix=prefix, drain_seconds=0)
go = asyncio.Event()

def say(what, flow):
    os.write(1, f"{what} {flow.step_key.rpartition('-')[0]}\\n".encode())  # whole, from any thread

@worker.task("quick")
async def quick(flow: Flow) -> dict[str, str]:
    say("begun", flow)
    return {"by": name}

@worker.task("long")
async def long(flow: Flow) -> dict[str, str]:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go.set)
    say("begun", flow)
    try:
        await go.wait()
    except asyncio.CancelledError:
        say("cancelled" if flow.cancelled else "ended", flow)
        raise
    return {"by": name}

@worker.task("block")
def block(flow: Flow) -> dict[str, str]:
    say("begun", flow)
    while not flow.cancelled:
        time.sleep(0.01)
    say("cancelled", flow)
    return {"by": name}

@worker.task("pages")
async def pages(flow: Flow) -> dict[str, str]:
    say(f"from-{flow.checkpoint}", flow)
    if flow.checkpoint is None:
        flow.progress(0.5, "half way", 5)
        await go.wait()
    return {"by": name}

worker.main()
"""


class WorkerProcess:
    """A worker of the SDK as a child process, which says on its standard output what its tasks do."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def said(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            line = await self.process.stdout.readline()
        assert line, f"the worker ended: {await self._errors()}"
        return line.decode().strip()

    async def _errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


@contextlib.asynccontextmanager
async def worker(nats_url: str, task_prefix: str, name: str) -> AsyncIterator[WorkerProcess]:
    """A worker that serves, and is gone at the end. Tasks: `quick`; `long` until SIGUSR1; `block` until it is cancelled;
    `pages`, which reports progress and waits, unless it has a checkpoint."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, nats_url, task_prefix, name),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    one = WorkerProcess(process)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b"serving" not in (line := await process.stderr.readline()):
                assert line, "the worker ended"
        yield one
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
