"""The timeline under a pointer: it tells the time, and shows a part of it larger."""

from __future__ import annotations

import re

from playwright.async_api import FloatRect, Locator, Page, expect

from tests.browser.chromium import WAIT_MS
from tests.console import stage
from tests.support.caller import Caller

expect.set_options(timeout=WAIT_MS)
SLOW = {
    "name": "slow",
    "tasks": [
        {"name": "begin", "set": {"n": 0}},
        {"name": "pause", "sleep": {"ms": 400}},
        {"name": "count", "set": {"n": "=n + 1"}},
    ],
    "transitions": [
        {"from": "begin", "to": "pause"},
        {"from": "pause", "to": "count"},
        {"from": "count", "to": "END"},
    ],
}
"""It takes long enough for finer marks, which stand a millisecond apart at least."""
WIDTH = "element => element.getBoundingClientRect().width"


def seconds(shown: str) -> float:
    """The time below the pointer, after the start of the flow."""
    found = re.match(r"\+(\d+(?:\.\d+)?) s", shown)
    assert found is not None, shown
    return float(found[1])


async def box_of(shown: Locator) -> FloatRect:
    """The place of an element; it may be drawn anew meanwhile, as when the flow has stopped."""
    while True:
        await expect(shown).to_be_visible()
        box = await shown.bounding_box()
        if box is not None:
            return box


async def test_the_pointer_reads_the_time_and_dragging_zooms(page: Page, caller: Caller) -> None:
    """A cursor with the time; a drag shows that part, wider; the button shows everything again."""
    flow = await stage.stopped(caller, await stage.made(caller, SLOW), "completed")
    await page.goto(f"/flow/{flow}/timeline")
    axis = page.locator(".tl-axis svg")
    box = await box_of(axis)
    row = await box_of(page.locator(".tl-row").nth(2))
    height = row["y"] + row["height"] / 2
    await page.mouse.move(box["x"] + box["width"] * 0.25, height)
    cursor = page.locator(".tl-cursor")
    await expect(cursor).to_be_visible()
    early = await cursor.inner_text()
    await page.mouse.move(box["x"] + box["width"] * 0.5, height)
    assert seconds(await cursor.inner_text()) > seconds(early) > 0

    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] * 0.75, height, steps=4)
    await expect(cursor).to_contain_text("long")
    await page.mouse.up()
    await expect(page.locator(".tl-shown")).to_contain_text(" to +")
    marks = page.locator(".tl-axis text.fine")
    await expect(marks.first).to_be_visible()
    assert 2 <= await marks.count() <= 8, "finer marks for the part that is shown"
    assert abs(await axis.evaluate(WIDTH) / box["width"] - 4) < 0.4, "a quarter is shown over the whole width"
    await page.mouse.move(box["x"] + 2, height)
    assert seconds(await cursor.inner_text()) > seconds(early), "the pointer reads the part that is shown"

    await page.get_by_role("button", name="Whole").click()
    await expect(page.locator(".tl-shown")).to_be_empty()
    await expect(marks).to_have_count(0)
    assert abs(await axis.evaluate(WIDTH) - box["width"]) < 1


async def test_the_keys_zoom_and_a_live_change_keeps_the_part(page: Page, caller: Caller) -> None:
    """Plus and minus; what is shown stays when the rows come anew."""
    await page.goto(f"/flow/{await stage.waiting(caller)}/timeline")
    shown = page.locator(".tl-shown")
    await expect(page.locator(".tl-row").first).to_be_visible()
    await page.keyboard.press("+")
    await expect(shown).to_contain_text(" to +")
    part = await shown.inner_text()
    await page.evaluate("document.querySelector('.tl').id = 'before'")
    await page.get_by_role("button", name="Answer…").click()
    form = page.get_by_role("dialog")
    await form.get_by_label("Limit").fill("250")
    await form.get_by_role("button", name="Answer", exact=True).click()
    await expect(page.locator("#before")).to_have_count(0)
    await expect(shown).to_have_text(part)
    await page.keyboard.press("-")
    await page.keyboard.press("0")
    await expect(shown).to_be_empty()
