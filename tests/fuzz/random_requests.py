"""What is thrown at the service: requests by their published schemas, then bent; JSON text as nobody should write it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from dwarf_nats.wire.operations import OPERATIONS

SCHEMAS = Path(__file__).parents[2] / "schemas"
MORE = int(os.environ.get("DWARF_FUZZ", "0") or 0)
"""`make fuzz`: so many times as many examples, and others each time. Without, the same ones in every run."""


def examples(count: int) -> settings:
    return settings(
        max_examples=count * max(1, MORE),
        derandomize=not MORE,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # to shrink a batch takes longer than to read it
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Lit:
    """JSON text as it is, sound or not."""

    text: str


def written(value: Any) -> str:
    """A value as JSON text."""
    if isinstance(value, Lit):
        return value.text
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{written(one)}" for name, one in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


class Pairs(list[tuple[str, Any]]):
    """The fields of an object, in order, a name perhaps twice."""


def packed(value: Any) -> bytes:
    return written(value).encode("utf-8", "surrogatepass")


# -- values

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "\0", "a\0b", "\ud800", "é" * 300, "x" * 2_000, "\u202e", "'; drop table dwarf_flows; --", "{now}",
                     "$1", "%s", "{in:$1}", "\x7f\x1b[31m", "NaN", "null", "END", "state", "onErr", "__proto__", "../..",
                     "a.b.>", "*", "1-1-" + "x" * 16, "𝔘" * 40, "\r\nHPUB x 1 1\r\n"]),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-10, 10),
    st.sampled_from([2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["1e308", "1e309", "-1e309", "NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "1e", "-0", "-0.0",
                     "1e-400", "9" * 400, "0." + "1" * 400, "1E+2", "0x10"]).map(Lit),
)  # fmt: skip
DEEP = st.integers(1, 400).map(lambda depth: Lit("[" * depth + "]" * depth))
DEEP_OBJECTS = st.integers(1, 400).map(lambda depth: Lit('{"a":' * depth + "1" + "}" * depth))
ODD = st.sampled_from(['"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\t"', "tru", "", "{}", "[,]", '{"a":1,"a":2}', '{"a"}',
                       "{1:2}", "'a'", "// x\n1", "[1,]", '"\\x41"', '"abc', "\ufeff1", "\u2028", "undefined"]
                      ).map(Lit)  # fmt: skip
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e6, 1e6), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=8,
)
"""Sound JSON."""
HOSTILE = st.one_of(
    PLAIN, TEXTS, NUMBERS, DEEP, DEEP_OBJECTS, ODD, st.booleans(), st.none(), st.just([]), st.just({}),
    st.lists(st.one_of(NUMBERS, TEXTS, ODD), max_size=4), st.dictionaries(TEXTS, st.one_of(NUMBERS, TEXTS, ODD), max_size=4),
)  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "items", "item", "n", "x"]), PLAIN, max_size=4)


# -- requests by their schemas


@cache
def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


@cache
def request_schema(operation: str) -> str:
    document = json.loads((SCHEMAS / "asyncapi.json").read_text())
    kind = document["operations"][operation.replace(".", "-")]["messages"][0]["$ref"].rsplit("/", 1)[1]
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in kind).removeprefix("_")


Hints = dict[str, st.SearchStrategy[Any]]
"""Strategies for fields of a name, better than what the schema says."""


def of_schema(whole: dict[str, Any], part: dict[str, Any], hints: Hints) -> st.SearchStrategy[Any]:
    """Values that are as a schema has it, of the kinds of schemas this project has."""
    if "$ref" in part:
        return of_schema(whole, whole["$defs"][part["$ref"].rsplit("/", 1)[1]], hints)
    if "anyOf" in part:
        return st.one_of(*(of_schema(whole, one, hints) for one in part["anyOf"]))
    if "enum" in part:
        return st.sampled_from(part["enum"])
    kind = part.get("type")
    if isinstance(kind, list):
        return st.one_of(*(of_schema(whole, {**part, "type": one}, hints) for one in kind))
    if kind == "object" and "properties" in part:
        fields = {
            name: hints[name] if name in hints else of_schema(whole, one, hints)
            for name, one in part["properties"].items()
        }
        required = part.get("required", [])
        return few_of(fields, required)
    if kind == "object":
        more = part.get("additionalProperties")
        return (
            st.dictionaries(st.text(max_size=6), of_schema(whole, more, hints), max_size=4)
            if isinstance(more, dict)
            else OBJECTS
        )
    if kind == "array":
        return st.lists(of_schema(whole, part.get("items", {}), hints), max_size=5)
    if kind in ("integer", "number"):
        least = part.get("minimum", part.get("exclusiveMinimum", -5))
        most = min(part.get("maximum", 10**6), 10**6)
        whole_numbers = st.integers(int(least) + ("exclusiveMinimum" in part), int(most))
        return whole_numbers if kind == "integer" else st.one_of(whole_numbers, st.floats(0.01, 100))
    if kind == "boolean":
        return st.booleans()
    if kind == "string" and part.get("format") == "date-time":
        return st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456+02:00", "0001-01-01T00:00:00Z"])
    return st.text(max_size=10) if kind == "string" else PLAIN


@st.composite
def few_of(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]], required: list[str]) -> dict[str, Any]:
    """The required fields and a few of the others: with all of them, something would almost always be wrong."""
    optional = [name for name in fields if name not in required]
    some = draw(st.lists(st.sampled_from(optional), max_size=3, unique=True)) if optional else []
    return {name: draw(fields[name]) for name in (*required, *some)}


def requests(operation: str, hints: Hints) -> st.SearchStrategy[dict[str, Any]]:
    whole = schema(request_schema(operation))
    return of_schema(whole, whole, hints)


# -- bending


@st.composite
def bent(draw: st.DrawFn, sound: st.SearchStrategy[Any]) -> bytes:
    """A sound message, or one with something wrong, or no message at all."""
    how = draw(st.sampled_from(["sound"] * 8 + ["value", "value", "value", "drop", "add", "twice", "cut", "bytes", "list",
                                "mark", "hostile", "noise", "space"]))  # fmt: skip
    if how == "noise":
        return draw(st.binary(max_size=60))
    if how == "hostile":
        return packed(draw(HOSTILE))
    value = draw(sound)
    pairs = Pairs(value.items()) if isinstance(value, dict) else Pairs()
    if how == "value" and pairs:
        at = draw(st.integers(0, len(pairs) - 1))
        name, old = pairs[at]
        inner = Pairs(old.items()) if isinstance(old, dict) and old and draw(st.booleans()) else None
        if inner:
            within = draw(st.integers(0, len(inner) - 1))
            inner[within] = (inner[within][0], draw(HOSTILE))
        pairs[at] = (name, inner if inner else draw(HOSTILE))
    elif how == "drop" and pairs:
        del pairs[draw(st.integers(0, len(pairs) - 1))]
    elif how == "add":
        pairs.insert(draw(st.integers(0, len(pairs))), (draw(TEXTS), draw(HOSTILE)))
    elif how == "twice" and pairs:
        pairs.append((pairs[draw(st.integers(0, len(pairs) - 1))][0], draw(HOSTILE)))
    text = packed(pairs if isinstance(value, dict) else value)
    if how == "cut":
        return text[: draw(st.integers(0, len(text)))]
    if how == "bytes":
        at = draw(st.integers(0, len(text)))
        return text[:at] + draw(st.binary(min_size=1, max_size=4)) + text[at:]
    if how == "list":
        return b"[" + text + b"]"
    if how == "mark":
        return b"\xef\xbb\xbf" + text
    return b" \r\n\t" * 50 + text + b"\n" if how == "space" else text


HEADER_TEXTS = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    st.sampled_from(["%", "%zz", "%00", "%ff%fe", "%ED%A0%80", "x" * 1_000, "500", "é", "-1", "9" * 40]),
)
NAMES = [operation.name for operation in OPERATIONS]
