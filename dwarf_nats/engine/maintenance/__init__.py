"""Duties of a replica beside running steps (B1-B6)."""
