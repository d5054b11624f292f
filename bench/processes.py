"""CPU seconds of processes that are not ours to ask, from /proc; nothing where there is no /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


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
