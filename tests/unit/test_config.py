"""A setting that is missing or malformed is one line: the variable, what is wrong, an example."""

import pytest

from outbound import config
from outbound.config import VARIABLES, Settings
from outbound.errors import ConfigError


def test_every_setting_has_its_variable_and_every_example_that_is_a_value_is_valid():
    assert set(VARIABLES) == set(Settings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", "postgresql://h:port/x"),
        ("REDIS_URL", "redis://[::1/0"),
        ("REDIS_URL", "http://x"),
        ("PUBLIC_BASE_URL", "example.com"),
        ("PORT", "0"),
        ("PORT", "x"),
        ("PORT", "99999"),
        ("OUTBOUND_SENDERS", "-1"),
        ("OUTBOUND_SENDERS", "8.5"),
        ("OUTBOUND_LEASE_SECONDS", "nan"),
        ("OUTBOUND_CARRIER_TIMEOUT_SECONDS", "1e9"),
        ("OUTBOUND_LOG_LEVEL", "LOUD"),
        ("OUTBOUND_LOG_FORMAT", "xml"),
        ("OUTBOUND_LOG_FULL_PHONES", "maybe"),
    ],
)
def test_a_malformed_variable_is_named_with_an_example(name, value):
    with pytest.raises(ConfigError) as error:
        config.read(environ={name: value})
    assert str(error.value).startswith(f"{name} must be")
    assert f"for example {name}=" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_one_is_named_only_where_it_is_needed():
    assert config.read(environ={}).port == 8000
    with pytest.raises(ConfigError, match=r"^DATABASE_URL is not set, for example"):
        config.read("database_url", environ={"DATABASE_URL": " "})


def test_a_lease_that_does_not_cover_a_request_is_refused():
    with pytest.raises(ConfigError, match=r"OUTBOUND_LEASE_SECONDS must be at least"):
        config.read(environ={"OUTBOUND_LEASE_SECONDS": "13"})
    assert config.read(environ={"OUTBOUND_LEASE_SECONDS": "14"}).lease == 14
