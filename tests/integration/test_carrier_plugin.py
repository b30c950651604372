"""A carrier that somebody else writes plugs in without a change of ours."""

import sys
import textwrap
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from factories import make_account, make_run, phone, rows
from outbound.carriers import base
from outbound.dialer import Dialer
from outbound.errors import ConfigError
from processes import wait_until

SOURCE = """
    from outbound.carriers.base import Answer, Verdict

    PLACED = []

    class Elsewhere:
        name = "elsewhere"

        def __init__(self, settings):
            self.settings = settings

        def place(self, request):
            PLACED.append(request)
            return Answer(Verdict.ACCEPTED, f"E-{request.attempt_id}")
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "elsewhere_carrier.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    yield "elsewhere_carrier:Elsewhere"
    sys.modules.pop("elsewhere_carrier", None)


def test_a_factory_outside_the_package_dials(outside, node, engine):
    carrier = base.load(replace(node.settings, carrier=outside))
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    dialer = Dialer(node, carrier)
    dialer.dial(account)
    wait_until(lambda: rows(engine, "SELECT * FROM attempts WHERE state = 'placed'"))
    dialer.close(5)
    (request,) = sys.modules["elsewhere_carrier"].PLACED
    assert request.callback_url.endswith(f"/webhooks/elsewhere/{request.attempt_id}")
    assert rows(engine, "SELECT carrier FROM attempts")[0]["carrier"] == "elsewhere"


def test_an_installed_entry_point_is_found_by_its_name(outside, node, monkeypatch):
    entry = EntryPoint("elsewhere", outside, base.ENTRY_POINTS)
    monkeypatch.setattr(base, "entry_points", lambda **_: [entry])
    assert base.load(replace(node.settings, carrier="elsewhere")).name == "elsewhere"


@pytest.mark.parametrize("chosen", ["nobody", "no.such.module:factory", "outbound.ids:nothing"])
def test_a_carrier_that_does_not_exist_is_one_line_that_names_the_variable(node, chosen):
    with pytest.raises(ConfigError, match="OUTBOUND_CARRIER"):
        base.load(replace(node.settings, carrier=chosen))
