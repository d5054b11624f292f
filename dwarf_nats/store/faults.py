"""What an error of a database is about: the value to be stored, or the database and the moment (semantics: database-errors).

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
QUIET_SECONDS = 60.0
"""An outage is over, for the log, once nothing was heard of it for so long."""

CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # the tables were altered: the driver has forgotten the statement and prepares it anew
)
"""What goes away if the same is done once more."""

CONNECTION = (
    OSError,
    EOFError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What says that a connection has ended. A time-out of the driver leaves one that nothing is known of."""

_DATA = ("22", "54")
_INTEGRITY = ("23", "27", "44")
_AWAY = ("08", "25", "28", "3D", "53300", "57", "58")
"""Nothing can be done there now. With any other error one statement may be refused and the next one not."""
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
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
)  # fmt: skip
_SQLITE_PASSING = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL,
)  # fmt: skip
_LIMITS = ("too complex", "too big", "too large", "too many", "too deep", "overflow")
_SQLITE_AWAY = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS,
)  # fmt: skip


def of_postgres(error: BaseException, where: str) -> DwarfError | None:
    """An error of the driver as the engine knows it; nothing for one that is none of the driver's."""
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
    """As `of_postgres`, for SQLite."""
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
    """Whether what hinders a start is mended by a person only; else it may pass by itself, and a start waits for it."""
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
    """What an error was made of at first: the driver's, if there is one."""
    while True:
        deeper = getattr(error, "orig", None) or error.__cause__
        if not isinstance(deeper, BaseException) or isinstance(error, asyncpg.PostgresError | sqlite3.Error):
            return error
        error = deeper


def unstorable(error: BaseException) -> Unstorable:
    """The value is at fault: a type, an encoding, a number out of range, a limit."""
    return Unstorable(f"the database cannot store this: {one_line(error)}; change the value")


def contradicted(error: BaseException) -> Internal:
    """A constraint of the database is at fault: ours, which is a defect, or one that somebody added."""
    return Internal(f"the database refused this: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """An error in one line, never empty, without a secret that it quotes."""
    return scrubbed(" ".join(str(error).split())) or type(error).__name__


class Outages:
    """One log line for an outage, however often and from wherever it is met. Different words of the database are told apart."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        self.quiet = False
        """Whether nothing is told: at a start, which tells by itself."""

    def heard(self, error: DwarfError) -> None:
        """An operation met an error; those that are about the database and the moment are told, once."""
        if self.quiet or not isinstance(error, DatabaseAway):
            return
        now = time.monotonic()
        last = self._heard.get(error.message)
        if len(self._heard) > 100:
            self._heard.clear()
        self._heard[error.message] = now
        if last is None or now - last > QUIET_SECONDS:
            log.warning("%s", error.message)
