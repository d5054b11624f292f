"""Values of declared types as JSON: decode with validation, and describe as JSON Schema.

Types are those of msgspec (dataclasses, `TypedDict`, structs, unions, `datetime`, …) and of pydantic, where the type has a
model, or a constraint of pydantic, in it. Pydantic is not imported here: whoever has a model has imported it.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import msgspec

Decode = Callable[[bytes], Any]
_SHOWN = 3
"""Most problems of one value that a message names."""


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Model(Protocol):
    """A model of pydantic, as far as it is used here."""

    def model_dump(self, *args: Any, **options: Any) -> Any: ...


Record: TypeAlias = Dataclass | msgspec.Struct | Model
"""An object with named fields: a dataclass, a msgspec struct, or a pydantic model."""


class Mismatch(ValueError):
    """A value that is not of its type. The text says where in the value, and what is wrong there."""


class Schema(NamedTuple):
    """A JSON Schema and the definitions that it refers to. An empty schema is that of any value."""

    schema: Mapping[str, Any]
    definitions: Mapping[str, Any]

    def at(self, schema: Mapping[str, Any]) -> Schema:
        """The schema of a part."""
        return Schema(schema, self.definitions)


ANY = Schema({}, {})


def decoder_of(hint: Any) -> Decode:
    """Return a function that decodes JSON text to this type, and raises `Mismatch` for text that does not fit.

    Raises `TypeError` for a type that JSON cannot be decoded to.
    """
    if uses_pydantic(hint):
        return _pydantic_decoder(_adapter(hint))
    decode = msgspec.json.Decoder(hint, dec_hook=_from_builtins).decode

    def checked(text: bytes) -> Any:
        try:
            return decode(text)
        except msgspec.ValidationError as error:
            raise Mismatch(str(error)) from None

    return checked


def decode_as(text: bytes, hint: Any) -> Any:
    """Decode JSON text to a type once. Raises as `decoder_of` and its function do."""
    return decoder_of(hint)(text)


def schema_of(hint: Any, *, written: bool = False) -> Schema:
    """Return the JSON Schema of a type; of any value for a type that has none. `written`: as it is written, not read."""
    if hint is Any or hint is object:
        return ANY
    try:
        if uses_pydantic(hint):
            whole = _adapter(hint).json_schema(mode="serialization" if written else "validation")
        else:
            whole = msgspec.json.schema(hint, schema_hook=_custom_schema)
    except Exception:  # each library has errors of its own for types without a schema
        return ANY
    return Schema(whole, whole.get("$defs", {}))


def is_model(value: Any) -> bool:
    """True for an instance of a pydantic model."""
    return hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump")


def is_record(value: Any) -> bool:
    """True for a dataclass, a msgspec struct or a pydantic model: an object with named fields."""
    return (
        isinstance(value, msgspec.Struct)
        or (dataclasses.is_dataclass(value) and not isinstance(value, type))
        or is_model(value)
    )


def uses_pydantic(hint: Any) -> bool:
    """True if a type has a pydantic model, or another type or constraint of pydantic, in it."""
    return "pydantic" in sys.modules and _mentions_pydantic(hint, set())


def _mentions_pydantic(hint: Any, seen: set[int]) -> bool:
    if id(hint) in seen:
        return False
    seen.add(id(hint))
    if hasattr(hint, "__get_pydantic_core_schema__") or hasattr(hint, "__pydantic_core_schema__"):
        return True
    if type(hint).__module__.partition(".")[0] in ("pydantic", "annotated_types"):  # of Annotated[int, Field(gt=0)]
        return True
    if any(_mentions_pydantic(one, seen) for one in _parts(hint)):
        return True
    return any(_mentions_pydantic(one, seen) for one in _fields(hint))


def _parts(hint: Any) -> tuple[Any, ...]:
    metadata = getattr(hint, "__metadata__", ())
    return (*typing.get_args(hint), *metadata) if not isinstance(hint, str) else ()


def _fields(hint: Any) -> tuple[Any, ...]:
    """The types of the fields of a dataclass or a `TypedDict`."""
    if not isinstance(hint, type) or not (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)):
        return ()
    try:
        return tuple(typing.get_type_hints(hint, include_extras=True).values())
    except (NameError, TypeError):
        return ()


def _adapter(hint: Any) -> Any:
    """The `TypeAdapter` of a type. Raises `TypeError` with the words of pydantic if it knows no such type."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(hint)
    except PydanticUserError as error:
        raise TypeError(error.message) from None


def _pydantic_decoder(adapter: Any) -> Decode:
    from pydantic import ValidationError

    def checked(text: bytes) -> Any:
        try:
            return adapter.validate_json(bytes(text))
        except ValidationError as error:
            raise Mismatch(_problems(error)) from None

    return checked


def _problems(error: Any) -> str:
    """The problems that pydantic has found, in one line, without the values, which logs should not have."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{one['msg']}{_place(one['loc'])}" for one in found[:_SHOWN]]
    more = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _place(keys: tuple[str | int, ...]) -> str:
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return f" - at `${path}`" if path else ""


def _from_builtins(kind: Any, value: Any) -> Any:
    """Convert to a type that msgspec does not know: a pydantic model inside a struct."""
    if not uses_pydantic(kind):
        raise NotImplementedError(f"{kind} is no type that JSON can be decoded to")
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(_problems(error)) from None


def _custom_schema(_kind: Any) -> dict[str, Any]:
    return {}
