"""The view of one shard's ready queue: which fairness keys have due work in which band (C1-C3). Pure.

A ready queue is read in pages (`Page`), each asked for by a `PageRequest`. The view keeps what the pages showed: of each
band its keys, and of each key the oldest step that may be claimed. Scans go round and round: each poll reads on where the
last one stopped, and a key stays in the view until a whole scan of its band has not met it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dwarf_nats.rules.scheduling.values import PAGE_MAX_HEADS, PAGE_MIN_HEADS, Page, PageRequest, QueueHead, Share

LIGHTEST_WEIGHT, HEAVIEST_WEIGHT = 1e-6, 1e6
"""Weights beyond these bounds are taken for the bound, so that sums of their strides stay exact enough."""
QUEUE_VIEW_MAX_KEYS = 2_048
"""Fairness keys of one band that a view keeps. In a band of more keys, a key that was served makes room for another."""
OUTDATED_SHARE = 8
"""A view is outdated, and read in large pages, if more than one in so many keys that a claim asked had nothing."""
POLL_MAX_PAGES = 8
"""Pages that one poll reads at most, however long the stretch of blocked tasks is."""
BAND_BEGIN = ("", "")
"""The cursor, a fairness key and a task, before the first head of a band."""


@dataclass(slots=True)
class ReadyKey:
    """The weight of a key's oldest admissible step, and when that came due on the clock all shards share.

    `generation`: the scan that met it last. `hinted`: it has had another step since it was last served.
    """

    weight: float
    since: int
    generation: int
    hinted: bool = False


class _BandScan:
    """One band, scanned page by page, round and round. A key stays until a whole scan has not met it.

    `known`: a scan has come to the band's end, over one poll or several. `scanned_whole`: the last page was all of the band.
    `asked`, `missed`: keys that claims have asked since the last page, and those of them that had nothing.
    """

    def __init__(self) -> None:
        self.keys: dict[str, ReadyKey] = {}
        self.cursor = BAND_BEGIN
        self.known = False
        self.scanned_whole = False
        self.asked = self.missed = 0
        self._generation = 0

    def note_ready(self, fairness_key: str, weight: float, now: int) -> None:
        """Add a key that has work, whether or not a page has shown it."""
        key = self.keys.get(fairness_key)
        if key is not None:
            key.hinted = True
        elif len(self.keys) < QUEUE_VIEW_MAX_KEYS:
            self.keys[fairness_key] = ReadyKey(_bounded(weight), now, self._generation)

    def add_page(
        self, heads: Sequence[QueueHead], admissible: Sequence[QueueHead], offset: int, *, ended: bool
    ) -> None:
        """Add the heads from the cursor on; `ended`: they reach the band's end."""
        from_start = self.cursor == BAND_BEGIN
        self.asked = self.missed = 0
        if from_start:
            self._generation += 1
        for head in admissible:
            since = head.due_at - offset
            key = self.keys.get(head.fairness_key)
            if key is None or key.generation != self._generation or since < key.since:
                self.keys[head.fairness_key] = ReadyKey(_bounded(head.weight), since, self._generation)
        self.scanned_whole = from_start and ended
        if ended:
            self.keys = {name: key for name, key in self.keys.items() if key.generation == self._generation}
            self.known = True
            self.cursor = BAND_BEGIN
        else:
            self.cursor = (heads[-1].fairness_key, heads[-1].url)


class QueueView:
    """The known due work of one shard: keys by band, and of each its oldest admissible step.

    A poll begins with `first_request` and goes on with the requests that `add_page` answers. A key stays in the view until
    a scan of its band has not met it, or a claim found less than it asked for. `complete`: the last poll saw all there is.
    `next_due_at`: when the next scheduled step comes due, on the clock all shards share.
    """

    def __init__(self) -> None:
        self.complete = False
        self.next_due_at: int | None = None
        self._bands: dict[int, _BandScan] = {}
        self._all_known = False
        self._offset = 0
        self._pages = 0

    @property
    def best(self) -> int | None:
        """The best band with admissible work, as far as known."""
        return min((band for band, scan in self._bands.items() if scan.keys), default=None)

    @property
    def is_empty(self) -> bool:
        """True if the whole queue was read, in one poll or several, and nothing of it is admissible."""
        return self._all_known and self.best is None

    def bands(self) -> list[int]:
        """The bands with admissible work, best first."""
        return sorted(band for band, scan in self._bands.items() if scan.keys)

    def keys(self, band: int) -> Mapping[str, ReadyKey]:
        """The keys of a band."""
        return self._bands[band].keys if band in self._bands else {}

    def scanned_whole(self, band: int) -> bool:
        """True if the last poll saw the band whole."""
        return band in self._bands and self._bands[band].scanned_whole

    def clear(self) -> None:
        """Forget all keys, to scan anew."""
        self._bands = {}

    def first_request(self, slots: int) -> PageRequest:
        """The first page of a poll that is to fill `slots` worker slots."""
        self.complete = self._all_known = True
        self._pages = 1
        return self._request(0, slots)

    def add_page(
        self, request: PageRequest, page: Page, now: int, *, blocked: Collection[str], slots: int
    ) -> PageRequest | None:
        """Add a page that was read with the tasks `blocked`; the page to read next in this poll, if any.

        `now`: on the clock all shards share.
        """
        self._offset = page.now - now
        self._note_next_due(page)
        by_band: dict[int, list[QueueHead]] = {} if page.best is None else {page.best: []}
        for head in page.heads:
            by_band.setdefault(head.priority, []).append(head)
        self._drop_empty(request.floor, by_band, page.full)
        before = request.floor
        for number, (band, heads) in enumerate(by_band.items(), 1):
            ended = number < len(by_band) or not page.full
            scan = self._bands.setdefault(band, _BandScan())
            if band != request.band and scan.cursor != BAND_BEGIN:
                if not ended:
                    return self._next_request(before, slots)  # to be read from where its own scan stands
                scan.cursor = BAND_BEGIN
            admissible = [head for head in heads if head.url not in blocked and head.due_at <= page.now]
            scan.add_page(heads, admissible, self._offset, ended=ended)
            self.complete &= scan.scanned_whole
            self._all_known &= scan.known
            if not ended and not scan.keys:
                return self._next_request(band, slots)
            before = band
        return None

    def note_ready(self, priority: int, fairness_key: str, weight: float, now: int) -> None:
        """Add the key of a step that has just come due; no page need have shown it."""
        scan = self._bands.get(priority)
        if scan is None:
            scan = self._bands[priority] = _BandScan()
        scan.note_ready(fairness_key, weight, now)

    def note_scheduled(self, at: int) -> None:
        """A step comes due at `at`, on the clock all shards share."""
        self.next_due_at = at if self.next_due_at is None else min(at, self.next_due_at)

    def delay_of(self, due_at: int, now: int) -> int:
        """Microseconds until `due_at` by the shard's clock, as far as its clock is known; negative if that is past."""
        return due_at - self._offset - now

    def note_claimed(self, share: Share, steps: int, last_due_at: int) -> None:
        """A claim of `share` gave `steps` steps, the youngest of which came due at `last_due_at` by the shard's clock."""
        scan = self._bands.get(share.priority)
        key = scan.keys.get(share.fairness_key) if scan is not None else None
        if scan is None or key is None:
            return
        scan.asked += 1
        if (steps < share.steps and not key.hinted) or len(scan.keys) >= QUEUE_VIEW_MAX_KEYS:
            del scan.keys[share.fairness_key]
            scan.missed += steps == 0
        else:
            key.hinted = False
            key.since = max(key.since, last_due_at - self._offset)

    def _request(self, floor: int, slots: int) -> PageRequest:
        band = min((band for band in self._bands if band > floor), default=None)
        if band is None:
            return PageRequest(floor)
        scan = self._bands[band]
        if scan.missed * OUTDATED_SHARE > scan.asked:
            scan.known = False
        if len(scan.keys) >= QUEUE_VIEW_MAX_KEYS:
            limit = 1
        else:
            limit = min(max(PAGE_MIN_HEADS, slots // 4), PAGE_MAX_HEADS) if scan.known else PAGE_MAX_HEADS
        return PageRequest(floor, band, *scan.cursor, limit)

    def _next_request(self, floor: int, slots: int) -> PageRequest | None:
        self._pages += 1
        if self._pages > POLL_MAX_PAGES:
            self.complete = self._all_known = False
            return None
        return self._request(floor, slots)

    def _note_next_due(self, page: Page) -> None:
        times = [head.due_at for head in page.heads if head.due_at > page.now]
        if page.next_due_at is not None:
            times.append(page.next_due_at)
        self.next_due_at = min(times) - self._offset if times else None

    def _drop_empty(self, floor: int, found: Collection[int], full: bool) -> None:
        last = max(found, default=floor)
        for band in [band for band in self._bands if band > floor and band not in found]:
            if not full or band < last:
                del self._bands[band]


def _bounded(weight: float) -> float:
    return min(max(weight, LIGHTEST_WEIGHT), HEAVIEST_WEIGHT)
