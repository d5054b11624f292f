"""What people come for: see why a flow stands still, answer, restart, and watch it complete, in one page without a reload."""

from __future__ import annotations

from typing import Any

from playwright.async_api import Page, expect

from tests.browser.chromium import WAIT_MS
from tests.console import stage
from tests.support.caller import Caller

MARK = "window.neverReloaded = true"
UNTOUCHED = "window.neverReloaded === true"
expect.set_options(timeout=WAIT_MS)


async def served(caller: Caller) -> dict[str, Any]:
    """The replies of the workers that the workflow *order* needs; a test changes them to repair what is broken."""
    replies: dict[str, Any] = {
        "reserve": {"changes": {"reserved": True}},
        "billing.charge": {"error": {"message": "card declined", "code": 402}},
        "manual-review": {"interrupt": {"question": "Is order A-1 all right?"}},
        "shipping.ship": {"changes": {"shipped": True}},
    }
    for task in replies:
        await caller.plays(task, lambda request: replies[request["url"]])
    return replies


async def test_a_failed_flow_is_found_read_restarted_and_answered(page: Page, caller: Caller) -> None:
    """The whole way: the list, the reason, the failed step again, a person's answer, the end. The page is never reloaded."""
    replies = await served(caller)
    order = {"id": "A-1", "total": 129.5, "mail": "ada@example.org"}
    flow = await stage.stopped(caller, await stage.made(caller, stage.ORDER, order=order), "failed")
    await page.goto("/flows?status=failed")
    await page.get_by_role("link", name=flow, exact=True).first.click()
    await expect(page.get_by_text("Failed at charge: card declined (402)").first).to_be_visible()
    await page.evaluate(MARK)

    await page.get_by_role("button", name="Restart from here…").click()
    asked = page.get_by_role("dialog", name="Restart from charge")
    await expect(asked).to_contain_text("charge runs again")
    replies["billing.charge"] = {"changes": {"paid": True}}
    await asked.get_by_role("button", name="Restart", exact=True).click()

    await page.get_by_role("button", name="Answer…").click()
    form = page.get_by_role("dialog")
    await expect(form).to_contain_text("Is order A-1 all right?")
    replies["manual-review"] = {"changes": {"reviewed": True}}
    await form.get_by_role("textbox").fill("true")
    await form.get_by_role("button", name="Answer", exact=True).click()

    await expect(page.get_by_text("Completed.").first).to_be_visible()
    await expect(page.locator("svg .node.completed", has_text="ship")).to_have_count(1)
    assert await page.evaluate(UNTOUCHED), "the page was reloaded"


async def test_an_approval_is_a_form_and_what_is_wrong_in_it_is_said(page: Page, caller: Caller) -> None:
    """The payload's form becomes fields; the answer reaches the flow as the form says."""
    flow = await stage.waiting(caller)
    await page.goto(f"/flow/{flow}")
    await page.evaluate(MARK)
    await page.get_by_role("button", name="Answer…").click()
    form = page.get_by_role("dialog", name="Release the order")
    await form.get_by_label("It may go out").check()
    await form.get_by_label("Limit").fill("9999")
    await form.get_by_role("button", name="Answer", exact=True).click()
    assert not await form.get_by_label("Limit").evaluate("field => field.validity.valid"), "500 is the most"
    await form.get_by_label("Limit").fill("250")
    await form.get_by_role("button", name="Answer", exact=True).click()
    await expect(page.get_by_text("Completed.").first).to_be_visible()
    assert await page.evaluate(UNTOUCHED), "the page was reloaded"
    await page.goto(f"/flow/{flow}/state")
    await expect(page.get_by_text("250").first).to_be_visible()


async def test_a_step_opens_by_keyboard_and_closes_by_it(page: Page, caller: Caller) -> None:
    flow = await stage.failed(caller)
    await page.goto(f"/flow/{flow}")
    node = page.get_by_role("link", name="charge: ").first
    await node.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="charge")).to_be_visible()
    await expect(page.locator("#drawer").get_by_text("card declined").first).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("heading", name="charge")).to_be_hidden()


async def test_the_list_shows_a_new_flow_by_itself(page: Page, caller: Caller) -> None:
    await stage.looped(caller)
    await page.goto("/flows")
    await page.evaluate(MARK)
    await expect(page.locator("tbody tr")).to_have_count(1)
    flow = await stage.waiting(caller)
    await expect(page.get_by_role("link", name=flow, exact=True).first).to_be_visible()
    assert await page.evaluate(UNTOUCHED), "the page was reloaded"
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()


async def test_all_flows_that_match_are_counted_and_cancelled_in_a_dialog(page: Page, caller: Caller) -> None:
    """M1: nothing happens before the count was seen."""
    flow = await stage.waiting(caller)
    await page.goto("/flows?status=interrupted")
    await page.get_by_role("button", name="All that match…").click()
    dialog = page.get_by_role("dialog", name="All flows that match the filters")
    await dialog.get_by_label("Reason").fill("recalled")
    await dialog.get_by_role("button", name="Count them").click()
    await expect(dialog).to_contain_text("1 flows match.")
    await expect(page.get_by_role("link", name=flow, exact=True).first).to_be_attached()
    await dialog.get_by_role("button", name="Cancel: 1 flows").click()
    await expect(dialog).to_contain_text("1 done, 0 refused.")
    await expect(dialog.get_by_role("button", name="Count them")).to_be_enabled()
    await page.goto(f"/flow/{flow}")
    await expect(page.get_by_text("recalled").first).to_be_visible()
