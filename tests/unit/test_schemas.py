"""Bodies are what the contract says, and nothing looser."""

import pytest

from outbound.errors import Refused
from outbound.schemas import RunRequest, parse


@pytest.mark.parametrize(
    "time",
    [
        "2030-11-24T10:15:00Z",
        "2030-11-24t10:15:00z",
        "2030-11-24T10:15:00.123456789Z",
        "2030-11-24T10:15:00+02:00",
    ],
)
def test_times_are_rfc_3339(time):
    assert parse(RunRequest, {"leads": [1], "start_at": time}).start_at.year == 2030


@pytest.mark.parametrize(
    "time",
    [
        "",
        "2030-11-24",
        "2030-11-24T10:15:00",
        "2030-11-24T10Z",
        "20301124T101500Z",
        "2030-W48-1T10:00:00Z",
        "2030-11-24x10:15:00Z",
        "2030-11-24T10:15:00,5Z",
        "2030-11-24T10:15:00+02:00:30",
        "2030-13-24T10:15:00Z",
        "２０３０-11-24T10:15:00Z",
        1921745700,
        True,
    ],
)
def test_other_spellings_of_a_time_are_refused(time):
    with pytest.raises(Refused) as refused:
        parse(RunRequest, {"leads": [1], "start_at": time})
    assert [(f.pointer, f.code) for f in refused.value.faults] == [("#/start_at", "invalid_time")]


def test_metadata_has_the_same_room_in_every_script():
    assert parse(RunRequest, {"leads": [1], "metadata": {"a": "ד" * 2000}})
    with pytest.raises(Refused):
        parse(RunRequest, {"leads": [1], "metadata": {"a": "ד" * 2048}})
