"""Logs of the long-running commands: lines for people or JSON objects, on stderr."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType

import msgspec

from dwarf_nats.redact import scrubbed
from dwarf_nats.render.terminal import in_json, in_lines, one_line
from dwarf_nats.settings import LogFormat, LogLevel
from dwarf_nats.telemetry.context import current_ids
from dwarf_nats.workflow.keys import without_tokens


class TextFormatter(logging.Formatter):
    """Lines for people. No line shows a password or a token of a URL, wherever it came from. From `info` on no line shows a key
    either, for example one that a task has put into its error.

    A record is one line and its traceback: no text from outside adds lines or controls the terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        return _published(record, scrubbed(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(super().formatMessage(record))

    def formatException(  # noqa: N802
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return in_lines(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the values of `extra` and the ids of the current span as fields (T3).

    Secrets and keys are removed as in `TextFormatter`.
    """

    _USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrubbed(record.getMessage()),
            **current_ids(),
        }
        line |= {name: _clean(value) for name, value in record.__dict__.items() if name not in self._USUAL}
        if record.exc_info:
            line["traceback"] = scrubbed("".join(traceback.format_exception(*record.exc_info)))
        return _published(record, in_json(msgspec.json.encode(line, enc_hook=str).decode()))


def _clean(value: object) -> object:
    return scrubbed(value) if isinstance(value, str) else value


def _published(record: logging.LogRecord, text: str) -> str:
    return text if record.levelno < logging.INFO else without_tokens(text)


class _Warnings(logging.Handler):
    """Warnings as lines on stderr, for commands that keep no log."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _in_use:
            print(f"warning: {_published(record, one_line(scrubbed(record.getMessage())))}", file=sys.stderr)


_in_use: list[LogFormat] = []
_warnings = _Warnings(logging.WARNING)


def tell_warnings(logger: str = "dwarf_nats.sdk") -> None:
    """Print the warnings of the client, or of another part, on stderr from now on, unless a log is kept."""
    logging.getLogger(logger).addHandler(_warnings)  # once, however often


def set_up(form: LogFormat, level: LogLevel = LogLevel.INFO) -> None:
    """Log to stderr from now on; records of other libraries from `info` on."""
    _in_use.append(form)
    handler = logging.StreamHandler()
    if form is LogFormat.JSON:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(
        level=max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]), handlers=[handler], force=True
    )
    logging.getLogger("dwarf_nats").setLevel(logging.DEBUG if level is LogLevel.DEBUG else logging.NOTSET)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("nats").setLevel(logging.CRITICAL)
