"""Files of graphs, JSON or YAML (G8)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import documents, graph_json
from dwarf_nats.workflow.graph_origin import GraphOrigin

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder

G = TypeVar("G", bound="GraphBuilder")


def read_document(source: str | bytes | os.PathLike[str], *, is_yaml: bool) -> GraphOrigin:
    """Read a file, given as a path, or a text. Raises `BadRequest` that names the file."""
    path = os.fspath(source) if isinstance(source, os.PathLike) else ""
    try:
        if isinstance(source, os.PathLike):
            text = documents.read_file(path)
        else:
            text = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else bytes(source)
        return GraphOrigin(path, documents.to_document(text, is_yaml=is_yaml))
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from None
    except BadRequest as error:
        raise BadRequest(f"{path}: {error.message}") if path else error from None


def read_graph(origin: GraphOrigin, kind: type[G]) -> G:
    """Read the graph of a document. Raises `BadRequest` with file and line."""
    try:
        return graph_json.from_json(origin.document.json, kind)
    except BadRequest as error:
        raise origin.refused(error) from None


def files_of(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """The graph files that paths name: a file itself, and those of a folder by name. Raises `BadRequest` if there are none."""
    for given in paths:
        path = Path(given)
        if not path.is_dir():
            yield path
            continue
        found = sorted(one for one in path.iterdir() if one.suffix in documents.SUFFIXES)
        if not found:
            raise BadRequest(f"there are no graph files in {path}: they end in {', '.join(documents.SUFFIXES)}")
        yield from found
