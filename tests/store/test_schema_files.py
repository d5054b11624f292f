"""The schema as it can be read: its files are what all migrations together make, on each database."""

from __future__ import annotations

import pytest

from dwarf_nats.store.schema.comments import TABLES
from dwarf_nats.store.schema.describe import Schema, Table, render
from dwarf_nats.store.schema.files import schema_of


async def test_the_file_equals_the_sum_of_the_migrations(empty_dsn: str) -> None:
    path, text = await schema_of(empty_dsn)
    assert path.read_text() == text, "run: python -m dwarf_nats.store.schema postgresql://… sqlite://"


async def test_a_table_stands_below_its_comment(empty_dsn: str) -> None:
    _, text = await schema_of(empty_dsn)
    assert f"-- {TABLES['dwarf_registry'].table}\ncreate table dwarf_registry (\n" in text


def test_a_table_without_a_comment_is_refused() -> None:
    with pytest.raises(KeyError, match="what is in dwarf_new: add one to"):
        render(Schema({"dwarf_new": Table({"one": "int"})}))


def test_a_comment_of_a_column_that_is_gone_is_refused() -> None:
    with pytest.raises(KeyError, match="dwarf_tripped has no column url"):
        render(Schema({"dwarf_tripped": Table({"task": "text"})}))
