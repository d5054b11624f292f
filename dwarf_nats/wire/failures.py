"""Failures as NATS services report them: the error, and what the engine does about it (wire section 2)."""

from __future__ import annotations

from dwarf_nats.workflow.answer import Disposition, ErrorInfo

from . import headers as h

NO_RESPONDERS, UNAVAILABLE, OVERLOADED = "no_responders", "unavailable", "overloaded"
FORBIDDEN = "forbidden"
TIMEOUT, TOO_LARGE = "timeout", "too_large"
EXCERPT = 200
"""Characters of a reply that an error about it quotes."""
_BREAKER_CAUSES = {503: UNAVAILABLE, 529: OVERLOADED}


def says_more(block: bytes) -> bool:
    """False if no header of a reply matters: many clients only send those of the request back, which need not be read then."""
    lower = block.lower()
    return b"nats-service-error" in lower or b"dwarf-disposition" in lower


def reports_error(headers: dict[str, str]) -> bool:
    """True if the headers of a reply, names in lower case, report an error."""
    return "nats-service-error-code" in headers or "nats-service-error" in headers


def header_error(who: str, headers: dict[str, str], error: ErrorInfo | None) -> ErrorInfo:
    """The error of the NATS service headers, with the further fields of `error`, the one in the body. `who` failed."""
    text = h.percent_decode(headers.get("nats-service-error", ""))
    digits = headers.get("nats-service-error-code", "")
    code = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 500
    message = text or (error.message if error else "") or f"{who} failed with code {digits or code}"
    return ErrorInfo(message, code, error.extra if error else {})


def overruling(headers: dict[str, str]) -> Disposition | None:
    """The disposition that the header `Dwarf-Disposition` asks for, if it has a value that is known."""
    try:
        return Disposition(headers.get("dwarf-disposition", "").lower())
    except ValueError:
        return None


def classify(code: int, overruled: Disposition | None) -> tuple[Disposition, str]:
    """The disposition of an error with this code, and the cause of a breaker trip. `overruled`: what a header asks for."""
    disposition = Disposition.ERROR
    if overruled is not None:
        disposition = overruled
    elif code in _BREAKER_CAUSES:
        disposition = Disposition.BREAKER
    elif code == 429:
        disposition = Disposition.BACKPRESSURE
    return disposition, _BREAKER_CAUSES.get(code, UNAVAILABLE) if disposition is Disposition.BREAKER else ""


def excerpt(body: bytes) -> str:
    """The beginning of a reply, for people."""
    return body[: EXCERPT * 4].decode("utf-8", "replace")[:EXCERPT]
