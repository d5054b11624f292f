"""The contexts of the `nats` command line: files with a server and the credentials for it (wire section 6).

A context `NAME` is `$XDG_CONFIG_HOME/nats/context/NAME.json`, or under `~/.config` without that variable;
`nats/context.txt` beside the folder names the one that `nats context select` chose.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dwarf_nats.errors import BadRequest

_FIELDS = {"ca": "tls_ca", "cert": "tls_cert", "key": "tls_key"} | {
    name: name
    for name in (
        "url",
        "creds",
        "nkey",
        "user",
        "password",
        "token",
        "tls_first",
        "inbox_prefix",
        "user_jwt",
        "user_seed",
    )
}
_PATHS = frozenset({"creds", "nkey", "tls_ca", "tls_cert", "tls_key"})
_NOT_SUPPORTED = {
    "nsc": "a lookup by the program nsc: write the credentials to a file with `nsc generate creds` and name that in `creds`",
    "socks_proxy": "a SOCKS proxy: use a context without one",
    "windows_cert_store": "the certificate store of Windows: name files in `cert` and `key`",
}
_REFERENCE = re.compile(r"(nsc|op|data|env)://|data:")


def load_context(name: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a context as fields of `ConnectOptions`; `name` may be a path to a context file.

    Paths in it may begin with `~` and contain variables (`$NAME`). Raises `BadRequest` if there is no such context, or if it
    needs a feature that is not supported.
    """
    env = os.environ if environ is None else environ
    path = _path(name, env)
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise BadRequest(
            f"cannot read the NATS context {name!r} at {path}: {error.strerror or error}; {_those_there(env)}"
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the NATS context file {path} is not a JSON object: {error}; {_those_there(env)}") from None
    for field, what in _NOT_SUPPORTED.items():
        if values.get(field):
            raise BadRequest(f"the NATS context file {path} asks for {what}")
    found = {ours: values[theirs] for theirs, ours in _FIELDS.items() if values.get(theirs)}
    for field, value in found.items():
        wanted = bool if field == "tls_first" else str
        if not isinstance(value, wanted):
            raise BadRequest(f"the NATS context file {path} has a {field} that is no {wanted.__name__}")
        if isinstance(value, str):
            found[field] = _value(field, value, path, env)
    return found


def selected_context(environ: Mapping[str, str] | None = None) -> str:
    """The name of the context that `nats context select` chose; empty if there is none."""
    try:
        return (_folder(os.environ if environ is None else environ).parent / "context.txt").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _folder(env: Mapping[str, str]) -> Path:
    if env.get("XDG_CONFIG_HOME"):
        return Path(env["XDG_CONFIG_HOME"]) / "nats" / "context"
    return Path(env.get("HOME") or Path("~").expanduser()) / ".config" / "nats" / "context"


def _path(name: str, env: Mapping[str, str]) -> Path:
    if os.sep in name or name.endswith(".json"):
        return Path(name).expanduser()
    return _folder(env) / f"{name}.json"


def _those_there(env: Mapping[str, str]) -> str:
    folder = _folder(env)
    try:
        names = sorted(one.stem for one in folder.iterdir() if one.suffix == ".json")
    except OSError:
        names = []
    return f"there are {', '.join(names)} in {folder}" if names else f"there is no context in {folder}"


def _value(field: str, value: str, path: Path, env: Mapping[str, str]) -> str:
    reference = _REFERENCE.match(value)
    if reference is not None:
        scheme, _, name = value.partition("://")
        if scheme == "env" and field not in _PATHS:
            if not env.get(name):
                raise BadRequest(
                    f"the NATS context file {path} takes {field} from the variable {name}, which is not set"
                )
            return env[name]
        raise BadRequest(
            f"the NATS context file {path} names {reference[0]}… in {field}, which is not supported: give a file or the value"
        )
    if field not in _PATHS:
        return value
    value = value.removeprefix("file://")
    expanded = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: env.get(found[1] or found[2], ""), value)
    if expanded == "~" or expanded.startswith("~/"):
        expanded = (env.get("HOME") or str(Path("~").expanduser())) + expanded[1:]
    return expanded
