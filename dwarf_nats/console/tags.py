"""Tags as people write them."""

from __future__ import annotations

from dwarf_nats.errors import BadRequest


def tag_value(text: str) -> str | int | float | bool:
    """The value of a tag in an address: a number or a switch if it reads like one, `"4711"` in quotes for text."""
    if text in ("true", "false"):
        return text == "true"
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text) if "e" not in text.lower() and "n" not in text.lower() else text
    except ValueError:
        return text


def tags_in(text: str) -> dict[str, str | int | float | bool]:
    """The tags in `customer=4711 env=prod`. Raises `BadRequest` for words that are none."""
    found: dict[str, str | int | float | bool] = {}
    for one in text.split():
        name, equals, value = one.partition("=")
        if not equals or not name or not value:
            raise BadRequest(f"{one[:80]!r} is no tag: write name=value, separated by blanks")
        found[name] = tag_value(value)
    return found


def tag_text(value: str | int | float | bool) -> str:
    """The value of a tag as it stands in an address."""
    return str(value).lower() if isinstance(value, bool) else str(value)
