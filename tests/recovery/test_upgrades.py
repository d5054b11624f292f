"""The last release beside the present version on one database, under load, through every revision that allows it.

The wheel of the last release is built from the history of the checkout.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk import Client, Status, Worker
from dwarf_nats.store import upgrade
from dwarf_nats.store.dsn import read
from dwarf_nats.store.revisions import REVISIONS
from dwarf_nats.workflow.graph import END, Graph

LAST_RELEASE = "d257b53121a3142b5b1465bbd346f8cf06696823"
LAST_REVISION = "0017"
"""The newest revision that it knows."""
ROOT = Path(__file__).parents[2]
FLOWS = 12
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last release, unpacked from its wheel."""
    archive = subprocess.run(["git", "archive", LAST_RELEASE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"NO HISTORY: {LAST_RELEASE} is not in this clone, so the last release cannot be built and tried")
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(source, filter="data")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(place / "site")
    return place / "site"


@contextlib.asynccontextmanager
async def serving(
    nats_url: str, dsn: str, prefix: str, site: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A replica as a process, of the present version or of another one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
    environment["PYTHONPATH"] = str(site or ROOT)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dwarf_nats.cli.main", "serve", "--nats", nats_url, "--dsn", dsn, "--prefix", prefix),
        *("--task-prefix", f"{prefix}-task", "--graph-prefix", f"{prefix}-graph", "--replica-timeout-ms", "2000"),
        env=environment,
        cwd="/",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    said: list[str] = []
    ready = asyncio.Event()

    async def listen() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            said.append(line.decode())
            if " is ready" in said[-1]:
                ready.set()

    listening = asyncio.ensure_future(listen())
    try:
        async with asyncio.timeout(60):
            await asyncio.wait({listening, asyncio.ensure_future(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set(), "".join(said)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening


async def upgraded(dsn: str, revision: str) -> None:
    """Take the database to a revision, as a newer version of that moment would have."""
    raw = await read(dsn).connect({}, command_timeout=None)
    await upgrade.upgrade_postgres(raw, revision)
    await raw.close()


async def completed(asking: Client, count: int = FLOWS) -> None:
    """Run flows of two steps side by side; each must end with what its steps computed."""

    async def one(number: int) -> None:
        while True:
            try:
                outcome = await asking.run("sum", {"n": number}, timeout=60)
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            assert (outcome.status, outcome.state["n"]) == (Status.COMPLETED, number + 2), outcome
            return

    async with asyncio.timeout(120):
        await asyncio.gather(*(one(number) for number in range(count)))


async def test_old_and_new_replicas_share_a_database(
    nats_server: NatsServer, empty_pg_dsn: str, old_wheel: Path
) -> None:
    """Each revision that lets old replicas stay is met by one under load; then each of both goes on without the other."""
    later = [one for one in sorted(REVISIONS) if one > LAST_REVISION]
    assert later
    prefix, url = "upgrading", nats_server.url
    worker = Worker(url, task_prefix=f"{prefix}-task")

    @worker.task("add")
    async def add(n: int) -> dict[str, int]:
        return {"n": n + 1}

    graph = Graph("sum")
    graph.add_task("first", url="add")
    graph.add_task("second", url="add")
    graph.add_chain("first", "second", END)
    async with (
        worker,
        Client(url, prefix=prefix, retry_creates=True) as asking,
        serving(url, empty_pg_dsn, prefix, old_wheel) as old,
    ):
        await asking.put_graph(graph)
        await completed(asking)
        for revision in later:
            if not REVISIONS[revision]:
                return  # old replicas must have stopped before it
            load = asyncio.ensure_future(completed(asking))
            await upgraded(empty_pg_dsn, revision)
            await load
            await completed(asking)
            assert old.returncode is None, f"the old replica ended at revision {revision}"
        async with serving(url, empty_pg_dsn, prefix) as new:
            load = asyncio.ensure_future(completed(asking, 4 * FLOWS))
            new.terminate()  # the new one leaves, and the old one goes on with its flows
            await load
            await new.wait()
            await completed(asking)
        async with serving(url, empty_pg_dsn, prefix):
            load = asyncio.ensure_future(completed(asking, 4 * FLOWS))
            old.kill()  # and the other way round, without a word
            await load
