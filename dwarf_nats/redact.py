"""Redaction: NATS URLs, database DSNs and texts of other programs without the secrets in them.

Every URL or DSN in a log or a message goes through `redacted_url`. Every text of a library or a server that may quote one goes
through `scrubbed`. If in doubt, both hide too much: a password may hold any character, escaped or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
_START = re.compile(r"(?:^|(?<=,))\s*(?=[A-Za-z][A-Za-z0-9+.-]*:/)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]*\]|[^\s:\[\]]*)(?::\d*)?")
_PAIR = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'?|\S*)")
_QUERY_PAIR = re.compile(r"([^=&]+)=([^&]*)")
_OPEN = re.compile(
    "application_name|channel_binding|client_encoding|connect_timeout|database|dbname|gssencmode|host|hostaddr|keepalives"
    "|krbsrvname|load_balance_hosts|mode|options|passfile|pool|port|require_auth|service|servicefile|sslcert|sslcrl|sslkey"
    "|sslmode|sslnegotiation|sslrootcert|sslsni|ssl_(?:min|max)_protocol_version|target_session_attrs|timeout|user|username",
    re.IGNORECASE,
)
"""Settings of a DSN whose values are no secret."""
_CLOSED = re.compile("(?:ssl)?password|passwd|pwd|pass|token|secret|scram_(?:client|server)_key", re.IGNORECASE)
"""Settings whose name is shown without the value. Any other name may be part of a password with an `&` or a blank in it."""

# In free text: URLs with somebody in them, settings named like secrets, and what is a secret by its form.
_URL_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)[^\s]*@")
_SECRET_NAME = (
    r"[\w-]*(?:password|passwd|passphrase|pwd|pass|secret|token|api[_-]?key|access[_-]?key|credentials?|user_seed"
    r"|authorization)"
)
_NAMED = re.compile(
    rf"""((?<![\w-]){_SECRET_NAME}["']?\s*=\s*|["']{_SECRET_NAME}["']\s*:\s*(?=["'])|authorization\s*:\s*)"""
    r"""(?:(["'])(?:(?!\2)[^\\]|\\.)*\2?|(?:basic|bearer)\s+\S+|[^\s&,;}\])"']+)""",
    re.IGNORECASE,
)
_ASKED_SECRET = re.compile(rf"[?&](?:{_CLOSED.pattern})=", re.IGNORECASE)
_SEED = re.compile(r"(?<![A-Z0-9])S[A-Z][A-Z2-7]{56}(?![A-Z0-9])")
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]{5,}")
_PEM = re.compile(r"-----BEGIN [^-]*(?:PRIVATE KEY|SEED|JWT)-----.*?(?:-{5,6}END [^-]*-{5,6}|\Z)", re.DOTALL)
_PIECES = re.compile(r"[\s@/#?:&=,%+\[\]'\"\\;]+")
_SHORTEST = 3
"""Characters of the shortest piece of a secret that is hidden; shorter ones occur in ordinary words and numbers."""


def redacted_url(url: str) -> str:
    """A NATS URL, several of them separated by commas, or the DSN of a database, for messages: no user, password or token.

    Of settings in it (`?name=value`, `name=value …`) those that may be secrets show their name only.
    """
    text = url.strip()
    if text.startswith(("sqlite:", "file:")):
        return _without_query_secrets(text)
    if _is_keywords(text):
        return " ".join(_pairs_shown(_PAIR.findall(text)))
    starts = sorted({0, *(match.end() for match in _START.finditer(text))})
    parts = (text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
    return ",".join(_one_shown(part.strip().rstrip(",")) for part in parts)


def scrubbed(text: str, *sources: str) -> str:
    """A text of another program without anything that looks like a secret, and without any piece of the secrets in `sources`.

    `sources`: the URLs and DSNs the text may be about; a library may quote a part of one that it could not read.
    """
    for source in sources:
        for piece in sorted(_pieces(source), key=len, reverse=True):
            text = re.sub(rf"(?<![\w.-]){re.escape(piece)}(?![\w-])|(?<=['\"]){re.escape(piece)}", HIDDEN, text)
    if ":/" in text:
        text = _URL_IN_TEXT.sub(r"\1", text)
    if "=" in text or ":" in text:
        text = _NAMED.sub(lambda found: f"{found[1]}{found[2] or ''}{HIDDEN}{found[2] or ''}", text)
    if "-----BEGIN " in text:
        text = _PEM.sub(HIDDEN, text)
    return _JWT.sub(HIDDEN, _SEED.sub(HIDDEN, text))


def _one_shown(url: str) -> str:
    """One URL, or several hosts behind one scheme. Everything up to the last `@` may be secret."""
    scheme = match[0] if (match := _SCHEME.match(url)) else ""
    before, _, rest = url[len(scheme) :].rpartition("@")
    if _ASKED_SECRET.search(before):  # the secret has an `@` in it, and may go on
        return scheme + HIDDEN
    place = re.match(r"[^/?#]*", rest)
    hosts = place[0] if place else ""
    checked: list[str] = []
    for host in hosts.split(","):
        if not _HOST.fullmatch(host.strip()):  # may be a password that its host is missing behind, and what follows too
            name, colon, _ = host.strip().partition(":")
            return scheme + ",".join([*checked, f"{name}:{HIDDEN}" if colon else HIDDEN])
        checked.append(host.strip())
    return scheme + ",".join(checked) + _without_query_secrets(rest[len(hosts) :])


def _without_query_secrets(text: str) -> str:
    before, question, query = text.partition("?")
    if not question:
        return before
    return before + question + "&".join(_pairs_shown(_QUERY_PAIR.findall(query.partition("#")[0])))


def _pairs_shown(pairs: list[tuple[str, str]]) -> Iterator[str]:
    for name, value in pairs:
        if _OPEN.fullmatch(name):
            yield f"{name}={value}"
        elif _CLOSED.fullmatch(name):
            yield f"{name}={HIDDEN}"


def _is_keywords(text: str) -> bool:
    """True for a DSN of the form `host=… password=…`."""
    first = _PAIR.match(text)
    return first is not None and bool(_OPEN.fullmatch(first[1]) or _CLOSED.fullmatch(first[1]))


def _pieces(source: str) -> Iterator[str]:
    """The secrets in a URL or DSN, encoded and decoded, whole and in the pieces that a parser of URLs cuts them into."""
    secrets: set[str] = set()
    starts = sorted({0, *(match.end() for match in _START.finditer(source))})
    for start, end in zip(starts, [*starts[1:], len(source)], strict=True):
        one = source[start:end]
        scheme = match[0] if (match := _SCHEME.match(one)) else ""
        who, at, _ = one[len(scheme) :].rpartition("@")
        if at:
            user, colon, password = who.partition(":")
            secrets.add(password if colon else user)
        elif scheme and not _HOST.fullmatch(place := re.split(r"[/?#]", one[len(scheme) :])[0]):
            secrets.add(place.partition(":")[2])
        _, _, query = one.partition("?")
        secrets |= {value for name, value in _QUERY_PAIR.findall(query) if not _OPEN.fullmatch(name)}
    if _is_keywords(source.strip()):
        secrets |= {value.strip("'") for name, value in _PAIR.findall(source) if not _OPEN.fullmatch(name)}
    for secret in secrets:
        for form in {secret, unquote(secret)}:
            if len(form) >= _SHORTEST:
                yield form
            yield from (piece for piece in _PIECES.split(form) if len(piece) >= _SHORTEST)
