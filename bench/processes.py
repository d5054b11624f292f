"""CPU seconds of processes that are not ours to ask, from /proc; nothing where there is no /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENING = "0A"


def cpu_of(pid: int) -> float | None:
    """CPU seconds of a process, of the children it has waited for, and of those that live, with theirs."""
    stats = {number: fields for number in _numbers() if (fields := _fields(number)) is not None}
    if pid not in stats:
        return None
    children: dict[int, list[int]] = {}
    for number, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(number)
    total, pending = 0, [pid]
    while pending:
        one = pending.pop()
        total += sum(map(int, stats[one][11:15]))
        pending += children.get(one, [])
    return total / _TICKS


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
    return next((pid for pid in _numbers() if not wanted.isdisjoint(_open_by(pid))), None) if wanted else None


def _sockets(table: str) -> list[list[str]]:
    """The lines of a table: number, local address, remote address, state, …; 9 is the inode."""
    try:
        return [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    except OSError:
        return []


def _open_by(pid: int) -> set[str]:
    """What the descriptors of a process lead to."""
    found = set()
    try:
        for one in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(f"/proc/{pid}/fd/{one}"))
    except OSError:  # ended, or somebody else's
        return set()
    return found


def _numbers() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _fields(pid: int) -> list[str] | None:
    """The fields of `stat` after the command: state, parent, …; 11 to 14 are the CPU times."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
