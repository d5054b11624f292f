"""CEL as specified: G9. The sections are those of `doc/langdef.md` of the CEL specification."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.workflow.conditions import evaluate, holds, problem_of
from dwarf_nats.workflow.state import state_from

STATE: dict[str, Any] = {
    "n": 5,
    "zero": 0,
    "f": 0.1,
    "big": 2**63 - 1,
    "least": -(2**63),
    "past": 2**53 + 1,
    "text": "ünï",
    "face": "😀",
    "m": {"a": 1, "b": {"c": None}},
    "l": [1, "a", None, 2.5],
    "e": {},
    "none": None,
    "yes": True,
    "at": "2026-07-01T23:30:15.250Z",
    "zone": "Europe/Berlin",
    "order id": 7,
}

TRUE = {
    "Values, numbers": [
        "1 == 1.0",
        "1u == 1",
        "1 < 2u",
        "-1 < 1u",
        "2.5 > 2",
        "n == 5.0",
        "past > 9007199254740992",
        "size(l) > 2.5",
        "l.exists(x, size(l) >= 4.0)",
        "big == 9223372036854775807",
        "big > 9223372036854775806",
        "least == -9223372036854775808",
        "0x1F == 31",
        "0xAu == 10u",
        "1e3 == 1000.0",
        "f == 0.1",
        "uint(n) == 5u",
        "-7 / 2 == -3",
        "-7 % 3 == -1",
        "7.0 / 2.0 == 3.5",
        "1.0 / 0.0 > 1e308",
        "n - -1 == 6",
        "!(0.1 + 0.2 == 0.3)",
        "0.0 == -0.0",
    ],
    "Values, texts and bytes": [
        "size('ünï') == 3",
        "text.size() == 3",
        "size(face) == 1",
        "size('') == 0",
        "size(b'\\xff') == 1",
        "bytes('ü').size() == 2",
        "'a' + 'b' == 'ab'",
        "b'a' + b'b' == b'ab'",
        "'\\x41\\101\\u0041\\U00000041' == 'AAAA'",
        "r'\\d' == '\\\\d'",
        "'''a\nb'''.size() == 3",
        "\"it's\" == 'it\\'s'",
        "'Z' < 'a'",
        "'ä' > 'z'",
        "'😀' > '\\uffff'",
        "b'a' < b'b'",
        "text.contains('ï')",
        "text.startsWith('ün')",
        "text.endsWith('')",
    ],
    "Values, lists and maps": [
        "[1, 2] != [2, 1]",
        "[1] + [2] == [1, 2]",
        "[1, 2][1] == 2",
        "l[1] == 'a'",
        "l[3] == 2.5",
        "dyn(l)[0] == 1.0",
        "size(l) == 4",
        "2 in [1.0, 2.0]",
        "!(3 in [1, 2])",
        "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}",
        "m.a == 1",
        "m['a'] == 1",
        "'a' in m",
        "!('z' in m)",
        "{1: 'x'}[1] == 'x'",
        "{true: 'x'}[true] == 'x'",
        "1 in {1: 'a'}",
        "e == {}",
        "e.size() == 0",
        "[[1]] == [[1.0]]",
        "{'a': [1]}.a[0] == 1",
        "[] == []",
        "null == none",
        "m.b.c == null",
        "none == null",
        "missing == null",
        "[null] == [none]",
    ],
    "Macros, and field selection": [
        "has(m.a)",
        "!has(m.z)",
        "has(m.b.c)",
        "has(state.n)",
        "!has(state.missing)",
        "'n' in state",
        "state['order id'] == 7",
        "state.`order id` == 7",
        "[1, 2].all(x, x > 0)",
        "[].all(x, false)",
        "![].exists(x, true)",
        "[1, 2, 2].exists_one(x, x == 1)",
        "![1, 2, 2].exists_one(x, x == 2)",
        "[1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2].map(x, x * 2) == [2, 4]",
        "[1, 2, 3].map(x, x > 1, x * 10) == [20, 30]",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b'])",
        "m.exists(k, k == 'a')",
        "[[1], [2]].exists(x, x.exists(x, x == 2))",
        "[1].all(n, n == 1) && n == 5",
        "[0, 2].exists(x, 4 / x == 2)",
    ],
    "Logical operators": [
        "true || m.z == 1",
        "m.z == 1 || true",
        "!(false && m.z == 1)",
        "!(m.z == 1 && false)",
        "1 / zero == 1 || true",
        "true ? true : m.z",
        "n > 4 ? yes : false",
        "!(none != null)",
        "yes && true",
    ],
    "Functions, conversions": [
        "int(3.9) == 3",
        "int(-3.9) == -3",
        "int('7') == 7",
        "int(5u) == 5",
        "double('1e3') == 1000.0",
        "double(n) == 5.0",
        "string(1.0) == '1'",
        "string(1.5) == '1.5'",
        "string(n) == '5'",
        "string(true) == 'true'",
        "string(b'ab') == 'ab'",
        "bool('true')",
        "!bool('0')",
        "type(1) == int",
        "type(1.0) == double",
        "type(1u) == uint",
        "type('a') == string",
        "type([]) == list",
        "type({}) == map",
        "type(null) == null_type",
        "type(type(1)) == type",
        "type(timestamp(at)) == google.protobuf.Timestamp",
        "dyn(1) != 'a'",
        "text.matches('^ü.ï$')",
        "matches('abc', 'c$')",
        "!'abc'.matches('^b')",
        "'a\\nb'.matches('(?s)a.b')",
    ],
    "Functions, times": [
        "timestamp('2026-01-01T00:00:00Z') + duration('24h') == timestamp('2026-01-02T00:00:00Z')",
        "timestamp('2026-01-02T00:00:00Z') - timestamp('2026-01-01T00:00:00Z') == duration('86400s')",
        "timestamp('2026-01-01T02:00:00+02:00') == timestamp('2026-01-01T00:00:00Z')",
        "duration('1.5s') == duration('1500ms')",
        "duration('1h') > duration('59m')",
        "duration('1h30m').getMinutes() == 90",
        "duration('-1s') < duration('0s')",
        "int(timestamp('1970-01-01T00:01:00Z')) == 60",
        "timestamp(60) == timestamp('1970-01-01T00:01:00Z')",
        "string(timestamp('2026-01-01T00:00:00Z')) == '2026-01-01T00:00:00Z'",
        "string(duration('60s')) == '60s'",
        "timestamp(at).getFullYear() == 2026",
        "timestamp(at).getMonth() == 6",
        "timestamp(at).getDate() == 1",
        "timestamp(at).getDayOfMonth() == 0",
        "timestamp(at).getDayOfWeek() == 3",
        "timestamp(at).getDayOfYear() == 181",
        "timestamp(at).getHours() == 23",
        "timestamp(at).getMinutes() == 30",
        "timestamp(at).getSeconds() == 15",
        "timestamp(at).getMilliseconds() == 250",
        "timestamp(at).getDate(zone) == 2",
        "timestamp(at).getDayOfMonth(zone) == 1",
        "timestamp(at).getDayOfWeek('+05:30') == 4",
        "timestamp(at).getDayOfYear('02:00') == 182",
        "timestamp(at).getMonth(zone) == 6",
        "timestamp(at).getHours('-03:00') == 20",
        "timestamp(at).getMinutes('Asia/Kathmandu') == 15",
        "timestamp(at).getSeconds('UTC') == 15",
        "timestamp(at).getMilliseconds(zone) == 250",
        "timestamp('2026-12-31T23:00:00Z').getFullYear(zone) == 2027",
    ],
}

ERRORS = [
    "missing > 1",
    "!missing",
    "none && true",
    "m.z == 1",
    "m.a.b == 1",
    "l[5] == 1",
    "l[-1] == 1",
    "n / zero == 1",
    "n % zero == 1",
    "big + 1 > 0",
    "least - 1 < 0",
    "-least > 0",
    "big * 2 > 0",
    "uint(zero - 1) == 1u",
    "n + 1.0 == 6.0",
    "text > 1",
    "n in n",
    "int('x') == 1",
    "timestamp(text) == timestamp(at)",
    "duration('1 day') > duration('1h')",
    "bool('maybe')",
    "text.matches(zone + '(')",
    "timestamp(at).getHours(text) == 1",
    "timestamp(at).getHours('/etc/' + 'passwd') == 1",
    "text.startsWith(n)",
    "timestamp('9999-12-31T23:59:59Z') + duration('1h') > timestamp(at)",
    "string(b'\\xff') == ''",
    "n.exists(x, true)",
    "[1, 2].all(x, x / zero == 1)",
    "{'a': 1}.b == 1",
]

REFUSED = [
    ("size(l, 1) == 1", "size"),
    ("size() == 1", "size"),
    ("size(1) == 1", "size"),
    ("text.contains()", "contains"),
    ("text.contains(1)", "contains"),
    ("text.startsWith('a', 'b')", "startsWith"),
    ("text.matches('(')", "regular expression"),
    ("text.matches('(?=a)')", "regular expression"),
    ("matches(text, '[')", "regular expression"),
    ("l.exists(x, x.matches('*'))", "regular expression"),
    ("text.matches(1)", "matches"),
    ("timestamp(at).getHours('Mars/Olympus') == 1", "time zone"),
    ("timestamp(at).getHours('+25:00') == 1", "time zone"),
    ("timestamp(at).getHours(1) == 1", "getHours"),
    ("n == 5 && sise(l) == 1", "'size'"),
    ("l.contain('a')", "'contains'"),
    ("'a' > 1", "string, int"),
    ("1 + 'a' == 1", "int, string"),
    ("size(l) == '3'", "int, string"),
    ("1 ? true : false", "int"),
    ("true && 1", "bool, int"),
    ("has(n)", "has()"),
    ("l.all(x)", "all"),
    ("l.map(1, 2) == []", "1"),
    ("timestamp() == 1", "timestamp"),
    ("n == 9223372036854775808", "int"),
    ("n == 'a", "Syntax error"),
    ("n ==", "Syntax error"),
    ("n = 5", "Syntax error"),
    ("'\\q' == text", "Syntax error"),
    ("let == 1", "reserved"),
    ("Foo{a: 1} == n", "Foo"),
]


@pytest.mark.parametrize(
    "source", [pytest.param(one, id=f"{section}-{one}") for section, all_ in TRUE.items() for one in all_]
)
def test_g9_holds_as_specified(source: str) -> None:
    assert problem_of(source) == ""
    assert evaluate(source, state_from(STATE)) == (True, "")


@pytest.mark.parametrize("source", ERRORS)
def test_g9_an_error_of_this_state_is_not_taken_and_says_why(source: str) -> None:
    assert problem_of(source) == ""
    taken, problem = evaluate(source, state_from(STATE))
    assert not taken
    assert problem
    assert "INVALID_ARGUMENT" not in problem
    assert holds(f"({source}) || yes", state_from(STATE))


@pytest.mark.parametrize(("source", "word"), REFUSED)
def test_g9_what_can_never_be_evaluated_is_refused_and_says_where(source: str, word: str) -> None:
    problem = problem_of(source)
    assert word in problem
    assert "\n" not in problem


def test_g9_reads_only_the_fields_it_selects() -> None:
    """A field that is no JSON at all does not matter, if the condition does not read it."""
    state = state_from({"n": 5, "m": {"a": 1}}) | {"broken": type(state_from({"x": 1})["x"])(b"{")}
    for source in ("n == 5", "state.n == 5", "state['m'].a == 1", "has(state.n) && 'm' in state && !has(state.z)"):
        assert holds(source, state)
