"""Times in the text form of RFC 3339."""

from __future__ import annotations

import re
from datetime import datetime

_FORM = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def is_rfc3339(text: str) -> bool:
    """True for a time such as `2026-12-01T08:00:00Z`: with a date, seconds and an offset."""
    if _FORM.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text.upper().replace(" ", "T"))
    except ValueError:
        return False
    return True
