"""States and overrides as the engine takes them."""

from __future__ import annotations

from msgspec import UnsetType

from dwarf_nats.sdk.arguments import Values, json_object

__all__ = ["Values", "given"]


def given(values: Values, what: str = "state") -> bytes | None:
    """Return a state or overrides as JSON text, `None` for none. Raises `BadRequest`, which names them by `what`."""
    text = json_object(values, what)
    return None if isinstance(text, UnsetType) else bytes(text)
