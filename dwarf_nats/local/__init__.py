"""Workflows in this process, on SQLite, without any server: for scripts, notebooks and tests."""
