"""Planning: of which band and fairness key the next steps are taken, and how many (C1-C3). Pure.

A shard's line of due steps is read in pages (`Page`). What is known of it is a `QueueView`, what its keys have had is kept
in `FairScheduler`, and `FairScheduler.plan` says how many steps of which key are to be claimed next: of the best band
first, over all shards.

Within a band this is fair queueing (WF2Q+, after Bennett and Zhang) with steps of equal size. Each key has a *pass*: the
steps it was given, divided by its weight. The band's *clock* moves on with every step as the pass of a key does that
gets exactly its share. Keys that are not ahead of the clock may have a turn; of those the one comes next whose pass would
be lowest after it, on a tie the one whose oldest step has been due longest. A key that is new starts at the clock and is
owed nothing for the time it had nothing to do. A key that has run out of work is forgotten, unless it is ahead of the
clock: then it keeps its pass until the clock has caught up, for a key that never has more than one step waiting would
otherwise be first each time it comes back. So no key that has work is ever more than a turn behind its share, nor more
than a turn ahead of it unless others left theirs. A turn is one step; where there are more keys than hands, and many
hands, up to four.

Each replica keeps its own passes. Proportions that hold at every replica hold for their sum.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

LIGHTEST, HEAVIEST = 1e-6, 1e6
"""Weights beyond are taken for these: sums of their strides stay exact enough."""
SLACK_US = 1_000_000
"""A key's steps on several shards are taken side by side if their oldest came due within so much of each other."""
KEYS = 2_048
"""So many keys of a band are known at once; in a band of more, a key that was served makes room for another."""
LARGEST_HELPING = 4
"""So many steps a key may be given in one turn where keys are more than hands: a step is cheaper to find beside another."""
ENOUGH = 0.75
"""The share of what keys are asked for that shows most of them to have more than a step."""
CLAIMS_BEFORE_MORE = 16
"""So many claims ask for single steps after one that found too few."""
DEBTS = 10_000
"""So many keys without work are remembered for being ahead of the clock."""
BANDS = 16
"""So many bands are remembered."""
ROUNDING = 1e-9
FAR = 1e6
"""Where a band's clock is set back to 0, with all passes, so that they keep their digits."""
LEAST_PAGE, PAGE = 16, 1_000
"""How many lanes a page has: one for every four hands, within these; the most of them until a band's keys are known."""
FEW = 64
"""With so many keys in a band a claim can ask all of them for what others leave."""
MOST_SHARES = 512
"""No worse band follows in a claim that has so many shares."""
PAGES = 8
"""So many pages are read in one look."""
BEGIN = ("", "")

NO_ALLOWANCES: Mapping[str, int] = MappingProxyType({})
"""No task is passed over."""


class QueueHead(NamedTuple):
    """The oldest due step of a fairness key; where tasks are passed over, of one task of it.

    `due_at` by the shard's clock.
    """

    priority: int
    fairness_key: str
    url: str
    due_at: int
    weight: float


class Ask(NamedTuple):
    """Which page of a line to read: bands worse than `floor`; of `band` the lanes from `fairness_key` and `url` on."""

    floor: int = 0
    band: int = 0
    fairness_key: str = ""
    url: str = ""
    limit: int = PAGE


@dataclass(slots=True)
class Page:
    """Lanes in the order of bands, keys and tasks. Times by the shard's clock.

    `best`: the best band asked for that has anything due, passed over or not. `full`: there may be more beyond the last
    lane. `next_due_at`: when the next of the steps comes due that are not; in the past if some only wait to be put in
    line.
    """

    now: int
    best: int | None
    lanes: Sequence[QueueHead]
    full: bool
    next_due_at: int | None


class Share(NamedTuple):
    """Take up to `steps` of the steps of this key that have been due longest, after the first `skip` of them.

    `weight`: what the key is charged by.
    """

    priority: int
    fairness_key: str
    steps: int
    skip: int = 0
    weight: float = 1.0


class Claim(NamedTuple):
    """What to claim from one shard: up to `limit` steps, from the shares one after the other."""

    limit: int
    shares: list[Share]


@dataclass(slots=True)
class Key:
    """The weight of a key's oldest admissible step, and when that came due on the clock all shards share.

    `heard`: it has had another step since it was last served.
    """

    weight: float
    since: int
    lap: int
    heard: bool = False


class _Rounds:
    """One band, read page by page, round and round. A key stays until a whole round has not met it."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.cursor = BEGIN
        self.known = False
        self.certain = False
        self._lap = 0

    def note(self, fairness_key: str, weight: float, now: int) -> None:
        """A key that has work, met or not."""
        key = self.keys.get(fairness_key)
        if key is not None:
            key.heard = True
        elif len(self.keys) < KEYS:
            self.keys[fairness_key] = Key(_bounded(weight), now, self._lap)

    def read(self, lanes: Sequence[QueueHead], admissible: Sequence[QueueHead], offset: int, *, ended: bool) -> None:
        """The lanes from the cursor on; `ended`: up to the band's end."""
        anew = self.cursor == BEGIN
        if anew:
            self._lap += 1
        for queue_head in admissible:
            since = queue_head.due_at - offset
            key = self.keys.get(queue_head.fairness_key)
            if key is None or key.lap != self._lap or since < key.since:
                self.keys[queue_head.fairness_key] = Key(_bounded(queue_head.weight), since, self._lap)
        self.certain = anew and ended
        if ended:
            self.keys = {name: key for name, key in self.keys.items() if key.lap == self._lap}
            self.known = True
            self.cursor = BEGIN
        else:
            self.cursor = (lanes[-1].fairness_key, lanes[-1].url)


class QueueView:
    """What is known of the due work of one shard: keys by band, and of each its oldest admissible step.

    A look begins with `ask` and goes on with what `read` answers. A key stays on the roster until a round over its band
    has not met it, or a claim found less than it asked for. `complete`: the last look saw all there is. `next_due_at`:
    when the next step comes due that is not, on the clock all shards share.
    """

    def __init__(self) -> None:
        self.complete = False
        self.next_due_at: int | None = None
        self._bands: dict[int, _Rounds] = {}
        self._all_known = False
        self._offset = 0
        self._pages = 0

    @property
    def best(self) -> int | None:
        """The best band with admissible work, as far as known."""
        return min((band for band, rounds in self._bands.items() if rounds.keys), default=None)

    @property
    def barren(self) -> bool:
        """All there is was read, in one look or several, and nothing of it is admissible."""
        return self._all_known and self.best is None

    def bands(self) -> list[int]:
        """The bands with admissible work, best first."""
        return sorted(band for band, rounds in self._bands.items() if rounds.keys)

    def keys(self, band: int) -> Mapping[str, Key]:
        """The keys of a band."""
        return self._bands[band].keys if band in self._bands else {}

    def certain(self, band: int) -> bool:
        """Whether the last look saw the band whole."""
        return band in self._bands and self._bands[band].certain

    def clear(self) -> None:
        """Forget everything, to begin anew."""
        self._bands = {}

    def ask(self, slots: int) -> Ask:
        """The first page of a look, to serve `slots`."""
        self.complete = self._all_known = True
        self._pages = 1
        return self._page(0, slots)

    def read(self, ask: Ask, page: Page, now: int, blocked_tasks: Collection[str], slots: int) -> Ask | None:
        """Take in a page, the tasks `blocked_tasks` passed over; the page to read next in this look, if any.

        `now`: on the clock all shards share.
        """
        self._offset = page.now - now
        self._note_wakes(page)
        segments: dict[int, list[QueueHead]] = {} if page.best is None else {page.best: []}
        for queue_head in page.lanes:
            segments.setdefault(queue_head.priority, []).append(queue_head)
        self._drop_empty(ask.floor, segments, page.full)
        before = ask.floor
        for number, (band, lanes) in enumerate(segments.items(), 1):
            ended = number < len(segments) or not page.full
            rounds = self._bands.setdefault(band, _Rounds())
            if band != ask.band and rounds.cursor != BEGIN:
                if not ended:
                    return self._next(before, slots)  # to be read from where its own round stands
                rounds.cursor = BEGIN
            admissible = [
                queue_head
                for queue_head in lanes
                if queue_head.url not in blocked_tasks and queue_head.due_at <= page.now
            ]
            rounds.read(lanes, admissible, self._offset, ended=ended)
            self.complete &= rounds.certain
            self._all_known &= rounds.known
            if not ended and not rounds.keys:
                return self._next(band, slots)
            before = band
        return None

    def note(self, priority: int, fairness_key: str, weight: float, now: int) -> None:
        """A step of this key has just come due; it need not be met to be known."""
        rounds = self._bands.get(priority)
        if rounds is None:
            rounds = self._bands[priority] = _Rounds()
        rounds.note(fairness_key, weight, now)

    def delay_of(self, due_at: int, now: int) -> int:
        """How long until `due_at` by the shard's clock, as far as its clock is known."""
        return due_at - self._offset - now

    def note_wake(self, at: int) -> None:
        """A step comes due at `at`, on the clock all shards share."""
        self.next_due_at = at if self.next_due_at is None else min(at, self.next_due_at)

    def served(self, share: Share, taken: int, last_due_at: int) -> None:
        """A claim of `share` gave `taken` steps, the youngest of which came due at `last_due_at` by the shard's clock."""
        rounds = self._bands.get(share.priority)
        key = rounds.keys.get(share.fairness_key) if rounds is not None else None
        if rounds is None or key is None:
            return
        if (taken < share.steps and not key.heard) or len(rounds.keys) >= KEYS:
            del rounds.keys[share.fairness_key]
            rounds.known = (
                rounds.known and taken > 0
            )  # keys that have nothing are known for too long: read more of them
        else:
            key.heard = False
            key.since = max(key.since, last_due_at - self._offset)

    def _page(self, floor: int, slots: int) -> Ask:
        band = min((band for band in self._bands if band > floor), default=None)
        if band is None:
            return Ask(floor)
        rounds = self._bands[band]
        if len(rounds.keys) >= KEYS:
            limit = 1
        else:
            limit = min(max(LEAST_PAGE, slots // 4), PAGE) if rounds.known else PAGE
        return Ask(floor, band, *rounds.cursor, limit)

    def _next(self, floor: int, slots: int) -> Ask | None:
        self._pages += 1
        if self._pages > PAGES:
            self.complete = self._all_known = False
            return None
        return self._page(floor, slots)

    def _note_wakes(self, page: Page) -> None:
        times = [queue_head.due_at for queue_head in page.lanes if queue_head.due_at > page.now]
        if page.next_due_at is not None:
            times.append(page.next_due_at)
        self.next_due_at = min(times) - self._offset if times else None

    def _drop_empty(self, floor: int, found: Collection[int], full: bool) -> None:
        last = max(found, default=floor)
        for band in [band for band in self._bands if band > floor and band not in found]:
            if not full or band < last:
                del self._bands[band]


class _PriorityClass:
    """The passes of one band's keys."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.passes: dict[str, float] = {}
        self.debts: dict[str, float] = {}
        self.weight = 1.0
        self.quantum = 1
        self.asked = self.taken = 0
        self._before_more = 1

    def meet(self, heads: Mapping[str, Key]) -> None:
        """These keys have work now; others have none."""
        if self.clock > FAR:
            self._rebase()
        passes = self.passes
        for name in heads.keys() - passes.keys():
            passes[name] = max(self.clock, self.debts.pop(name, self.clock))
        for name in passes.keys() - heads.keys():
            ahead = passes.pop(name)
            if ahead > self.clock:
                self.debts[name] = ahead
        if len(self.debts) > DEBTS:
            self.debts = {name: ahead for name, ahead in self.debts.items() if ahead > self.clock}
            for name in list(self.debts)[: max(0, len(self.debts) - DEBTS)]:
                del self.debts[name]
        self.weight = sum([key.weight for key in heads.values()])
        self.clock = max(self.clock, min(passes.values()))

    def charge(self, share: Share, taken: int) -> None:
        """A key was given `taken` steps. One that is not known any more is not charged."""
        if share.fairness_key in self.passes:
            self.passes[share.fairness_key] += taken / share.weight
            self.clock += taken / self.weight
        self.asked += share.steps
        self.taken += taken

    def next_helping(self, slots: int) -> int:
        """How many steps a turn has: more than one if there are more keys than hands, and most had what they were asked."""
        if self.taken < ENOUGH * self.asked:
            self.quantum, self._before_more = 1, CLAIMS_BEFORE_MORE
        elif self._before_more:
            self._before_more -= 1
        else:
            self.quantum = min(2 * self.quantum, LARGEST_HELPING)
        self.asked = self.taken = 0
        return self.quantum if len(self.passes) > slots >= FEW else 1

    def _rebase(self) -> None:
        self.passes = {name: ahead - self.clock for name, ahead in self.passes.items()}
        self.debts = {name: ahead - self.clock for name, ahead in self.debts.items()}
        self.clock = 0.0


class FairScheduler:
    """Whose turn it is, band by band: what lasts from one claim to the next."""

    def __init__(self) -> None:
        self._bands: dict[int, _PriorityClass] = {}

    def plan(self, rosters: Mapping[int, QueueView], slots: int) -> dict[int, Claim]:
        """What to claim for so many free hands, best first, by shard.

        First comes what each key of the best band is given in turn, then what the keys may take of what others leave. If
        one shard has all the work there is and the band is known whole, worse bands follow in the same way. With several
        shards worse bands wait for the next round: the better one may have more elsewhere.
        """
        while len(self._bands) > BANDS:
            del self._bands[next(iter(self._bands))]
        busy = {shard: best for shard, queue_view in rosters.items() if (best := queue_view.best) is not None}
        if not busy or slots <= 0:
            return {}
        band = min(busy.values())
        here = {shard: rosters[shard] for shard, best in busy.items() if best == band}
        claims = self._divide(band, here, slots)
        if len(busy) == 1:
            ((shard, queue_view),) = here.items()
            shares = claims[shard].shares
            for worse in queue_view.bands()[1:]:
                served_out = queue_view.certain(band) and len(queue_view.keys(band)) <= FEW
                if not served_out or len(shares) >= MOST_SHARES:
                    break
                shares += self._divide(worse, here, slots)[shard].shares
                band = worse
        return claims

    def charge(self, share: Share, taken: int) -> None:
        """A claim of a planned share gave so many steps."""
        band = self._bands.get(share.priority)
        if band is not None:
            band.charge(share, taken)

    def _divide(self, priority: int, rosters: Mapping[int, QueueView], slots: int) -> dict[int, Claim]:
        """`slots` steps of one band, divided among its keys and each key's shards."""
        band = self._band(priority)
        if len(rosters) == 1:
            ((shard, queue_view),) = rosters.items()
            heads = queue_view.keys(priority)
            band.meet(heads)
            given = {shard: _by_turns(band, heads, slots)}
        else:
            places = _places(priority, rosters)
            heads = {name: rosters[found[0][1]].keys(priority)[name] for name, found in places.items()}
            band.meet(heads)
            given = {shard: {} for shard in rosters}
            for name, count in _by_turns(band, heads, slots).items():
                for shard, part in _spread(places[name], count).items():
                    given[shard][name] = part
        return {
            shard: Claim(limit, _shares(priority, mine, heads, slots))
            for shard, mine in given.items()
            if (limit := sum(mine.values()))
        }

    def _band(self, priority: int) -> _PriorityClass:
        band = self._bands.pop(priority, None) or _PriorityClass()
        self._bands[priority] = band  # the last in use comes last
        return band


def _bounded(weight: float) -> float:
    return min(max(weight, LIGHTEST), HEAVIEST)


def _places(priority: int, rosters: Mapping[int, QueueView]) -> dict[str, list[tuple[int, int]]]:
    """Where each key has work: since when and on which shard, that first where it has waited longest."""
    places: dict[str, list[tuple[int, int]]] = {}
    for shard, queue_view in rosters.items():
        for name, key in queue_view.keys(priority).items():
            places.setdefault(name, []).append((key.since, shard))
    for found in places.values():
        found.sort()
    return places


def _by_turns(band: _PriorityClass, heads: Mapping[str, Key], slots: int) -> dict[str, int]:
    """How many of `slots` each key gets, in the order in which they first have their turn; if there are few, all of them."""
    if len(heads) == 1:
        return dict.fromkeys(heads, slots)
    quantum = band.next_helping(slots)
    clock, tick = band.clock, quantum / band.weight
    coming = [(start, heads[name].since, name) for name, start in band.passes.items()]
    heapq.heapify(coming)
    eligible: list[tuple[float, int, str]] = []
    counts: dict[str, int] = {}
    for left in range(slots, 0, -quantum):
        if not eligible:
            clock = max(clock, coming[0][0])
        while coming and coming[0][0] <= clock + ROUNDING:
            start, since, name = heapq.heappop(coming)
            heapq.heappush(eligible, (start + quantum / heads[name].weight, since, name))
        turn = heapq.heappop(eligible)
        counts[turn[2]] = counts.get(turn[2], 0) + min(quantum, left)
        heapq.heappush(coming, turn)
        clock += tick
    if len(heads) <= FEW:
        for _, _, name in [*sorted(eligible), *sorted(coming)]:
            counts.setdefault(name, 0)
    return counts


def _shares(priority: int, given: Mapping[str, int], heads: Mapping[str, Key], slots: int) -> list[Share]:
    """What each key was given; and if they are few, what they take of what others leave: a little each, then all of it."""
    shares = [Share(priority, name, steps, 0, heads[name].weight) for name, steps in given.items() if steps]
    if len(given) > 1 and len(heads) <= FEW:
        little = -(-slots // len(given))
        for name, steps in given.items():
            shares.append(Share(priority, name, little, steps, heads[name].weight))
        for name, steps in given.items():
            shares.append(Share(priority, name, slots, steps + little, heads[name].weight))
    return shares


def _spread(places: Sequence[tuple[int, int]], count: int) -> dict[int, int]:
    """A key's steps divided among its shards, those first where the oldest has been due longest."""
    if len(places) == 1:
        return {places[0][1]: count}
    near = [shard for since, shard in places if since <= places[0][0] + SLACK_US][: max(count, 1)]
    each, over = divmod(count, len(near))
    return {shard: each + (place < over) for place, shard in enumerate(near)} | {
        shard: 0 for _, shard in places if shard not in near
    }
