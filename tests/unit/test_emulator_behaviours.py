from collections import Counter

import pytest

from outbound.carriers.emulator.behaviours import (
    BEHAVIOURS,
    ENDINGS,
    PhoneBook,
    check_mix,
    parse_mix,
)
from outbound.carriers.emulator.errors import EmulatorError


def phone_book(**changes):
    settings = {
        "mix": {"answered": 1.0},
        "endings": True,
        "seed": 1,
        "ring": 1.0,
        "talk": 2.0,
        "spread": 0.0,
    }
    return PhoneBook(**(settings | changes))


@pytest.mark.parametrize(("ending", "behaviour"), ENDINGS.items())
def test_the_documented_endings_decide_whatever_the_mix_says(ending, behaviour):
    phones = phone_book(mix={"failed": 1.0})
    assert phones.plan(f"+1415555{ending}{ending}", 0).behaviour is behaviour


def test_without_endings_the_mix_decides_for_every_number():
    phones = phone_book(endings=False, mix={"busy": 1.0})
    assert {phones.plan(f"+14155550{n:03}", 0).behaviour.name for n in range(100)} == {"busy"}
    assert phones.refusal("+14155550107") is None


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("+14155550107", 21211),
        ("+14155550108", 21214),
        ("+15005550001", 21217),
        ("+15005550002", 21214),
        ("+15005550003", 21215),
        ("+15005550004", 21216),
        ("+14155550130", None),
    ],
)
def test_some_numbers_are_refused(number, code):
    assert phone_book().refusal(number) == code


def test_the_mix_is_kept_to_on_average():
    phones = phone_book(mix={"answered": 6, "busy": 2, "no_answer": 2})
    plans = [phones.plan(f"+1415{n:05}50", 0) for n in range(2000)]
    share = Counter(plan.behaviour.name for plan in plans)
    assert 0.55 < share["answered"] / 2000 < 0.65
    assert 0.16 < share["busy"] / 2000 < 0.24


def test_a_plan_depends_on_seed_number_and_count_and_not_on_the_order_of_calls():
    numbers = [f"+1415{n:05}50" for n in range(200)]
    mix = {"answered": 1, "busy": 1}
    forwards = {n: phone_book(mix=mix, spread=0.5).plan(n, 0) for n in numbers}
    backwards = {n: phone_book(mix=mix, spread=0.5).plan(n, 0) for n in reversed(numbers)}
    assert forwards == backwards
    assert forwards != {n: phone_book(mix=mix, spread=0.5, seed=2).plan(n, 0) for n in numbers}
    assert forwards != {n: phone_book(mix=mix, spread=0.5).plan(n, 1) for n in numbers}


def test_the_spread_stays_within_its_bounds():
    phones = phone_book(spread=0.2)
    rings = [phones.plan(f"+1415{n:05}50", 0).ring for n in range(500)]
    assert 0.8 <= min(rings) < 0.85
    assert 1.15 < max(rings) <= 1.2


@pytest.mark.parametrize("text", ["", "answered", "answered=x", "asleep=1", "answered=-1,busy=2"])
def test_a_mix_that_makes_no_sense_is_refused(text):
    with pytest.raises(EmulatorError, match="mix"):
        parse_mix(text)


def test_a_mix_needs_some_weight():
    with pytest.raises(EmulatorError, match="above 0"):
        check_mix({"answered": 0.0})


def test_a_mix_is_read_from_the_command_line():
    assert parse_mix("answered=0.6, busy=0.4") == {"answered": 0.6, "busy": 0.4}


def test_every_behaviour_ends_in_a_terminal_status():
    ends = {behaviour.ends_as for behaviour in BEHAVIOURS.values()}
    assert ends <= {"completed", "busy", "no-answer", "failed", "canceled"}
