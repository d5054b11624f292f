"""Messages as they come from NATS, and to it: without a queue, a task and parsed headers in between.

Messages of chosen subscriptions arrive raw and inline, so that a header named `Status` is not mistaken for the server's own
status line. Sending is a plain call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nats.aio.subscription import Subscription

from dwarf_nats.round_trips import RoundTrips

log = logging.getLogger("dwarf_nats.connection")

RawHandler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes subject, reply subject, payload and the raw header block; must not block."""
_CRLF = b"\r\n"


class RawMessages(RoundTrips):
    """nats-py's client with raw subscriptions, and with `put`."""

    def __init__(self) -> None:
        super().__init__()
        self._raw_handlers: dict[int, RawHandler] = {}

    async def subscribe_raw(self, subject: str, handler: RawHandler, queue: str = "") -> Subscription:
        """Subscribe; `handler` is called inline for each message. An exception it raises is logged."""
        sid = self._sid + 1  # subscribe() takes it before it first yields, so no message can come in between
        self._raw_handlers[sid] = handler
        return await self.subscribe(subject, queue=queue)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self._raw_handlers.get(sid)
        if handler is None or sid not in self._subs:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            handler(subject, reply, data, headers or None)
        except Exception:
            log.exception("a message handler failed")

    def remove_subscription(self, subscription: Subscription) -> None:
        """Forget a subscription and its handler; `send_unsubscribe` comes first."""
        self._remove_sub(subscription._id)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._raw_handlers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    def put(self, subject: str, reply: str, block: bytes, body: bytes) -> bool:
        """Put one message on the wire, in the order of the calls; false if the connection is down.

        `block` is a header block or empty. The caller has checked the size.
        """
        if not self.is_connected:
            return False
        if block:
            size = len(block)
            head = f"HPUB {subject} {reply} {size} {size + len(body)}\r\n".encode()
        else:
            head = f"PUB {subject} {reply} {len(body)}\r\n".encode()
        command = b"".join((head, block, body, _CRLF))
        self._pending.append(command)
        self._pending_data_size += len(command)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(body)
        queue = self._flush_queue
        if queue is not None and queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())
        return True
