"""Every page in both colour schemes and on a phone's width: no finding of axe, nothing wider than the screen."""

from __future__ import annotations

from typing import Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page

from tests.browser import chromium
from tests.console import stage
from tests.support.caller import Caller

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}
LOOKS: list[tuple[Literal["light", "dark"], tuple[int, int]]] = [
    ("light", chromium.SCREEN),
    ("dark", chromium.SCREEN),
    ("light", chromium.PHONE),
]
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


async def addresses(caller: Caller) -> list[str]:
    """Every page, each kind of flow among them."""
    failed = await stage.failed(caller)
    waiting = await stage.waiting(caller)
    fan = await stage.stopped(caller, await stage.fanned(caller), "completed")
    parent = await stage.parent(caller)
    await caller.ok("graph.put", **stage.ASK)
    tabs = [f"/flow/{failed}/{tab}" for tab in ("timeline", "steps", "state", "log")]
    flows = [f"/flow/{flow}" for flow in (failed, waiting, fan, parent)]
    return [
        "/flows",
        "/flows?status=cancelled",
        *flows,
        *tabs,
        f"/flow/{fan}/timeline",
        "/workflows",
        "/graphs?new=1",
        "/graphs/release",
        "/tasks",
        "/replicas",
    ]


async def findings(page: Page, address: str) -> list[str]:
    """What axe finds on a page, in a line each."""
    await page.goto(address)
    results = await Axe().run(page, options=RULES)
    found = [
        f"{address}: {one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in results.response["violations"]
    ]
    if await page.evaluate(TOO_WIDE):
        found.append(f"{address} is wider than the screen")
    return found


@pytest.mark.parametrize(("scheme", "size"), LOOKS, ids=["light", "dark", "phone"])
async def test_pages_can_be_used_by_everybody(
    browser: Browser, address: str, caller: Caller, scheme: Literal["light", "dark"], size: tuple[int, int]
) -> None:
    """Contrast, names, roles, order of headings, sizes of targets: WCAG 2.2 AA, as far as a program can tell."""
    pages = await addresses(caller)
    async with chromium.tab(browser, address, scheme=scheme, size=size) as page:
        found = [line for one in pages for line in await findings(page, one)]
    assert not found, "\n".join(found)


async def test_dialogs_and_the_drawer_can_be_used_by_everybody(page: Page, caller: Caller) -> None:
    flow = await stage.waiting(caller)
    await page.goto(f"/flow/{flow}")
    await page.get_by_role("button", name="Answer…").click()
    results = await Axe().run(page, options=RULES)
    assert not results.violations_count, results.generate_report()
    await page.keyboard.press("Escape")
    await page.get_by_role("link", name="prepare: ").first.click()
    await page.get_by_role("heading", name="prepare").wait_for()
    results = await Axe().run(page, options=RULES)
    assert not results.violations_count, results.generate_report()
