"""The offset of a shard's clock from the replica's, from the best of the answers so far (C2, C5). Pure.

An answer shows the shard's time at some moment between request and reply. Halfway is the best guess, and wrong by half of the
round trip at most. One slow answer must not make the steps of a shard look older or younger than they are, so the
measurement with the least error counts, and loses in precision while the two clocks may drift apart.
"""

from __future__ import annotations

MAX_DRIFT = 1e-4
"""The rate at which two clocks drift apart at most: crystals keep time to 50 millionths, and there are two."""


class ClockOffset:
    """The offset of a shard's clock: how far it is ahead of the replica's, in microseconds."""

    def __init__(self) -> None:
        self.offset = 0
        self._error = float("inf")
        self._measured_at = 0

    def measure(self, shard_now: int, asked_at: int, answered_at: int) -> int:
        """Take note of an answer; return the offset as it is known now.

        `shard_now`: the shard's time in it. `asked_at`, `answered_at`: the replica's time before and after.
        """
        measured = shard_now - (asked_at + answered_at) // 2
        error = max(0, answered_at - asked_at) / 2
        known = self._error + MAX_DRIFT * abs(answered_at - self._measured_at)
        contradicts = abs(measured - self.offset) > error + known + 1  # one of the clocks was set
        if error <= known or contradicts:
            self.offset, self._error, self._measured_at = measured, error, answered_at
        return self.offset
