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
BATCH = "Dwarf-Batch"
"""Of a reply: the most steps that the worker takes in one message. Of a request: how many are in it."""
ORIGIN = "Dwarf-Origin"
ACTOR = "Dwarf-Actor"
ACCEPTED = "accepted"
PROGRESS = "progress"
QUEUED = "queued"
STARTED = "started"

FLOW_KEY = "Dwarf-Flow-Key"
STEP_KEY = "Dwarf-Step-Key"
FLOW_ID = "Dwarf-Flow-Id"
STEP_ID = "Dwarf-Step-Id"
WORKFLOW = "Dwarf-Workflow"
TASK = "Dwarf-Task"
ATTEMPT = "Dwarf-Attempt"
DEADLINE = "Dwarf-Deadline"
ACCEPT_MS = "Dwarf-Accept-Ms"
QUEUE = "Dwarf-Queue"
"""`1`: the replica understands the signals *queued* and *started*."""
QUEUE_TIMEOUT_MS = "Dwarf-Queue-Timeout-Ms"
"""Of the signal *queued*: the longest time that the service lets a request wait."""
STREAM = "Dwarf-Stream"
"""Of a request: the subject of the output of its step (B8)."""
EXECUTION = "Dwarf-Execution"
"""Of a chunk of output: a random id of the execution that emitted it."""
NUMBER = "Dwarf-Number"
"""Of a chunk: its number within the execution, from 1."""
END = "Dwarf-End"
"""Of the last, empty chunk of an execution: how it ended."""
CONTENT_TYPE = "Content-Type"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_LINE = b"NATS/1.0"


@lru_cache(maxsize=4096)
def percent_encode(text: str) -> str:
    """Encode `text` as printable ASCII: other characters, and `%` itself, become percent-encoded UTF-8."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def percent_decode(text: str) -> str:
    """Decode the result of `percent_encode`; a `%` that starts no escape is kept."""
    return unquote(text, errors="replace") if "%" in text else text


def write_headers(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Encode a header block; values are percent-encoded where necessary."""
    lines = "".join(f"{name}: {percent_encode(value)}\r\n" for name, value in pairs)
    return f"NATS/1.0\r\n{lines}\r\n".encode("ascii")


def read_headers(block: bytes | None) -> dict[str, str]:
    """Decode a raw header block: names in lower case, the first of equal names; an inline status is no header."""
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
    """The status that the *server* put on the first line of a raw block (`NATS/1.0 503`), `None` for ordinary messages.

    A header named `Status`, which any client may send, is on a line of its own and never mistaken for it.
    """
    if not block or not block.startswith(b"NATS/1.0 "):
        return None
    digits = block[len(_LINE) + 1 : len(_LINE) + 4]
    return int(digits) if digits.isdigit() else None
