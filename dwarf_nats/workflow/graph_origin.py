"""The document that a graph was read from, and the lines of its problems (G8)."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import documents
from dwarf_nats.workflow.document_lines import line_of


@dataclass(slots=True, frozen=True)
class GraphOrigin:
    """Where a graph was written: the name of its file, empty for a text, and the document."""

    path: str
    document: documents.Document

    def at(self, problem: str) -> str:
        """A problem of the graph, with the file and the line it speaks of before it: `order.yaml:12: …`."""
        try:
            line = line_of(problem, orjson.loads(self.document.json), self.document.lines)
        except orjson.JSONDecodeError:
            line = None
        if not self.path:
            return problem if line is None else f"line {line}: {problem}"
        return f"{self.path}: {problem}" if line is None else f"{self.path}:{line}: {problem}"

    def refused(self, error: BadRequest) -> BadRequest:
        """A refusal of the graph, with the file and the line."""
        return BadRequest(self.at(error.message))
