"""Tags on the command line: `customer=4711` (Q1)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.tags import Tags, TagValue, checked_changes, value_text

SYNTAX = "NAME=VALUE"


def read_value(text: str) -> TagValue:
    """A value as it is typed: true, false and a number that is written in its shortest form are such, all else is a text.

    So `007` and `1.10` stay what they are. In double quotes anything is a text. For finding flows the kind does not matter.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, str) or (isinstance(value, bool | int | float) and value_text(value) == text):
        return value
    return text


def read_tags(terms: Sequence[str] | None, option: str = "--tag") -> Tags | None:
    """The tags of options, `None` if there are none. Raises `typer.BadParameter`."""
    return _checked({name: read_value(text) for name, text in map(_split, terms)}, option) if terms else None


def read_changes(terms: Sequence[str]) -> dict[str, TagValue | None]:
    """Tags to be set, `customer=4711`, or removed, `customer-`. Raises `typer.BadParameter`."""
    changes: dict[str, TagValue | None] = {}
    for term in terms:
        if "=" not in term and term.endswith("-"):
            changes[term[:-1]] = None
        else:
            name, text = _split(term)
            changes[name] = read_value(text)
    try:
        return checked_changes(changes, "tags")
    except BadRequest as error:
        raise typer.BadParameter(error.message, param_hint="TAG") from None


def _checked(tags: Tags, option: str) -> Tags:
    try:
        checked_changes(tags, "tags")
    except BadRequest as error:
        raise typer.BadParameter(error.message, param_hint=option) from None
    return tags


def _split(term: str) -> tuple[str, str]:
    name, equals, text = term.partition("=")
    if not equals:
        raise typer.BadParameter(f"{term!r} is no tag: write {SYNTAX}, such as customer=4711")
    return name, text


def tags_line(tags: Tags) -> str:
    """Tags for people."""
    return " ".join(f"{name}={value_text(value)}" for name, value in tags.items())
