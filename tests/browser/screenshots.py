"""Pictures of the console's main pages for the documentation, light and dark, from a seeded service.

Run `python -m tests.browser.screenshots docs/images`; it needs Chromium.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser

from dwarf_nats.console.app import build_app
from dwarf_nats.console.server import ConsoleServer
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.console.source import Source
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from tests.browser import chromium
from tests.console import stage
from tests.support.caller import Caller, deployment

SIZE = (1280, 800)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


async def seeded(caller: Caller) -> dict[str, str]:
    """Flows of every kind; picture → address."""
    for _ in range(4):
        await stage.looped(caller)
    await stage.rescued(caller)
    await stage.parent(caller)
    fan = await stage.stopped(caller, await stage.fanned(caller), "completed")
    waiting = await stage.waiting(caller)
    failed = await stage.failed(caller)
    return {
        "console-flows": "/flows",
        "console-failed": f"/flow/{failed}",
        "console-waiting": f"/flow/{waiting}",
        "console-branches": f"/flow/{fan}",
        "console-timeline": f"/flow/{fan}/timeline",
    }


async def draw(browser: Browser, base_url: str, pages: dict[str, str], folder: Path) -> None:
    """Write a picture of each page in both schemes."""
    for scheme in SCHEMES:
        async with chromium.tab(browser, base_url, scheme=scheme, size=SIZE) as page:
            for name, address in pages.items():
                await page.goto(address)
                await page.locator("#live").wait_for()
                await page.screenshot(path=folder / f"{name}{'-dark' if scheme == 'dark' else ''}.png")


async def main(folder: Path) -> None:
    """Start what is needed, draw, and stop it. Raises `SystemExit` without a browser."""
    executable = chromium.find_chromium()
    if executable is None:
        raise SystemExit(chromium.MISSING)
    with tempfile.TemporaryDirectory() as scratch:
        async with NatsServer() as nats, deployment(nats.url, f"sqlite:///{scratch}/dwarf.db", "dwarf") as caller:
            pages = await seeded(caller)
            settings = ConsoleSettings(listen="127.0.0.1:0")
            source = Source(Client(nats.url, prefix=caller.prefix, name="console"))
            async with (
                ConsoleServer(build_app(source, settings), settings) as server,
                chromium.launched(executable, Path(scratch)) as browser,
            ):
                await draw(browser, server.url, pages, folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target))
