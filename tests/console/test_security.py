"""What protects the console in a browser."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from dwarf_nats.console.app import build_app
from dwarf_nats.console.login import hash_password
from dwarf_nats.console.security import HEADERS
from dwarf_nats.console.settings import ConsoleSettings, parse_address
from dwarf_nats.console.source import Source
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Client


def app_with(**settings: Any) -> Starlette:
    """A console that never connects: the guard answers before anything is read."""
    return build_app(Source(Client("nats://127.0.0.1:1")), ConsoleSettings(**settings))


async def ask(app: Starlette, path: str = "/nothing", *, peer: str = "127.0.0.1", **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=app, client=(peer, 4711))
    method = more.pop("method", "GET")
    host = more.pop("host", "localhost:8080")
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        return await client.request(method, path, **more)


@pytest.mark.parametrize("path", ["/nothing", "/static/nothing.css", "/static/../settings.py"])
async def test_every_response_has_the_headers(path: str) -> None:
    response = await ask(app_with(), path)
    assert response.status_code == 404
    for name, value in HEADERS.items():
        assert response.headers[name] == value
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["Cache-Control"] == "no-store"
    assert "HttpOnly" in response.headers["Set-Cookie"]
    assert "SameSite=Strict" in response.headers["Set-Cookie"]


async def test_no_page_has_script_or_style_of_its_own(pytestconfig: pytest.Config) -> None:
    """The policy would refuse them; a page that needs one would be broken."""
    templates = pytestconfig.rootpath / "dwarf_nats" / "console" / "templates"
    found = list(templates.glob("*.html"))
    assert found
    for path in found:
        text = path.read_text()
        assert "<style" not in text, path
        assert " style=" not in text, path
        assert " onclick=" not in text, path
        assert "<script>" not in text, path
        assert "https://" not in text, f"{path}: a third-party host"
        assert "http://" not in text, f"{path}: a third-party host"


async def test_the_assets_are_kept_for_ever_and_light() -> None:
    app = app_with()
    weight = 0
    for asset in app.state.console.assets.values():
        response = await ask(app, asset.address, headers={"Accept-Encoding": "gzip"})
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.content == asset.body
        weight += len(asset.body)
    assert weight < 60_000


async def test_another_name_is_not_answered() -> None:
    """DNS rebinding: the page of a site whose name leads here reads nothing."""
    app = app_with(hosts="console.example")
    for host, status in (
        ("evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("localhost:8080", 404),
        ("127.0.0.1:8080", 404),
        ("[::1]:8080", 404),
        ("console.example", 404),
    ):
        assert (await ask(app, host=host)).status_code == status, host


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://localhost:8080"}, 503),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 503),
    ],
)
async def test_a_form_of_another_site_is_refused(headers: dict[str, str], status: int) -> None:
    """With the right token, even; from the site itself it goes through, to a service that is not there."""
    app = app_with()
    token = app.state.console.tokens.token("me")
    cookie = {"Cookie": "dwarf_console=me"}
    response = await ask(
        app, "/act/flow.cancel", method="POST", data={"csrf": token, "reason": "no"}, headers={**headers, **cookie}
    )
    assert response.status_code == status


async def test_every_form_needs_its_token() -> None:
    """A route that changes something and forgets to ask for the token is found here."""
    app = app_with()
    posts = [one for one in app.routes if isinstance(one, Route) and one.methods and "POST" in one.methods]
    assert posts
    for route in posts:
        path = route.path.replace("{operation}", "flow.cancel").replace("{name}", "order")
        for data in ({}, {"csrf": "0" * 64}):
            response = await ask(app, path, method="POST", data=data, headers={"Cookie": "dwarf_console=me"})
            assert response.status_code == 403, path


async def test_the_token_of_another_visitor_is_no_good() -> None:
    app = app_with()
    token = app.state.console.tokens.token("me")
    response = await ask(
        app, "/act/flow.cancel", method="POST", data={"csrf": token}, headers={"Cookie": "dwarf_console=you"}
    )
    assert response.status_code == 403


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def test_passwords(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"# ours\nada:{hash_password('a b:c')}\n")
    app = app_with(passwords=path, listen=":8080")
    unknown = await ask(app)
    assert unknown.status_code == 401
    assert unknown.headers["WWW-Authenticate"].startswith("Basic ")
    for headers, status in (
        (basic("ada", "a b:c"), 404),
        (basic("ada", "wrong"), 401),
        (basic("bob", "a b:c"), 401),
        ({"Authorization": "Basic !"}, 401),
        ({"Authorization": "Bearer x"}, 401),
        (basic("ada", "a b:c"), 404),
    ):
        assert (await ask(app, headers=headers)).status_code == status, headers


async def test_the_header_of_a_proxy_is_believed_from_the_proxy_only() -> None:
    app = app_with(user_header="X-User", proxies="10.0.0.7", listen=":8080")
    user = {"X-User": "ada"}
    assert (await ask(app, headers=user, peer="10.0.0.7")).status_code == 404
    assert (await ask(app, headers=user, peer="10.0.0.8")).status_code == 403
    assert (await ask(app, peer="10.0.0.7")).status_code == 403


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": ":8080"}, "--no-login"),
        ({"listen": "192.0.2.1:8080"}, "--passwords"),
        ({"passwords": Path("x"), "user_header": "X"}, "not both"),
        ({"user_credentials": Path("x")}, "--user-header"),
        ({"listen": "8080x"}, "no address"),
    ],
)
def test_settings_that_would_open_everything_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        ConsoleSettings(**settings).check()


def test_settings_that_are_fine() -> None:
    for settings in (
        {},
        {"listen": "[::1]:0"},
        {"listen": ":8080", "login": False},
        {"listen": ":80", "user_header": "X"},
    ):
        ConsoleSettings(**settings).check()  # type: ignore[arg-type]
    assert parse_address(":8080") == ("0.0.0.0", 8080)
    assert parse_address("8080") == ("127.0.0.1", 8080)
    assert parse_address("[::1]:80") == ("::1", 80)


@pytest.mark.parametrize("text", ["", "ada", "ada:plain", ":scrypt$1$2"])
def test_a_file_of_passwords_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    with pytest.raises(BadRequest, match="hash-password"):
        app_with(passwords=path).build_middleware_stack()
