"""The bucket of large values, as the claim sweep sees it (B10): it is listed and emptied over the API of JetStream."""

from __future__ import annotations

import base64
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.ports.values import BucketContents, StoredValue

from .jetstream import JetStreamApi, Missing

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)
"""The name of a value: other objects are no business of the sweep."""


class NatsValues:
    """Implements `ports.ValueBucket`. All reads go to the leader of the stream, so that none is out of date."""

    def __init__(self, connection: Nats, bucket: str, grace_seconds: float) -> None:
        if not _BUCKET.fullmatch(bucket):
            raise BadRequest(f"setting claim_bucket has 1 to 64 of A-Z a-z 0-9 _ -, got {bucket!r}")
        self._api = JetStreamApi(connection)
        self._stream = f"OBJ_{bucket}"
        self._chunks = f"$O.{bucket}.C."
        self._entries = f"$O.{bucket}.M."
        self._grace_seconds = grace_seconds

    async def look(self) -> BucketContents:
        try:
            chunks, now = await self._chunk_subjects()  # before the entries: an upload writes its chunks first
        except Missing:
            return BucketContents([], [], 0)
        old: list[StoredValue] = []
        objects, place, size = 0, 1, 0
        while entry := await self._message({"seq": place, "next_by_subj": f"{self._entries}*"}):
            place = int(entry["seq"]) + 1
            info = _info(entry)
            chunks.discard(subject := f"{self._chunks}{info.get('nuid', '')}")
            objects, size = objects + 1, size + _size(info)
            name = str(info.get("name", ""))
            if _NAME.fullmatch(name) and not info.get("deleted") and self._is_old(entry, now):
                old.append(StoredValue(f"sha256:{name}", int(entry["seq"]), subject, _size(info)))
        leftovers = [one for one in sorted(chunks) if await self._is_leftover(one, now)]
        return BucketContents(old, leftovers, objects, size)

    async def remove(self, value: StoredValue) -> bool:
        """Remove the chunks first: an entry without chunks is old, so the value is written again when it is sent."""
        if not await self._is_current(value):
            return False
        await self.drop(value.chunks)
        try:
            await self._api.ask(f"STREAM.MSG.DELETE.{self._stream}", {"seq": value.sequence, "no_erase": True})
        except (Missing, Unavailable):
            if await self._is_current(value):
                raise
            return False
        return True

    async def drop(self, leftover: str) -> None:
        await self._api.ask(f"STREAM.PURGE.{self._stream}", {"filter": leftover})

    # -- inside

    async def _chunk_subjects(self) -> tuple[set[str], float]:
        """The subjects of all chunks, and the time of the server."""
        found: set[str] = set()
        while True:
            request = {"subjects_filter": f"{self._chunks}*", "offset": len(found)}
            reply = await self._api.ask(f"STREAM.INFO.{self._stream}", request)
            page = (reply.get("state") or {}).get("subjects") or {}
            found |= page.keys()
            if not page or len(found) >= int(reply.get("total") or 0):
                return found, _seconds(reply["ts"]) if "ts" in reply else time.time()

    async def _message(self, which: dict[str, Any]) -> dict[str, Any] | None:
        try:
            reply = await self._api.ask(f"STREAM.MSG.GET.{self._stream}", which)
        except Missing:
            return None
        message: dict[str, Any] = reply["message"]
        return message

    async def _is_current(self, value: StoredValue) -> bool:
        name = base64.urlsafe_b64encode(value.digest.partition(":")[2].encode()).decode()
        entry = await self._message({"last_by_subj": f"{self._entries}{name}"})
        return entry is not None and int(entry["seq"]) == value.sequence

    async def _is_leftover(self, subject: str, now: float) -> bool:
        chunk = await self._message({"last_by_subj": subject})
        return chunk is not None and self._is_old(chunk, now)

    def _is_old(self, message: dict[str, Any], now: float) -> bool:
        return now - _seconds(message["time"]) >= self._grace_seconds


def _info(entry: dict[str, Any]) -> dict[str, Any]:
    """The object that an entry describes; `None` if it cannot be read."""
    try:
        return msgspec.json.decode(base64.b64decode(entry.get("data") or ""), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError):
        return {}


def _size(info: dict[str, Any]) -> int:
    size = info.get("size")
    return size if isinstance(size, int) and not info.get("deleted") else 0


def _seconds(text: str) -> float:
    """A time of the server, to the second."""
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()
