"""What the last step before a log line hides, in whatever form it comes."""

import json
import logging
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from outbound import logs
from outbound.config import Settings

TOKEN = "f00dfacef00dfacef00dfacef00dface"


@pytest.fixture
def log(capsys):
    """Log through the pipeline; returns what was printed."""

    def write(say, **settings):
        # Set up within the test itself: pytest puts its own handlers back between its phases.
        logs.set_up(replace(Settings(twilio_auth_token=TOKEN), **settings), "cli")
        say(logs.get("t"))
        return capsys.readouterr().out

    yield write
    logs.set_up(Settings(), "cli")


@pytest.mark.parametrize(
    "said",
    [
        "+12125550142",
        "call +12125550142: busy",
        "phone:+12125550142",
        "to=+12125550142.",
        "<+12125550142>",
        "+12125550142-+12125550142",
        "x+12125550142",
        "To=%2B12125550142&From=%2b12125550142",
        "tel:12125550142",
        "sip:12125550142@carrier.example",
        "12125550142",
        "12125550142: busy",
        "('12125550142',)",
        '{"phone": "+12125550142"}',
    ],
)
def test_a_phone_is_masked_to_its_last_two_digits_whatever_stands_around_it(log, said):
    printed = log(lambda t: t.info("e", v=said))
    assert "1212555" not in printed
    assert "******42" in printed


@pytest.mark.parametrize(
    "said",
    [
        "ob_abcdSECRET-SECRET_",
        "Authorization: Bearer SECRET",
        "authorization: basic SECRET==",
        "postgresql://me:SECRET@db/x",
        "postgresql://me:p@SECRET@db/x",
        "redis://:SECRET@h:1/0",
        "host=db password=SECRET dbname=x",
        "https://h/?token=SECRET&x=1",
        f"the carrier refused {TOKEN}",
    ],
)
def test_a_secret_is_hidden_in_any_sentence(log, said):
    printed = log(lambda t: t.info("e", v=said, nested={"list": [said], said: 1}))
    assert "SECRET" not in printed
    assert TOKEN not in printed


@pytest.mark.parametrize(
    "said", ["1,234,567 calls", "job_abcdefgh", "host:12345678", "12:30:45.123456", "0.1234567"]
)
def test_what_is_neither_is_left_alone(log, said):
    assert json.loads(log(lambda t: t.info("e", v=said)))["v"] == said


@pytest.mark.parametrize(
    "value",
    [
        ValueError("+12125550142"),
        {"+12125550142": 1},
        {"+12125550142"},
        b"+12125550142",
        Decimal(12125550142),
        [({"a": ("+12125550142",)},)],
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("form", ["json", "console"])
def test_what_becomes_text_only_when_it_is_written_is_masked_too(log, value, form):
    printed = log(lambda t: t.info("e", v=value), log_format=form)
    assert "1212555" not in printed
    assert "******42" in printed


def raised(error):
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_of_an_error_only_the_first_line_is_told_since_the_data_follows(log):
    outer = ExceptionGroup("outer", [raised(TypeError("one\nDana"))])
    outer.__cause__ = raised(ValueError("inner\nDETAIL: Failing row contains (Dana)"))
    outer.add_note("Dana")
    printed = log(lambda t: t.error("e", exc_info=outer))
    assert "Dana" not in printed
    assert all(word in printed for word in ("inner", "outer", "one"))


def test_a_database_error_shows_neither_its_parameters_nor_the_row(engine, log):
    def fail(t):
        try:
            with engine.begin() as connection:
                statement = "INSERT INTO accounts (id, name) VALUES (NULL, :name)"
                connection.execute(text(statement), {"name": "Dana"})
        except DBAPIError:
            t.exception("e")

    printed = log(fail)
    assert "NotNullViolation" in printed
    assert "Dana" not in printed


def test_debug_tells_no_path_of_any_request(log):
    printed = log(
        lambda _: logging.getLogger("gunicorn.error").debug("GET /Dana"), log_level="DEBUG"
    )
    assert printed == ""
