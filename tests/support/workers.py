"""What the tests of the SDK share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """A request as a responder sees it."""

    body: dict[str, Any]
    data: bytes
    headers: dict[str, str] | None


Responder = Callable[[Asked], Any]


def refuse(code: int, message: str, **details: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """A refusal in the way of the service."""
    headers = {"Nats-Service-Error-Code": str(code), "Nats-Service-Error": message.replace("%", "%25")}
    return headers, {"error": {"code": code, "message": message, **details}}
