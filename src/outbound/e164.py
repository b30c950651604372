"""Numbers that are in E.164 already, found valid without most of the library's work.

Nearly all leads are such numbers, and the library takes most of an import's time for them: it
looks for extensions, letters and carrier codes first, and compares a valid number twice. This says
yes only to what the library would say yes to and would leave as it is; on everything else it has
no opinion. `tests/unit/test_e164.py` compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

_WRITTEN = re.compile(r"\+[1-9][0-9]{6,14}")
_NOT_A_COUNTRY = "001"  # satellites, freephone: few, and the library has its own rules for them
_TYPES = [
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

_Matches = Callable[[str], "re.Match[str] | None"]


@dataclass(frozen=True)
class _Region:
    """One region of a calling code.

    Attributes:
        leading: matches the first digits of its numbers, if these tell that they are its own.
        by_length: for each length of its national numbers, what matches them.
    """

    leading: _Matches | None
    by_length: dict[int, _Matches]

    def has(self, national: str) -> bool:
        """Tell whether this is a valid number of the region."""
        matches = self.by_length.get(len(national))
        return matches is not None and matches(national) is not None


@dataclass(frozen=True)
class _Code:
    """A calling code.

    Attributes:
        prefix: matches what the library may take off the front of a national number.
        regions: that share the code, in the library's order: the first that claims a number has it.
    """

    prefix: _Matches | None
    regions: tuple[_Region, ...]


def is_valid(given: str) -> bool:
    """Tell whether this is surely a valid number as it stands; False says nothing."""
    if not _WRITTEN.fullmatch(given):
        return False
    for end in (2, 3, 4):  # no code is the beginning of another one
        if code := _code(given[1:end]):
            return _is_of(code, given[end:])
    return False


def _is_of(code: _Code, national: str) -> bool:
    found = code.prefix(national) if code.prefix else None
    if found and (found.end() or found.lastindex):
        return False  # the library may take it off, and judge what is left
    for region in code.regions:
        if region.leading:
            if region.leading(national):
                return region.has(national)
        elif region.has(national):
            return True
    return False


@cache
def _code(digits: str) -> _Code | None:
    regions = COUNTRY_CODE_TO_REGION_CODE.get(int(digits), (_NOT_A_COUNTRY,))
    if _NOT_A_COUNTRY in regions:
        return None
    known: list[Any] = [PhoneMetadata.metadata_for_region(region) for region in regions]
    if None in known:
        return None
    prefix = known[0].national_prefix_for_parsing
    return _Code(
        re.compile(prefix).match if prefix else None,
        tuple(_region(metadata) for metadata in known),
    )


def _region(metadata: Any) -> _Region:
    leading = metadata.leading_digits
    lengths = metadata.general_desc.possible_length
    return _Region(
        re.compile(leading).match if leading else None,
        {length: _matcher(metadata, length) for length in lengths},
    )


def _matcher(metadata: Any, length: int) -> _Matches:
    kinds = [getattr(metadata, name) for name in _TYPES]
    patterns = {
        kind.national_number_pattern
        for kind in kinds
        if kind and kind.national_number_pattern and length in (kind.possible_length or (length,))
    }
    whole = metadata.general_desc.national_number_pattern
    return re.compile(rf"(?=(?:{whole})\Z)(?:{'|'.join(sorted(patterns)) or '(?!)'})").fullmatch
