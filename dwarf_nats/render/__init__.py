"""Diagrams: graphs and histories as Mermaid flowcharts (D1, O8). Pure; the same input gives the same text."""
