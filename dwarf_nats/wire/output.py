"""Chunks of output over NATS: their subjects and headers, for both ends (B8; wire section 5)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from dwarf_nats.workflow.keys import is_public_id
from dwarf_nats.workflow.names import is_subject_name
from dwarf_nats.workflow.output import Chunk, OutputEnd, data_of

from . import headers as h

_ENDS = {one.value: one for one in OutputEnd}
_TOKEN = "stream"
"""The token of the subjects before the ids."""


def is_stream(subject: str, step_id: str) -> bool:
    """True for a subject that a request may name for the output of this step: a worker publishes there unseen."""
    tokens = subject.split(".")
    return (
        len(tokens) >= 4
        and tokens[-3] == _TOKEN
        and is_public_id(tokens[-2])
        and tokens[-1] == step_id
        and is_subject_name(subject)
    )


def read_chunk(subject: str, headers: Mapping[str, str] | None, body: bytes) -> Chunk:
    """Read a message of a stream. `missed` and `restarted` are left to the reader, who knows what came before.

    Whatever it says that cannot be read counts as left out: anybody with the permission may publish there.
    """
    said = {name.lower(): value for name, value in (headers or {}).items()}
    end = _ENDS.get(said.get(h.END.lower(), ""))
    return Chunk(
        data=None if end is not None else data_of(body, said.get(h.CONTENT_TYPE.lower(), "")),
        step_id=subject.rpartition(".")[2],
        flow_id=said.get(h.FLOW_ID.lower(), "") or subject.split(".")[-2],
        task=h.percent_decode(said.get(h.TASK.lower(), "")),
        attempt=_number(said.get(h.ATTEMPT.lower(), "")),
        execution=said.get(h.EXECUTION.lower(), ""),
        number=_number(said.get(h.NUMBER.lower(), "")),
        end=end,
    )


def chunk_json(chunk: Chunk) -> dict[str, Any]:
    """A chunk as JSON of the command line; bytes become `base64`. Fields that say nothing are left out."""
    data: dict[str, Any] = {}
    if isinstance(chunk.data, bytes):
        data = {"base64": base64.b64encode(chunk.data).decode()}
    elif chunk.end is None:
        data = {"data": chunk.data}
    said = {
        "task": chunk.task,
        "stepId": chunk.step_id,
        "flowId": chunk.flow_id,
        "attempt": chunk.attempt,
        "execution": chunk.execution,
        "number": chunk.number,
        "missed": chunk.missed,
        "restarted": chunk.restarted,
        "end": chunk.end,
    }
    return data | {name: value for name, value in said.items() if value}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
