"""The pace of work on many flows beside the steps of other flows: how large a group is, how long the rest after it (M1).

Design notes 0044 and 0051 say where the figures come from.
"""

from __future__ import annotations

GROUP_SECONDS = 0.1
"""Time that a group should take at most: steps of other flows may wait for its transaction that long."""
MIN_GROUP, FIRST_GROUP, MAX_GROUP = 160, 320, 3_200
"""Units of work of a group. Its statements cost much the same for few members, so fewer would not take much less time."""
MAX_GROUP_MEMBERS = 400
"""Members of a group at most, however little each costs: bounds its locks and its transaction."""
UNITS_PER_SECOND = 4_000
"""Units of work a second at most while steps of other flows are settled: a tenth of a core, since a unit is about 25 µs."""
LEAST_REST = 3.0
"""Rest after a group then, at least, as a multiple of the time it took: a busy machine is slow, too."""
STARTED_SHARE = 0.07
"""Steps of flows that are started anew, as a share of what is settled for other flows: these lose about so much."""
LIGHT_LOAD = 1_000
"""Settled a second for other flows: below it there is room, and started flows may use half of what is missing."""
QUIET_LOAD = 20
"""Settled a second for other flows: below it nearly nobody else is at work, and started flows may use what there is."""
KEPT_UP = 0.8
"""Share of the steps of started flows that must have been settled before the next group, for their room to grow."""
MAX_ROOM = 20_000.0
"""Steps a second that started flows may run at most: more than a replica settles."""
START_STEPS = 1.5
"""The cost of starting a flow anew, in steps."""
START_SECONDS = 1.0
"""Time for which the flows of one group may keep their share busy: larger groups would come in bursts."""


def room_for_started(others_per_second: float) -> float:
    """Return the steps a second that started flows may run beside what is settled for others."""
    return STARTED_SHARE * others_per_second + max(0.0, LIGHT_LOAD - others_per_second) / 2


def next_room(room: float, others_per_second: float, kept_up: float) -> float:
    """Return the steps a second that the next started flows may run, after they had `room`.

    `kept_up`: the share of their steps that was settled since. Where nearly nobody else is at work, the room grows while they
    keep up, and shrinks where they do not: so it finds what the machine can do. As soon as others are at work it is theirs.
    """
    least = room_for_started(others_per_second)
    if others_per_second >= QUIET_LOAD:
        return least
    return min(MAX_ROOM, max(least, room * 1.5 if kept_up >= KEPT_UP else room * 0.7))


def members_of_group(size: int, weight: int) -> int:
    """Return the members of a group of `size` units, where each is `weight` units of work."""
    return max(1, min(size // weight, MAX_GROUP_MEMBERS))


def members_started(room: float, steps_each: float) -> int:
    """Return the members at most of a group of flows that run afterwards."""
    return max(1, int(room * START_SECONDS / steps_each))


def next_size(size: int, units: int, took: float) -> int:
    """Return the units of the next group after one of so many units that took so long."""
    if took > GROUP_SECONDS:
        return max(MIN_GROUP, size * 2 // 3)
    if took < GROUP_SECONDS / 2 and units >= size // 2:
        return min(MAX_GROUP, size * 3 // 2)
    return size


def rest_seconds(units: int, took: float, started_steps: float, room: float) -> float:
    """Return the rest after a group while others are at work. `started_steps`: those that its flows run now."""
    by_cost = max(units / UNITS_PER_SECOND - took, took * LEAST_REST)
    return max(by_cost, started_steps / room - took)
