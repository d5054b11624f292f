"""Text from outside on a terminal: shown, never obeyed."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dwarf_nats.render.terminal import in_json, in_lines, one_line

OBEYED = {
    "escape sequence": ("\x1b[2J", r"\x1b[2J"),
    "operating system command": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "control sequence introducer of eight bits": ("\x9b31m", r"\x9b31m"),
    "next line": ("\x85", r"\x85"),
    "backspace": ("\x08", r"\x08"),
    "delete": ("\x7f", r"\x7f"),
    "carriage return": ("ok\rno", r"ok\rno"),
    "newline": ("no\nstatus: completed", r"no\nstatus: completed"),
    "tab": ("a\tb", r"a\tb"),
    "right-to-left override": ("\u202etxt.exe", r"\u202etxt.exe"),
    "isolate": ("\u2066", r"\u2066"),
    "right-to-left mark": ("\u200f", r"\u200f"),
    "Arabic letter mark": ("\u061c", r"\u061c"),
    "line separator": ("\u2028", r"\u2028"),
    "byte order mark": ("\ufeff", r"\ufeff"),
    "zero width space": ("\u200b", r"\u200b"),
    "tag": ("\U000e0041", r"\U000e0041"),
    "lone surrogate": ("\ud800", r"\ud800"),
}


@pytest.mark.parametrize(("text", "shown"), OBEYED.values(), ids=OBEYED)
def test_what_a_terminal_obeys_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert one_line(text) == shown


@pytest.mark.parametrize("text", ["order 42", "größer", "注文", "שלום", "👩‍👩‍👧", "क्ष", "a\u00a0b", "می‌خواهم"])
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert one_line(text) == in_lines(text) == in_json(text) == text


def test_our_own_lines_stay_lines() -> None:
    assert in_lines("a\n\tb\x1b") == "a\n\tb\\x1b"


@given(st.text() | st.text(alphabet=st.characters(categories=["Cc", "Cf", "Zl", "Zp"])))
@example("\x1b]8;;http://x\x07")
def test_no_control_character_and_no_mark_of_direction_is_left(text: str) -> None:
    shown = one_line(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")]
    assert not [
        c
        for c in shown
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]
    assert set(in_lines(text)) - set(shown) <= {"\n", "\t"}


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
@example({"\U000e0041": "\x9b\u2028"})
def test_json_means_the_same_and_has_nothing_a_terminal_obeys(value: dict[str, str]) -> None:
    text = in_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert text == in_lines(text)
