"""CPU seconds and cores of processes that are not ours to ask, by /proc; nothing where there is no /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENING = "0A"


def cpu_of(pid: int) -> float | None:
    """CPU seconds of a process, of the children it has waited for, and of those that live, with theirs."""
    family = _family(pid)
    return sum(sum(map(int, fields[11:15])) for fields in family.values()) / _TICKS if family else None


def pin(pid: int, cores: Collection[int]) -> None:
    """Keep a process, its threads and its descendants on these cores. What it starts later stays there, too."""
    for number in _family(pid):
        for thread in _listed(f"/proc/{number}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


def parent_of(pid: int) -> int | None:
    """The parent of a process."""
    fields = _fields(pid)
    return int(fields[1]) if fields is not None else None


def listener(port: int) -> int | None:
    """The process that listens on a TCP port here; `None` if there is none, or it cannot be seen."""
    wanted = {
        f"socket:[{fields[9]}]"
        for table in ("tcp", "tcp6")
        for fields in _sockets(table)
        if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port
    }
    return next((pid for pid in _listed("/proc") if not wanted.isdisjoint(_open_by(pid))), None) if wanted else None


def _sockets(table: str) -> list[list[str]]:
    """The lines of a table: number, local address, remote address, state, …; 9 is the inode."""
    try:
        return [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    except OSError:
        return []


def _open_by(pid: int) -> set[str]:
    """The files and sockets that the descriptors of a process lead to."""
    found = set()
    try:
        for one in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(f"/proc/{pid}/fd/{one}"))
    except OSError:  # ended, or somebody else's
        return set()
    return found


def _family(pid: int) -> dict[int, list[str]]:
    """The fields of a process and of its descendants, by number; empty if it is not there."""
    stats = {number: fields for number in _listed("/proc") if (fields := _fields(number)) is not None}
    children: dict[int, list[int]] = {}
    for number, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(number)
    found, pending = {}, [pid] if pid in stats else []
    while pending:
        one = pending.pop()
        found[one] = stats[one]
        pending += children.get(one, [])
    return found


def _listed(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def _fields(pid: int) -> list[str] | None:
    """The fields of `stat` after the command: state, parent, …; 11 to 14 are the CPU times."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
