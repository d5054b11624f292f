"""Chromium without a screen, driven by Playwright: the browser that is installed here, not one that is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = (
    "NO BROWSER: the pages of the console are not tested in one. Install Chromium (Debian: apt-get install chromium), "
    "or name one in DWARF_CHROMIUM"
)
WAIT_MS = 60_000
"""Milliseconds that a page gets to show what is expected, on a machine under full load."""
PHONE = (390, 844)
SCREEN = (1280, 860)


def find_chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    if named := os.environ.get("DWARF_CHROMIUM"):
        return named
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def launched(executable: str, profile: Path) -> AsyncIterator[Browser]:
    """A browser that ends with the block."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=list(FLAGS), env={**os.environ, "HOME": str(profile)}
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(
    browser: Browser,
    base_url: str,
    *,
    scheme: Literal["light", "dark"] = "light",
    size: tuple[int, int] = SCREEN,
) -> AsyncIterator[Page]:
    """A page in a context of its own. What it logs as an error, or asks of another host, fails the block at its end."""
    context = await browser.new_context(
        base_url=base_url,
        color_scheme=scheme,
        viewport={"width": size[0], "height": size[1]},
        reduced_motion="reduce",
        timezone_id="UTC",
        locale="en-GB",
    )
    context.set_default_timeout(WAIT_MS)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(base_url) else complaints.append(f"asks {sent.url}"))
    try:
        yield page
    finally:
        await context.close()
    assert not complaints, complaints
