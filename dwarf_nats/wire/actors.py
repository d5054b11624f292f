"""The actor of a request: named by the sender, or told by NATS (wire: section 7; M3)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .headers import ACTOR, percent_decode

REQUEST_INFO = "Nats-Request-Info"
"""The header that nats-server adds to a request from another account: its name, and more if the import has `share: true`."""
_ACTOR, _INFO = ACTOR.lower(), REQUEST_INFO.lower()


class _Requestor(msgspec.Struct):
    """The fields of that header that name somebody. With a JWT, `user` is a public key and `name_tag` the name."""

    acc: str = ""
    user: str = ""
    name_tag: str = ""


def actor_of(headers: Mapping[str, str]) -> str:
    """The actor in headers whose names are in lower case: `Dwarf-Actor`, else `user@account` from NATS, else empty."""
    if named := headers.get(_ACTOR):
        return percent_decode(named)
    if told := headers.get(_INFO):
        try:
            found = msgspec.json.decode(told, type=_Requestor)
        except (msgspec.MsgspecError, UnicodeError):
            return ""
        return "@".join(filter(None, (found.name_tag or found.user, found.acc)))
    return ""
