"""Diagrams: graphs and histories as Mermaid flowcharts (D1, O8). Pure; the same input gives the same text."""

from dwarf_nats.render.graph import graph_mermaid
from dwarf_nats.render.history import fits_mermaid, history_mermaid

__all__ = ["fits_mermaid", "graph_mermaid", "history_mermaid"]
