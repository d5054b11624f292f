"""Documents are put, changed and removed in a real browser, and the search field leads to what it names."""

from __future__ import annotations

from playwright.async_api import Page, expect

from tests.browser.chromium import WAIT_MS
from tests.console import stage
from tests.support.caller import Caller

expect.set_options(timeout=WAIT_MS)
NEW = (
    "name: nightly\nentryPoint: sweep\ntasks:\n  - name: sweep\n    ask: {}\ntransitions:\n  - {from: sweep, to: END}\n"
)


async def test_a_graph_is_registered_changed_and_removed(page: Page, caller: Caller) -> None:
    """What is wrong is said while it is written, and cannot be put; then the whole way by buttons."""
    await page.goto("/workflows")
    await page.get_by_role("link", name="Register a graph…").click()
    text = page.get_by_label("New document")
    await text.fill(NEW.replace("entryPoint", "entrypoint"))
    await expect(page.get_by_role("alert")).to_contain_text("did you mean 'entryPoint'")
    await expect(page.get_by_role("button", name="Put")).to_be_disabled()
    await text.fill(NEW)
    await page.get_by_role("button", name="Put").click()
    await expect(page.get_by_text("Kept: nightly.")).to_be_visible()
    assert (await caller.ok("graph.get", name="nightly"))["entryPoint"] == "sweep"

    await page.get_by_role("button", name="Mermaid…").click()
    await page.get_by_role("button", name="Mermaid", exact=True).click()
    await expect(page.get_by_role("region", name="Mermaid")).to_contain_text("sweep")

    await page.get_by_role("button", name="Delete…").click()
    asked = page.get_by_role("dialog", name="Delete: nightly")
    await expect(asked).to_contain_text("No flow can be created by its name")
    await asked.get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("heading", name="Registered graphs")).to_be_visible()
    assert not (await caller.ok("graph.list"))["graphs"]


async def test_the_search_field_leads_to_a_flow(page: Page, caller: Caller) -> None:
    """A form that the browser sends by itself carries the origin of the page, so it is not refused."""
    flow = await stage.waiting(caller)
    await page.goto("/workflows")
    await page.get_by_role("searchbox").fill(flow)
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{page.url.split('/workflows')[0]}/flow/{flow}")
    await expect(page.get_by_role("button", name="Answer…").first).to_be_visible()
