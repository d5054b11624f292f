"""Check whether an answer can be stored (S1). Pure."""

from __future__ import annotations

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.state import check_json, encode_state
from dwarf_nats.workflow.tags import checked_changes


def sound(answer: Answer, url: str, max_depth: int) -> Answer:
    """The answer, or the error of the step if something in it is no sound JSON or nested too deep.

    For answers of a host whose `Tasks` do not look themselves; those over the wire and of Python functions were looked at.
    """
    try:
        if answer.changes:
            check_json(encode_state(answer.changes), "what it changed", max_depth)
        if answer.interrupt is not None:
            check_json(bytes(answer.interrupt), "its interrupt payload", max_depth)
        if answer.subgraph is not None and answer.subgraph.input:
            check_json(encode_state(answer.subgraph.input), "the input of its sub-workflow", max_depth)
        if answer.tags is not None:
            checked_changes(answer.tags, "its tags")
    except BadRequest as error:
        return Answer(error=ErrorInfo(f"the answer of task {url} cannot be stored: {error.message}", 500))
    return answer
