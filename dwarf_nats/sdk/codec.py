"""The codec: clients and workers that share keys seal fields of states and data, so that nobody between can read them (B9).

codec = Codec.from_file("codec.yaml")
async with Client(codec=codec) as client: ...
worker = Worker(codec=codec)
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import orjson

from dwarf_nats.errors import BadRequest, Forbidden
from dwarf_nats.wire.connect_options import ConnectArguments
from dwarf_nats.workflow.sealed import MARK, MARK_TEXT, is_sealed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from .claim_checks import ClaimChecks

NONCE_BYTES = 12
ALGORITHMS = {16: "A128GCM", 24: "A192GCM", 32: "A256GCM"}
"""The name of the algorithm, by the bytes of the key."""
_ID_MAX_CHARS = 64
_FILE_KEYS = {"keys", "fields"}
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Codec:
    """Seals fields with AES-GCM, and opens them.

    `keys`: by id, 16, 24 or 32 bytes each; the first one seals, each of them opens. So a key is replaced by putting a new one
    in front, and removed when nothing sealed with it is left. `fields`: names of state fields, also with `*`, that are sealed.

    A value is bound to the name of the field it stands in: moved to another field, it cannot be opened. It is not bound to its
    flow, since forks, continued threads and sub-workflows carry it on.
    """

    def __init__(self, keys: Mapping[str, bytes], fields: Iterable[str] = ()) -> None:
        if not keys:
            raise BadRequest("a codec needs a key: give it an id and 32 random bytes")
        self._ciphers = {_checked_id(key_id): _cipher(key_id, key) for key_id, key in keys.items()}
        self._algorithms = {key_id: ALGORITHMS[len(key)] for key_id, key in keys.items()}
        self.sealing_key = next(iter(self._ciphers))
        """The id of the key that seals."""
        self.fields = tuple(fields)
        for name in self.fields:
            if not isinstance(name, str) or not name:
                raise BadRequest(f"the fields of a codec are names, such as card or secret_*, got {name!r}")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Codec:
        """Read keys and fields from a YAML or JSON file (docs: sealed fields). Raises `BadRequest` that names the mistake."""
        import yaml  # a program without a codec file does without it

        place = Path(path)
        try:
            given = yaml.safe_load(place.read_text())
        except OSError as error:
            raise BadRequest(f"the codec file {place} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError):  # whose texts may quote a key
            raise BadRequest(f"the codec file {place} is neither YAML nor JSON") from None
        if not isinstance(given, dict) or not isinstance(given.get("keys"), list):
            raise BadRequest(f"the codec file {place} must have a list `keys`: `keys: [{{id: 2026-11, key: BASE64}}]`")
        unknown = given.keys() - _FILE_KEYS
        if unknown:
            raise BadRequest(
                f"the codec file {place} has the unknown key {min(map(str, unknown))!r}: it has keys and fields"
            )
        fields = given.get("fields") or []
        if not isinstance(fields, list):
            raise BadRequest(f"the codec file {place}, fields: must be a list of names")
        keys: dict[str, bytes] = {}
        for number, one in enumerate(given["keys"], 1):
            key_id, key = _read_key(one, f"the codec file {place}, key {number}", place.parent)
            if key_id in keys:
                raise BadRequest(f"the codec file {place} has two keys {key_id!r}: give each key an id of its own")
            keys[key_id] = key
        try:
            return cls(keys, fields)
        except BadRequest as error:
            raise BadRequest(f"the codec file {place}: {error.message}") from None

    def chooses(self, name: str) -> bool:
        """True if a field of that name is to be sealed."""
        return any(name == one or fnmatchcase(name, one) for one in self.fields)

    # -- one value

    def seal(self, name: str, value: bytes) -> bytes:
        """Seal the JSON text of the field `name`."""
        key_id = self.sealing_key
        algorithm = self._algorithms[key_id]
        nonce = os.urandom(NONCE_BYTES)
        data = nonce + self._ciphers[key_id].encrypt(nonce, value, _bound_to(algorithm, key_id, name))
        return _encode({MARK: algorithm, "key": key_id, "data": base64.urlsafe_b64encode(data).decode()})

    def open(self, name: str, sealed: Mapping[str, str]) -> bytes:
        """The JSON text of a sealed value that stands in the field `name`.

        Raises `Forbidden` if its key is not there, `BadRequest` if it was changed, or sealed for another field.
        """
        key_id, algorithm = sealed["key"], sealed[MARK]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            known = ", ".join(repr(one) for one in self._ciphers)
            raise Forbidden(
                f"field {name!r} is sealed with the key {key_id[:_ID_MAX_CHARS]!r}, which this codec does not have (it has"
                f" {known}): add it to the codec, behind the first key"
            )
        try:
            data = base64.b64decode(sealed["data"], altchars=b"-_", validate=True)
            return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _bound_to(algorithm, key_id, name))
        except Exception:  # InvalidTag and whatever the library has against the data; nothing of it helps
            raise BadRequest(
                f"field {name!r} is sealed with the key {key_id!r}, but cannot be opened with it: it was changed, sealed for a"
                " field of another name, or that id stands for another key elsewhere"
            ) from None

    # -- whole messages

    def seal_fields(self, text: bytes, also: Collection[str] = ()) -> bytes:
        """Seal the chosen fields of the JSON text of an object, and those in `also`; whatever else it is stays as it is.

        Null stays, since it removes a field, and so does what is sealed already.
        """
        if not text.lstrip().startswith(b"{"):
            return text
        fields = _object(text)
        sealed = {
            name: msgspec.Raw(self.seal(name, bytes(value)))
            for name, value in fields.items()
            if (name in also or self.chooses(name))
            and bytes(value).strip() != b"null"
            and not _is_sealed_text(bytes(value))
        }
        return _encode({**fields, **sealed}) if sealed else text

    def open_all(self, text: bytes) -> bytes:
        """Open every sealed value in a JSON text, wherever it stands. Raises as `open` does."""
        return self.opened(text)[0]

    def opened(self, text: bytes) -> tuple[bytes, frozenset[str]]:
        """As `open_all`; also the names of the fields that were opened."""
        if MARK_TEXT not in text:
            return text, frozenset()
        names: set[str] = set()
        return self._opened(text, "", names), frozenset(names)

    def _opened(self, text: bytes, name: str, names: set[str]) -> bytes:
        """`name`: the nearest field, to which the value is bound; an array's members are bound to that of the array."""
        if MARK_TEXT not in text:
            return text
        kind = text.lstrip()[:1]
        if kind == b"{":
            if _is_sealed_text(text):
                names.add(name)
                return self.open(name, orjson.loads(text))
            members = _object(text)
            return _encode({one: msgspec.Raw(self._opened(bytes(value), one, names)) for one, value in members.items()})
        if kind == b"[":
            return _encode([msgspec.Raw(self._opened(bytes(value), name, names)) for value in _array(text)])
        return text


def _is_sealed_text(text: bytes) -> bool:
    return MARK_TEXT in text and is_sealed(orjson.loads(text))


def _bound_to(algorithm: str, key_id: str, name: str) -> bytes:
    """The associated data: what a value is sealed for."""
    return _encode(["dwarf-nats", algorithm, key_id, name])


def _checked_id(key_id: str) -> str:
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _ID_MAX_CHARS or not key_id.isprintable():
        raise BadRequest(f"the id of a key is a text of 1 to {_ID_MAX_CHARS} characters, got {str(key_id)[:80]!r}")
    return key_id


def _cipher(key_id: str, key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise BadRequest("a codec needs the package `cryptography`: pip install 'dwarf-nats[codec]'") from None
    if not isinstance(key, bytes) or len(key) not in ALGORITHMS:
        size = len(key) if isinstance(key, bytes) else type(key).__name__
        raise BadRequest(
            f"key {key_id!r} must have 32 bytes (or 16, 24), got {size}: make one with `openssl rand -base64 32`"
        )
    return AESGCM(key)


def _read_key(given: Any, where: str, folder: Path) -> tuple[str, bytes]:
    """A key of a codec file: its text stands in the file, in another one, or in a variable of the environment."""
    if not isinstance(given, dict):
        raise BadRequest(f"{where}: must be a mapping with id and key")
    key_id = given.get("id")
    sources = [one for one in ("key", "file", "env") if one in given]
    if len(sources) != 1 or given.keys() - {"id", *sources}:
        raise BadRequest(f"{where}: needs `id`, and one of `key` (base64), `file` and `env` (that hold it)")
    if not isinstance(key_id, str):
        raise BadRequest(f'{where}: `id` must be a text: quote it, as in id: "2026"')
    value = given[sources[0]]
    if not isinstance(value, str):
        raise BadRequest(f"{where}: `{sources[0]}` must be a text")
    if sources[0] == "env":
        name, value = value, os.environ.get(value, "")
        if not value:
            raise BadRequest(f"{where}: the variable {name} is not set")
    elif sources[0] == "file":
        try:
            value = (folder / value).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"{where}: the file {value} cannot be read: {error}") from None
    try:
        return key_id, base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{where}: the key is not base64: make one with `openssl rand -base64 32`") from None


class SharedArguments(ConnectArguments, total=False):
    """The keyword arguments that `Client` and `Worker` share."""

    codec: Codec | None
    claim_checks: ClaimChecks | None


_OWN = SharedArguments.__annotations__.keys() - ConnectArguments.__annotations__.keys()


def connect_arguments(given: SharedArguments) -> ConnectArguments:
    """Those of them that say how to connect."""
    return cast(ConnectArguments, {name: value for name, value in given.items() if name not in _OWN})
