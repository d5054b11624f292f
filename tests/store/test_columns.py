"""Column lists made from records: the same fields, in the same order, on both databases."""

from __future__ import annotations

import sqlite3
from typing import Annotated, NamedTuple

import asyncpg
import msgspec
import pytest

from dwarf_nats.rules.rows import From
from dwarf_nats.store.columns import PACKED_FIRST, kinds_of, named, numbered, pack, packed, scalars, select_list, unnest


class Row(msgspec.Struct):
    step_id: int
    flow_token: Annotated[str, From("f", "token")]
    workflow: Annotated[str, From("f")]
    age_us: int


class Batch(NamedTuple):
    step_id: Annotated[list[int], "bigint"]
    state: Annotated[list[str | None], "text"]


class Ids(NamedTuple):
    step_id: Annotated[int, "bigint"]
    flow_id: Annotated[int, "bigint"]


def test_a_field_is_read_from_where_its_record_says() -> None:
    assert select_list(Row, "s", age_us="now - s.at") == (
        "s.step_id, f.token as flow_token, f.workflow, now - s.at as age_us"
    )


def test_a_source_for_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="Row has no field aeg_us"):
        select_list(Row, "s", aeg_us="1")


def test_batches_come_first_and_scalars_after_them() -> None:
    assert unnest(Batch) == "unnest($1::bigint[], $2::text[]) as r(step_id, state)"
    assert unnest(Batch, Batch, alias="x").startswith(
        "unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[]) as x("
    )
    assert unnest(Ids, first=3, alias="i", ordinality="turn") == (
        "unnest($3::bigint[], $4::bigint[]) with ordinality as i(step_id, flow_id, turn)"
    )
    assert scalars(2, Batch) == ("$3", "$4")


@pytest.mark.parametrize("source", ["names", "placeholders"])
def test_one_text_reads_columns_by_name_and_takes_them_as_parameters(source: str) -> None:
    connection = sqlite3.connect(":memory:")
    batch = Batch(step_id=[1, 2], state=["a", None])
    r = named(Batch) if source == "names" else numbered(Batch)
    text = f"select {r.state}, {r.step_id}"
    if source == "names":
        connection.execute("create table r (step_id, state)")
        connection.executemany("insert into r values (?, ?)", zip(*batch, strict=True))
        rows = connection.execute(f"{text} from r order by step_id").fetchall()
    else:
        rows = [connection.execute(text, row).fetchone() for row in zip(*batch, strict=True)]
    assert rows == [("a", 1), (None, 2)]


def test_the_placeholders_of_a_record_stand_where_its_values_do() -> None:
    connection = sqlite3.connect(":memory:")
    ids = numbered(Ids)
    assert connection.execute(
        f"select {ids.flow_id}, {ids.step_id}, {ids.flow_id}", Ids(step_id=1, flow_id=2)
    ).fetchone() == (2, 1, 2)


class Packed(NamedTuple):
    number: Annotated[list[int | None], "bigint"]
    word: Annotated[list[str | None], "text"]
    flag: Annotated[list[bool | None], "bool"]
    weight: Annotated[list[float], "float8"]
    other: Annotated[list[str | None], "text"]


def test_scalars_come_after_packed_columns() -> None:
    assert packed(Packed).startswith("unnest($3::text::bigint[], (string_to_array($4, $1, $2))[2:], $5::text::bool[]")
    assert scalars(1, Packed, first=PACKED_FIRST) == ("$8",)


WORDS = [
    ["a"],
    [""],
    [None],
    ["", None, ""],
    ["None", "NULL", "null", None],
    ['{"a": "\\"b\\", c"}', "{x,y}", "back\\slash", "line\nbreak", "ü€𝄞", "  "],
    ["\x1f"],
    ["\x1e", None],
    ["a\x1fb", "\x1e", "\x1f\x1e", "", None],
    ["\x1f" * 3, "\x1e" * 3],
]


@pytest.mark.parametrize("words", WORDS, ids=repr)
async def test_packed_columns_arrive_as_they_are(pg_dsn: str, words: list[str | None]) -> None:
    """Nulls, empty texts, quotes and separators are told apart; a column may be left empty, and is nulls then."""
    size = len(words)
    numbers: list[int | None] = [(-1) ** n * 2**62 + n if n % 3 < 2 else None for n in range(size)]
    flags: list[bool | None] = [n % 2 == 0 if n != 1 else None for n in range(size)]
    weights = [0.1 + n for n in range(size)]
    connection = await asyncpg.connect(pg_dsn)
    try:
        batch = Packed(numbers, words, flags, weights, [])
        rows = await connection.fetch(f"select * from {packed(Packed)}", *pack(batch, kinds_of(Packed)))
    finally:
        await connection.close()
    assert [tuple(row) for row in rows] == list(zip(numbers, words, flags, weights, [None] * size, strict=True))


async def test_packed_columns_of_no_rows_are_no_rows(pg_dsn: str) -> None:
    connection = await asyncpg.connect(pg_dsn)
    try:
        rows = await connection.fetch(
            f"select * from {packed(Packed)}", *pack(Packed([], [], [], [], []), kinds_of(Packed))
        )
    finally:
        await connection.close()
    assert rows == []
