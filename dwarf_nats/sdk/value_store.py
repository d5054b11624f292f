"""Values in the object store of NATS, by their digests (B10).

Written and read with the messages of the object store, so that `nats object get` finds them. Two things differ from nats-py's
own: an object that is written again keeps its old chunks, which somebody may be reading, until a replica sweeps; and a read
needs no consumer, so a client's permissions can be narrow.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import nats.errors

from dwarf_nats.errors import NotFound, Unavailable
from dwarf_nats.jetstream_request import request_jetstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.client import Client as Nats
    from nats.aio.msg import Msg


API = "$JS.API"
CHUNK_BYTES = 512 * 1024
"""Longest chunk; a server with a smaller `max_payload` gets smaller ones."""
ROOM_BYTES = 4_096
"""Room for headers in a message."""
REQUEST_SECONDS = 5.0
FRESH_SECONDS = 1_800.0
"""Age up to which an object is not written again. A sweep removes none that is younger than twice that."""
KNOWN_OBJECTS = 10_000
"""Objects that are known to be fresh; of more, the oldest are looked up again."""
REMEDY = "grant it what the page on large values says"


class ValueStore:
    """The values in one bucket."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self._fresh: dict[str, float] = {}

    async def put(self, nc: Nats, digest: str, data: bytes) -> None:
        """Have a value stored when this returns, and younger than `FRESH_SECONDS`. Makes the bucket if there is none.

        Raises `Unavailable` without JetStream, `Forbidden` if permissions refuse it.
        """
        now = time.monotonic()
        if self._fresh.get(digest, 0.0) > now:
            return
        age = await self._age(nc, digest)
        if age is None or abs(age) > FRESH_SECONDS:
            await self._write(nc, digest, data)
            age = 0.0
        while len(self._fresh) >= KNOWN_OBJECTS:
            del self._fresh[next(iter(self._fresh))]
        self._fresh[digest] = now + FRESH_SECONDS - abs(age)

    async def get(self, nc: Nats, digest: str) -> bytes:
        """Return a value. Raises `NotFound` if it is not there, or not whole; else as `put` does."""
        found = await self._meta(nc, digest)
        while found is not None:
            info: dict[str, Any] = msgspec.json.decode(found.data)
            subject, place = f"$O.{self.bucket}.C.{info.get('nuid', '')}", 1
            chunks = []
            for _ in range(int(info.get("chunks", 0))):
                chunk = await self._direct(nc, {"seq": place, "next_by_subj": subject})
                if chunk is None:
                    break
                chunks.append(chunk.data)
                place = int((chunk.headers or {}).get("Nats-Sequence", "0")) + 1
            data = b"".join(chunks)
            if digest_of(data) == digest:
                return data
            before, found = found, await self._meta(nc, digest)
            if found is not None and found.data == before.data:
                break  # else it was written again, and the old chunks were swept, while they were read
        raise NotFound(f"{digest[:19]}… is not in the object store (bucket {self.bucket})")

    # -- inside

    async def _age(self, nc: Nats, digest: str) -> float | None:
        """Seconds since an object was written; `None` if there is none."""
        found = await self._meta(nc, digest)
        if found is None:
            return None
        text = (found.headers or {}).get("Nats-Time-Stamp", "")
        try:
            written = datetime.fromisoformat(text.partition(".")[0].rstrip("Z") + "+00:00").timestamp()
        except ValueError:
            return None
        return time.time() - written

    async def _write(self, nc: Nats, digest: str, data: bytes) -> None:
        subject = f"$O.{self.bucket}.C.{(nuid := secrets.token_hex(11))}"
        size = max(1, min(CHUNK_BYTES, nc.max_payload - ROOM_BYTES))
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        for chunk in chunks:
            await self._publish(nc, subject, chunk)
        name = name_of(digest)
        info = {
            "name": name,
            "bucket": self.bucket,
            "nuid": nuid,
            "size": len(data),
            "chunks": len(chunks),
            "digest": f"SHA-256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()}",
            "options": {"max_chunk_size": size},
        }
        await self._publish(nc, self._meta_subject(digest), msgspec.json.encode(info), {"Nats-Rollup": "sub"})

    async def _publish(self, nc: Nats, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish with the acknowledgement of JetStream; make the bucket if no stream has taken it."""
        reply = await self._request(nc, subject, data, headers)
        if reply is None:
            await self._make(nc)
            reply = await self._request(nc, subject, data, headers)
        if reply is None:
            raise Unavailable("JetStream does not answer: it is not enabled for this account, or has no leader now")
        _check(reply, f"the bucket {self.bucket} takes nothing")

    async def _make(self, nc: Nats) -> None:
        config = {
            "name": self._stream,
            "description": "Large values of dwarf-nats",
            "subjects": [f"$O.{self.bucket}.C.>", f"$O.{self.bucket}.M.>"],
            "storage": "file",
            "discard": "new",
            "retention": "limits",
            "num_replicas": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        }
        reply = await self._request(nc, f"{API}.STREAM.CREATE.{self._stream}", msgspec.json.encode(config))
        if reply is None:
            raise Unavailable("JetStream does not answer: it is not enabled for this account, or has no leader now")
        _check(reply, f"the bucket {self.bucket} cannot be made")

    def _meta_subject(self, digest: str) -> str:
        return f"$O.{self.bucket}.M.{base64.urlsafe_b64encode(name_of(digest).encode()).decode()}"

    async def _meta(self, nc: Nats, digest: str) -> Msg | None:
        return await self._direct(nc, {"last_by_subj": self._meta_subject(digest)})

    async def _direct(self, nc: Nats, what: Mapping[str, Any]) -> Msg | None:
        """A message of the bucket; `None` if there is none, or no bucket."""
        reply = await self._request(nc, f"{API}.DIRECT.GET.{self._stream}", msgspec.json.encode(what))
        if reply is None or (reply.headers or {}).get("Status", "").startswith("404"):
            return None
        if "Nats-Sequence" not in (reply.headers or {}):
            raise Unavailable(
                f"the bucket {self.bucket} cannot be read now: {(reply.headers or {}).get('Description')}"
            )
        return reply

    async def _request(
        self, nc: Nats, subject: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> Msg | None:
        """The reply; `None` if nobody answers there. Raises `Forbidden`, `Unavailable`."""
        try:
            return await request_jetstream(nc, subject, data, timeout=REQUEST_SECONDS, remedy=REMEDY, headers=headers)
        except nats.errors.NoRespondersError:
            return None


def digest_of(data: bytes) -> str:
    """The digest of a value, as a claim has it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def name_of(digest: str) -> str:
    """The name of the object that holds a value."""
    return digest.partition(":")[2]


def _check(reply: Msg, what: str) -> None:
    """Raise `Unavailable` for an error in a reply of JetStream."""
    error = msgspec.json.decode(reply.data).get("error")
    if error is not None:
        raise Unavailable(f"{what}: {error.get('description') or error.get('err_code')}")
