"""The synchronous client's operations on retention rules (M2).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.workflow.retention import RetentionInfo, RetentionPreview, RetentionRule


class Retention(SyncRequester):
    """Base of `Client` with the operations on retention rules."""

    def put_retention(self, rule: RetentionRule) -> None:
        """Set a rule by which ended flows are removed, in place of the one of its name (M2). Raises `BadRequest`.

        Example: `client.put_retention(RetentionRule(name="old", older_than_ms=86_400_000))`
        """
        self._run(self._async.put_retention(rule=rule))

    def list_retention(self) -> list[RetentionInfo]:
        """Return the rules by name, with how many flows they have removed, and when they were last carried out (M2).

        Example: `rules = client.list_retention()`
        """
        return self._run(self._async.list_retention())

    def delete_retention(self, name: str) -> None:
        """Remove a rule; flows that it has not removed stay (M2). Raises `NotFound`.

        Example: `client.delete_retention("old")`
        """
        self._run(self._async.delete_retention(name=name))

    def preview_retention(self, rule: RetentionRule | str) -> RetentionPreview:
        """Count what a rule would remove now: one that is there, by name, or one that is to be tried (M2).

        Example: `preview = client.preview_retention("old")`
        """
        return self._run(self._async.preview_retention(rule=rule))
