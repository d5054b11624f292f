"""Names that are or become part of a NATS subject: workflows, task urls, notify targets, services (wire section 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from dwarf_nats.errors import BadRequest

MAX_NAME = 256
"""Longest name, in characters."""
MAX_EVENT_KEY_BYTES = 256
"""Longest key and longest id of an event, in bytes of UTF-8."""
END = "END"
"""The terminal pseudo-node of every graph."""
MAX_SUBJECT = 1024
"""Longest subject of a request or message of a graph, as written and as sent, in bytes."""
_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", re.ASCII)
_KEY_TOKEN = re.compile(r"(?:^|\.)[1-9][0-9]{0,18}-[1-9][0-9]{0,18}-[A-Za-z0-9]{16}(?:\.|$)", re.ASCII)


def is_subject_name(name: str) -> bool:
    """True for tokens of `A-Z a-z 0-9 _ -` joined by single dots, at most 256 characters, none of them a key.

    A key is a capability and must not be part of a subject, which more people can read than may hold the key (wire section 5).
    """
    return len(name) <= MAX_NAME and _SUBJECT.fullmatch(name) is not None and _KEY_TOKEN.search(name) is None


def check_subject_name(name: str, what: str) -> str:
    """Return `name`, or raise `BadRequest`. `what` says what the name is for."""
    if not is_subject_name(name):
        if _KEY_TOKEN.search(name[:MAX_NAME]):
            raise BadRequest(
                f"invalid {what}: it has the form of a flow or step key, which must not stand in a subject"
            )
        raise BadRequest(
            f"invalid {what} {name[:80]!r}: use one or more tokens of A-Z a-z 0-9 _ - joined by single dots,"
            f" at most {MAX_NAME} characters (no spaces, wildcards or empty tokens)"
        )
    return name


def subject_problem(subject: str) -> str:
    """The reason why no graph may send anything to a subject (N3, N4); empty if there is none.

    Subjects of existing services may have other characters than the names here. The prefixes of a deployment are not known
    here (`wire.subjects`).
    """
    if not subject:
        return "it is empty"
    if len(subject.encode("utf-8", "surrogatepass")) > MAX_SUBJECT:
        return f"it is longer than {MAX_SUBJECT} bytes"
    if not subject.isprintable() or " " in subject:
        return "it has a space or a control character"
    if "*" in subject or ">" in subject:
        return "it has a wildcard"
    if "" in subject.split("."):
        return "it has an empty token: two dots side by side, or a dot at an end"
    if subject.startswith("$"):
        return "it begins with $, where NATS itself listens"
    if _KEY_TOKEN.search(subject):
        return "it has the form of a flow or step key, which must not stand in a subject"
    return ""


def check_task_name(name: str, what: str = "task") -> str:
    """Return the name by which valve, breaker and metrics know a task, or raise `BadRequest`.

    It is the url of a task, or the subject of a request or message as a graph has it, which may be an expression (N3).
    """
    if name.startswith("=") and len(name) <= MAX_SUBJECT and "\0" not in name:
        return name
    return name if subject_problem(name) == "" else check_subject_name(name, what)


def check_event_key(text: str, what: str) -> str:
    """Return the key or id of an event, or raise `BadRequest` if it cannot be stored, or is too long."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRequest(f"{what} must not contain NUL characters or lone surrogates")
    if (size := len(text.encode())) > MAX_EVENT_KEY_BYTES:
        raise BadRequest(f"{what} must be at most {MAX_EVENT_KEY_BYTES} bytes of UTF-8, got {size}")
    return text


def closest(name: str, known: Iterable[str]) -> str:
    """Suggest a remedy for an unknown name: the nearest known one, or else the known ones, at most twelve."""
    names = [str(one) for one in known]
    near = get_close_matches(name[:MAX_NAME], names, n=1, cutoff=0.5)
    if not near and name:
        near = [one for one in names if one.lower() == name.lower()][:1]
    if near:
        return f"did you mean {near[0]!r}?"
    if not names:
        return "there is none to choose from"
    return "known are " + ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
