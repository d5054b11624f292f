"""Answers of tasks as they travel: chosen fields sealed, large values in the object store (B9, B10)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dwarf_nats.errors import DwarfError, Unavailable

from .codec_messages import NONE_OPENED, sealed_answer
from .task_codec import encode_answer, error_answer

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import Answer

    from .claim_checks import ClaimChecks
    from .codec import Codec
    from .link import Link

STORE_SECONDS = 30.0
"""Longest time that is spent on storing the values of an answer, while the object store is away."""
STORE_PAUSE_SECONDS = 0.5


class AnswerEncoder:
    """Encodes the answers of a worker. Values are encrypted first, then stored."""

    def __init__(self, link: Link, codec: Codec | None = None, claim_checks: ClaimChecks | None = None) -> None:
        self._link = link
        self._codec = codec
        self._claim_checks = claim_checks

    def encoded_at_once(
        self, answer: Answer | bytes, opened: frozenset[str] = NONE_OPENED
    ) -> tuple[bytes, dict[str, str] | None] | None:
        """Encode an answer as body and headers; `None` if values of it have to be stored first."""
        body, headers = encode_answer(answer)
        if self._codec is not None:
            body = sealed_answer(self._codec, body, opened)
        return (body, headers) if self._claim_checks is None or len(body) <= self._claim_checks.over else None

    async def encoded(
        self, answer: Answer | bytes, opened: frozenset[str] = NONE_OPENED
    ) -> tuple[bytes, dict[str, str] | None]:
        """Encode an answer as body and headers; one whose values cannot be stored becomes an error that says so."""
        body, headers = encode_answer(answer)
        if self._codec is not None:
            body = sealed_answer(self._codec, body, opened)
        if self._claim_checks is None or len(body) <= self._claim_checks.over:
            return body, headers
        try:
            return await self._stored(self._claim_checks, body), headers
        except DwarfError as error:
            return encode_answer(error_answer(error.code, f"a large value cannot be stored: {error.message}"))

    async def _stored(self, claim_checks: ClaimChecks, body: bytes) -> bytes:
        """Store the large values, and try again for a while: what the task has done should not be done again."""
        loop = asyncio.get_running_loop()
        end = loop.time() + STORE_SECONDS
        while True:
            await self._link.until_connected(max(0.0, end - loop.time()))
            try:
                if self._link.nc is None:
                    raise Unavailable("there is no connection to NATS")
                return await claim_checks.claimed_answer(self._link.nc, body)
            except Unavailable:
                if loop.time() + STORE_PAUSE_SECONDS >= end:
                    raise
            await asyncio.sleep(STORE_PAUSE_SECONDS)
