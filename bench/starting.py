"""The cost of starting: CPU time of commands, time of a replica and of `dev` to their ready lines, memory at rest."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from .arms import Servers, Sides
from .children import ROOT, Failed
from .resting import nothing_run
from .result import Arm, Figures

_CALLS = 5
"""Calls of each command in a round; the quickest counts, since the others were disturbed."""
_START_SECONDS = 60.0
_SETTLE_SECONDS = 3.0
_TASKS = """
from dwarf_nats import Worker

worker = Worker()


@worker.task("demo.greet")
async def greet(name: str) -> dict[str, str]:
    return {"greeting": f"hello {name}"}
"""


class StartArm:
    """Starts on an empty database of this kind. Each round starts everything anew; bytecode is there from the first on."""

    def __init__(self, database: str, servers: Servers, sides: Sides) -> None:  # noqa: ARG002 - a runner's signature
        self.figures = Arm(database)
        self._database = database
        self._servers = servers
        self._admin: asyncpg.Connection | None = None

    async def __aenter__(self) -> Self:
        if self._database == "postgresql":
            self._admin = await asyncpg.connect(self._servers.dsn)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._admin is not None:
            await self._admin.close()

    async def warm_up(self, concurrency: int) -> None:
        """Compile the modules."""
        await self.measure(concurrency, 1)

    async def measure(self, concurrency: int, flows: int) -> Figures:  # noqa: ARG002 - a runner's signature
        """Start each once, the commands a few times."""
        start = time.perf_counter()
        prefix, dsn = f"start{secrets.token_hex(4)}", await self._empty_dsn()
        found = nothing_run(0.0)
        nats = ["--nats", self._servers.nats, "--prefix", prefix]
        async with _Started(["serve", "--dsn", dsn, *nats], "is ready") as replica:
            found.measures["serve_ready_ms"] = replica.ready_ms
            await asyncio.sleep(_SETTLE_SECONDS)
            found.measures["idle_rss_mib"] = replica.rss_kib() / 1024
            for name, command in (("help", ["--help"]), ("flow_list", ["flow", "list", *nats])):
                costs = [await asyncio.to_thread(_cpu_ms, command) for _ in range(_CALLS)]
                found.measures[f"{name}_cpu_ms"] = min(costs)
        if self._database == "sqlite":
            found.measures["dev_ready_ms"] = await self._dev_ready_ms()
        found.seconds = time.perf_counter() - start
        return found

    async def _empty_dsn(self) -> str:
        name = f"start_{secrets.token_hex(4)}"
        if self._admin is None:
            return f"sqlite:///{self._servers.folder / name}.db"
        await self._admin.execute(f"create database {name}")
        return urlsplit(self._servers.dsn)._replace(path=f"/{name}").geturl()

    async def _dev_ready_ms(self) -> float:
        folder = self._servers.folder / f"dev-{secrets.token_hex(4)}"
        folder.mkdir()
        (folder / "tasks.py").write_text(_TASKS)
        command = ["dev", str(folder / "tasks.py"), "--data", str(folder / "data")]
        async with _Started(command, "Ctrl-C stops everything") as dev:
            return dev.ready_ms


class _Started:
    """A command that runs until it is stopped. `ready_ms`: from its start to the line that says that it is ready."""

    def __init__(self, command: list[str], ready: str) -> None:
        self._command = command
        self._ready = ready
        self._process: asyncio.subprocess.Process | None = None
        self.ready_ms = 0.0

    async def __aenter__(self) -> Self:
        start = time.perf_counter()
        self._process = await asyncio.create_subprocess_exec(
            *_line(self._command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._until_ready()
        except BaseException:
            await self._stop()
            raise
        self.ready_ms = (time.perf_counter() - start) * 1000
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _until_ready(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        said = ""
        while self._ready not in said:
            line = await self._process.stdout.readline()
            if not line:
                raise Failed(f"{self._command[0]} ended: {said}")
            said += line.decode()

    async def _stop(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
            await self._process.communicate()

    def rss_kib(self) -> float:
        """Resident memory of the process."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return float(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def _cpu_ms(command: list[str]) -> float:
    """CPU time of a command, user and system."""
    process = subprocess.Popen(_line(command), stdout=subprocess.DEVNULL, env=_environment())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{' '.join(command)} ended with code {process.returncode}")
    return (used.ru_utime + used.ru_stime) * 1000


def _line(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "dwarf_nats.cli.main", *command]


def _environment() -> dict[str, str]:
    """Nobody's settings, and bytecode is kept, as in an installed package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path}
