"""Read refusals of NATS permissions from the error texts of the server."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VIOLATION = re.compile(
    r"permissions violation for (publish|subscription)( with reply of)?(?: to)? \"((?:[^\"\\]|\\.)*)\""
    r"(?: using queue \"((?:[^\"\\]|\\.)*)\")?",
    re.IGNORECASE,
)
_RANDOM_TOKEN_LENGTH = 16
"""Tokens of a subject that are at least as long are taken for random ones, and not shown."""


@dataclass(slots=True, frozen=True)
class Violation:
    """An operation that the permissions of the connection's user refused: to publish to `subject`, or to subscribe to it.

    `as_reply`: `subject` was the reply subject of a message. `lowered`: the subject is known in lower case only.
    """

    publish: bool
    subject: str
    queue: str = ""
    as_reply: bool = False
    lowered: bool = False

    @classmethod
    def read(cls, text: str, *, lowered: bool = False) -> Violation | None:
        """Read the text of a server's error; `None` if it is about something else."""
        found = _VIOLATION.search(text)
        if found is None:
            return None
        kind, reply, subject, queue = found.groups()
        return cls(
            publish=kind.lower() == "publish",
            subject=subject,
            queue=queue or "",
            as_reply=bool(reply),
            lowered=lowered,
        )

    def concerns(self, subject: str) -> bool:
        """True if `subject` was refused."""
        return subject == self.subject or (self.lowered and subject.lower() == self.subject)

    def __str__(self) -> str:
        tokens = self.subject.split(".")
        # The random part of an inbox must not be read by others.
        subject = ".".join("*" if len(token) >= _RANDOM_TOKEN_LENGTH else token for token in tokens)
        if self.as_reply:
            return f"send messages with the reply subject {subject}"
        if self.publish:
            return f"publish to {subject}"
        return f"subscribe to {subject}" + (f" in the queue group {self.queue}" if self.queue else "")
