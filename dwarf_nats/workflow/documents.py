"""Read graph documents, JSON or YAML, within bounds on size, depth and the repetition by aliases.

YAML is read by the core schema of version 1.2: `true` and `false` are the booleans, `yes`, `no`, `on` and `off` are
strings, and so are dates. Only values that JSON has are accepted: no tags except those of JSON's types, only strings as
keys, no `.inf`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import orjson
import yaml

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.state import MAX_DEPTH

MAX_BYTES = 4 * 1024 * 1024
"""Largest document; any graph within the limits is far smaller."""
MAX_VALUES = 200_000
"""Most values of a document, where values that an alias repeats count each time."""
SUFFIXES = (".json", ".yaml", ".yml")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", "")),
}
_MERGE = object()
_TAG = "tag:yaml.org,2002:"


Keys = tuple[str | int, ...]
"""The way to a value of a document: keys of maps and indexes of lists, from the top."""


class Document(NamedTuple):
    """A graph document: its JSON text, and the line, from 1, on which each of its values begins."""

    json: bytes
    lines: Mapping[Keys, int]


def read_file(path: str | Path) -> bytes:
    """Read a regular file.

    Raises `OSError`, and `BadRequest` if it is no regular file (a pipe would block) or too large.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadRequest("it is no regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return checked_size(file.read(MAX_BYTES + 1))
    finally:
        os.close(handle)


def checked_size(text: bytes) -> bytes:
    """Return the text. Raises `BadRequest` if it is too large."""
    if len(text) > MAX_BYTES:
        raise BadRequest(f"it has more than {MAX_BYTES} bytes: that is no graph")
    return text


def to_json(text: bytes, *, is_yaml: bool) -> bytes:
    """Convert a document to JSON text. Raises `BadRequest` that names the problem and its place."""
    checked_size(text)
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"it is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    if "\0" in decoded:
        raise BadRequest("it has a NUL character: save it as plain UTF-8 text")
    if not decoded.strip():
        raise BadRequest("it is empty: write a graph into it")
    return orjson.dumps(from_yaml(decoded)) if is_yaml else text


def to_document(text: bytes, *, is_yaml: bool) -> Document:
    """As `to_json`, with the lines of the values. JSON that cannot be read has no lines; `Graph.from_json` refuses it."""
    written = to_json(text, is_yaml=is_yaml)
    try:
        return Document(written, _read(text.removeprefix(b"\xef\xbb\xbf").decode()).lines)
    except BadRequest:
        if is_yaml:
            raise
        return Document(written, {})


def from_yaml(text: str) -> Any:
    """Parse one YAML document. Raises `BadRequest` that names the problem and its place."""
    return _read(text).result


def _read(text: str) -> _Reader:
    loader = _Loader(text)
    try:
        reader = _Reader(loader)
        reader.read()
    except yaml.YAMLError as error:
        raise BadRequest(f"not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()
    return reader


class _Open:
    """A list or map of which the end is still to come."""

    __slots__ = ("anchor", "key", "merges", "path", "size", "value")

    def __init__(self, value: list[Any] | dict[str, Any], anchor: str | None, path: Keys) -> None:
        self.value = value
        self.path = path
        self.anchor = anchor
        self.key: str | object | None = None
        self.merges: list[Any] = []
        self.size = 1


class _Reader:
    """Builds values from the events of the parser, without recursion."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, values in it, levels of it
        self._open: list[_Open] = []
        self._levels: list[int] = []
        self._values = 0
        self.result: Any = None
        self.lines: dict[Keys, int] = {}

    def read(self) -> None:
        """Read the document into `result` and `lines`."""
        documents = 0
        while True:
            event = self._loader.get_event()
            match event:
                case yaml.StreamEndEvent():
                    if not documents:
                        raise BadRequest("it is empty: write a graph into it")
                    return
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        self._refuse(event, "there are several documents: put each graph into a file of its own")
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._begin(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._end(event)
                case yaml.AliasEvent():
                    self._alias(event)

    def _begin(self, event: Any) -> None:
        is_list = isinstance(event, yaml.SequenceStartEvent)
        kind = "seq" if is_list else "map"
        if event.tag not in (None, "!", _TAG + kind):
            self._refuse(event, f"the tag {_shown(event.tag)} is not supported: write the plain value")
        if len(self._open) >= MAX_DEPTH:
            self._refuse(event, f"it is nested deeper than {MAX_DEPTH} levels")
        if self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is None:
            self._refuse(event, "a key is a list or a map: keys are texts")
        self._count(event, 1)
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._open.append(_Open([] if is_list else {}, event.anchor, self._place(event)))
        self._levels.append(1)

    def _place(self, event: Any) -> Keys:
        """Note the line of a value that begins here; the way to it. A value of a map has the line of its key."""
        if not self._open:
            return ()
        parent = self._open[-1]
        if isinstance(parent.value, list):
            path = (*parent.path, len(parent.value))
            self.lines[path] = event.start_mark.line + 1
            return path
        return (*parent.path, parent.key if isinstance(parent.key, str) else "<<")

    def _end(self, event: Any) -> None:
        ended = self._open.pop()
        levels = self._levels.pop()
        if ended.merges and isinstance(ended.value, dict):
            for merged in ended.merges:
                for key, value in merged.items():
                    ended.value.setdefault(key, value)
        if ended.anchor:
            self._anchors[ended.anchor] = (ended.value, ended.size, levels)
        self._add(event, ended.value, ended.size, levels)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            self._refuse(event, f"the alias *{event.anchor[:40]} names nothing that is complete here")
        value, size, levels = self._anchors[event.anchor]
        self._count(event, size)
        if len(self._open) + levels > MAX_DEPTH:
            self._refuse(event, f"it is nested deeper than {MAX_DEPTH} levels")
        if self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is None:
            if not isinstance(value, str):
                self._refuse(event, "an alias of something else than a text is used as a key")
            self._key(event, value)
        else:
            self._place(event)
            self._add(event, value, size, levels)

    def _scalar(self, event: Any) -> None:
        self._count(event, 1)
        if self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is None:
            if event.anchor:
                self._anchors[event.anchor] = (event.value, 1, 0)
            self._key(event, event.value, merge=event.value == "<<" and event.implicit[0])
            return
        self._place(event)
        value = self._plain(event)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1, 0)
        self._add(event, value, 1, 0)

    def _key(self, event: Any, key: str, *, merge: bool = False) -> None:
        parent = self._open[-1]
        if not merge and key in parent.value:
            self._refuse(event, f"the key {key[:80]!r} is there twice: keep one")
        self.lines[(*parent.path, key)] = event.start_mark.line + 1
        parent.key = _MERGE if merge else key

    def _add(self, event: Any, value: Any, size: int, levels: int) -> None:
        if not self._open:
            self.result = value
            return
        parent = self._open[-1]
        parent.size += size
        self._levels[-1] = max(self._levels[-1], levels + 1)
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is _MERGE:
            merged = value if isinstance(value, list) else [value]
            if not all(isinstance(one, dict) for one in merged):
                self._refuse(event, "`<<` takes a map, or a list of maps")
            parent.merges += merged
            parent.key = None
        elif isinstance(parent.key, str):
            parent.value[parent.key] = value
            parent.key = None

    def _plain(self, event: Any) -> Any:
        """Convert a scalar by the core schema of YAML 1.2."""
        text: str = event.value
        tag = event.tag
        if tag is None and not event.implicit[0]:
            return text  # quoted, or a block
        if tag in ("!", _TAG + "str"):
            return text
        if tag not in (None, *(_TAG + name for name in ("bool", "int", "float", "null"))):
            self._refuse(event, f"the tag {_shown(tag)} is not supported: write the plain value")
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > 24:
                self._refuse(event, "an integer is beyond 64 bits: write it as a text, in quotes")
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if _NUMBER.fullmatch(text):
            number = float(text) if len(text) <= 400 else float("inf")
            if number in (float("inf"), float("-inf")):
                self._refuse(event, "a number is beyond the range of a double: write it as a text, in quotes")
            return number
        if _NO_NUMBER.fullmatch(text):
            self._refuse(event, f"{text} has no counterpart in JSON: write it as a text, in quotes")
        return text

    def _count(self, event: Any, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            self._refuse(event, f"it has more than {MAX_VALUES} values, with what its aliases repeat")

    def _refuse(self, event: Any, problem: str) -> NoReturn:
        mark = event.start_mark
        raise BadRequest(f"line {mark.line + 1}, column {mark.column + 1}: {problem}")


def _shown(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG)[:60] if tag.startswith(_TAG) else tag[:60]
