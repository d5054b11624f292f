"""The error tree.

Every refusal of the engine is one leaf of this tree, and each leaf knows its wire code (semantics: refusals)::

    DwarfError
    ├── BadRequest    400  the caller must change the request
    ├── Forbidden     403  the permissions of the NATS user do not allow it; nothing was done
    ├── NotFound      404  no such flow, step or graph (or a wrong token, which looks the same)
    ├── TimedOut      408  the wait ended first; the flow goes on
    ├── Conflict      409  wrong status for this operation
    ├── TooLarge      413  a payload or state beyond a limit
    ├── TooMany       429  too many requests at once
    ├── Internal      500  a defect of ours
    └── Unavailable   503  a database or the bus is away, or the replica is stopping
"""

from __future__ import annotations

from typing import Any, ClassVar


class DwarfError(Exception):
    """Base of all refusals. `message` is one line that says what to do; `details` travels in the wire body."""

    code: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return self.message


class BadRequest(DwarfError):
    code = 400


class Forbidden(DwarfError):
    code = 403


class NotFound(DwarfError):
    code = 404


class TimedOut(DwarfError):
    code = 408


class Conflict(DwarfError):
    code = 409


class TooLarge(DwarfError):
    code = 413


class TooMany(DwarfError):
    code = 429


class Internal(DwarfError):
    code = 500


class Unavailable(DwarfError):
    code = 503
    undecided = False
    """What was asked for may have been done all the same: the answer of the database was lost."""


_BY_CODE: dict[int, type[DwarfError]] = {
    leaf.code: leaf
    for leaf in (BadRequest, Forbidden, NotFound, TimedOut, Conflict, TooLarge, TooMany, Internal, Unavailable)
}


def error_for(code: int, message: str, **details: Any) -> DwarfError:
    """The leaf for a wire code; an unknown code becomes `Internal`."""
    return _BY_CODE.get(code, Internal)(message, **details)
