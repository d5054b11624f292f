"""A document on the command line: a file of JSON or YAML, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire.decoding import S, decode
from dwarf_nats.workflow import documents


def read_document(path: str, kind: type[S]) -> S:
    """The document in a file, or on standard input for `-`, as a request. Raises `BadRequest` that names file and field."""
    document = read_values(path)
    try:
        return decode(kind, document.json, "the document")
    except BadRequest as error:
        raise BadRequest(f"{path}: {error.message}") from None


def read_values(path: str) -> documents.Document:
    """The values of a document in a file, or on standard input for `-`. Raises `BadRequest` that names the file."""
    try:
        if path == "-":
            text = sys.stdin.buffer.read(documents.MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                text = file.read(documents.MAX_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from None
    is_yaml = not path.endswith(".json") and not (path == "-" and text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"))
    try:
        return documents.to_document(text, is_yaml=is_yaml)
    except BadRequest as error:
        raise BadRequest(f"{path}: {error.message}") from None
