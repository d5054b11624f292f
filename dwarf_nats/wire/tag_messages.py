"""The messages about tags, and their conversion to values (wire section 1; Q1). `messages` has their names, too."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, UnsetType

from dwarf_nats.workflow.state import check_json, decode_value, encode_value
from dwarf_nats.workflow.tags import TagChanges, Tags, TagValue, checked_changes, checked_tags

from .message_fields import Key, Maybe, Message, Object, Request

_SCHEMA = {"type": "object", "maxProperties": 32, "additionalProperties": {"type": ["string", "number", "boolean"]}}
_CHANGES_SCHEMA = {**_SCHEMA, "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
TagsJson = Annotated[
    Raw,
    Meta(
        description="Names, of A-Z a-z 0-9 _ -, to texts of at most 256 bytes, numbers or booleans.",
        extra_json_schema=_SCHEMA,
    ),
]
TagChangesJson = Annotated[
    Raw, Meta(description="Tags to be set; null removes one.", extra_json_schema=_CHANGES_SCHEMA)
]


class FlowForkRequest(Request):
    """Fork from a step, with fields of the state replaced, and other tags if they are given (O14)."""

    step_key: Key
    overrides: Maybe[Object] = UNSET
    tags: Maybe[TagsJson] = UNSET


class FlowTagRequest(Request):
    """Set and remove tags of a flow (Q1)."""

    flow_key: Key
    tags: TagChangesJson


class FlowTagReply(Message):
    """All tags the flow has now (Q1)."""

    tags: TagsJson


def tags_given(text: Raw | UnsetType, what: str) -> dict[str, TagValue] | None:
    """The tags of a request, `None` where the field was left out. `what` names it. Raises `BadRequest`."""
    return None if isinstance(text, UnsetType) else checked_tags(check_json(bytes(text), what), what)


def tag_changes(text: Raw, what: str) -> dict[str, TagValue | None]:
    """The tags of a request or reply to be set, or removed by `None`. `what` names the field. Raises `BadRequest`."""
    return checked_changes(check_json(bytes(text), what), what)


def tags_json(tags: TagChanges) -> Raw:
    """Tags as JSON text, also if there are none."""
    return Raw(encode_value(dict(tags), "tags"))


def tags_field(tags: Tags) -> Raw | UnsetType:
    """Tags as a reply has them: left out if there are none."""
    return tags_json(tags) if tags else UNSET


def tags_record(text: Raw | UnsetType) -> dict[str, TagValue]:
    """Tags of a reply."""
    tags: dict[str, TagValue] = {} if isinstance(text, UnsetType) else decode_value(text)
    return tags
