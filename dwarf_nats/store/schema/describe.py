"""Read the schema of a database, and write it as SQL for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.store.schema.comments import INTRODUCTION, TABLES, Comment

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database

_POSTGRES_COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
order by c.relname, a.attnum
"""
# Not-null constraints are shown with their columns.
_POSTGRES_CONSTRAINTS = """
select c.relname, pg_get_constraintdef(k.oid, true) from pg_constraint k join pg_class c on c.oid = k.conrelid
where c.relnamespace = current_schema()::regnamespace and k.contype <> 'n' order by c.relname, k.conname
"""
_POSTGRES_OPTIONS = """
select relname, array_to_string(reloptions, e',\n  ') from pg_class
where relnamespace = current_schema()::regnamespace and relkind = 'r' and reloptions is not null
"""
_POSTGRES_INDEXES = """
select t.relname, pg_get_indexdef(i.indexrelid, 0, true) from pg_index i
join pg_class t on t.oid = i.indrelid join pg_class c on c.oid = i.indexrelid
where t.relnamespace = current_schema()::regnamespace and not i.indisprimary order by t.relname, c.relname
"""
_POSTGRES_SEQUENCES = """
select sequencename, start_value, increment_by from pg_sequences where schemaname = current_schema() order by sequencename
"""
_POSTGRES_FUNCTIONS = """
select pg_get_functiondef(oid) from pg_proc where pronamespace = current_schema()::regnamespace and proname like 'dwarf%'
order by proname
"""
_SQLITE_TABLES = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by name"
_SQLITE_INDEXES = (
    "select tbl_name, sql from sqlite_master where type = 'index' and sql is not null order by tbl_name, name"
)
_CAST = re.compile(r"::(?:text|bigint|integer)\b(?:\[\])?")
_KEYWORD = re.compile(r"\b[A-Z]{2,}\b(?=(?:[^']*'[^']*')*[^']*$)")


@dataclass(slots=True)
class Table:
    """One table as SQL: `columns` by name, what stands after the name."""

    columns: dict[str, str] = field(default_factory=dict)
    constraints: list[str] = field(default_factory=list)
    options: str = ""
    indexes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Schema:
    """All tables of a database by name, and the statements for its sequences and functions."""

    tables: dict[str, Table] = field(default_factory=dict)
    sequences: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)

    def table(self, name: str) -> Table:
        return self.tables.setdefault(name, Table())


async def read_postgres(database: Database) -> Schema:
    """Read the schema of a PostgreSQL database."""
    schema = Schema()
    for table, column, kind, not_null, default in await database.fetch(_POSTGRES_COLUMNS):
        schema.table(table).columns[column] = _column(kind, bool(not_null), default)
    for table, constraint in await database.fetch(_POSTGRES_CONSTRAINTS):
        schema.table(table).constraints.append(_plain(constraint))
    for table, options in await database.fetch(_POSTGRES_OPTIONS):
        schema.table(table).options = f" with (\n  {options}\n)"
    for table, index in await database.fetch(_POSTGRES_INDEXES):
        schema.table(table).indexes.append(_plain(index).replace(" using btree", ""))
    for name, start, step in await database.fetch(_POSTGRES_SEQUENCES):
        schema.sequences.append(f"create sequence {name} start {start} increment {step};")
    for (function,) in await database.fetch(_POSTGRES_FUNCTIONS):
        schema.functions.append(f"{_without_schema(function)};")
    return schema


async def read_sqlite(database: Database) -> Schema:
    """Read the schema of a SQLite database."""
    schema = Schema()
    for (table,) in await database.fetch(_SQLITE_TABLES):
        keys = {}
        for _, column, kind, not_null, default, key in await database.fetch(f"pragma table_info({table})"):
            schema.table(table).columns[column] = _column(kind.lower(), bool(not_null), default)
            if key:
                keys[key] = column
        if keys:
            schema.table(table).constraints.append(f"primary key ({', '.join(keys[place] for place in sorted(keys))})")
    for table, index in await database.fetch(_SQLITE_INDEXES):
        schema.table(table).indexes.append(_plain(index))
    return schema


def _column(kind: str, not_null: bool, default: str | None) -> str:
    value = "" if default is None else f" default {_CAST.sub('', default)}"
    return f"{kind}{' not null' if not_null else ''}{value}"


def _without_schema(function: str) -> str:
    """Return a definition as it is in any schema, lines without blanks at their end."""
    lines = (line.rstrip() for line in function.strip().splitlines() if not line.lstrip().startswith("SET search_path"))
    return "\n".join(lines).replace("FUNCTION public.", "FUNCTION ")


def _plain(sql: str) -> str:
    """Return a definition on one line, without casts, its keywords in lower case."""
    return _KEYWORD.sub(lambda word: word[0].lower(), _CAST.sub("", " ".join(sql.split())))


def render(schema: Schema) -> str:
    """Write a schema as SQL with comments. Raises `KeyError` for a table without one."""
    parts = [_comment(INTRODUCTION)]
    if schema.sequences:
        parts.append("\n".join([_comment("Ids, taken in blocks."), *schema.sequences]))
    known = [name for name in TABLES if name in schema.tables]
    parts += [_table(name, schema.tables[name], TABLES[name]) for name in known]
    parts += schema.functions
    missing = sorted(set(schema.tables) - set(known))
    if missing:
        raise KeyError(f"no comment says what is in {', '.join(missing)}: add one to store/schema/comments.py")
    return "\n\n".join(parts) + "\n"


def _table(name: str, table: Table, comment: Comment) -> str:
    unknown = sorted(comment.columns.keys() - table.columns.keys())
    if unknown:
        raise KeyError(f"{name} has no column {', '.join(unknown)}: correct store/schema/comments.py")
    items = [(f"{column} {kind}", comment.columns.get(column, "")) for column, kind in table.columns.items()]
    items += [(constraint, "") for constraint in table.constraints]
    lines = [
        f"  {item}{',' if more else ''}{f'  -- {note}' if note else ''}" for item, note, more in _last_apart(items)
    ]
    indexes = [f"{index.replace(' where ', chr(10) + '  where ')};" for index in table.indexes]
    return "\n".join([_comment(comment.table), f"create table {name} (", *lines, f"){table.options};", *indexes])


def _last_apart(items: Sequence[tuple[str, str]]) -> list[tuple[str, str, bool]]:
    return [(item, note, place < len(items)) for place, (item, note) in enumerate(items, 1)]


def _comment(text: str) -> str:
    return "\n".join(f"-- {line}" for line in text.splitlines())
