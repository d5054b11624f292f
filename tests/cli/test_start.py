"""Starts that cannot go on end with a clear line and exit code 1; those that wait say for what, and Ctrl-C ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.store.migrate import MIGRATION_LOCK_ID
from tests.cli.conftest import Run

pytestmark = pytest.mark.slow
SOON = 60.0
"""Seconds no test should ever need."""


class Started:
    """A command as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = ""

    async def until(self, words: str) -> None:
        """Read what it says until it has said this."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SOON):
            while words not in self.said:
                line = await self._process.stdout.readline()
                assert line, self.said
                self.said += line.decode()

    async def ended(self) -> int:
        assert self._process.stdout is not None
        async with asyncio.timeout(SOON):
            self.said += (await self._process.stdout.read()).decode()
            return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


@asynccontextmanager
async def started(arguments: Sequence[str], folder: Path) -> AsyncIterator[Started]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dwarf_nats.cli.main", *arguments, cwd=folder, env=env, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Started(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _not_a_database(folder: Path) -> str:
    (folder / "other.db").write_bytes(b"this is no database\n" * 500)
    return f"sqlite:///{folder}/other.db"


SQLITE: list[tuple[Callable[[Path], str], str]] = [
    (lambda folder: f"sqlite:///{folder}/missing/dwarf.db", "there is no folder"),
    (lambda folder: f"sqlite:///{folder}", "it is a folder"),
    (_not_a_database, "file is not a database"),
    (lambda folder: f"sqlite:///{folder}/dwarf.db?mode=ro", "has no parameters"),
    (lambda _: "postgresql://u:hush@h/d?sslmod=require", "there is no parameter sslmod: did you mean sslmode"),
    (lambda _: "mysql://u:hush@h/d", "use postgresql://"),
]


@pytest.mark.parametrize(("dsn", "words"), SQLITE)
@pytest.mark.parametrize("check", [(), ("--check",)])
def test_migrate_refuses_what_only_a_person_can_mend(
    run: Run, tmp_path: Path, dsn: Callable[[Path], str], words: str, check: Sequence[str]
) -> None:
    result = run("migrate", "--dsn", dsn(tmp_path), *check)
    assert result.exit_code == 1
    assert words in result.stderr
    assert "error 500" not in result.stderr
    assert "hush" not in result.output
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dsn: dsn + "_missing", "does not exist"),
        (lambda dsn: dsn.replace("postgres@", "nobody_here:hush@"), 'role "nobody_here" does not exist'),
        (lambda dsn: dsn + "?sslmode=require", "rejected SSL upgrade"),
        (lambda _: "postgresql://u:hush@127.0.0.1:1/d", "127.0.0.1:1/d cannot be"),
    ],
)
def test_migrate_says_what_postgresql_said(
    run: Run, empty_pg_dsn: str, change: Callable[[str], str], words: str
) -> None:
    for check in ((), ("--check",)):
        result = run("migrate", "--dsn", change(empty_pg_dsn), *check)
        assert result.exit_code == 1
        assert words in result.stderr
        assert "error 503" in result.stderr
        assert "hush" not in result.output


def test_looking_at_a_file_that_is_not_there_makes_none(run: Run, tmp_path: Path) -> None:
    result = run("migrate", "--check", "--dsn", f"sqlite:///{tmp_path}/dwarf.db")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "empty" in result.stdout


@pytest.mark.parametrize(("dsn", "words"), SQLITE)
async def test_serve_ends_with_what_only_a_person_can_mend(
    nats_server: NatsServer, tmp_path: Path, dsn: Callable[[Path], str], words: str
) -> None:
    """Semantics: start-errors; although it waits for servers by default."""
    async with started(
        ["serve", "--nats", nats_server.url, "--dsn", dsn(tmp_path), "--prefix", "ends"], tmp_path
    ) as it:
        assert await it.ended() == 1
    assert words in it.said
    assert "try again" not in it.said
    assert "error 500" not in it.said
    assert "Traceback" not in it.said
    assert "hush" not in it.said


async def test_a_dsn_that_is_not_understood_is_told_though_nats_is_away(tmp_path: Path) -> None:
    async with started(["serve", "--nats", "nats://127.0.0.1:1", "--dsn", "postgresql://h/d?x=1"], tmp_path) as it:
        assert await it.ended() == 1
    assert "there is no parameter x" in it.said


async def test_serve_ends_where_the_database_is_not_known(
    nats_server: NatsServer, tmp_path: Path, empty_pg_dsn: str
) -> None:
    arguments = ["serve", "--nats", nats_server.url, "--dsn", empty_pg_dsn + "_missing", "--prefix", "unknown"]
    async with started(arguments, tmp_path) as it:
        assert await it.ended() == 1
    assert "does not exist" in it.said


async def test_a_second_replica_on_one_file_ends_and_dev_too(nats_server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / ".dwarf").mkdir()
    dsn = f"sqlite:///{tmp_path}/.dwarf/dwarf.db"
    async with started(["serve", "--nats", nats_server.url, "--dsn", dsn, "--prefix", "first"], tmp_path) as first:
        await first.until("is ready")
        for arguments in (["serve", "--nats", nats_server.url, "--dsn", dsn, "--prefix", "second"], ["dev"]):
            async with started(arguments, tmp_path) as second:
                assert await second.ended() == 1
            assert "in use by another replica (process" in second.said
            assert "error 500" not in second.said
        first.send(signal.SIGTERM)
        assert await first.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_start_that_waits_for_postgresql_says_so_and_can_be_stopped(
    nats_server: NatsServer, tmp_path: Path, number: signal.Signals
) -> None:
    dsn = "postgresql://u:hush@127.0.0.1:1/d"
    async with started(["serve", "--nats", nats_server.url, "--dsn", dsn, "--prefix", "waits"], tmp_path) as it:
        await it.until("waiting for the database: PostgreSQL at 127.0.0.1:1/d")
        assert "Ctrl-C stops" in it.said
        it.send(number)
        assert await it.ended() == 0
    assert "Traceback" not in it.said
    assert "hush" not in it.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_start_that_waits_for_the_migration_lock_can_be_stopped(
    nats_server: NatsServer, tmp_path: Path, empty_pg_dsn: str, number: signal.Signals
) -> None:
    other = await asyncpg.connect(empty_pg_dsn)
    await other.execute(f"select pg_advisory_lock({MIGRATION_LOCK_ID})")
    async with started(["serve", "--nats", nats_server.url, "--dsn", empty_pg_dsn, "--prefix", "lock"], tmp_path) as it:
        await it.until("waiting for its migration lock, held by process")
        it.send(number)
        assert await it.ended() == 0
    await other.close()
    assert "Traceback" not in it.said


async def test_migrate_says_whom_it_waits_for_and_can_be_stopped(tmp_path: Path, empty_pg_dsn: str) -> None:
    other = await asyncpg.connect(empty_pg_dsn)
    await other.execute(f"select pg_advisory_lock({MIGRATION_LOCK_ID})")
    async with started(["migrate", "--dsn", empty_pg_dsn], tmp_path) as it:
        await it.until("waiting for its migration lock, held by process")
        it.send(signal.SIGINT)
        assert await it.ended() == 130
    await other.close()
    assert "Traceback" not in it.said


def test_no_database_is_migrated_while_another_dsn_is_not_understood(run: Run, tmp_path: Path) -> None:
    result = run("migrate", "--dsn", f"sqlite:///{tmp_path}/dwarf.db", "--dsn", "postgresql://h/d?sslmod=require")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "sslmod" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_start_that_waits_for_a_server_that_hangs_can_be_stopped(
    nats_server: NatsServer, tmp_path: Path, number: signal.Signals
) -> None:
    """A server that accepts and says nothing, of either kind."""
    arrived = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for nats, dsn in (
            (nats_server.url, f"postgresql://u@127.0.0.1:{port}/d"),
            (f"nats://127.0.0.1:{port}", f"sqlite:///{tmp_path}/dwarf.db"),
        ):
            arrived.clear()
            async with started(["serve", "--nats", nats, "--dsn", dsn, "--prefix", "hangs"], tmp_path) as it:
                async with asyncio.timeout(SOON):
                    await arrived.wait()
                it.send(number)
                assert await it.ended() == 0
            assert "Traceback" not in it.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_dev_can_be_stopped_while_its_database_is_locked(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / ".dwarf").mkdir()
    with sqlite3.connect(tmp_path / ".dwarf" / "dwarf.db", isolation_level=None) as other:
        other.execute("begin exclusive")
        async with started(["dev"], tmp_path) as it:
            await it.until("waiting for the database")
            it.send(number)
            assert await it.ended() == 0
    other.close()
    assert "Traceback" not in it.said


async def test_demo_can_be_stopped_while_it_starts(tmp_path: Path) -> None:
    async with started(["demo", "--yes"], tmp_path) as it:
        await it.until("Starting nats-server")
        it.send(signal.SIGTERM)
        assert await it.ended() == 130
    assert "Traceback" not in it.said
