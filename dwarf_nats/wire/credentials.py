"""Credentials files of NATS users: a JWT that names the user, and the seed that proves it (wire section 6)."""

from __future__ import annotations

import os
import re

from dwarf_nats.errors import BadRequest

_SECTION = re.compile(r"-{3,}\s*BEGIN ([A-Z ]+?)\s*-{3,}\s*([A-Za-z0-9+/=._-]+)\s*-{3,}\s*END \1\s*-{3,}")
_JWT, _SEED = "NATS USER JWT", "USER NKEY SEED"


def read_credentials(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Read JWT and seed from a credentials file. Raises `BadRequest` for any other file, without its content."""
    try:
        with open(path, encoding="utf-8") as file:
            return credentials_in(file.read(), f"the credentials file {os.fspath(path)}")
    except UnicodeDecodeError:
        raise BadRequest(f"the credentials file {os.fspath(path)} is not one: it holds no text") from None


def credentials_in(text: str, what: str) -> tuple[str, str]:
    """Read JWT and seed from the text of a credentials file. `what` names it in messages. Raises `BadRequest`."""
    sections = dict(_SECTION.findall(text))
    for name in (_JWT, _SEED):
        if name not in sections:
            raise BadRequest(f"{what} is not one: it has no section {name}; `nsc generate creds` writes one")
    return sections[_JWT], sections[_SEED]


def credentials_text(jwt: str, seed: str) -> str:
    """Format JWT and seed as the text of a credentials file."""
    return "".join(
        f"-----BEGIN {name}-----\n{value}\n------END {name}------\n" for name, value in ((_JWT, jwt), (_SEED, seed))
    )
