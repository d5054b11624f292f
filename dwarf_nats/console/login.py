"""The user who asks: nobody in particular on loopback, a user of HTTP basic, or the one that a proxy names in a header."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path

from dwarf_nats.errors import BadRequest

from .settings import ConsoleSettings

_COST = 2**14
_FORM = "scrypt"


class LoginRequired(Exception):
    """Nobody is logged in. `challenge`: the value of `WWW-Authenticate`, empty if a proxy should have done it."""

    def __init__(self, text: str, challenge: str = "") -> None:
        super().__init__(text)
        self.challenge = challenge


class Login:
    """Tells the user of a request by the settings. `user_of` returns an empty text where there is no login."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._header = settings.user_header.lower()
        self._proxies = frozenset(one.strip() for one in settings.proxies.split(",") if one.strip())
        self._passwords = read_passwords(settings.passwords) if settings.passwords is not None else None
        self._known: dict[str, bytes] = {}

    def user_of(self, headers: Mapping[str, str], peer: str) -> str:
        """The user of a request. `headers`: by names in lower case. `peer`: the address of the other side.

        Raises `LoginRequired`.
        """
        if self._header:
            if peer not in self._proxies:
                raise LoginRequired(f"requests come through the proxy; {peer or 'this address'} is not in --proxies")
            user = headers.get(self._header, "").strip()
            if not user:
                raise LoginRequired("the proxy did not say who is logged in")
            return user
        if self._passwords is not None:
            return self._basic(headers.get("authorization", ""), self._passwords)
        return ""

    def _basic(self, value: str, passwords: Mapping[str, str]) -> str:
        challenge = 'Basic realm="dwarf-nats", charset="UTF-8"'
        scheme, _, encoded = value.partition(" ")
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = user = password = ""
        if scheme.lower() != "basic" or not colon:
            raise LoginRequired("log in", challenge)
        if not self._is_right(user, password, passwords.get(user, "")):
            raise LoginRequired("user or password is wrong", challenge)
        return user

    def _is_right(self, user: str, password: str, hashed: str) -> bool:
        """Check a password. One that was right is remembered as a digest, since a browser sends it with each request."""
        digest = hashlib.sha256(f"{hashed}\0{password}".encode()).digest()
        if hashed and hmac.compare_digest(self._known.get(user, b""), digest):
            return True
        right = verified(password, hashed or hash_password("nobody"))
        if right and hashed:
            self._known[user] = digest
        return right and bool(hashed)


def hash_password(password: str) -> str:
    """A password as the file of passwords has it: `scrypt$salt$hash`."""
    salt = secrets.token_bytes(16)
    return f"{_FORM}${salt.hex()}${_scrypt(password, salt).hex()}"


def verified(password: str, hashed: str) -> bool:
    """True if a password is the hashed one."""
    form, _, rest = hashed.partition("$")
    salt, _, wanted = rest.partition("$")
    try:
        return form == _FORM and hmac.compare_digest(_scrypt(password, bytes.fromhex(salt)), bytes.fromhex(wanted))
    except ValueError:
        return False


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=8, p=1)


def read_passwords(path: Path) -> dict[str, str]:
    """Users and hashed passwords, `user:scrypt$…` a line. Raises `BadRequest` for anything else in the file."""
    found: dict[str, str] = {}
    for number, line in enumerate(_text(path, "passwords").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, hashed = line.strip().partition(":")
        if not colon or not user or not hashed.startswith(f"{_FORM}$"):
            raise BadRequest(
                f"line {number} of {path} is not user:{_FORM}$…: make it with dwarf-nats console --hash-password"
            )
        found[user] = hashed
    if not found:
        raise BadRequest(f"{path} names no user: make a line with dwarf-nats console --hash-password")
    return found


def read_credentials(path: Path) -> dict[str, Path]:
    """The NATS credentials file of each user; paths are relative to the file. Raises `BadRequest`."""
    try:
        table = tomllib.loads(_text(path, "user credentials"))
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f'{path} is no TOML: {error}; write "user" = "file.creds"') from None
    found: dict[str, Path] = {}
    for user, name in table.items():
        if not isinstance(name, str) or not (path.parent / name).is_file():
            raise BadRequest(f"{path} names no credentials file for {user!r}: {name}")
        found[user] = path.parent / name
    return found


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read the file of {what}, {path}: {error}") from None
