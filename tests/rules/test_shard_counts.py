"""Where keys may lie, from the numbers of shards that a deployment has had (O1, O17)."""

from __future__ import annotations

import pytest

from dwarf_nats.rules.shard_counts import UNKNOWN, home_of, homes_of, read_counts, write_counts


@pytest.mark.parametrize(
    ("text", "shards", "counts"),
    [
        ("", 0, set()),
        ("2", 2, {2}),
        ("2 3 5", 5, {2, 3, 5}),
        ("", 2, {UNKNOWN}),  # raised by a version that wrote no counts
        ("2", 3, {2, UNKNOWN}),
        ("0 2", 2, {UNKNOWN, 2}),
    ],
)
def test_counts_that_lack_the_present_one_are_not_all(text: str, shards: int, counts: set[int]) -> None:
    assert read_counts(text, shards) == counts


def test_counts_are_read_as_they_were_written() -> None:
    assert read_counts(write_counts({5, 2, 3}), 5) == {2, 3, 5}


def test_o1_a_key_has_few_homes_however_often_a_shard_was_added() -> None:
    """O1: one if the number of shards never changed; a shard that is added only takes keys."""
    keys = [f"key-{number}" for number in range(500)]
    assert all(homes_of({4}, "", key) == {home_of(4, "", key)} for key in keys)
    for key in keys:
        before, after = home_of(3, "", key), home_of(4, "", key)
        assert after in (before, 4)
        assert homes_of({UNKNOWN, 3, 4}, "", key) == {before, after}
    moved = sum(len(homes_of({3, 4}, "", key)) > 1 for key in keys)
    assert 80 < moved < 170
