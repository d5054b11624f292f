"""Requests in flight, and what becomes of them (wire: section 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from dwarf_nats.workflow.progress import Progress

if TYPE_CHECKING:
    from .progress import Reported

log = logging.getLogger("dwarf_nats.bus")
T = TypeVar("T")

Report = Callable[[str, Progress], None]
"""Takes the key of a step and its progress."""
SENT, QUEUED, STARTED = range(3)
"""The phases of a call: sent, in the queue of a worker that said so, begun after that (K3)."""


class Reply(NamedTuple):
    """A raw reply. `nobody`: the server says that nobody listens there. `refused`: it says that this user may not send there.
    `stream`: nothing came in time but the acknowledgement of this JetStream stream, which is `body`."""

    block: bytes | None
    body: bytes
    nobody: bool = False
    stream: str = ""
    refused: bool = False


Listener = Callable[[Reply | Exception | None], None]
"""Takes what becomes of a call, once: its reply, the error that ended it, or `None` if no reply came in time."""


class Call:
    """One request in flight. `step`: the key of its step, if it is a task request."""

    __slots__ = (
        "batch",
        "budget",
        "cancelled",
        "due",
        "listener",
        "phase",
        "recorded",
        "report",
        "reported",
        "step",
        "subject",
        "timer",
        "to_stream",
        "token",
        "worker",
    )

    def __init__(self, token: bytes, listener: Listener, subject: str, step: str) -> None:
        self.token = token
        self.listener: Listener | None = listener
        """Is told what becomes of the call; `None` once it was, or nobody waits any more."""
        self.subject = subject
        self.step = step
        self.worker = ""
        self.batch: CallGroup | None = None
        """Those that were sent with it in one message."""
        self.budget = 0.0
        """Seconds that the service has for its answer, once it has begun."""
        self.phase = SENT
        self.cancelled = False
        self.recorded: Reply | None = None
        """The acknowledgement of a stream, in case nothing else comes."""
        self.to_stream = False
        """It publishes to a stream: only an acknowledgement ends it, and another reply is kept in case none comes."""
        self.due = 0.0
        """When it ends without an answer, by the clock of the event loop."""
        self.timer: asyncio.TimerHandle | None = None
        """One of its own; most calls are answered before they need one."""
        self.report: Report | None = None
        """Takes what the worker reports (B7)."""
        self.reported: Reported | None = None

    def tell(self, outcome: Reply | Exception | None) -> None:
        """Tell the listener what has become of the call. A defect in it does not keep others from being told."""
        listener, self.listener = self.listener, None
        if listener is None:
            return
        try:
            listener(outcome)
        except Exception:
            log.exception("a defect after the reply to %s", self.public_id or self.subject)

    @property
    def public_id(self) -> str:
        """The token-free id of the step."""
        return self.step.rpartition("-")[0]


class CallGroup(Protocol):
    """Calls that share a message, and so its reply subject."""

    def ended(self, call: Call) -> None:
        """A call of the group has ended."""
        ...

    def received(self, block: bytes | None, body: bytes) -> None:
        """Take a message for the group."""
        ...

    def refused(self) -> None:
        """Permissions do not let the message out."""
        ...


def resolve(future: asyncio.Future[T], outcome: T | Exception) -> None:
    """Resolve a future with a value or an error, unless nobody waits for it any more."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
