"""Connection poolers before PostgreSQL: session mode works, transaction mode is refused in one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.ports import Unusable
from dwarf_nats.store import pooler
from dwarf_nats.store.store import SqlStore
from tests.support.relay import relay
from tests.support.stores import BUDGET, ended, look, one_claimed

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
KNOWN = {b"user", b"database", b"client_encoding", b"application_name", b"DateStyle", b"TimeZone"}
pytestmark = pytest.mark.slow


class Strict:
    """Passes connections on, and refuses start-up parameters that it does not know, as poolers do."""

    def __init__(self, dsn: str) -> None:
        address, self.name = dsn.split("@")[1].split("/")
        self._host, port = address.split(":")
        self._port = int(port)
        self.refused: list[bytes] = []
        self.accepted = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield f"postgresql://postgres@127.0.0.1:{port}/{self.name}?sslmode=disable"
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled where the test ends first: nobody waits for it.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(head) - 4)
            names = body[4:].split(b"\0")[:-2:2]
            unknown = [name for name in names if name not in KNOWN] if body[:4] == b"\0\3\0\0" else []
            if unknown:
                self.refused += unknown
                said = b"SFATAL\0C08P01\0Munsupported startup parameter: " + unknown[0] + b"\0\0"
                writer.write(b"E" + (len(said) + 4).to_bytes(4) + said)
            else:
                self.accepted += 1
                await relay(reader, writer, self._host, self._port, head + body)
        writer.close()


async def _works(dsn: str) -> None:
    """Migrate, create, claim, settle, read."""
    store = SqlStore(1, dsn, pool=2, clock=SystemClock())
    await store.open("one", migrated=True)
    try:
        step = await one_claimed(store)
        assert len((await store.steps.settle([ended(step)], BUDGET)).applied) == 1
        assert await look(store, "select status from dwarf_flows") == [("completed",)]
        settings = await store.database.fetch_by_index(
            "select current_setting('enable_seqscan'), current_setting('jit')"
        )
        assert [tuple(row) for row in settings] == [("off", "off")]
    finally:
        await store.close()


async def test_nothing_is_a_start_up_parameter_that_a_pooler_would_refuse(empty_pg_dsn: str) -> None:
    """A pooler in session mode passes sessions on; what they need is set after connecting."""
    strict = Strict(empty_pg_dsn)
    async with strict.running() as dsn:
        await _works(dsn + "&application_name=orders&options=-c%20work_mem%3D8MB")
    assert strict.refused == []
    assert strict.accepted >= 3


async def test_a_start_up_parameter_that_is_wanted_and_refused_ends_the_start(empty_pg_dsn: str) -> None:
    strict = Strict(empty_pg_dsn)
    async with strict.running() as dsn:
        store = SqlStore(1, dsn + "&options=endpoint%3Dx", pool=1, clock=SystemClock())
        with pytest.raises(Unusable, match="unsupported startup parameter: options"):
            await store.open("one", migrated=True)


class Switching:
    """A connection whose transactions are served by changing processes, as a pooler in transaction mode does it."""

    def __init__(self, pids: Iterator[int]) -> None:
        self._pids = pids

    def get_server_pid(self) -> int:
        return 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def fetchval(self, _sql: str) -> int:
        return next(self._pids)

    def terminate(self) -> None:
        pass


@pytest.mark.parametrize(
    ("ours", "theirs", "refused"),
    [
        ([7, 7, 7, 7], [8, 8, 8], False),  # session mode: the process is another than the pooler's, and stays
        ([7, 7, 7, 7], [7, 7, 7], True),  # both are served by one
        ([7, 7, 9, 7], [8, 8, 8], True),  # one is served by two
        ([1], [], False),  # no pooler
    ],
)
async def test_a_pooler_in_transaction_mode_is_told_by_the_processes_that_serve(
    ours: list[int], theirs: list[int], refused: bool
) -> None:
    class Target:
        label = "db/dwarf"

        async def connect(self, _settings: object) -> Switching:
            return Switching(iter(theirs))

    check = pooler.check(Target(), Switching(iter(ours)))  # type: ignore[arg-type]
    if refused:
        with pytest.raises(Unusable, match="transaction mode, which keeps no session"):
            await check
    else:
        await check


@pytest.fixture
def bouncer_folder(tmp_path: Path) -> Path:
    if PGBOUNCER is None:
        warnings.warn("pgbouncer is not installed: nothing is tested against a real one", stacklevel=1)
        pytest.skip("PGBOUNCER IS NOT INSTALLED (apt-get install pgbouncer): not tested against a real one")
    return tmp_path


@asynccontextmanager
async def bouncer(folder: Path, dsn: str, mode: str, more: str = "") -> AsyncIterator[str]:
    """A real PgBouncer before a database, with its own defaults."""
    host, port = dsn.split("@")[1].split("/")[0].split(":")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = probe.getsockname()[1]
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\n"
        f"auth_type = trust\nauth_file = {folder}/users\npool_mode = {mode}\nunix_socket_dir =\n{more}"
    )
    assert PGBOUNCER is not None
    as_root = os.geteuid() == 0
    if as_root:
        for one in (folder, *folder.parents):
            if one.is_relative_to("/tmp") and one != Path("/tmp"):
                one.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        PGBOUNCER,
        str(folder / "ini"),
        stderr=asyncio.subprocess.DEVNULL,
        user="nobody" if as_root else None,
        extra_groups=[] if as_root else None,
    )
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", own)
                    writer.close()
                    break
                await asyncio.sleep(0)
        yield f"postgresql://postgres@127.0.0.1:{own}/{dsn.rsplit('/', 1)[1]}"
    finally:
        process.kill()
        await process.wait()


async def test_pgbouncer_in_session_mode(bouncer_folder: Path, empty_pg_dsn: str) -> None:
    async with bouncer(bouncer_folder, empty_pg_dsn, "session") as dsn:
        await _works(dsn)


@pytest.mark.parametrize("more", ["", "server_round_robin = 1\n", "default_pool_size = 1\n"])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_pgbouncer_in_other_modes_is_refused(
    bouncer_folder: Path, empty_pg_dsn: str, mode: str, more: str
) -> None:
    async with bouncer(bouncer_folder, empty_pg_dsn, mode, more) as dsn:
        for migrated in (True, False):
            store = SqlStore(1, dsn, pool=2, clock=SystemClock())
            with pytest.raises(Unusable, match="transaction mode, which keeps no session: set it to session mode"):
                await store.open("one", migrated=migrated)
