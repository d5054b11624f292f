"""Errors of a database by their subject: the value to be stored, or the database and the moment (semantics: database-errors).

Only data errors, integrity errors and limits condemn a value. Everything else is taken for an outage, also an error that nobody
has thought of: results wait for it, operations answer 503, and a log line says what the database said.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import ssl
import time

import asyncpg

from dwarf_nats.errors import DwarfError, Internal
from dwarf_nats.ports import DatabaseAway, StatementRefused, Unstorable
from dwarf_nats.redact import scrubbed

log = logging.getLogger("dwarf_nats.store")
OUTAGE_QUIET_SECONDS = 60.0
"""Seconds without an error after which an outage is over for the log: the next one is logged again."""

CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # the tables were altered: the driver has forgotten the statement and prepares it anew
)
"""Errors that go away if the same is done once more."""

CONNECTION = (
    OSError,
    EOFError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""Errors after which a connection is gone, or in a state that nobody knows: a time-out of the driver leaves one such."""

_DATA = ("22", "54")
_INTEGRITY = ("23", "27", "44")
_AWAY = ("08", "25", "28", "3D", "53300", "57", "58")
"""States in which the database serves nobody now. With any other one statement may be refused and the next one not."""
_HERE = ("57014",)  # statement_timeout, or somebody who cancelled the statement
# At a start: what may pass by itself. A database closed for maintenance says 55000, one of which nothing is known yet XX.
_PASSING = ("08", "25", "40", "53", "55", "57", "58", "XX")
_POOLER_REFUSES = (
    "unsupported startup parameter",
    "no such database",
    "no such user",
    "auth",
    "not allowed in statement",
)
_ERRNOS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
)
_SQLITE_PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_PROTOCOL,
)
_LIMITS = ("too complex", "too big", "too large", "too many", "too deep", "overflow")
_SQLITE_AWAY = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
)


def of_postgres(error: BaseException, where: str) -> DwarfError | None:
    """Turn an error of asyncpg into one of the engine's, nothing for any other error. `where` names the database."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state.startswith(_DATA):
            return unstorable(error)
        if state.startswith(_INTEGRITY):
            return contradicted(error)
        if state.startswith(_AWAY) and state not in _HERE:
            return DatabaseAway(f"PostgreSQL at {where} is away, try again: {one_line(error)}")
        return StatementRefused(f"PostgreSQL at {where} cannot do this now, try again: {one_line(error)}")
    if isinstance(error, UnicodeError | OverflowError):
        return unstorable(error)
    if isinstance(error, (*CONNECTION, MemoryError)):
        return DatabaseAway(f"PostgreSQL at {where} is away, try again: {one_line(error)}")
    return None


def of_sqlite(error: BaseException, path: str) -> DwarfError | None:
    """As `of_postgres`, for an error of sqlite3."""
    if isinstance(error, sqlite3.DataError | OverflowError | UnicodeError):
        return unstorable(error)
    if isinstance(error, sqlite3.IntegrityError):
        return unstorable(error) if primary_code(error) == sqlite3.SQLITE_MISMATCH else contradicted(error)
    if isinstance(error, sqlite3.OperationalError) and primary_code(error) == sqlite3.SQLITE_ERROR:
        words = str(error)
        if any(limit in words for limit in _LIMITS) or words == "malformed JSON":
            return unstorable(error)
    if isinstance(error, sqlite3.Error) and primary_code(error) not in _SQLITE_AWAY:
        return StatementRefused(f"the SQLite file {path} cannot do this now, try again: {one_line(error)}")
    if isinstance(error, sqlite3.Error | OSError | MemoryError):
        return DatabaseAway(f"the SQLite file {path} is away, try again: {one_line(error)}")
    return None


def primary_code(error: sqlite3.Error) -> int | None:
    """The result code of SQLite without its extension; nothing for an error of the module itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def needs_a_person(error: BaseException) -> bool:
    """Say whether only a person can mend what hinders a start. Anything else may pass by itself, and a start waits for it."""
    root = root_of(error)
    if isinstance(root, asyncpg.PostgresError):
        state = root.sqlstate or ""
        if state == "08P01":  # what a connection pooler says of anything
            return any(words in str(root) for words in _POOLER_REFUSES)
        return not state.startswith(_PASSING)
    if isinstance(root, sqlite3.Error):
        return primary_code(root) not in _SQLITE_PASSING
    if isinstance(root, ssl.SSLError):
        return not isinstance(root, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    if isinstance(root, OSError):
        return root.errno in _ERRNOS or "rejected SSL upgrade" in str(root)
    if isinstance(root, asyncpg.InterfaceError):
        return isinstance(root, asyncpg.ClientConfigurationError) or "authentication" in str(root)
    return False


def root_of(error: BaseException) -> BaseException:
    """The error that others were made of: the driver's, if there is one."""
    while True:
        deeper = getattr(error, "orig", None) or error.__cause__
        if not isinstance(deeper, BaseException) or isinstance(error, asyncpg.PostgresError | sqlite3.Error):
            return error
        error = deeper


def unstorable(error: BaseException) -> Unstorable:
    """An error for a value that cannot be stored: a type, an encoding, a number out of range, a limit."""
    return Unstorable(f"the database cannot store this: {one_line(error)}; change the value")


def contradicted(error: BaseException) -> Internal:
    """An error for a constraint of the database that was violated: one of ours, which is a defect, or one somebody added."""
    return Internal(f"the database refused this: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """An error in one line, never empty, without a secret that it quotes."""
    return scrubbed(" ".join(str(error).split())) or type(error).__name__


class Outages:
    """Logs an outage once, however many operations meet it. Different messages of the database are different outages."""

    def __init__(self) -> None:
        self._last_at: dict[str, float] = {}
        self.quiet = False
        """Log nothing: during a start, which reports its errors itself."""

    def note(self, error: DwarfError) -> None:
        """Take note of an error that an operation met, and log it if the database is away and nobody has logged that yet."""
        if self.quiet or not isinstance(error, DatabaseAway):
            return
        now = time.monotonic()
        last = self._last_at.get(error.message)
        if len(self._last_at) > 100:
            self._last_at.clear()
        self._last_at[error.message] = now
        if last is None or now - last > OUTAGE_QUIET_SECONDS:
            log.warning("%s", error.message)
