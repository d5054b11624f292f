"""Settings of the console, each once, as in `dwarf_nats.settings`. Needs nothing of the extra `console`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dwarf_nats.errors import BadRequest
from dwarf_nats.settings import rows_of, setting

CONSOLE = "The console"


@dataclass(slots=True, frozen=True, kw_only=True)
class ConsoleSettings:
    """The settings of a console: what it shows, to whom, and where it listens."""

    listen: str = setting(
        "127.0.0.1:8080", "Address and port; :8080 is all addresses.", section=CONSOLE, metavar="ADDRESS"
    )
    hosts: str = setting(
        "", "Further names by which browsers reach it, separated by commas.", section=CONSOLE, metavar="NAMES"
    )
    passwords: Path | None = setting(
        None, "File of users and hashed passwords for HTTP basic; see --hash-password.", section=CONSOLE
    )
    user_header: str = setting(
        "", "Header in which a proxy names the user it has logged in.", section=CONSOLE, metavar="NAME"
    )
    proxies: str = setting(
        "127.0.0.1,::1", "Addresses of proxies whose header is believed.", section=CONSOLE, metavar="ADDRESSES"
    )
    user_credentials: Path | None = setting(
        None, "TOML file: user = NATS credentials file, so that each acts with own rights.", section=CONSOLE
    )
    login: bool = setting(default=True, text="Insist on a login when it listens beyond loopback.", section=CONSOLE)
    payloads: bool = setting(default=True, text="Show states, changes and other values of workflows.", section=CONSOLE)
    api: bool = setting(default=False, text="Answer POST /api/OPERATION with the JSON of the wire.", section=CONSOLE)
    live_events: bool = setting(
        default=True, text="Hear status events; without, look for changes every 2 s.", section=CONSOLE
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on. Raises `BadRequest` for text that is no address."""
        return parse_address(self.listen)

    @property
    def has_login(self) -> bool:
        """True if somebody must say who he is: by password, or by a header of a proxy."""
        return self.passwords is not None or bool(self.user_header)

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach it."""
        return self.address[0] in ("127.0.0.1", "::1", "localhost")

    def check(self) -> None:
        """Raise `BadRequest` for settings that contradict each other, or that would show everything to everybody."""
        if self.passwords is not None and self.user_header:
            raise BadRequest(
                "give --passwords or --user-header, not both: a proxy that logs in needs no passwords here"
            )
        if self.user_credentials is not None and not self.has_login:
            raise BadRequest("--user-credentials needs to know the user: add --passwords or --user-header")
        if not self.is_local and not self.has_login and self.login:
            raise BadRequest(
                f"the console would be open to everybody who reaches {self.listen}: add --passwords or --user-header,"
                " listen on 127.0.0.1, or say --no-login"
            )


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080`, `[::1]:8080`, `:8080` (all addresses) or `8080` (loopback)."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    elif not host:
        host = "0.0.0.0"
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BadRequest(f"{text!r} is no address to listen on: write 127.0.0.1:8080 or :8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


CONSOLE_SETTINGS = tuple(rows_of(ConsoleSettings))
"""The settings of the console, in the order of the help."""
