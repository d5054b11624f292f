"""Documents as people read and write them in a form: YAML or JSON text."""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.documents import from_yaml

MAX_DOCUMENT = 1024 * 1024
"""Most characters of a document in a form; a larger one is put by the command line."""
_LIKE_NUMBERS = frozenset("+-.0123456789")


class _Dumper(yaml.SafeDumper):
    """Writes what `from_yaml` reads back as it was: no aliases, and quotes around texts that look like numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return data is not self


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "'" if value[:1] in _LIKE_NUMBERS else "|" if "\n" in value.strip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Any) -> str:
    """A value of JSON as YAML text."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def read_document(text: str) -> dict[str, Any]:
    """The object in a text, JSON if it begins with a brace, else YAML. Raises `BadRequest` that names the place."""
    if len(text) > MAX_DOCUMENT:
        raise BadRequest(f"it has more than {MAX_DOCUMENT:,} characters: put it by the command line")
    if not text.strip():
        raise BadRequest("it is empty: write a document, such as name: nightly")
    found = _json(text) if text.lstrip().startswith("{") else from_yaml(text)
    if not isinstance(found, dict):
        raise BadRequest("a document has named fields, such as name: nightly")
    return found


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            return from_yaml(text)  # {from: a, to: b}
        except BadRequest:
            raise BadRequest(f"not valid JSON: {error}") from None
