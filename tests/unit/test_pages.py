"""Pages: a limit is a whole number in its range, a cursor is one of our own or nothing."""

import base64

import pytest

from outbound import pages
from outbound.errors import Refused
from outbound.ids import uuid7


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def fault_of(call, *given):
    with pytest.raises(Refused) as refused:
        call(*given)
    assert refused.value.status == 422
    (fault,) = refused.value.faults
    return fault


def test_no_limit_means_fifty():
    assert pages.parse_limit(None) == 50


@pytest.mark.parametrize("given", ["1", "50", "500"])
def test_a_limit_in_range_is_taken(given):
    assert pages.parse_limit(given) == int(given)


@pytest.mark.parametrize(
    "given", ["0", "501", "-1", "+5", "1.0", " 5", "", "ten", "1e2", "٣", "9" * 5000]
)
def test_any_other_limit_is_refused_and_never_echoed(given):
    fault = fault_of(pages.parse_limit, given)
    assert fault.pointer == "#/query/limit"
    assert fault.detail == "limit must be a whole number from 1 to 500."


def test_a_uuid_cursor_comes_back_as_it_was():
    last = uuid7()
    assert pages.decode_uuid(pages.encode(last)) == last


@pytest.mark.parametrize("last", [0, 1, 2**53 + 1, 10**18 - 1])
def test_a_number_cursor_comes_back_as_it_was(last):
    assert pages.decode_int(pages.encode(last)) == last


def test_a_cursor_needs_no_escaping_in_a_url():
    for number in range(1000):
        assert pages.encode(number).replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("decode", [pages.decode_uuid, pages.decode_int])
@pytest.mark.parametrize("given", [None, ""])
def test_no_cursor_is_the_first_page(decode, given):
    assert decode(given) is None


@pytest.mark.parametrize("decode", [pages.decode_uuid, pages.decode_int])
@pytest.mark.parametrize(
    "given",
    [
        "!",
        "a",
        "é",
        "a b",
        "====",
        "_w",  # no UTF-8
        encoded("x"),
        encoded("-1"),
        encoded("1.5"),
        encoded("٣"),
        encoded("9" * 19),
        encoded("1 OR 1=1"),
        encoded("\x00"),
    ],
)
def test_a_tampered_cursor_is_refused(decode, given):
    assert fault_of(decode, given).pointer == "#/query/cursor"


def test_one_lists_cursor_is_refused_by_the_other():
    assert fault_of(pages.decode_int, pages.encode(uuid7())).pointer == "#/query/cursor"
    assert fault_of(pages.decode_uuid, pages.encode(17)).pointer == "#/query/cursor"
