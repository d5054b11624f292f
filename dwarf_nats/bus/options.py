"""How to reach NATS: arguments, environment, and the context files of the `nats` CLI (wire: section 6)."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from dwarf_nats.errors import BadRequest

DEFAULT_URL = "nats://127.0.0.1:4222"
_FROM_CONTEXT = {"url": "servers", "user": "user", "password": "password", "token": "token", "creds": "creds",
                 "nkey": "nkey", "ca": "tls_ca", "cert": "tls_cert", "key": "tls_key", "inbox_prefix": "inbox_prefix",
                 "tls_first": "tls_first"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """How to reach NATS; an empty field means "not given".

    `servers`: one or several urls, separated by commas. `context`: name of a context of the `nats` CLI, or a path to
    its file. `creds`: credentials file; `nkey`: file with the seed. What is given here goes before the context it
    names; a context named by `NATS_CONTEXT` goes behind `NATS_URL`.
    """

    servers: str = ""
    context: str = ""
    name: str = ""
    creds: str = ""
    nkey: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    connect_seconds: float = 2.0
    drain_seconds: float = 30.0

    def resolved(self, environment: Mapping[str, str] | None = None) -> ConnectOptions:
        """With the environment and the context filled in. Raises `BadRequest` for a context that cannot be read."""
        env = os.environ if environment is None else environment
        options = self
        if not options.servers and not options.context and env.get("NATS_URL"):
            options = replace(options, servers=env["NATS_URL"])
        name = options.context or ("" if self.servers else env.get("NATS_CONTEXT", ""))
        if name:
            options = options._filled(load_context(name, env))
        return options if options.servers else replace(options, servers=env.get("NATS_URL") or DEFAULT_URL)

    def _filled(self, context: Mapping[str, Any]) -> ConnectOptions:
        defaults = ConnectOptions()
        filled = {
            ours: context[theirs]
            for theirs, ours in _FROM_CONTEXT.items()
            if context.get(theirs) and getattr(self, ours) == getattr(defaults, ours)
        }
        for ours, value in filled.items():
            wanted = type(getattr(defaults, ours))
            if not isinstance(value, wanted):
                raise BadRequest(f"the NATS context {self.context!r} has a {ours} that is no {wanted.__name__}")
            if ours in ("creds", "nkey", "tls_ca", "tls_cert", "tls_key"):
                filled[ours] = os.path.expanduser(value)
        return replace(self, **filled)

    def urls(self) -> list[str]:
        """The servers, one by one. Raises `BadRequest` if there are none."""
        urls = [one.strip() for one in self.servers.split(",") if one.strip()]
        if not urls:
            raise BadRequest("no NATS server given: use nats://host:4222")
        return urls

    def credentials(self) -> dict[str, Any]:
        """Arguments of nats-py's `connect` for who we are. Raises `BadRequest` for files that cannot be read."""
        for what, path in (("credentials", self.creds), ("nkey", self.nkey), ("TLS CA", self.tls_ca),
                           ("TLS certificate", self.tls_cert), ("TLS key", self.tls_key)):  # fmt: skip
            if path and not os.access(path, os.R_OK):
                raise BadRequest(f"cannot read the {what} file {path}")
        found: dict[str, Any] = {
            "user_credentials": self.creds or None,
            "nkeys_seed": self.nkey or None,
            "user": self.user or None,
            "password": self.password or None,
            "token": self.token or None,
        }
        if self.tls_ca or self.tls_cert or self.tls_first:
            found |= {"tls": self._tls(), "tls_handshake_first": self.tls_first}
        return {name: value for name, value in found.items() if value is not None}

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.tls_ca or None)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key or None)
        except (OSError, ssl.SSLError) as error:
            raise BadRequest(f"cannot use the TLS files given: {error}") from None
        return context


def load_context(name: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a context of the `nats` CLI by name, from `$XDG_CONFIG_HOME/nats/context/<name>.json`, or by path.

    Raises `BadRequest` if there is none or it is no JSON object.
    """
    env = os.environ if environment is None else environment
    if "/" in name or name.endswith(".json"):
        path = Path(name).expanduser()
    else:
        home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
        path = Path(home) / "nats" / "context" / f"{name}.json"
    try:
        context: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise BadRequest(f"no NATS context {name!r}: cannot read {path} ({error.strerror})") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the NATS context {path} is not a JSON object: {error}") from None
    return context
