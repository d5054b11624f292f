"""The fair scheduler: of which band and fairness key the next steps are taken, and how many (C1-C3). Pure.

`FairScheduler.plan` reads the `QueueView` of each shard and says how many steps of which key are to be claimed next: of the
best band first, over all shards. What the keys were given lasts from one claim to the next.

Within a band this is fair queueing (WF2Q+, after Bennett and Zhang) with steps of equal size. Each key has a *virtual start
time*: the steps it was given, divided by its weight. The band's *virtual time* moves on with every step as the start time of
a key does that gets exactly its share. Keys that are not ahead of the virtual time are eligible; of those the one comes next
whose start time would be lowest after its turn, on a tie the one whose oldest step has been due longest. A key that is new
starts at the virtual time and is owed nothing for the time it had nothing to do. A key that has run out of work is forgotten,
unless it is ahead of the virtual time: then its start time is *retained* until the virtual time has caught up, for a key that
never has more than one step waiting would otherwise be first each time it comes back. So no key that has work is ever more
than a turn behind its share, nor more than a turn ahead of it unless others left theirs. A turn is one step; where there are
more keys than free worker slots, and many slots, the *quantum* of a turn grows up to four steps.

Each replica keeps its own start times. Proportions that hold at every replica hold for their sum.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from dwarf_nats.rules.scheduling.queue_view import QueueView, ReadyKey
from dwarf_nats.rules.scheduling.values import Claim, Share

SHARD_SKEW_US = 1_000_000
"""A key's steps on several shards are taken side by side if their oldest came due within this time of each other."""
LARGEST_QUANTUM_STEPS = 4
"""Steps in one turn where keys outnumber slots: a step is cheaper to find beside another of its key."""
YIELD_RATIO = 0.75
"""The part of the shares that were filled which shows that most keys have work left, so that the quantum may grow."""
SMALL_QUANTUM_CLAIMS = 16
"""Claims that ask for single steps after one in which too many keys had too few, before the quantum may grow again."""
RETAINED_MAX_KEYS = 10_000
"""Keys without work whose start time is retained, per band; bounds memory."""
MAX_PRIORITY_CLASSES = 16
"""Bands whose start times are kept, the last used ones; bounds memory."""
VIRTUAL_TIME_MAX = 1e6
"""The virtual time at which a band is set back to 0, with all start times, so that floats keep their digits."""
VIRTUAL_TIME_ROUNDING = 1e-9
"""Start times this close to the virtual time count as equal to it: sums of fractions are not exact."""
ASK_ALL_MAX_KEYS = 64
"""Keys in a band up to which one claim asks all of them for what others leave."""
CLAIM_MAX_SHARES = 512
"""Shares of one claim from which on no worse band is added: bounds the statement."""


class PriorityClass:
    """The virtual time of one band and the virtual start times of its keys."""

    def __init__(self) -> None:
        self.virtual_time = 0.0
        self.start_times: dict[str, float] = {}
        self.retained: dict[str, float] = {}
        self.weight = 1.0
        self.quantum = 1
        self.asked = self.filled = 0
        self._small_claims_left = 1

    def update(self, ready: Mapping[str, ReadyKey]) -> None:
        """Take over which keys have work now; the others have none."""
        if self.virtual_time > VIRTUAL_TIME_MAX:
            self._rebase()
        start_times = self.start_times
        for name in ready.keys() - start_times.keys():
            start_times[name] = max(self.virtual_time, self.retained.pop(name, self.virtual_time))
        for name in start_times.keys() - ready.keys():
            start = start_times.pop(name)
            if start > self.virtual_time:
                self.retained[name] = start
        if len(self.retained) > RETAINED_MAX_KEYS:
            self.retained = {name: start for name, start in self.retained.items() if start > self.virtual_time}
            for name in list(self.retained)[: max(0, len(self.retained) - RETAINED_MAX_KEYS)]:
                del self.retained[name]
        self.weight = sum([key.weight for key in ready.values()])
        self.virtual_time = max(self.virtual_time, min(start_times.values()))

    def charge(self, share: Share, steps: int) -> None:
        """Charge a key for `steps` steps it was given. A key that is not known any more is not charged."""
        if share.fairness_key in self.start_times:
            self.start_times[share.fairness_key] += steps / share.weight
            self.virtual_time += steps / self.weight
        self.asked += 1
        self.filled += steps == share.steps

    def next_quantum(self, slots: int) -> int:
        """Steps in one turn: more than one if keys outnumber `slots`, and most keys had what they were asked for."""
        if self.filled < YIELD_RATIO * self.asked:
            self.quantum, self._small_claims_left = 1, SMALL_QUANTUM_CLAIMS
        elif self._small_claims_left:
            self._small_claims_left -= 1
        else:
            self.quantum = min(2 * self.quantum, LARGEST_QUANTUM_STEPS)
        self.asked = self.filled = 0
        return self.quantum if len(self.start_times) > slots >= ASK_ALL_MAX_KEYS else 1

    def _rebase(self) -> None:
        self.start_times = {name: start - self.virtual_time for name, start in self.start_times.items()}
        self.retained = {name: start - self.virtual_time for name, start in self.retained.items()}
        self.virtual_time = 0.0


class FairScheduler:
    """Divides free worker slots among bands and fairness keys; what keys were given lasts from one claim to the next."""

    def __init__(self) -> None:
        self._classes: dict[int, PriorityClass] = {}

    def plan(self, views: Mapping[int, QueueView], slots: int) -> dict[int, Claim]:
        """The claims that fill `slots` free worker slots, best band first, by shard.

        First comes what each key of the best band is given in turn, then what the keys may take of what others leave. If
        one shard has all the work there is and the band is known whole, worse bands follow in the same way. With several
        shards worse bands wait for the next round: the better one may have more elsewhere.
        """
        while len(self._classes) > MAX_PRIORITY_CLASSES:
            del self._classes[next(iter(self._classes))]
        best_bands = {shard: best for shard, view in views.items() if (best := view.best) is not None}
        if not best_bands or slots <= 0:
            return {}
        band = min(best_bands.values())
        here = {shard: views[shard] for shard, best in best_bands.items() if best == band}
        claims = self._divide(band, here, slots)
        if len(best_bands) == 1:
            ((shard, view),) = here.items()
            shares = claims[shard].shares
            for worse in view.bands()[1:]:
                served_out = view.scanned_whole(band) and len(view.keys(band)) <= ASK_ALL_MAX_KEYS
                if not served_out or len(shares) >= CLAIM_MAX_SHARES:
                    break
                shares += self._divide(worse, here, slots)[shard].shares
                band = worse
        return claims

    def charge(self, share: Share, steps: int) -> None:
        """Charge a key for the `steps` steps that a claim of this planned share gave."""
        priority_class = self._classes.get(share.priority)
        if priority_class is not None:
            priority_class.charge(share, steps)

    def _divide(self, priority: int, views: Mapping[int, QueueView], slots: int) -> dict[int, Claim]:
        """`slots` steps of one band, divided among its keys and each key's shards."""
        priority_class = self._class_of(priority)
        if len(views) == 1:
            ((shard, view),) = views.items()
            ready = view.keys(priority)
            priority_class.update(ready)
            given = {shard: _allot(priority_class, ready, slots)}
        else:
            places = _places(priority, views)
            ready = {name: views[shard].keys(priority)[name] for name, ((_, shard), *_) in places.items()}
            priority_class.update(ready)
            given = {shard: {} for shard in views}
            for name, count in _allot(priority_class, ready, slots).items():
                for shard, part in _spread(places[name], count).items():
                    given[shard][name] = part
        return {
            shard: Claim(limit, _shares(priority, mine, ready, slots))
            for shard, mine in given.items()
            if (limit := sum(mine.values()))
        }

    def _class_of(self, priority: int) -> PriorityClass:
        priority_class = self._classes.pop(priority, None) or PriorityClass()
        self._classes[priority] = priority_class  # the last in use comes last
        return priority_class


def _places(priority: int, views: Mapping[int, QueueView]) -> dict[str, list[tuple[int, int]]]:
    """The shards on which each key has work, and since when; the shard where it has waited longest comes first."""
    places: dict[str, list[tuple[int, int]]] = {}
    for shard, view in views.items():
        for name, key in view.keys(priority).items():
            places.setdefault(name, []).append((key.since, shard))
    for found in places.values():
        found.sort()
    return places


def _allot(priority_class: PriorityClass, ready: Mapping[str, ReadyKey], slots: int) -> dict[str, int]:
    """The number of `slots` that each key gets, in the order of their first turns; if there are few keys, all of them."""
    if len(ready) == 1:
        return dict.fromkeys(ready, slots)
    quantum = priority_class.next_quantum(slots)
    virtual_time, tick = priority_class.virtual_time, quantum / priority_class.weight
    waiting, eligible = _by_start(priority_class, ready, quantum)
    counts: dict[str, int] = {}
    for left in range(slots, 0, -quantum):
        if not eligible:
            virtual_time = max(virtual_time, waiting[0][0])
        while waiting and waiting[0][0] <= virtual_time + VIRTUAL_TIME_ROUNDING:
            start, since, name = heapq.heappop(waiting)
            heapq.heappush(eligible, (start + quantum / ready[name].weight, since, name))
        turn = heapq.heappop(eligible)
        counts[turn[2]] = counts.get(turn[2], 0) + min(quantum, left)
        heapq.heappush(waiting, turn)
        virtual_time += tick
    if len(ready) <= ASK_ALL_MAX_KEYS:
        for _, _, name in [*sorted(eligible), *sorted(waiting)]:
            counts.setdefault(name, 0)
    return counts


def _by_start(
    priority_class: PriorityClass, ready: Mapping[str, ReadyKey], quantum: int
) -> tuple[list[tuple[float, int, str]], list[tuple[float, int, str]]]:
    """The keys that are ahead of the virtual time, by their start times, and the eligible ones by those after a turn."""
    now = priority_class.virtual_time + VIRTUAL_TIME_ROUNDING
    waiting: list[tuple[float, int, str]] = []
    eligible: list[tuple[float, int, str]] = []
    for name, start in priority_class.start_times.items():
        key = ready[name]
        if start > now:
            waiting.append((start, key.since, name))
        else:
            eligible.append((start + quantum / key.weight, key.since, name))
    heapq.heapify(waiting)
    heapq.heapify(eligible)
    return waiting, eligible


def _shares(priority: int, given: Mapping[str, int], ready: Mapping[str, ReadyKey], slots: int) -> list[Share]:
    """The share each key was given; of few keys also what each takes of what others leave: a little each, then all of it."""
    shares = [Share(priority, name, steps, weight=ready[name].weight) for name, steps in given.items() if steps]
    if len(given) > 1 and len(ready) <= ASK_ALL_MAX_KEYS:
        little = -(-slots // len(given))
        for name, steps in given.items():
            shares.append(Share(priority, name, little, steps, weight=ready[name].weight))
        for name, steps in given.items():
            shares.append(Share(priority, name, slots, steps + little, weight=ready[name].weight))
    return shares


def _spread(places: Sequence[tuple[int, int]], count: int) -> dict[int, int]:
    """Divide a key's steps among its shards, those first where the oldest has been due longest."""
    if len(places) == 1:
        return {places[0][1]: count}
    near = [shard for since, shard in places if since <= places[0][0] + SHARD_SKEW_US][: max(count, 1)]
    each, over = divmod(count, len(near))
    return {shard: each + (place < over) for place, shard in enumerate(near)} | {
        shard: 0 for _, shard in places if shard not in near
    }
