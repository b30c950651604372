"""The unknown queue, the stop button, the system page, and who cannot see or has no mouse."""

from __future__ import annotations

import importlib.util

import pytest
from sqlalchemy import text

from processes import wait_until


def phones(many):
    return [f"+1202555{6000 + n}" for n in range(11, 11 + many)]


@pytest.fixture
def unknowns(site, account):
    """Makes a run of calls that nobody knows of; afterwards the carrier is well again."""

    def make(many, become=None, **fields):
        site.world.faults(hang_without_accepting=100)
        run = account.run(phones(many), name="Nobody knows", **fields)
        site.world.wait_for_run(account.key, run, unknown=become or many)
        site.world.faults()
        return run

    yield make
    site.world.faults()


def dialog(page):
    return page.locator("dialog[open]")


def decide(page, choice, *, force=False, note=""):
    dialog(page).get_by_role("radio", name=choice).check()
    if force:
        dialog(page).get_by_label("Do not wait 15 minutes").check()
    dialog(page).get_by_label("Note").fill(note)
    dialog(page).get_by_role("button", name="Decide").click()


def test_an_unknown_is_decided_once_it_is_said_why_it_is_one(screens, site, account, unknowns):
    run = unknowns(2)
    page = screens.signed_in(account.key)
    page.locator("#unknown-count", has_text="2").wait_for()
    page.get_by_role("link", name="Unknown").click()
    page.get_by_role("link", name="Nobody knows").click()
    row = page.locator("tbody tr", has_text="lead-0")
    row.get_by_text("may still ring for").wait_for()
    row.get_by_role("button", name="Decide…").click()

    decide(page, "Nobody knows; call again")
    dialog(page).get_by_text("Too early: wait").wait_for()
    decide(page, "Nobody knows; call again", force=True, note="The office asked for it")
    site.world.wait_for_run(account.key, run, unknown=1, completed=1)
    page.locator("tbody tr.gone", has_text="lead-0").wait_for()

    page.locator("tbody tr", has_text="lead-1").get_by_role("link").click()
    page.get_by_role("button", name="Decide…").click()
    dialog(page).get_by_label("It ended as").select_option("no_answer")
    decide(page, "It happened", note="She rang back")
    page.locator(".timeline", has_text="She rang back").wait_for()
    assert site.world.run(account.key, run)["outcomes"]["no_answer"] == 1


def test_a_run_whose_lines_are_all_taken_by_unknowns_says_that_it_waits_and_guesses_no_end(
    screens, site, account, unknowns
):
    run = unknowns(4, concurrency=2, become=2)
    page = screens.signed_in(account.key, f"#/runs/{run}")
    page.get_by_text(
        "Nothing is being dialled. The newest queued call waits for a free line"
    ).wait_for()
    assert page.locator("dt", has_text="Ends").locator("+ dd").inner_text() == "not known"
    assert "peak" not in page.locator("article").inner_text()  # this page has seen no call begin


def test_all_unknowns_are_decided_at_once_but_the_young_ones_only_by_force(
    screens, site, account, unknowns
):
    run = unknowns(3)
    with site.engine.begin() as connection:
        old = "UPDATE attempts SET claimed_at = claimed_at - interval '16 minutes' WHERE phone = :p"
        connection.execute(text(old), {"p": phones(3)[0]})
    page = screens.signed_in(account.key, f"#/runs/{run}/unknown")
    page.locator("tbody tr").first.wait_for()
    for force, told in ((False, "Calls decided: 1."), (True, "Calls decided: 2.")):
        page.get_by_role("button", name="Decide all…").click()
        dialog(page).get_by_role("radio", name="It happened").check()
        if force:
            dialog(page).get_by_label("Do not wait 15 minutes").check()
        dialog(page).get_by_role("button", name="Decide all").click()
        page.get_by_text(told).wait_for()
    site.world.wait_for_run(account.key, run, unknown=0, completed=3)


def test_deciding_all_waits_until_it_is_known_how_many_there_are(screens, account, unknowns):
    run = unknowns(1)
    page = screens.signed_in(account.key)
    page.route(f"**/api/outbound/runs/{run}", lambda route: None)  # it is never answered
    page.goto(f"{page.url.partition('#')[0]}#/runs/{run}/unknown")
    page.locator("tbody tr").first.wait_for()
    assert page.get_by_role("button", name="Decide all…").is_disabled()


def test_the_stop_button_stops_all_runs_and_every_tab_says_so(screens, site, account):
    run = account.run(phones(60), name="Going", calls_per_second=5.0)
    page = screens.signed_in(account.key, f"#/runs/{run}")
    other = screens.tab(page.context, "#/system")
    wait_until(lambda: site.world.run(account.key, run)["completed"] > 1, 30)
    page.get_by_role("button", name="Stop all dialling").click()
    dialog(page).get_by_role("button", name="Stop all dialling").click()
    for one in (page, other):
        one.get_by_text("All dialling is stopped. No run").wait_for()
    wait_until(lambda: site.world.run(account.key, run)["in_progress"] == 0, 30)
    queued = site.world.run(account.key, run)["queued"]
    assert queued > 0
    page.get_by_role("link", name="All calls").click()
    page.get_by_text("because all dialling is stopped").first.wait_for()
    assert site.world.run(account.key, run)["queued"] == queued
    other.get_by_role("button", name="Start dialling again").click()
    wait_until(lambda: site.world.run(account.key, run)["queued"] < queued, 30)
    page.get_by_text("All dialling is stopped. No run").wait_for(state="hidden")


def test_what_the_server_refuses_is_said_in_the_dialog_which_stays(screens, account):
    page = screens.signed_in(account.key)
    page.route("**/account/stop", lambda route: route.fulfill(status=503, json={"detail": "Away."}))
    page.get_by_role("button", name="Stop all dialling").click()
    dialog(page).get_by_label("Also hang up").check()
    dialog(page).get_by_role("button", name="Stop all dialling").click()
    dialog(page).get_by_text("Away.").wait_for()
    assert dialog(page).get_by_label("Also hang up").is_checked()
    page.unroute("**/account/stop")
    dialog(page).get_by_role("button", name="Stop all dialling").click()
    page.get_by_text("All dialling is stopped. No run").wait_for()


def test_a_decision_outlives_the_session_and_a_double_click_decides_once(
    screens, site, account, unknowns
):
    run = unknowns(1)
    page = screens.signed_in(account.key, f"#/runs/{run}/unknown")
    page.get_by_role("button", name="Decide…").click()
    dialog(page).get_by_role("radio", name="It happened").check()
    dialog(page).get_by_label("Note").fill("She said so")
    with site.engine.begin() as connection:
        connection.execute(text("UPDATE sessions SET expires_at = clock_timestamp()"))
    dialog(page).last.get_by_role("button", name="Decide").evaluate("(one) => one.click()")
    page.get_by_text("Your session is over").first.wait_for()
    screens.sign_in(page, account.key)
    posted = []
    page.on("request", lambda one: posted.append(one.url) if one.method == "POST" else None)
    dialog(page).get_by_role("button", name="Decide").dblclick()
    page.get_by_text("Decided.").wait_for()
    assert len(posted) == 1
    page.get_by_role("link", name="lead-0").click()
    page.locator(".timeline", has_text="She said so").wait_for()


def test_the_system_page_tells_who_leads_who_works_and_what_was_repaired(
    screens, site, account, unknowns
):
    unknowns(1)
    page = screens.signed_in(account.key, "#/system")
    page.locator("tr.leads", has_text="reconciler").wait_for()
    processes = page.locator("section", has_text="Processes").last
    for kind in ("web", "worker", "reconciler"):
        processes.get_by_role("cell", name=kind).first.wait_for()
    page.locator("dd.attention", has_text="1").wait_for()
    second = site.world.start_worker()
    page.locator("dt:text-is('Workers') + dd", has_text="2").wait_for()
    second.kill()
    page.locator("dt:text-is('Workers') + dd", has_text="1").wait_for()


def test_the_system_page_tells_who_did_what(screens, account, unknowns):
    run = unknowns(1)
    page = screens.signed_in(account.key_of("operator"), f"#/runs/{run}/unknown")
    page.get_by_role("button", name="Decide…").click()
    decide(page, "It happened", note="She rang back")
    page.get_by_role("link", name="System").click()
    row = page.locator("section", has_text="Who did what").last.locator("tbody tr").first
    row.get_by_text("note She rang back").wait_for()
    assert row.get_by_role("cell").nth(2).inner_text() == "operator"  # the key's name
    row.get_by_role("link", name="call").click()
    page.locator(".timeline", has_text="She rang back").wait_for()


def test_on_a_phone_an_unknown_is_decided_without_scrolling_sideways(screens, account, unknowns):
    run = unknowns(1)
    viewport = {"width": 390, "height": 844}
    page = screens.signed_in(account.key, f"#/runs/{run}/unknown", viewport=viewport)
    page.get_by_role("button", name="Decide…").wait_for()
    box = page.get_by_role("button", name="Decide…").bounding_box()
    assert box["x"] + box["width"] <= 390


PAGES = [
    "#/runs",
    "#/runs/{run}",
    "#/runs/{run}/calls",
    "#/runs/{run}/unknown",
    "#/unknown",
    "#/new",
    "#/system",
]


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.skipif(
    importlib.util.find_spec("axe_playwright_python") is None,
    reason="needs axe-playwright-python",
)
def test_every_page_can_be_used_with_a_screen_reader(screens, account, look):
    from axe_playwright_python.sync_playwright import Axe

    run = account.run(phones(3), name="Readable", start_at="2099-01-01T00:00:00Z")
    # The policy keeps axe's script out as it does everybody else's: this window is without it.
    page = screens.open(color_scheme=look, bypass_csp=True)
    page.locator("#sign-in-title").wait_for()
    found = {"sign-in": Axe().run(page).response["violations"]}
    screens.sign_in(page, account.key)
    for hash_ in PAGES:
        page.goto(page.url.split("#")[0] + hash_.format(run=run))
        page.get_by_text("as of").wait_for()
        found[hash_] = Axe().run(page).response["violations"]
    told = {
        at: [(one["id"], one["nodes"][0]["html"]) for one in some] for at, some in found.items()
    }
    assert {at: some for at, some in told.items() if some} == {}


def test_a_run_is_paused_with_the_keyboard_alone(screens, site, account):
    run = account.run(phones(60), name="Keys", calls_per_second=1.0)
    page = screens.signed_in(account.key, f"#/runs/{run}")
    page.locator(".pill.running").wait_for()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Pause":
            break
    page.keyboard.press("Enter")
    dialog(page).wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dialog(page).wait_for(state="hidden")
    assert page.evaluate("document.activeElement.textContent") == "Pause"  # where one was
    site.world.wait_for_run(account.key, run, status="paused")


@pytest.mark.parametrize("hash_", PAGES)
def test_on_a_phone_no_page_is_wider_than_the_screen(screens, account, hash_):
    run = account.run(phones(2), name="Narrow", start_at="2099-01-01T00:00:00Z")
    page = screens.signed_in(
        account.key, hash_.format(run=run), viewport={"width": 360, "height": 700}
    )
    page.get_by_text("as of").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
