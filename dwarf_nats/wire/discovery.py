"""Service discovery as NATS defines it (ADR-32): subjects and replies, for replicas, workers and those that look for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from dwarf_nats.version import __version__

PING, INFO, STATS = "PING", "INFO", "STATS"
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


def identity(verb: str, name: str, service_id: str, metadata: dict[str, str]) -> dict[str, Any]:
    """The fields that every reply begins with; the reply to PING has no others."""
    return {
        "type": f"io.nats.micro.v1.{verb.lower()}_response",
        "name": name,
        "id": service_id,
        "version": semver(__version__),
        "metadata": metadata,
    }


def shortened(reply: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield smaller and smaller versions of a reply that is too large, each valid by ADR-32, marked `truncated`."""
    reply = {**reply, "metadata": {**(reply.get("metadata") or {}), "truncated": "true"}}
    endpoints = [
        {name: value for name, value in one.items() if name not in ("metadata", "data")}
        for one in reply.get("endpoints", ())
    ]
    for one in endpoints:
        if "last_error" in one:
            one["last_error"] = one["last_error"][:40]
    while endpoints:
        yield {**reply, "endpoints": endpoints}
        endpoints = endpoints[: len(endpoints) // 2]


def subject(verb: str, name: str = "", service_id: str = "") -> str:
    """The subject of a request to all services, to those of a name, or to one."""
    return ".".join(part for part in ("$SRV", verb, name, service_id) if part)


def valid_name(name: str) -> str:
    """Make a name valid by ADR-32."""
    return _UNFIT.sub("-", name).strip("-") or "worker"


def semver(version: str) -> str:
    """Convert a Python version to a semantic version as ADR-32 requires: `1.2.3rc1` becomes `1.2.3-rc1`."""
    release, rest = version, ""
    for at, char in enumerate(version):
        if not (char.isdigit() or char == "."):
            release, rest = version[:at].rstrip("."), version[at:].lstrip(".+-")
            break
    numbers = [str(int(one)) for one in release.split(".") if one][:3]
    numbers += ["0"] * (3 - len(numbers))
    return ".".join(numbers) + (f"-{rest.replace('+', '.')}" if rest else "")
