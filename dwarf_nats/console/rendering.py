"""Templates and their filters: times, lengths of time, numbers, JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup, escape

from dwarf_nats.render.labels import clip, span
from dwarf_nats.wire.times import micros

from .source import request_line
from .tags import tag_text

_TEMPLATES = Path(__file__).with_name("templates")
WORDS = {
    "created": "Created",
    "pending": "Queued",
    "running": "Running",
    "interrupted": "Waiting",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
"""Status of the wire → the word that pages show."""
REASONS = {
    "running": "running",
    "queued": "queued",
    "scheduled": "scheduled",
    "retry": "next attempt",
    "interrupt": "a person",
    "breakpoint": "breakpoint",
    "event": "an event",
    "subgraph": "a sub-workflow",
    "no_responders": "nobody serves it",
    "unavailable": "service unavailable",
    "overloaded": "service overloaded",
    "paused": "on hold",
    "bus_away": "NATS is away",
    "created": "to be started",
}
"""Reason of a wait → the words that pages show."""


STATES = {
    "active": "completed",
    "ready": "completed",
    "running": "running",
    "started": "running",
    "ok": "completed",
    "done": "completed",
    "paused": "interrupted",
    "held": "interrupted",
    "skipped": "cancelled",
    "waiting": "pending",
    "refused": "failed",
}
"""State of a document or of something it did → the status whose icon and colour show it."""
SENTENCE = 160
"""Characters of an error or an explanation in a row of a list; the whole is shown on hover."""


class Renderer:
    """Renders templates. `shared`: values that every template has."""

    def __init__(self, shared: Mapping[str, Any]) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.ChainableUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "ago": ago,
            "clip": clip,
            "between": between,
            "number": number,
            "json": readable_json,
            "words": status_word,
            "reason": reason_word,
            "short": short,
            "tag": tag_text,
            "span": length,
            "percent": percent,
            "state": state_class,
            "compact": compact_json,
        }
        self._environment.globals |= {**shared, "request_line": request_line}

    def page(self, template: str, values: Mapping[str, Any]) -> str:
        """A whole page, or a piece of one."""
        return self._environment.get_template(template).render(values)


def ago(at: str | None) -> Markup:
    """A time as `3 min ago`, with the whole time on hover; the script says both in the zone of the reader."""
    if not at:
        return Markup('<span class="faint">–</span>')
    distance = round(time.time() * 1e6) - micros(at)
    words = f"in {roughly(-distance)}" if distance < -1e6 else f"{roughly(distance)} ago" if distance > 1e6 else "now"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at, _whole(at), words)


def roughly(microseconds: int) -> str:
    """A length of time in one unit: `3 min`, `2 h`, `4 d`."""
    seconds = microseconds // 1_000_000
    size, unit = next(one for one in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")) if seconds >= one[0])
    return f"{seconds // size:,} {unit}"


def _whole(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S} UTC"


def between(start: str | None, end: str | None) -> Markup:
    """The length of time between two times; until now, and counting, without an end."""
    if not start:
        return Markup('<span class="faint">–</span>')
    if end:
        return escape(span(micros(end) - micros(start)))
    length = span(round(time.time() * 1e6) - micros(start))
    return Markup('<time class="elapsed" data-since="{}">{}</time>').format(start, length)


def length(microseconds: int | None) -> str:
    """A length of time in words."""
    return "–" if microseconds is None else span(microseconds)


def short(text: str) -> str:
    """The beginning of a sentence, in one line."""
    text = " ".join(text.split())
    return text if len(text) <= SENTENCE else f"{text[: SENTENCE - 1]}…"


def percent(share: float | None) -> str:
    """A share as `99.2 %`."""
    if share is None:
        return "–"
    return "100 %" if share == 1 else f"{min(share * 100, 99.9):.1f} %"


def number(value: float) -> str:
    """A number with separators: `1,000,000`."""
    return f"{value:,}"


def readable_json(value: Any) -> str:
    """A value as indented JSON."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def status_word(status: str) -> str:
    """The word for a status."""
    return WORDS.get(status, status)


def state_class(state: Any) -> str:
    """The status whose icon and colour show the state of a document; one that is not known looks like *created*."""
    word = str(state).lower()
    return word if word in WORDS else STATES.get(word, "failed" if "fail" in word or "error" in word else "created")


def compact_json(value: Any) -> str:
    """A value as JSON in one line."""
    return orjson.dumps(value).decode()


def reason_word(reason: str) -> str:
    """The words for the reason of a wait."""
    return REASONS.get(reason, reason.replace("_", " "))
