"""The whole service as a process of its own, found by nothing but NATS."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import nats.errors
import pytest

from dwarf_nats.dev_servers import NatsServer

ROOT = Path(__file__).parents[2]
_numbers = itertools.count(1)
READY_SECONDS = 30.0


@pytest.fixture
def prefix() -> str:
    """A deployment no other test uses."""
    return f"interop{next(_numbers)}"


@pytest.fixture
async def service(nats_server: NatsServer, tmp_path: Path, prefix: str) -> AsyncIterator[str]:
    """A running replica; the value is the URL of its NATS server."""
    arguments = ["serve", "--nats", nats_server.url, "--dsn", f"sqlite:///{tmp_path / 'dwarf.db'}", "--prefix", prefix]
    log = tmp_path / "serve.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dwarf_nats.cli.main", *arguments, cwd=ROOT, stdout=stderr, stderr=stderr
        )
    try:
        await until_ready(nats_server.url, prefix, process, log)
        yield nats_server.url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_ready(url: str, prefix: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until the service answers for its prefix; every deployment on a server answers the ping of its name."""
    nc = await nats.connect(url)
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                assert process.returncode is None, f"serve ended:\n{await asyncio.to_thread(log.read_text)}"
                try:
                    await nc.request("$SRV.PING.dwarf", timeout=0.5)
                    await nc.request(f"{prefix}.graph.list", timeout=5)
                except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
                    await asyncio.sleep(0.05)
                else:
                    return
    finally:
        await nc.close()
