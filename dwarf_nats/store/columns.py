"""Lists of columns and parameters, made from record types.

A statement and the values around it share one record, so nothing is read or passed by number:

- `select_list(Row)`: what a select returns, in the order of the fields, so that `Row(*row)` reads it.
- `unnest(Row)`: rows as PostgreSQL takes them, column by column, `from unnest($1::bigint[], …)`; `fetch(sql, *columns(rows))`
  passes them. A hot statement has a batch instead, a `NamedTuple` of lists, one a column: `fetch(sql, *batch)`.
- `named(Row)` and `numbered(Row)`: the names of a row's columns, and SQLite's placeholders for it, in the fields of the record,
  so that one text serves both databases and a misspelt name is no text at all. On SQLite `executemany(sql, rows)` passes the
  rows.

A row that is passed is a plain tuple in the order of its record: by name it would cost three times as much to make. The record
names the function that makes it, and tests hold its order.

- `packed(Row)`: as `unnest`, for the statements that carry every step: `fetch(sql, *pack(batch, kinds_of(Batch)))`. Each column
  is one text. The driver looks at each element of an array several times; a text it copies. For 58 steps of 22 columns that is
  1.5 instead of 4 microseconds a step in the driver, and half the time in the database.

The single parameters of a statement come after its batches: `scalars(2, Batch)`, or `scalars(2, Batch, first=PACKED_FIRST)`.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, cast, get_type_hints

from dwarf_nats.rules.rows import From

R = TypeVar("R", bound=NamedTuple)
Record = type[Any]
"""A dataclass, a `msgspec.Struct` or a `NamedTuple`."""


def field_names(record: Record) -> tuple[str, ...]:
    """The names of a record's fields, in their order."""
    if dataclasses.is_dataclass(record):
        return tuple(field.name for field in dataclasses.fields(record))
    names: tuple[str, ...] = getattr(record, "__struct_fields__", ()) or record._fields
    return names


def select_list(record: Record, table: str = "", **sources: str) -> str:
    """The columns of a select that returns a record.

    A field is read from the column of its name, of `table` if that is given. A field annotated with `From` names its own
    table and column; one in `sources` is the SQL expression given there, which depends on the statement.
    """
    hints = get_type_hints(record, include_extras=True)
    names = field_names(record)
    unknown = sources.keys() - set(names)
    if unknown:
        raise ValueError(f"{record.__name__} has no field {', '.join(sorted(unknown))}")
    return ", ".join(_named(sources.get(name) or _column(name, hints[name], table), name) for name in names)


def _column(name: str, hint: Any, table: str) -> str:
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, From):
            return f"{note.table}.{note.column or name}"
    return f"{table}.{name}" if table else name


def _named(source: str, name: str) -> str:
    return source if source.rpartition(".")[2] == name else f"{source} as {name}"


def unnest(*batches: Record, alias: str = "r", first: int = 1, ordinality: str = "") -> str:
    """The rows of these batches side by side, as PostgreSQL takes them, from the parameter `first` on.

    `ordinality`: a column that numbers the rows.
    """
    parameters = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kinds_of(*batches), first))
    numbered_by = (" with ordinality", f", {ordinality}") if ordinality else ("", "")
    return f"unnest({parameters}){numbered_by[0]} as {alias}({column_list(*batches)}{numbered_by[1]})"


def _sql_type(batch: Record, name: str) -> str:
    kind: str = get_type_hints(batch, include_extras=True)[name].__metadata__[0]
    return kind


PACKED_FIRST = 3
"""The first parameter behind the separator and the text for null, which a packed statement takes first."""
_SEPARATOR, _NULL = "\x1f", "\x1e"


def packed(*batches: Record, alias: str = "r", first: int = PACKED_FIRST) -> str:
    """As `unnest`, of columns that are passed as one text each; `pack` makes the parameters, from the first on."""
    parameters = ", ".join(_unpacked(f"${number}", kind) for number, kind in enumerate(kinds_of(*batches), first))
    return f"unnest({parameters}) as {alias}({column_list(*batches)})"


def _unpacked(parameter: str, kind: str) -> str:
    # A separator stands before each text, so that one empty text is told from none; the slice drops what is before the first.
    return f"(string_to_array({parameter}, $1, $2))[2:]" if kind == "text" else f"{parameter}::text::{kind}[]"


def pack(batch: Iterable[Sequence[Any]], kinds: Sequence[str]) -> list[str]:
    """The parameters of a packed statement: separator, text for null, and the columns. `kinds`: their SQL types."""
    columns_ = list(batch)
    separator, null = _SEPARATOR, _NULL
    while True:
        try:
            return [
                separator,
                null,
                *(
                    _joined(column, separator, null)
                    if kind == "text"
                    else f"{{{str(list(column))[1:-1]}}}".replace("None", "NULL")
                    for column, kind in zip(columns_, kinds, strict=True)
                ),
            ]
        except _OccursError:
            separator, null = f"{separator}{secrets.token_hex(8)}", f"{null}{secrets.token_hex(8)}"


def kinds_of(*batches: Record) -> tuple[str, ...]:
    """The SQL types of the batches' columns."""
    return tuple(_sql_type(batch, name) for batch in batches for name in field_names(batch))


class _OccursError(Exception):
    """A text has the separator, or the text for null, in it."""


def _joined(column: Sequence[str | None], separator: str, null: str) -> str:
    if not column:
        return ""
    nulls = 0
    try:
        text = separator + separator.join(cast("Sequence[str]", column))  # nearly always
    except TypeError:
        nulls = column.count(None)
        text = separator + separator.join([null if value is None else value for value in column])
    if text.count(separator) != len(column) or text.count(null) != nulls:
        raise _OccursError
    return text


def columns(rows: Sequence[Sequence[Any]]) -> Iterable[tuple[Any, ...]]:
    """The columns of rows, as `unnest` takes them."""
    return zip(*rows, strict=True)


def column_list(*batches: Record) -> str:
    """The names of the batches' columns."""
    return ", ".join(name for batch in batches for name in field_names(batch))


def scalars(count: int, *batches: Record, first: int = 1) -> tuple[str, ...]:
    """The `count` PostgreSQL parameters that follow those of the batches, which begin with the parameter `first`."""
    first += sum(len(field_names(batch)) for batch in batches)
    return tuple(f"${number}" for number in range(first, first + count))


def typed(record: type[R], first: int = 1) -> R:
    """The record with PostgreSQL's parameters in its fields, `$1::bigint`, …, for a statement that takes one row of it."""
    return record._make(
        f"${number}::{_sql_type(record, name)}" for number, name in enumerate(field_names(record), first)
    )


def named(record: type[R]) -> R:
    """The record with the name of each field in it, for a statement that reads its columns."""
    return record._make(field_names(record))


def numbered(record: type[R], first: int = 1) -> R:
    """The record with SQLite's placeholders in its fields, `?1`, `?2`, …, for a statement that takes it as its parameters."""
    return record._make(f"?{number}" for number in range(first, first + len(field_names(record))))
