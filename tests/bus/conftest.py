"""A real nats-server per test session, and connections to it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dwarf_nats.bus.connection import Connection, connect
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.options import ConnectOptions


def nats_binary() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("no nats-server: install the extra `embedded`")
    return found


class Server:
    """A nats-server of the test's own, which can be stopped and started again on the same port."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory = directory
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.port = -1

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [nats_binary(), "-a", "127.0.0.1", "-p", str(self.port), "--ports_file_dir", str(self._directory)]
        self._process = subprocess.Popen([*command, *self._arguments], stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        log = b""
        for line in self._process.stderr:
            log += line
            if b"Server is ready" in line:
                break
        else:
            raise RuntimeError(f"nats-server did not start: {log.decode()}")
        self._log = log
        if self.port == -1:
            for line in log.splitlines():
                if b"Listening for client connections on" in line:
                    self.port = int(line.rsplit(b":", 1)[1])

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


Opener = Callable[..., Awaitable[Connection]]


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    """Opens connections and closes them after the test."""
    made: list[Connection] = []

    async def open_one(url: str, **options: object) -> Connection:
        connection = await connect(ConnectOptions(servers=url, **options))  # type: ignore[arg-type]
        made.append(connection)
        return connection

    yield open_one
    for connection in made:
        with contextlib.suppress(Exception):
            await connection.close()


@pytest.fixture
async def connection(shared_server: Server, opened: Opener) -> Connection:
    """The replica's connection."""
    return await opened(shared_server.url)


@pytest.fixture
async def other(shared_server: Server, opened: Opener) -> Connection:
    """Somebody else's connection: a caller, or a task service."""
    return await opened(shared_server.url)


@pytest.fixture
async def inbox(connection: Connection) -> Inbox:
    inbox = Inbox(connection)
    await inbox.start()
    await connection.flush()
    return inbox
