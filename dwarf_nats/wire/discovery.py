"""Services as NATS tools find them: the words of ADR-32, for the replica, the worker, and whoever looks for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from dwarf_nats.version import __version__

PING, INFO, STATS = "PING", "INFO", "STATS"
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


def identity(verb: str, name: str, service_id: str, metadata: dict[str, str]) -> dict[str, Any]:
    """What every reply begins with, and a reply to PING consists of."""
    return {
        "type": f"io.nats.micro.v1.{verb.lower()}_response",
        "name": name,
        "id": service_id,
        "version": semver(__version__),
        "metadata": metadata,
    }


def shortened(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Smaller and smaller versions of a reply that is too large, each as ADR-32 has it; `truncated` in the metadata says so."""
    told = {**told, "metadata": {**(told.get("metadata") or {}), "truncated": "true"}}
    endpoints = [
        {name: value for name, value in one.items() if name not in ("metadata", "data")}
        for one in told.get("endpoints", ())
    ]
    for one in endpoints:
        if "last_error" in one:
            one["last_error"] = one["last_error"][:40]
    while endpoints:
        yield {**told, "endpoints": endpoints}
        endpoints = endpoints[: len(endpoints) // 2]


def subject(verb: str, name: str = "", service_id: str = "") -> str:
    """Where services are asked: all of them, those of a name, or one."""
    return ".".join(part for part in ("$SRV", verb, name, service_id) if part)


def fitting(name: str) -> str:
    """A name as ADR-32 allows it."""
    return _UNFIT.sub("-", name).strip("-") or "worker"


def semver(version: str) -> str:
    """A Python version as ADR-32 wants it: `1.2.3`, or `1.2.3-rc1` for `1.2.3rc1`."""
    release, rest = version, ""
    for at, char in enumerate(version):
        if not (char.isdigit() or char == "."):
            release, rest = version[:at].rstrip("."), version[at:].lstrip(".+-")
            break
    numbers = [str(int(one)) for one in release.split(".") if one][:3]
    numbers += ["0"] * (3 - len(numbers))
    return ".".join(numbers) + (f"-{rest.replace('+', '.')}" if rest else "")
