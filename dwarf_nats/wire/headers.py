"""NATS headers as bytes: names, percent-encoding, writing and reading a header block."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote

ERROR_CODE = "Nats-Service-Error-Code"
ERROR_TEXT = "Nats-Service-Error"
MSG_ID = "Nats-Msg-Id"
DISPOSITION = "Dwarf-Disposition"
SIGNAL = "Dwarf-Signal"
WORKER = "Dwarf-Worker"
ORIGIN = "Dwarf-Origin"
ACCEPTED = "accepted"

FLOW_KEY = "Dwarf-Flow-Key"
STEP_KEY = "Dwarf-Step-Key"
WORKFLOW = "Dwarf-Workflow"
TASK = "Dwarf-Task"
ATTEMPT = "Dwarf-Attempt"
DEADLINE = "Dwarf-Deadline"
ACCEPT_MS = "Dwarf-Accept-Ms"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_LINE = b"NATS/1.0"


@lru_cache(maxsize=4096)
def percent_encode(text: str) -> str:
    """`text` as printable ASCII: everything else, and `%` itself, as percent-encoded UTF-8."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def percent_decode(text: str) -> str:
    """The reverse of `percent_encode`; a `%` that starts no escape stays as it is."""
    return unquote(text, errors="replace") if "%" in text else text


def write_headers(pairs: Iterable[tuple[str, str]]) -> bytes:
    """A header block; values are percent-encoded where they must be."""
    lines = "".join(f"{name}: {percent_encode(value)}\r\n" for name, value in pairs)
    return f"NATS/1.0\r\n{lines}\r\n".encode("ascii")


def read_headers(block: bytes | None) -> dict[str, str]:
    """The headers of a raw block, names in lower case, the first of equal names; an inline status is no header."""
    if not block:
        return {}
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(
                name.strip().decode("ascii", "replace").lower(), value.strip().decode("utf-8", "replace")
            )
    return headers


def inline_status(block: bytes | None) -> int | None:
    """The status the *server* put on the first line of a raw block (`NATS/1.0 503`), `None` for ordinary messages.

    A header named `Status`, which anyone may send, stands on a line of its own and is never taken for it.
    """
    if not block or not block.startswith(b"NATS/1.0 "):
        return None
    digits = block[len(_LINE) + 1 : len(_LINE) + 4]
    return int(digits) if digits.isdigit() else None
