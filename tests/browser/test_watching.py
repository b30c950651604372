"""What a run shows while it goes on, and when nobody knows how it goes on."""

from __future__ import annotations

import re

import pytest

from processes import wait_until

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'
REVERSED = "\u202eevil\u202c"


def answering(many, block=20):
    """Numbers whose calls are answered: the emulator goes by the last two digits."""
    return [f"+1202555{block + n // 80:02d}{11 + n % 80}" for n in range(many)]


def waiting(account, many=1, **fields):
    return account.run(answering(many), start_at="2099-01-01T00:00:00Z", **fields)


def tile(page, name):
    return page.locator(f".tile.{name} strong").first


def number(page, name):
    shown = tile(page, name).inner_text().replace(",", "")
    return -1 if shown == "–" else int(shown)  # the dash stands until the first answer


def sums(page):
    """Both sides of the line that must add up, and what the tiles say, of one moment."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.tiles:not(.small) strong')]
               .map((one) => Number(one.textContent.replaceAll(',', '')))
               .reduce((sum, one) => sum + one, 0)"""
    )


def confirm(page, name):
    page.locator("dialog[open]").get_by_role("button", name=name).click()


def test_a_run_is_watched_paused_resumed_and_cancelled(screens, site, account):
    run = account.run(answering(400), name="Long", calls_per_second=10.0, concurrency=10)
    page = screens.signed_in(account.key, "#/runs")
    page.get_by_role("link", name="Long").click()
    wait_until(lambda: number(page, "completed") > 3, 60)
    for _ in range(20):
        assert sums(page) == 400
    page.locator("section", has_text="On the phone now").locator("tbody tr").first.wait_for()
    page.locator(".chart .line[d^=M]").wait_for(state="attached")

    page.get_by_role("button", name="Pause", exact=True).click()
    confirm(page, "Pause run")
    page.locator(".pill.paused").wait_for()
    wait_until(lambda: number(page, "in_progress") == 0, 30)
    before = number(page, "completed")
    assert site.world.run(account.key, run)["completed"] == before

    page.get_by_role("button", name="Resume").click()
    wait_until(lambda: number(page, "completed") > before, 30)

    page.get_by_role("button", name="Cancel run").click()
    page.get_by_label("Hang up on them").check()
    confirm(page, "Cancel run")
    page.locator(".pill.cancelled").wait_for()
    assert site.world.wait_for_run(account.key, run, status="cancelled")["queued"] == 0
    for name in ("Pause", "Cancel run"):
        button = page.get_by_role("button", name=name, exact=True)
        wait_until(lambda button=button: button.get_attribute("aria-disabled") == "true")


def test_a_dialog_that_is_left_changes_nothing(screens, site, account):
    run = waiting(account, name="Kept")
    page = screens.signed_in(account.key, f"#/runs/{run}")
    page.locator(".pill.scheduled").wait_for()
    page.get_by_role("button", name="Cancel run").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Cancel run").click()
    confirm(page, "Go back")
    assert page.locator("dialog[open]").count() == 0
    assert site.world.run(account.key, run)["cancel_requested"] is False


def test_a_lost_server_is_told_within_seconds_and_its_return_too(screens, site, account):
    process, url = site.another_web()
    run = waiting(account, name="Lost")
    page = screens.signed_in(account.key, f"#/runs/{run}", url=url)
    page.locator(".pill.scheduled").wait_for()
    assert page.locator("body.is-stale").count() == 0
    process.kill_with_children()
    page.locator("#stale", has_text="Not current: these numbers are").wait_for(timeout=10_000)
    page.locator("#stale", has_text="The server does not answer").wait_for()
    wait_until(lambda: float(page.locator(".tiles").first.evaluate(OPACITY)) < 0.5)
    again = site.world.stack.start("web", PORT=url.rsplit(":", 1)[1], OUTBOUND_WEB_WORKERS="1")
    page.locator("body:not(.is-stale)").wait_for()
    wait_until(lambda: page.locator("#announce").inner_text() == "The numbers are current again.")
    again.kill_with_children()


OPACITY = "(element) => getComputedStyle(element).opacity"


def test_a_page_that_was_hidden_shows_nothing_old_as_current(screens, account):
    page = screens.signed_in(account.key, f"#/runs/{waiting(account)}")
    page.locator(".pill.scheduled").wait_for()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    hide = """(hidden) => {
        Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(hide, True)
    asked.clear()
    page.locator("body.is-stale").wait_for()  # which takes three seconds
    assert asked == []  # nobody looks, nobody asks
    page.evaluate(hide, False)
    page.locator("body:not(.is-stale)").wait_for()
    assert asked


def test_what_did_not_change_is_not_sent_again(screens, account):
    run = waiting(account)
    page = screens.signed_in(account.key, f"#/runs/{run}")
    page.locator(".pill.scheduled").wait_for()
    for path in (f"/runs/{run}", f"/runs/{run}/calls?state=in_progress&limit=12"):
        with page.expect_response(lambda r, path=path: r.url.endswith(path)) as answer:
            pass
        assert answer.value.status == 304
    assert page.locator("body.is-stale").count() == 0


def test_a_refresh_keeps_the_selection_the_focus_and_the_scroll(screens, account):
    for name in range(30):
        waiting(account, name=f"Run {name}", allow_duplicate=True)
    page = screens.signed_in(account.key, "#/runs", viewport={"width": 900, "height": 500})
    page.get_by_role("link", name="Run 29").wait_for()
    page.evaluate("window.scrollTo(0, 300)")
    page.get_by_label("Name or id").focus(timeout=5000)
    page.evaluate("window.scrollTo(0, 300)")
    page.get_by_label("Name or id").fill("half a wo")
    page.evaluate(
        """() => getSelection().selectAllChildren(document.querySelector('tbody tr td'))"""
    )
    before = page.evaluate("[getSelection().toString(), scrollY]")
    waiting(account, name="Run 30", allow_duplicate=True)
    page.get_by_role("button", name="1 new: show").wait_for()  # it does not push the rest away
    assert page.evaluate("[getSelection().toString(), scrollY]") == before
    assert page.get_by_label("Name or id").input_value() == "half a wo"
    for _ in range(2):
        with page.expect_response(lambda answer: "/runs?" in answer.url):
            pass
    assert page.get_by_role("link", name="Run 30").count() == 0
    page.get_by_role("button", name="1 new: show").click()
    page.get_by_role("link", name="Run 30").wait_for()


def test_runs_are_searched_and_filtered_and_the_back_button_undoes_it(screens, account):
    run = waiting(account, name="Needle in 2027")
    waiting(account, name="Hay", allow_duplicate=True)
    page = screens.signed_in(account.key)
    page.get_by_role("link", name="Hay").wait_for()
    page.get_by_label("Name or id").fill("needle")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Hay").wait_for(state="detached")
    page.get_by_role("link", name="Needle in 2027").click()
    page.get_by_role("heading", name="Needle").wait_for()
    page.go_back()
    page.go_back()
    page.get_by_role("link", name="Hay").wait_for()
    page.get_by_label("Name or id").fill(run)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Hay").wait_for(state="detached")
    page.get_by_label("status").select_option("completed")
    page.get_by_text("No run fits.").wait_for()


def test_calls_say_why_they_wait_and_one_tells_all_that_happened(screens, site, account):
    busy = ["+12025554101"]
    run = account.run(busy, name="Retry", retry={"max_attempts": 2, "delay": 600, "on": ["busy"]})
    site.world.wait_for_run(account.key, run, queued=1, attempts=1)
    page = screens.signed_in(account.key, f"#/runs/{run}/calls")
    page.get_by_text("for its next try").wait_for()
    page.get_by_label("state").select_option("completed")
    page.get_by_text("No call fits.").wait_for()
    page.go_back()
    page.get_by_label("Lead, phone or call id").fill("4101")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="lead-0").click()
    story = page.locator(".timeline")
    story.get_by_text("attempt claimed").wait_for()
    assert story.get_by_text("carrier said busy").is_visible()
    assert re.search(r"CA[0-9a-f]{32}", story.inner_text())
    assert re.search(r"\w+:\d+", story.inner_text())


@pytest.mark.parametrize(
    ("written", "shown"), [(HOSTILE, HOSTILE), (REVERSED, "⟦U+202E⟧evil⟦U+202C⟧")]
)
def test_hostile_names_are_text_and_turn_nothing_around_them(screens, account, written, shown):
    leads = [{"lead_id": written, "phone": "+12025554201", "variables": {written: written}}]
    body = {"name": written, "leads": leads, "start_at": "2099-01-01T00:00:00Z"}
    run = account.ask("POST", "/runs", json=body).json()["run_id"]
    page = screens.signed_in(account.key)
    page.on("dialog", lambda dialog: screens.complaints.append(dialog.message))
    page.get_by_role("link", name=shown).click()
    page.get_by_role("heading", name=shown).wait_for()
    page.get_by_role("link", name="All calls").click()
    page.locator("tbody").get_by_role("link", name=shown).click()
    page.locator("dd", has_text=shown).wait_for()
    assert page.locator("main script, main img").count() == 0
    assert page.locator("h1 bdi[dir=auto]").count() == 1
    assert run in page.url


def test_what_is_ten_thousand_characters_long_is_cut_and_says_so(screens, site, account):
    long = "x" * 1900
    leads = [{"lead_id": "y" * 128, "phone": "+12025554202", "variables": {"long": long}}]
    body = {"name": "z" * 200, "leads": leads, "start_at": "2099-01-01T00:00:00Z"}
    run = account.ask("POST", "/runs", json=body).json()["run_id"]
    page = screens.signed_in(
        account.key, f"#/runs/{run}/calls", viewport={"width": 360, "height": 700}
    )
    page.locator("tbody a").click()
    page.get_by_text("(1,900 characters)").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_what_does_not_exist_is_said(screens, account):
    page = screens.signed_in(account.key, "#/runs/01936f7a-5b1e-7c44-9c0f-3a7d6f0e2b11")
    page.get_by_text("There is no such run").wait_for()
    page.goto(page.url.split("#")[0] + "#/nowhere")
    page.get_by_text("There is no such page.").wait_for()


def test_a_time_of_another_year_names_its_year(screens, account):
    page = screens.signed_in(account.key, f"#/runs/{waiting(account)}")
    page.locator(".facts time", has_text="2099").wait_for()


def test_times_are_in_the_viewers_zone(screens, account):
    run = waiting(account)
    page = screens.signed_in(account.key, f"#/runs/{run}", timezone_id="Asia/Kathmandu")
    at = page.locator("time").first
    title = at.get_attribute("title")
    utc = re.search(r"T(\d\d):(\d\d)", at.get_attribute("datetime"))
    minutes = (int(utc[1]) * 60 + int(utc[2]) + 345) % 1440
    assert f"{minutes // 60:02d}:{minutes % 60:02d}" in at.inner_text()
    assert "GMT+5:45" in title
