"""JetStream streams that record requests: their acknowledgements come as replies, mostly before the reply of the service.

A stream whose subjects match a request answers it with `{"stream": …, "seq": …}` (or with an error and its name), as if it
were a publish. That is not the reply of the service, so it is skipped, and the reply is waited for. A stream also prevents the
server from reporting that nobody listens.
"""

from __future__ import annotations

import logging

import msgspec

_STARTS = (b'{"stream":', b'{"error":{')
_LONGEST = 2_000


class _Refusal(msgspec.Struct, forbid_unknown_fields=True):
    code: int
    err_code: int
    description: str


class _Acknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    stream: str
    seq: int
    error: _Refusal | None = None
    domain: str = ""
    duplicate: bool = False
    val: str = ""
    batch: str = ""
    count: int = 0


_decode = msgspec.json.Decoder(_Acknowledgement).decode


def recorded_by(block: bytes | None, body: bytes) -> str:
    """The name of the stream if a reply is its acknowledgement; empty for all other replies.

    This is called for every step: an ordinary reply costs one comparison.
    """
    if not body.startswith(_STARTS) or block or len(body) > _LONGEST:
        return ""
    try:
        return _decode(body).stream
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def describe_capture(stream: str, captured: str) -> str:
    """Describe the problem with a stream that captures such subjects, and the remedy, in one line."""
    return (
        f"a stream captures {captured}: the JetStream stream {stream!r} records requests and acknowledges them itself, so NATS"
        f" cannot tell any more whether a service listens; take {captured} out of the subjects of that stream"
        f" (nats stream edit {stream})"
    )


class CaptureWarnings:
    """Logs a warning for each stream that records requests, once."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._known: set[tuple[str, str]] = set()

    def warn(self, stream: str, captured: str) -> None:
        """Warn of a stream that captures these subjects."""
        key = (stream, captured)
        if key not in self._known and len(self._known) < 1_000:
            self._known.add(key)
            self._log.warning("%s", describe_capture(stream, captured), extra={"stream": stream})
