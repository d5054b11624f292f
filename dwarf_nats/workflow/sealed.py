"""The shape of a sealed value: one that clients and workers have encrypted, and that the engine carries as it is (B9).

`{"$sealed": "A256GCM", "key": "2026-11", "data": "…"}`: the algorithm, the id of the key, and nonce, ciphertext and tag as
base64url.
"""

from __future__ import annotations

from typing import Any

from dwarf_nats.workflow.claims import is_claim

MARK = "$sealed"
MARK_TEXT = b'"$sealed"'
_MEMBERS = {MARK, "key", "data"}


def is_sealed(value: Any) -> bool:
    """True if a parsed JSON value is a sealed value."""
    return (
        isinstance(value, dict)
        and value.keys() == _MEMBERS
        and all(isinstance(member, str) for member in value.values())
    )


def without_content(value: Any) -> Any:
    """A parsed JSON value in which all sealed values are alike: the same text is sealed differently each time."""
    if isinstance(value, dict):
        if is_sealed(value) or ("sealed" in value and is_claim(value)):
            return {MARK: ""}
        return {name: without_content(member) for name, member in value.items()}
    if isinstance(value, list):
        return [without_content(member) for member in value]
    return value
