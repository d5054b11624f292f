"""The text of a condition before it is compiled: its tokens, and how they are rewritten for the library."""

from __future__ import annotations

import re

from dwarf_nats.workflow import condition_functions as functions

MAX_LENGTH = 1000
"""Characters of a condition."""
MAX_NESTING = 32
"""Open brackets at any point of a condition; the library's parser has the same bound for whatever it nests."""

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<text>(?:[rR][bB]?|[bB][rR])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
      |[bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      |`[^`\n]*`)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9][A-Za-z0-9.]*)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
TYPE_NAMES = frozenset({"bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"})
"""Names of types, which a condition may use as fields unless it calls `type(…)`."""
FUNCTIONS = functions.ACCESSORS | {
    "all",
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "has",
    "int",
    "map",
    "matches",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
}
"""Functions, conversions and macros."""
RESERVED = frozenset(
    {
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    }
)
"""Words of the language that name nothing."""
_FIELD = "__field"  # marks a variable that stands for a field with the name of a type

Token = tuple[str | None, str]
"""The kind of a token, a group of the pattern, and its text."""


def tokens_of(source: str) -> list[Token]:
    """The tokens of a condition, without white space and comments."""
    return [(match.lastgroup, match[0]) for match in _TOKEN.finditer(source) if match.lastgroup != "skip"]


def field_of(variable: str) -> str:
    """The state field that a variable stands for."""
    return variable.removesuffix(_FIELD)


def type_names_as_fields(tokens: list[Token]) -> list[Token]:
    """Rename the fields that are called `int`, `list`, `type`, …: the library knows those names as types already.

    In a condition that calls `type(…)` they are names of types.
    """
    if any(text == "type" and tokens[at + 1 : at + 2] == [("other", "(")] for at, (_, text) in enumerate(tokens)):
        return tokens
    found = []
    for at, (kind, text) in enumerate(tokens):
        if kind == "name" and text in TYPE_NAMES:
            selected = at > 1 and tokens[at - 1][1] == "." and _ends_value(tokens[at - 2])
            called = tokens[at + 1 : at + 2] == [("other", "(")]
            if not selected and not called:
                text += _FIELD
        found.append((kind, text))
    return found


def _ends_value(token: Token) -> bool:
    kind, text = token
    return kind in ("name", "text", "number") if kind != "other" else text in ")]}"


def nesting(tokens: list[Token]) -> int:
    """The largest number of brackets open at once, without those in string literals."""
    deepest = depth = 0
    for kind, text in tokens:
        if kind != "other":
            continue
        if text in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif text in ")]}":
            depth -= 1
    return deepest


def own_functions(tokens: list[Token]) -> list[Token]:
    """Rename the calls of functions that this package carries out itself."""
    found = []
    for at, (kind, text) in enumerate(tokens):
        following = [one for _, one in tokens[at + 1 : at + 3]]
        if kind == "name" and following[:1] == ["("]:
            method = at > 0 and tokens[at - 1][1] == "."
            if text == "matches" or (method and text in functions.ACCESSORS and following != ["(", ")"]):
                text += "_"
        found.append((kind, text))
    return found


def joined(tokens: list[Token]) -> str:
    """Write tokens as a text again, with a space wherever two of them might become one."""
    out: list[str] = []
    before = ""
    for _, text in tokens:
        if (before.isalnum() or before == "_") and (text[0].isalnum() or text[0] in "_'\"."):
            out.append(" ")
        out.append(text)
        before = text[-1]
    return "".join(out)
