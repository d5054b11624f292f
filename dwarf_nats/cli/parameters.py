"""Parameters of commands that read what was typed without pydantic, wherever that is certain to be right.

Typer reads every value, defaults too, with an adapter of pydantic. To load pydantic and to build one adapter for each option
takes longer than most commands do. So a default is taken as it is, and a text, a number, a choice or a duration that is plainly
well-formed is read here. All else goes to Typer, which also words the errors.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from typer.core import TyperArgument, TyperOption

_UNREAD = object()
_LONGEST_NUMBER = 18


class _PlainValues:
    """The part that both kinds of parameters share."""

    default: Any
    required: bool
    multiple: bool
    nargs: int
    callback: Any
    type_descriptor: Any

    def process_value(self, ctx: Any, value: Any) -> Any:
        read = self._read(value)
        if read is _UNREAD:
            typers: Any = super()
            return typers.process_value(ctx, value)
        return read if self.callback is None else self.callback(ctx, self, read)

    def _read(self, value: Any) -> Any:
        several = self.multiple or self.nargs == -1
        if value is None:
            return _UNREAD if self.required else () if several else None
        if not several and value is self.default:
            return value
        how, kind = self.type_descriptor.parameter_info, self.type_descriptor.annotation
        if several:
            plain_texts = kind == list[str] and how.parser is None and _all_texts(value)
            return list(value) if plain_texts and (value or not self.required) else _UNREAD
        return _plainly(value, kind, how) if type(value) is str else _UNREAD


def _all_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(type(one) is str for one in values)


def _plainly(text: str, kind: Any, how: Any) -> Any:
    """The value that `text` stands for, if there is no doubt."""
    if how.parser is not None:
        try:
            return how.parser(text)
        except ValueError:
            return _UNREAD
    if kind is str:
        return text
    if kind is int and text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER:
        number = int(text)
        within = (how.min is None or number >= how.min) and (how.max is None or number <= how.max)
        return number if within else _UNREAD
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next((one for one in kind if one.value == text), _UNREAD)
    return _UNREAD


class PlainOption(_PlainValues, TyperOption):
    """An option that reads plain values itself."""


class PlainArgument(_PlainValues, TyperArgument):
    """An argument that reads plain values itself."""


def plain(param: Any) -> Any:
    """The same parameter, as one that reads plain values itself."""
    for kind, better in ((TyperOption, PlainOption), (TyperArgument, PlainArgument)):
        if type(param) is kind:
            made = better.__new__(better)
            vars(made).update(vars(param))
            return made
    return param


class PlainParameters:
    """For a command or a family: its parameters, that for help too, read plain values themselves.

    Each is the same object at every call: the order in which parameters are handled depends on that.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        known: dict[int, Any] = vars(self).setdefault("plain_parameters", {})
        typers: Any = super()
        params = typers.get_params(ctx)
        for param in params:
            if id(param) not in known:
                known[id(param)] = plain(param)
        return [known[id(param)] for param in params]
