import pytest

from outbound.carriers.emulator import EmulatorError, EmulatorSettings
from outbound.carriers.emulator.faults import CREATES, OFF, Faults, parse_faults


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ([], "JSON object"),
        ({"refuse_429s": 1}, "no fault 'refuse_429s'"),
        ({"refuse_429": "10"}, "refuse_429 must be a number"),
        ({"refuse_429": True}, "refuse_429 must be a number"),
        ({"refuse_429": None}, "refuse_429 must be a number"),
        ({"refuse_429": -1}, "refuse_429 must be 0 or more"),
        ({"refuse_429": 101}, "per cent"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be 0 or more"),
        ({"refuse_429": 60, "refuse_500": 60}, "sum to more than 100"),
    ],
)
def test_a_wrong_fault_is_refused_with_a_clear_word(wanted, says):
    with pytest.raises(EmulatorError, match=says):
        parse_faults(wanted)


def test_what_is_not_named_is_off_or_at_its_default():
    faults = parse_faults({"refuse_429": 10})
    assert faults == {**OFF, "refuse_429": 10.0}
    assert faults["timeout_seconds"] == 30


def test_a_revoked_login_may_be_said_as_true():
    assert parse_faults({"answer_401": True})["answer_401"] == 100


def test_a_wrong_set_leaves_the_old_one_in_force():
    faults = Faults({"refuse_429": 10}, seed=1)
    with pytest.raises(EmulatorError):
        faults.replace({"nonsense": 1})
    assert faults.settings["refuse_429"] == 10


def test_at_most_one_fault_hits_a_create_and_the_count_tells_how_many_did():
    faults = Faults({"accept_then_500": 30, "refuse_503": 20}, seed=1)
    picks = [faults.pick_create() for _ in range(4000)]
    assert picks.count("accept_then_500") == faults.hits["accept_then_500"]
    assert 0.27 < faults.hits["accept_then_500"] / 4000 < 0.33
    assert 0.17 < faults.hits["refuse_503"] / 4000 < 0.23
    assert set(picks) == {None, "accept_then_500", "refuse_503"}


def test_the_same_seed_draws_the_same_faults():
    one, two = (Faults({"refuse_429": 50}, seed=7) for _ in range(2))
    assert [one.pick_create() for _ in range(50)] == [two.pick_create() for _ in range(50)]


@pytest.mark.parametrize("name", CREATES)
def test_a_hundred_per_cent_always_hits(name):
    faults = Faults({name: 100}, seed=1)
    assert {faults.pick_create() for _ in range(300)} == {name}


def test_a_fault_that_is_off_never_hits():
    faults = Faults({}, seed=1)
    assert not any(faults.hits_now("callbacks_lost") for _ in range(100))
    assert faults.pick_create() is None
    assert faults.delay("create_delay_seconds") == 0
    assert not faults.hits


@pytest.mark.parametrize(
    "wrong",
    [
        {"faults": {"nonsense": 1}},
        {"mix": {"nonsense": 1}},
        {"ring_seconds": -1},
        {"talk_seconds": float("nan")},
        {"spread": 2},
        {"callback_connections": 0},
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(wrong):
    with pytest.raises(EmulatorError):
        EmulatorSettings(**wrong)
