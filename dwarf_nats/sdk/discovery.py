"""Service discovery over NATS (ADR-32), both sides: find services, and answer `nats service ls` and its like."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson

from dwarf_nats.nats_client import INBOX_REMEDY, forbidden, watch_refusals
from dwarf_nats.wire import discovery
from dwarf_nats.wire.discovery import INFO, PING, STATS
from dwarf_nats.wire.streams import recorded_by
from dwarf_nats.wire.times import rfc3339, to_micros
from dwarf_nats.wire.violations import Violation

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats
    from nats.aio.msg import Msg

    from dwarf_nats.workflow.answer import ErrorInfo

QUIET_SECONDS = 0.25
"""Silence after the last reply from which on no more replies are expected."""
LONGEST_SECONDS = 2.0
"""Longest wait for the replies of all services."""


@dataclass(slots=True)
class _Task:
    """The statistics of one task; `nanoseconds` is the time of all its executions."""

    subject: str
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    nanoseconds: int = 0


class DiscoveryResponder:
    """Answers service discovery for a worker: one endpoint per task, with its statistics.

    `subjects`: the subjects to listen on.
    """

    def __init__(self, name: str, queue: str, tasks: Mapping[str, str]) -> None:
        self.name = discovery.valid_name(name)
        self.id = secrets.token_hex(11)
        # Verb by verb, since the permission for `$SRV.*` would let this user hear the requests to other services.
        self.subjects = [
            discovery.subject(verb, *rest)
            for verb in (PING, INFO, STATS)
            for rest in ((), (self.name,), (self.name, self.id))
        ]
        self._queue = queue
        self._started = rfc3339(to_micros(datetime.now(UTC)))
        self._tasks = {url: _Task(subject) for url, subject in tasks.items()}

    def exclude(self, urls: Iterable[str]) -> None:
        """Do not name these tasks, since they are not served."""
        for url in urls:
            self._tasks.pop(url, None)

    def count(self, url: str, error: ErrorInfo | None, seconds: float) -> None:
        """Count an answer. `seconds`: the time from its request on."""
        task = self._tasks.get(url)
        if task is None:
            return
        task.requests += 1
        task.nanoseconds += max(0, round(seconds * 1e9))
        if error is not None:
            task.errors += 1
            task.last_error = f"{error.code}:{error.message[:500]}"

    def reply(self, subject: str, room: int) -> bytes | None:
        """The reply to a request on `subject`, of at most `room` bytes; `None` for an unknown verb, or without enough room."""
        verb = subject.split(".")[1]
        if verb not in (PING, INFO, STATS):
            return None
        values = discovery.identity(verb, self.name, self.id, {"role": "task service"})
        if verb == INFO:
            values |= {
                "description": "Tasks of dwarf workflows",
                "endpoints": [self._info(*one) for one in self._tasks.items()],
            }
        elif verb == STATS:
            values |= {"started": self._started, "endpoints": [self._stats(*one) for one in self._tasks.items()]}
        replies = map(orjson.dumps, chain([values], discovery.shortened(values)))
        return next((reply for reply in replies if len(reply) <= room), None)

    def _info(self, url: str, task: _Task) -> dict[str, Any]:
        return {
            "name": url.replace(".", "-"),
            "subject": task.subject,
            "queue_group": self._queue,
            "metadata": {"task": url},
        }

    def _stats(self, url: str, task: _Task) -> dict[str, Any]:
        return {
            "name": url.replace(".", "-"),
            "subject": task.subject,
            "queue_group": self._queue,
            "num_requests": task.requests,
            "num_errors": task.errors,
            "last_error": task.last_error,
            "processing_time": task.nanoseconds,
            "average_processing_time": task.nanoseconds // task.requests if task.requests else 0,
        }


async def find_services(nc: Nats, verb: str, name: str = "") -> list[dict[str, Any]]:
    """Return the replies of the services of that name, or of all services, to a request such as `INFO`."""
    found: list[dict[str, Any]] = []
    for message in await all_replies(nc, discovery.subject(verb, name)):
        with contextlib.suppress(ValueError):
            values = orjson.loads(message.data)
            if isinstance(values, dict):
                found.append(values)
    return found


async def all_replies(nc: Nats, subject: str, longest: float = LONGEST_SECONDS) -> list[Msg]:
    """Send a request and return all replies: until none comes for `QUIET_SECONDS`, or `longest` seconds are over.

    Raises `Forbidden` if permissions do not allow the request, or the subscription of the inbox.
    """
    heard: asyncio.Queue[Msg | Violation] = asyncio.Queue()
    inbox = nc.new_inbox()

    def refused(violation: Violation) -> bool:
        ours = violation.concerns(subject if violation.publish else inbox)
        if ours:
            heard.put_nowait(violation)
        return ours

    unwatch = watch_refusals(nc, refused)
    subscription = await nc.subscribe(inbox, cb=_put_into(heard))
    found: list[Msg] = []
    try:
        await nc.publish(subject, b"", reply=inbox)
        async with asyncio.timeout(longest):
            while True:
                message = await asyncio.wait_for(heard.get(), QUIET_SECONDS if found else longest)
                if isinstance(message, Violation):
                    raise forbidden(nc, message, "" if message.publish else INBOX_REMEDY)
                if not message.data:  # the server reports that nobody listens
                    break
                if message.headers or not recorded_by(None, message.data):
                    found.append(message)
    except TimeoutError:
        pass
    finally:
        unwatch()
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
    return found


def _put_into(heard: asyncio.Queue[Msg | Violation]) -> Any:
    async def keep(message: Msg) -> None:
        heard.put_nowait(message)

    return keep
