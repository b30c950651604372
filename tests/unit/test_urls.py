"""URLs that we hand on lead to public hosts, in whatever spelling."""

import pytest

from outbound import urls
from security.addresses import INVALID, PUBLIC, REFUSED


@pytest.mark.parametrize("url", REFUSED)
def test_private_places_are_refused_in_every_spelling(url):
    assert urls.check(url, allow_private=False) in ("url_not_allowed", "invalid_url")


def test_there_are_at_least_sixty_of_them():
    assert len(set(REFUSED)) >= 60


@pytest.mark.parametrize("url", ["", *INVALID])
def test_what_is_no_web_address_is_invalid_even_in_development(url):
    assert urls.check(url, allow_private=True) == "invalid_url"


@pytest.mark.parametrize("url", PUBLIC)
def test_public_web_addresses_are_fine(url):
    assert urls.check(url, allow_private=False) is None


def test_development_may_use_private_addresses():
    assert urls.check("http://127.0.0.1:8080/twiml", allow_private=True) is None
