"""The line of a graph document that a problem of the graph speaks of.

Every problem names its place in words (`graph 'order', node 'quote', request.subject: …`), wherever it was found: while the
document was read, by `Graph.validate`, or by the service. So the words are what is looked up here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dwarf_nats.workflow.documents import Keys

_QUOTED = r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
_GRAPH = re.compile(rf"^graph(?: {_QUOTED})?")
_ENTRY = re.compile(r"\b(tasks|transitions)\[(\d+)\]")
_EDGE = re.compile(rf"\bedge {_QUOTED} -> {_QUOTED}")
_NODE = re.compile(rf"\bnodes? {_QUOTED}")
_FIELD = re.compile(rf"\b(?:state )?field {_QUOTED}")
_INNER = re.compile(rf"\[(\d+)\]|\[{_QUOTED}\]|(?:, |\.)([A-Za-z_][\w-]*)")
_UNKNOWN_KEY = re.compile(rf"unknown key {_QUOTED}")
_KEY = re.compile(rf": {_QUOTED}")


def line_of(problem: str, values: Any, lines: Mapping[Keys, int]) -> int | None:
    """The line, from 1, of the place a problem names first; `None` if it names none that the document has.

    `values`: the document's, `lines`: by the way to each (`documents.Document`).
    """
    found = None
    for keys, rest in _places(problem, values):
        found = _innermost(keys, rest, lines)
        if found is not None:
            return found
    return found


def _places(problem: str, values: Any) -> Iterator[tuple[Keys, str]]:
    """The places a problem names, the likeliest first, each with the text that follows on it."""
    if not isinstance(values, Mapping):
        return
    if (entry := _ENTRY.search(problem)) is not None:
        yield (entry[1], int(entry[2])), problem[entry.end() :]
    if (edge := _EDGE.search(problem)) is not None:
        ends = {"from": _text(edge[1]), "to": _text(edge[2])}
        yield from ((place, problem[edge.end() :]) for place in _members(values, "transitions", ends))
    if (node := _NODE.search(problem)) is not None:
        yield from ((place, problem[node.end() :]) for place in _members(values, "tasks", {"name": _text(node[1])}))
    if (field := _FIELD.search(problem)) is not None:
        yield from (((table, _text(field[1])), problem[field.end() :]) for table in ("fields", "reducers"))
    if "entry point" in problem:
        yield ("entryPoint",), ""
    rest = _GRAPH.sub("", problem)
    yield (), rest if rest[:3] in (": '", ': "') or rest.startswith(", ") else f".{rest.removeprefix(': ')}"


def _innermost(keys: Keys, rest: str, lines: Mapping[Keys, int]) -> int | None:
    """The line of a place, or of one inside it that the text after it names: `, request.headers['X-Id']: unknown key 'q'`."""
    line = lines.get(keys)
    while (inner := _INNER.match(rest)) is not None:
        index, quoted, name = inner.groups()
        deeper = (*keys, int(index) if index else _text(quoted) if quoted else name)
        if deeper not in lines:
            break
        keys, rest, line = deeper, rest[inner.end() :], lines[deeper]
    named = _UNKNOWN_KEY.search(rest) or _KEY.match(rest)
    key = _text(named[1]) if named is not None else "when" if " condition " in rest else ""
    return lines.get((*keys, key), line)


def _members(values: Mapping[str, Any], key: str, fields: Mapping[str, str]) -> Iterator[Keys]:
    """The ways to the members of a list that have these fields."""
    found = values.get(key)
    for at, one in enumerate(found if isinstance(found, list) else ()):
        if isinstance(one, Mapping) and all(one.get(name) == text for name, text in fields.items()):
            yield (key, at)


def _text(quoted: str) -> str:
    try:
        return str(ast.literal_eval(quoted))
    except (SyntaxError, ValueError):
        return quoted[1:-1]
