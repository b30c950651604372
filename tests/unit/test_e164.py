"""The quick look at a number says yes only where the library does, and to most of what is valid."""

import random

import phonenumbers
import pytest
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, SUPPORTED_REGIONS, PhoneMetadata

from outbound import e164, leads

KINDS = [
    "general_desc",
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "voip",
    "personal_number",
    "pager",
    "uan",
    "voicemail",
]
REGIONS = sorted(SUPPORTED_REGIONS)
DIGITS = "0123456789"


def examples(region):
    metadata = PhoneMetadata.metadata_for_region(region)
    kinds = [getattr(metadata, kind) for kind in KINDS]
    return {kind.example_number for kind in kinds if kind and kind.example_number}


def changed(number, chance):
    """One or two digits are others, and sometimes one is missing, added, or a national prefix."""
    digits = list(number)
    for _ in range(chance.randint(0, 2)):
        digits[chance.randrange(len(digits))] = chance.choice(DIGITS)
    at = chance.randrange(len(digits))
    match chance.randrange(8):
        case 0:
            del digits[at]
        case 1:
            digits.insert(at, chance.choice(DIGITS))
        case 2:
            digits[:0] = chance.choice(["0", "1", "8", "00", "9", "15"])
        case 3:
            digits[:3] = [chance.choice(DIGITS) for _ in range(3)]
    return "".join(digits)


def by_library(given, region, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(e164, "is_valid", lambda _: False)
        try:
            return leads.parse_phone(given, region)
        except leads.BadLead as bad:
            return str(bad)


@pytest.mark.parametrize("region", REGIONS)
def test_what_is_quickly_valid_the_library_takes_as_it_stands(region, monkeypatch):
    chance = random.Random(region)  # noqa: S311
    code = phonenumbers.country_code_for_region(region)
    for example in sorted(examples(region)):
        for number in [example, *(changed(example, chance) for _ in range(40))]:
            given = f"+{code}{number}"
            if e164.is_valid(given):
                for default in (None, region, chance.choice(REGIONS), "001", "il", "ZZ"):
                    assert by_library(given, default, monkeypatch) == given


def test_so_it_is_for_any_digits_behind_any_calling_code(monkeypatch):
    chance = random.Random(1)  # noqa: S311
    codes, known = sorted(COUNTRY_CODE_TO_REGION_CODE), 0
    for _ in range(60_000):
        number = "".join(chance.choices(DIGITS, k=chance.randint(3, 12)))
        given = f"+{chance.choice(codes)}{number}"
        if e164.is_valid(given):
            known += 1
            assert by_library(given, chance.choice(REGIONS), monkeypatch) == given
    assert known > 1000


@pytest.mark.parametrize("region", REGIONS)
def test_a_number_of_every_region_is_known_quickly(region):
    code = phonenumbers.country_code_for_region(region)
    assert any(e164.is_valid(f"+{code}{number}") for number in examples(region))


@pytest.mark.parametrize(
    "given",
    [
        "",
        "+",
        "12025550101",
        "++12025550101",
        "+1 2025550101",
        "+12025550101\n",
        "+１2025550101",
        "+1202555010１",
        "+٩٧٢٥٠٢٣٤٥٦٧٨",
        "+02025550101",
        "+15551234567",
        "+80012345678",  # valid, of no country
        "+112025550101",  # the library takes the second 1 away
        "+3758107913047",  # valid as it stands, yet the library takes 810 for a prefix
        "+999123456789",
    ],
)
def test_it_has_no_opinion_on_anything_else(given):
    assert not e164.is_valid(given)


def test_a_lead_that_is_quickly_valid_never_reaches_the_library(monkeypatch):
    monkeypatch.setattr(phonenumbers, "parse", None)
    assert leads.parse_phone("+12025550101", None) == "+12025550101"
