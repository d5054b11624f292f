"""Claim checks: large values go to the object store of NATS, and flows carry references to them (B10).

checks = ClaimChecks(over=64 * 1024)
async with Client(claim_checks=checks) as client: ...
worker = Worker(claim_checks=checks)
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dwarf_nats.errors import BadRequest, NotFound, TooLarge
from dwarf_nats.workflow.claims import CLAIM, CLAIM_TEXT, is_claim
from dwarf_nats.workflow.sealed import MARK_TEXT, is_sealed

from .value_store import ValueStore, digest_of

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats

DEFAULT_OVER_BYTES = 64 * 1024
LEAST_OVER_BYTES = 1_024
"""Least threshold: a reference has some hundred bytes itself."""
DEFAULT_BUCKET = "dwarf-values"
MAX_VALUE_BYTES = 256 * 1024 * 1024
"""Longest value, and the most that is fetched for one message: it is held in memory."""
CACHE_BYTES = 32 * 1024 * 1024
"""Values that are kept in memory: the next step, or the next call, mostly needs the same ones."""
AT_ONCE = 8
"""Values of one message that are stored or fetched at once."""
_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_FILE_KEYS = {"over", "keep", "bucket"}
_PARTS = ("state", "overrides", "data")
_WHOLE = frozenset({"data", "interrupt"})
"""Parts that need not be objects: a large one is replaced as a whole then."""
M = TypeVar("M", bound=msgspec.Struct)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder().decode


class ClaimChecks:
    """Puts values of more than `over` bytes of JSON text into a bucket of NATS's object store, and gets them from there.

    `keep`: names of fields, also with `*`, that stay in the flow because the engine reads them: in conditions, templates,
    reducers and `for_each`. Of a list in such a field, large elements go. `bucket`: the same for all clients, workers and
    replicas of a deployment. Equal values are stored once.
    """

    def __init__(
        self, over: int = DEFAULT_OVER_BYTES, *, keep: Iterable[str] = (), bucket: str = DEFAULT_BUCKET
    ) -> None:
        if type(over) is not int or over < LEAST_OVER_BYTES:
            raise BadRequest(f"claim checks: over is a number of bytes from {LEAST_OVER_BYTES} on, got {over!r}")
        if not isinstance(bucket, str) or not _BUCKET.fullmatch(bucket):
            raise BadRequest(f"claim checks: bucket has 1 to 64 of A-Z a-z 0-9 _ -, got {bucket!r}")
        self.over = over
        self.keep = tuple(keep)
        if isinstance(keep, str) or not all(isinstance(name, str) and name for name in self.keep):
            raise BadRequest(f"claim checks: keep is a list of names of fields, such as items or row_*, got {keep!r}")
        self._values = ValueStore(bucket)
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0

    @property
    def bucket(self) -> str:
        """The bucket of the object store."""
        return self._values.bucket

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ClaimChecks:
        """Read `over`, `keep` and `bucket` from a YAML or JSON file. Raises `BadRequest` that names the mistake."""
        import yaml  # a program without such a file does without it

        place = Path(path)
        try:
            given = yaml.safe_load(place.read_text()) or {}
        except OSError as error:
            raise BadRequest(f"the claim checks file {place} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise BadRequest(f"the claim checks file {place} is neither YAML nor JSON") from None
        if not isinstance(given, dict) or given.keys() - _FILE_KEYS:
            raise BadRequest(f"the claim checks file {place} is a mapping with over, keep and bucket, all optional")
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except (BadRequest, TypeError) as error:
            raise BadRequest(f"the claim checks file {place}: {error}") from None

    # -- on the way out

    async def claimed_request(self, nc: Nats, message: M) -> M:
        """A request of a client with its large values replaced by claims, once they are stored."""
        for part in _PARTS:
            value = getattr(message, part, msgspec.UNSET)
            if isinstance(value, msgspec.Raw) and len(value) > self.over:
                setattr(message, part, msgspec.Raw(await self._claimed(nc, part, bytes(value))))
        return message

    async def claimed_answer(self, nc: Nats, body: bytes) -> bytes:
        """The answer of a task with its large values replaced by claims, once they are stored."""
        if len(body) <= self.over:
            return body
        parts = _object(body)
        for part in ("changes", "interrupt"):
            if part in parts:
                parts[part] = msgspec.Raw(await self._claimed(nc, part, bytes(parts[part])))
        if "subgraph" in parts:
            child = _object(parts["subgraph"])
            if "input" in child:
                child["input"] = msgspec.Raw(await self._claimed(nc, "input", bytes(child["input"])))
                parts["subgraph"] = msgspec.Raw(_encode(child))
        return _encode(parts)

    async def _claimed(self, nc: Nats, part: str, text: bytes) -> bytes:
        """A part of a message, an object mostly, with its large values replaced."""
        if len(text) <= self.over:
            return text
        if not text.lstrip().startswith(b"{"):
            return await self._claim(nc, text) if part in _WHOLE else text
        fields = _object(text)
        large = [(name, bytes(value)) for name, value in fields.items() if len(value) > self.over]
        replaced = await _all(self._field(nc, name, value) for name, value in large)
        fields.update((name, msgspec.Raw(value)) for (name, _), value in zip(large, replaced, strict=True))
        return _encode(fields)

    async def _field(self, nc: Nats, name: str, value: bytes) -> bytes:
        if not any(name == one or fnmatchcase(name, one) for one in self.keep):
            return await self._claim(nc, value)
        if not value.lstrip().startswith(b"["):
            return value
        elements = [bytes(one) for one in _array(value)]
        return _encode([msgspec.Raw(one if len(one) <= self.over else await self._claim(nc, one)) for one in elements])

    async def _claim(self, nc: Nats, value: bytes) -> bytes:
        if len(value) > MAX_VALUE_BYTES:
            raise TooLarge(
                f"a value has {len(value)} bytes, over {MAX_VALUE_BYTES}: keep it elsewhere, and send where it is"
            )
        digest = digest_of(value)
        await self._values.put(nc, digest, value)
        self._keep_in_memory(digest, value)
        sealed = {"sealed": True} if MARK_TEXT in value[:64] and is_sealed(_parse(value)) else {}
        return _encode({CLAIM: digest, "size": len(value), **sealed})

    # -- on the way in

    async def resolved(self, nc: Nats, text: bytes) -> bytes:
        """A JSON text with the values in place of the claims, wherever they stand.

        Raises `NotFound` if a value is not in the object store, `Unavailable` without JetStream, `TooLarge`.
        """
        if CLAIM_TEXT not in text:
            return text
        wanted: dict[str, str] = {}
        size = _collect(text, "", wanted)
        if size > MAX_VALUE_BYTES:
            raise TooLarge(f"the values that are claimed have {size} bytes together, over {MAX_VALUE_BYTES}")
        values = await _all(self._value(nc, digest, name) for digest, name in wanted.items())
        return _replaced(text, dict(zip(wanted, values, strict=True)))

    async def _value(self, nc: Nats, digest: str, name: str) -> bytes:
        cached = self._cache.get(digest)
        if cached is not None:
            self._cache.move_to_end(digest)
            return cached
        try:
            value = await self._values.get(nc, digest)
        except NotFound as error:
            raise NotFound(
                f"the value of field {name!r}, {error.message}: it was removed, or this is not the bucket it was put into"
            ) from None
        self._keep_in_memory(digest, value)
        return value

    def _keep_in_memory(self, digest: str, value: bytes) -> None:
        if digest in self._cache or len(value) > CACHE_BYTES:
            return
        self._cache[digest] = value
        self._cached_bytes += len(value)
        while self._cached_bytes > CACHE_BYTES:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])


async def _all(values: Iterable[Any]) -> list[Any]:
    """The results of coroutines, some of which run at once; the first error ends the others."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(value: Any) -> Any:
        async with room:
            return await value

    async with _Group() as group:
        tasks = [group.create_task(one(value)) for value in values]
    return [task.result() for task in tasks]


class _Group(asyncio.TaskGroup):
    """A group of tasks whose first error is raised as it is."""

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await super().__aexit__(*raised)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _collect(text: bytes, name: str, wanted: dict[str, str]) -> int:
    """Note the digests of the claims in a text, with the nearest field of each; return the bytes of their values."""
    if CLAIM_TEXT not in text:
        return 0
    kind = text.lstrip()[:1]
    if kind == b"{":
        value = _claim_in(text)
        if value is not None:
            new = value[CLAIM] not in wanted
            wanted.setdefault(value[CLAIM], name)
            return int(value["size"]) if new else 0
        return sum(_collect(bytes(member), one, wanted) for one, member in _object(text).items())
    return sum(_collect(bytes(member), name, wanted) for member in _array(text)) if kind == b"[" else 0


def _replaced(text: bytes, values: Mapping[str, bytes]) -> bytes:
    if CLAIM_TEXT not in text:
        return text
    kind = text.lstrip()[:1]
    if kind == b"{":
        value = _claim_in(text)
        if value is not None:
            return values[value[CLAIM]]
        return _encode({one: msgspec.Raw(_replaced(bytes(member), values)) for one, member in _object(text).items()})
    return _encode([msgspec.Raw(_replaced(bytes(member), values)) for member in _array(text)]) if kind == b"[" else text


def _claim_in(text: bytes) -> dict[str, Any] | None:
    """The claim that a text is."""
    if len(text) > 512:
        return None
    value = _parse(text)
    return value if is_claim(value) else None


__all__ = ["ClaimChecks"]
