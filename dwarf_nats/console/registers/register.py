"""The description of the page of a register: its operations, columns, actions and filters, as values.

A register is a set of documents of one kind that the service keeps under their names, such as graphs. Its operations are
`<noun>.put`, `.get`, `.list`, `.delete`, and further ones for its actions, such as `.pause`. A page offers those that the
table of operations has and that NATS lets its user publish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from dwarf_nats.console.views.forms import Field
from dwarf_nats.errors import NotFound
from dwarf_nats.wire.operations import OPERATIONS

Entry = Mapping[str, Any]
"""One document as the service returns it, with what the service adds to it."""
Kind = Literal["text", "code", "time", "number", "span", "flow", "state", "tags", "json"]
DOCUMENT_ICON = "M4 2.5h5L12.5 6v7.5H4zM9 2.5V6h3.5M6 9h4.5M6 11.2h3"
PAGE_ENTRIES = 100


def _always(_entry: Entry) -> bool:
    return True


def _nothing(_entry: Entry) -> tuple[tuple[str, str], ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Column:
    """One value of an entry. `value`: the names of the fields that lead to it, joined by dots, or a function.

    `kind`: *span* is milliseconds, *flow* a token-free id that becomes a link, *state* a word such as `paused`.
    """

    label: str
    value: str | Callable[[Entry], Any]
    kind: Kind = "text"

    def of(self, entry: Entry) -> Any:
        """The value of an entry; `None` if it has none."""
        if callable(self.value):
            return self.value(entry)
        found: Any = entry
        for name in self.value.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    @property
    def right(self) -> bool:
        """True if it is set to the right."""
        return self.kind in ("number", "span", "time")


@dataclass(frozen=True, slots=True)
class Section:
    """A table below the facts of an entry: its list `field`. Without columns, the members are shown as they are."""

    title: str
    field: str
    columns: tuple[Column, ...] = ()
    kind: Kind = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A button: the operation `<noun>.<verb>` with the name of the entry and `fields`, after a confirmation.

    `text` says what will happen. `when`: for which entries it is offered. `reads`: it changes nothing, and its reply is shown.
    """

    verb: str
    label: str
    text: str
    done: str = "Done."
    when: Callable[[Entry], bool] = _always
    fields: tuple[Field, ...] = ()
    danger: bool = False
    reads: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of the list: a field of the request. With `choices` one of them; `period` is a time in milliseconds."""

    name: str
    label: str
    choices: tuple[str, ...] = ()
    period: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """A register, and how its page looks.

    `noun` begins its operations, `plural` its address; `items` is the field of the list's reply. `identity`: fields that
    name an entry, of which each has one; none if entries are only listed. `example`: YAML that a new document begins with.
    `command`: what makes the first one. `icon`: the path of a 16 by 16 drawing. `key`: the letter after `g`.
    """

    noun: str
    plural: str
    title: str
    about: str
    columns: tuple[Column, ...]
    key: str = ""
    items: str = ""
    identity: tuple[str, ...] = ("name",)
    facts: tuple[Column, ...] = ()
    sections: tuple[Section, ...] = ()
    actions: tuple[Action, ...] = ()
    filters: tuple[Filter, ...] = ()
    example: str = ""
    command: str = ""
    icon: str = DOCUMENT_ICON
    paged: bool = False
    nav: bool = True
    section: str = ""
    links: Callable[[Entry], tuple[tuple[str, str], ...]] = _nothing
    delete_text: str = "It is gone for good."

    def operation(self, verb: str) -> str:
        """The name of an operation, whether or not there is one."""
        return f"{self.noun}.{verb}"

    def has(self, verb: str) -> bool:
        """True if there is such an operation."""
        return self.operation(verb) in _BY_NAME

    @property
    def operations(self) -> tuple[str, ...]:
        """All operations on it that there are."""
        return tuple(name for name in _BY_NAME if name.startswith(f"{self.noun}."))

    @property
    def list_field(self) -> str:
        return self.items or self.plural

    def id_of(self, entry: Entry) -> str:
        """The id of an entry in addresses: its name, or `task=billing.charge` where several fields can name it."""
        for name in self.identity:
            if entry.get(name) is not None:
                value = str(entry[name])
                return value if len(self.identity) == 1 else f"{name}={value}"
        return ""

    def fields_of(self, entry_id: str) -> dict[str, str]:
        """The fields of a request that name an entry. Raises `NotFound` for an id that can be none."""
        if len(self.identity) == 1:
            return {self.identity[0]: entry_id}
        name, equals, value = entry_id.partition("=")
        if not equals or name not in self.identity:
            raise NotFound(f"there is no {self.noun} {entry_id[:80]}")
        return {name: value}

    def action(self, verb: str) -> Action:
        """The action of a verb. Raises `NotFound`."""
        found = next((one for one in self.offered if one.verb == verb), None)
        if found is None:
            raise NotFound(f"there is no action {verb[:40]}")
        return found

    @property
    def offered(self) -> tuple[Action, ...]:
        """The actions of which the operation is there, the removal last."""
        removal = Action(verb="delete", label="Delete", text=self.delete_text, done="Deleted.", danger=True)
        return tuple(one for one in (*self.actions, removal) if self.has(one.verb))

    def document(self, entry: Entry) -> dict[str, Any]:
        """The part of an entry that can be put: what the service adds is left out."""
        request = _BY_NAME[self.operation("put")].request if self.has("put") else None
        names = {one.encode_name for one in msgspec.structs.fields(request)} if request is not None else set(entry)
        return {name: value for name, value in entry.items() if name in names and value is not None}


_BY_NAME = {one.name: one for one in OPERATIONS}
