"""The tree of errors.

Every refusal is one leaf of this tree, and each leaf has its wire code (semantics: refusals)::

    DwarfError
    ├── BadRequest    400  the caller must change the request
    ├── Forbidden     403  the permissions of the NATS user do not allow it; nothing was done
    ├── NotFound      404  no such flow, step or graph (or a wrong token, which looks the same)
    ├── TimedOut      408  the wait ended before the flow stopped; the flow goes on
    ├── Conflict      409  wrong status for this operation
    ├── TooLarge      413  a payload or state beyond a limit
    ├── TooMany       429  too many requests at once
    ├── Internal      500  a defect of the service
    └── Unavailable   503  a database or the bus cannot be reached, or the replica is stopping
"""

from __future__ import annotations

from typing import Any, ClassVar


class DwarfError(Exception):
    """Base of all refusals. `message`: one line that says what to do. `details`: further fields of the reply's body."""

    code: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return self.message


class BadRequest(DwarfError):
    """The caller must change the request."""

    code = 400


class Forbidden(DwarfError):
    """The permissions of the NATS user do not allow the operation; nothing was done."""

    code = 403


class NotFound(DwarfError):
    """There is no such flow, step or graph, or the key has a wrong token."""

    code = 404


class TimedOut(DwarfError):
    """The wait ended before the flow stopped; the flow goes on."""

    code = 408


class Conflict(DwarfError):
    """The status does not allow the operation."""

    code = 409


class TooLarge(DwarfError):
    """A payload or a state exceeds a limit."""

    code = 413


class TooMany(DwarfError):
    """There are too many requests at once."""

    code = 429


class Internal(DwarfError):
    """A defect of the service."""

    code = 500


class Unavailable(DwarfError):
    """A database or the bus cannot be reached, or the replica is stopping."""

    code = 503
    undecided = False
    """True if the operation may have been carried out nevertheless: the answer of the database was lost."""


_BY_CODE: dict[int, type[DwarfError]] = {
    leaf.code: leaf
    for leaf in (BadRequest, Forbidden, NotFound, TimedOut, Conflict, TooLarge, TooMany, Internal, Unavailable)
}


def error_for(code: int, message: str, **details: Any) -> DwarfError:
    """Make the error for a wire code; an unknown code becomes `Internal`."""
    return _BY_CODE.get(code, Internal)(message, **details)
