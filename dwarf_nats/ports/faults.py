"""The errors of a database, by what they mean for who asked it."""

from __future__ import annotations

from dwarf_nats.errors import BadRequest, Unavailable


class DatabaseAway(Unavailable):
    """A database cannot be reached, or can do nothing at the moment: work that needs it waits (B6)."""


class StatementRefused(DatabaseAway):
    """A database is there and cannot do this one thing at the moment: a lock, a time-out, a right or a table is missing.

    If several things were written at once, the others may succeed one by one.
    """


class Unusable(Unavailable):
    """A database is in a state that only a person can mend: a start ends with this error instead of waiting."""


class Unstorable(BadRequest):
    """A database cannot store a value: trying again does not help."""
