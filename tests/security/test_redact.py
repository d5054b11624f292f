"""No URL, DSN or text that is shown holds a password or a token (wire: section 6)."""

from __future__ import annotations

import json
import logging
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.cli.command import print_refusal
from dwarf_nats.cli.logs import JsonFormatter, TextFormatter
from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url, scrubbed

SECRETS = [
    "S3cret",
    "S3/cret",
    "S3@cret",
    "S3#cret",
    "S3?cret",
    "S3:cret",
    "S3%cret",
    "S3,cret",
    "S3[cret",
    "S3&x=cret",
    "S3 cret",
]
FORMS = [
    "nats://u:{}@h:4222",
    "nats://{}@h:4222",
    "tls://a:1,nats://u:{}@h:4222,b:2",
    "u:{}@h:4222",
    "nats://u:{}",
    "postgresql://u:{}@h:5432/d",
    "postgresql://u:{}@h:5432,g:5433/d?sslmode=require",
    "postgresql://u:{}@[::1/d",
    "postgres//u:{}@h/d",
    "mysql://u:{}@h/d",
    "postgresql:///d?host=/run&password={}",
    "postgresql://h/d?sslpassword={}&sslmode=require",
    "host=h password='{}' dbname=d",
    "host=h password={} dbname=d",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [*SECRETS, *(quote(one, safe="") for one in SECRETS)])
def test_no_part_of_a_secret_is_shown(form: str, secret: str) -> None:
    if form == "nats://u:{}" and secret == "S3@cret":
        return  # the same as a password S3 for the host cret
    told = redacted_url(form.format(secret))
    assert "S3" not in told
    assert "cret" not in told


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nats://u:p@a:1, b:2", "nats://a:1,b:2"),
        ("nats://u:p@a:1,tls://t@b:2", "nats://a:1,tls://b:2"),
        ("tls://u:p@[fe80::1]:4222", "tls://[fe80::1]:4222"),
        ("postgresql://u:p@h:5432/d?sslmode=require&sslkey=/a/b.key", "postgresql://h:5432/d?sslmode=require&sslkey=/a/b.key"),
        ("postgresql://u:p@h1:1,h2:2/d", "postgresql://h1:1,h2:2/d"),
        ("postgresql:///d?host=/run&password=x", "postgresql:///d?host=/run&password=***"),
        ("host=h user=u password=x dbname=d", "host=h user=u password=*** dbname=d"),
        ("sqlite:////home/me@work/d.db", "sqlite:////home/me@work/d.db"),
    ],
)  # fmt: skip
def test_what_is_no_secret_stays_to_be_read(url: str, told: str) -> None:
    assert redacted_url(url) == told


@given(st.text(min_size=1), st.sampled_from(FORMS))
def test_any_text_at_all_can_be_shown(secret: str, form: str) -> None:
    told = redacted_url(form.format(secret))
    assert isinstance(scrubbed(told, form.format(secret)), str)


@given(st.text(alphabet="@/#?:,=&%[] '\\", max_size=6), st.sampled_from(FORMS))
def test_no_mixture_of_delimiters_brings_a_secret_out(delimiters: str, form: str) -> None:
    if "'" in delimiters and "='{}'" in form:
        return  # the value ends there by the rules of libpq
    told = redacted_url(form.format(f"S3c{delimiters}r3t"))
    assert "S3c" not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot reach nats://u:S3cret@h:1 now", "cannot reach nats://h:1 now"),
        ('{"user": "u", "password": "S3\\"cret"}', '{"user": "u", "password": "***"}'),
        ("dsn host=h password=S3cret failed", "dsn host=h password=*** failed"),
        ("Authorization: Bearer S3cret", "Authorization: ***"),
        ("sent header authorization=Basic S3cret=", "sent header authorization=***"),
        ("api-key=S3cret,x=1", "api-key=***,x=1"),
        ('password authentication failed for user "u"', 'password authentication failed for user "u"'),
        ("unknown field token: did you mean tokens?", "unknown field token: did you mean tokens?"),
    ],
)
def test_a_text_of_somebody_else_is_scrubbed(text: str, told: str) -> None:
    assert scrubbed(text) == told


def test_seeds_keys_and_tokens_are_known_by_their_form() -> None:
    seed = "SUAM" + "A7" * 27
    jwt = "eyJ0eXAiOiJKV1QifQ.eyJqdGkiOiJXIn0.c2lnbmF0dXJl"
    pem = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----"
    assert scrubbed(f"a {seed} b {jwt} c {pem} d") == "a *** b *** c *** d"


def test_a_piece_of_the_dsn_in_question_is_scrubbed() -> None:
    """A reader of URLs quotes what it could not read: of `u:S3cret#x@h` the port `S3cret`."""
    said = "Port could not be cast to integer value as 'S3cret'"
    assert scrubbed(said, "postgresql://u:S3cret#x@h/d") == "Port could not be cast to integer value as '***'"
    assert scrubbed("no database S3cret", "host=h password='S3cret'") == "no database ***"
    assert scrubbed("password p/x", "nats://u:p%2Fx@h") == "password ***"


@pytest.mark.parametrize("formatter", [TextFormatter("%(message)s"), JsonFormatter()])
def test_a_log_line_shows_no_secret_at_any_level(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("invalid postgresql://u:S3cret@h/d")
    except ValueError as error:
        cause = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.DEBUG, "f", 1, "at %s", ("nats://u:S3cret@h",), cause)
    record.extra = "token=S3cret"
    line = formatter.format(record)
    assert "at nats://h" in line
    assert "S3cret" not in line


def test_a_refusal_in_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_refusal(BadRequest('cannot use password="S3 cr\\"et" of nats://u:S3cret@h'), as_json=True)
    body = json.loads(capsys.readouterr().err)
    assert body["error"]["message"] == 'cannot use password="***" of nats://h'
