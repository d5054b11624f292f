"""The shape of a claim: a reference that stands in place of a large value, which is in the object store of NATS (B10).

`{"$claim": "sha256:…64 hex digits…", "size": 123456}`: the digest and the bytes of the value's JSON text. `"sealed": true` is
beside them if that is the text of a sealed value.
"""

from __future__ import annotations

import re
from typing import Any

CLAIM = "$claim"
CLAIM_TEXT = b'"$claim"'
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_IN_TEXT = re.compile(r'"\$claim"\s*:\s*"(sha256:[0-9a-f]{64})"', re.ASCII)
_MEMBERS = ({CLAIM, "size"}, {CLAIM, "size", "sealed"})


def is_claim(value: Any) -> bool:
    """True if a parsed JSON value is a claim."""
    return (
        isinstance(value, dict)
        and value.keys() in _MEMBERS
        and isinstance(value[CLAIM], str)
        and _DIGEST.fullmatch(value[CLAIM]) is not None
        and type(value["size"]) is int
        and value.get("sealed", True) is True
    )


def digests_in(text: str) -> set[str]:
    """The digests of all claims in a JSON text, and perhaps of what only looks like one."""
    return set(_IN_TEXT.findall(text))
