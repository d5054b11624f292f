"""PostgreSQL with TLS, certificates and passwords: each setting of the DSN against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.ports import Unusable
from dwarf_nats.store.store import SqlStore
from tests.support.identities import Authority
from tests.support.relay import relay

pytestmark = pytest.mark.slow
SSL_REQUEST = bytes([0, 0, 0, 8, 4, 210, 22, 47])
RULES = """\
host all secret 127.0.0.1/32 scram-sha-256
host all closed 127.0.0.1/32 reject
"""


class Front:
    """Speaks TLS before a PostgreSQL that cannot, as the server itself would; `seen` says how each connection came."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self._behind = port
        self._context = context
        self.seen: list[str] = []
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Front]:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled where the test ends first: nobody waits for it.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readexactly(8)
            kind = "plain"
            if head == SSL_REQUEST:
                writer.write(b"S" if self._context is not None else b"N")
                await writer.drain()
                if self._context is not None:
                    await writer.start_tls(self._context)
                    kind = "tls"
                head = await reader.readexactly(8)
            self.seen.append(kind)
            await relay(reader, writer, "127.0.0.1", self._behind, head)
        writer.close()


@dataclass
class Files:
    """Certificates and keys, and what a server needs of them."""

    folder: Path

    def context(self, name: str = "server", *, asks: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}-key.pem")
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.pem")
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    authority.issue("server")
    authority.issue("elsewhere", names=("db.example",))
    authority.issue("expired", expired=True)
    authority.issue("client")
    (folder / "others").mkdir()
    Authority(folder / "others")
    (folder / "pass").write_text("*:*:*:secret:p@ss/word\n")
    (folder / "pass").chmod(0o600)
    return Files(folder)


@pytest.fixture(scope="module")
def guarded() -> Iterator[PostgresServer]:
    """A server with passwords and rules; its database `guarded` is migrated, and every role may use it."""
    server = PostgresServer(fast=True)

    async def prepare() -> None:
        await server.start()
        assert server._home is not None
        rules = server._home / "data" / "pg_hba.conf"
        rules.write_text(RULES + rules.read_text())
        await server.create_database("guarded")
        await _open(server.dsn("guarded"), migrating=True)
        for role in ("secret", "closed", "app"):
            await server.execute(
                f"create role {role} login password 'p@ss/word'; grant all on schema public to {role};"
                f" grant all on all tables in schema public to {role}; grant all on all sequences in schema public to {role}",
                "guarded",
            )
        await server.execute("select pg_reload_conf()")

    asyncio.run(prepare())
    yield server
    asyncio.run(server.stop("immediate"))


async def _open(dsn: str, *, migrating: bool) -> None:
    store = SqlStore(1, dsn, pool=1, clock=SystemClock())
    try:
        await store.open("one", migrated=migrating)
        await store.database.fetch_by_index("select 1")
    finally:
        await store.close()


def _dsn(user: str, port: int, query: str, files: Files) -> str:
    tail = query.format(folder=files.folder)
    return f"postgresql://{user}@127.0.0.1:{port}/guarded{'?' + tail if tail else ''}"


CLIENT = "&sslcert={folder}/client.pem&sslkey={folder}/client-key.pem"


@pytest.mark.parametrize(
    ("user", "query", "server", "how"),
    [
        ("app", "", "server", "tls"),
        ("app", "sslmode=prefer", "server", "tls"),
        ("app", "sslmode=allow", "server", "plain"),
        ("app", "sslmode=disable", "server", "plain"),
        ("app", "sslmode=require", "server", "tls"),
        ("app", "sslmode=require&ssl_min_protocol_version=TLSv1.3", "server", "tls"),
        ("app", "sslmode=verify-ca&sslrootcert={folder}/ca.pem", "elsewhere", "tls"),
        ("app", "sslmode=verify-full&sslrootcert={folder}/ca.pem", "server", "tls"),
        ("app", "sslmode=require" + CLIENT, "asks", "tls"),
        ("app", "sslmode=verify-full&sslrootcert={folder}/ca.pem" + CLIENT, "asks", "tls"),
        ("secret:p%40ss%2Fword", "sslmode=disable", "server", "plain"),
        ("secret", "passfile={folder}/pass&sslmode=require", "server", "tls"),
        ("secret", "password=p%40ss%2Fword", "server", "tls"),
    ],
)
async def test_engine_and_migrations_connect_as_the_dsn_says(
    guarded: PostgresServer, files: Files, user: str, query: str, server: str, how: str
) -> None:
    context = files.context(asks=True) if server == "asks" else files.context(server)
    async with Front(guarded.port, context).running() as front:
        for migrating in (True, False):
            await _open(_dsn(user, front.port, query, files), migrating=migrating)
        assert set(front.seen) == {how}


@pytest.mark.parametrize(
    ("user", "query", "server", "words"),
    [
        ("app", "sslmode=require", "", "rejected SSL upgrade"),
        ("app", "sslmode=verify-full&sslrootcert={folder}/others/ca.pem", "server", "certificate verify failed"),
        (
            "app",
            "sslmode=verify-full&sslrootcert={folder}/ca.pem",
            "elsewhere",
            "certificate is not valid for '127.0.0.1'",
        ),
        ("app", "sslmode=verify-ca&sslrootcert={folder}/ca.pem", "expired", "certificate has expired"),
        ("app", "sslrootcert=system", "server", "certificate verify failed"),
        ("secret:hush", "", "server", "password authentication failed"),
        ("secret", "", "server", "password"),
        ("closed", "", "server", "pg_hba.conf rejects"),
        ("nobody:hush", "", "server", "does not exist"),
    ],
)
async def test_what_is_refused_ends_the_start_and_is_told(
    guarded: PostgresServer,
    files: Files,
    user: str,
    query: str,
    server: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Semantics: start-errors; wrong password, pg_hba.conf, TLS; only a person can mend that."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    context = None if not server else files.context(asks=True) if server == "asks" else files.context(server)
    async with Front(guarded.port, context).running() as front:
        for migrating in (True, False):
            with pytest.raises(Unusable, match=words) as caught:
                await _open(_dsn(user, front.port, query, files), migrating=migrating)
            assert "hush" not in str(caught.value)
