"""Child processes that end with their parent, on Linux even when it is killed; for the servers of development and tests."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from dwarf_nats.errors import Unavailable

STOP_SECONDS = 20.0
"""Longest wait for a child to end; then it is killed."""
UNPRIVILEGED = "nobody"
"""The user who runs PostgreSQL for root."""
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


class ChildProcess:
    """One process that ends with this one. Its output goes to a log file, which errors quote, or where ours goes."""

    def __init__(self, name: str, death_signal: signal.Signals = signal.SIGTERM) -> None:
        self._name = name
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises `Unavailable` if it does not run."""
        if self._process is None:
            raise Unavailable(f"{self._name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """It was launched and has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(
        self,
        command: Sequence[str],
        log: Path | None = None,
        user: ServerUser | None = None,
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
        """Raise `Unavailable` with the last lines of its output if it has ended."""
        if not self.running:
            raise Unavailable(f"{self._name} did not start: {self._last_lines()}")

    def _last_lines(self) -> str:
        if self._log is None:
            return "its lines above say why"
        try:
            lines = self._log.read_text(errors="replace").split("\n")
        except OSError:
            lines = []
        return " / ".join([line.strip() for line in lines if line.strip()][-3:]) or "it said nothing"

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal `how` and wait for the end; after `STOP_SECONDS` the child is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


class ServerUser:
    """The user a server runs as: this process's (uid 0 in the fields) or, as PostgreSQL refuses root, an unprivileged one."""

    def __init__(self, unprivileged: bool) -> None:
        self.uid = self.gid = 0
        if unprivileged and os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(UNPRIVILEGED)
            except KeyError:
                raise Unavailable(
                    f"PostgreSQL refuses to run as root, and there is no user {UNPRIVILEGED!r} to run it as"
                ) from None
            self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def own(self, path: Path) -> None:
        """Hand over a folder and all in it."""
        if self.uid:
            for one in (path, *path.rglob("*")):
                os.chown(one, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, path: Path) -> bool:
        """True if this user can reach `path`."""
        return not self.uid or all(p.stat().st_mode & 0o001 for p in (path, *path.parents))
