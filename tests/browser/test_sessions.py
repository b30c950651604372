"""Who may see the console, how a session starts, and how it ends."""

from __future__ import annotations

from sqlalchemy import text

from outbound import accounts
from processes import wait_until

OVER = "Your session is over, or its key was revoked."


def revoke(site, account):
    with site.engine.begin() as connection:
        accounts.revoke_key(connection, account.caller.account_id, account.caller.key_id)


def expire(site):
    with site.engine.begin() as connection:
        connection.execute(text("UPDATE sessions SET expires_at = clock_timestamp()"))


def test_a_key_is_changed_for_a_cookie_that_no_script_can_read(screens, account):
    page = screens.signed_in(account.key)
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert account.key not in page.content()
    stored = "document.cookie + JSON.stringify({...localStorage, ...sessionStorage})"
    assert page.evaluate(stored) == "{}"
    assert page.get_by_label("API key").input_value() == ""


def test_a_wrong_key_is_told_and_the_form_stays(screens):
    page = screens.open()
    page.get_by_label("API key").fill("ob_nonsense")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("This API key is not known, or was revoked.").wait_for()
    page.keyboard.press("Escape")
    assert page.get_by_label("API key").is_visible()


def test_a_revoked_key_ends_its_sessions_at_once(screens, site, account):
    page = screens.signed_in(account.key)
    revoke(site, account)
    page.locator("#sign-in-why", has_text=OVER).wait_for()


def test_after_a_new_sign_in_one_is_where_one_was_with_the_form_as_it_was(screens, site, account):
    page = screens.signed_in(account.key, "#/new")
    page.get_by_label("Name", exact=True).fill("Half written")
    expire(site)
    page.locator("#sign-in-why", has_text=OVER).wait_for()
    screens.sign_in(page, account.key)
    assert page.url.endswith("#/new")
    assert page.get_by_label("Name", exact=True).input_value() == "Half written"


def test_a_deep_link_is_shown_after_the_sign_in(screens, account):
    run = account.run(["+12025550110"], name="Linked", start_at="2099-01-01T00:00:00Z")
    page = screens.signed_in(account.key, f"#/runs/{run}")
    page.get_by_role("heading", name="Linked").wait_for()


def test_a_sign_out_ends_the_session_on_the_server_and_in_the_other_tab(screens, site, account):
    page = screens.signed_in(account.key)
    other = screens.tab(page.context)
    other.get_by_role("heading", name="Runs").wait_for()
    (cookie,) = page.context.cookies()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    other.locator("#sign-in-why", has_text=OVER).wait_for()
    with_it = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert site.world.http.get(f"{site.url}/session", headers=with_it).status_code == 401
    assert page.context.cookies() == []


def test_a_tab_never_shows_or_stops_what_is_of_a_key_that_signed_in_in_another_tab(
    screens, site, account
):
    theirs = site.account("Other")
    theirs.run(["+12025550117"], name="Not mine", start_at="2099-01-01T00:00:00Z")
    page = screens.signed_in(account.key)
    other = screens.tab(page.context)
    other.locator("#account").get_by_text("·").wait_for()
    page.get_by_role("button", name="Stop all dialling").click()
    other.get_by_role("button", name="Sign out").click()
    screens.sign_in(other, theirs.key)
    over = page.locator("#sign-in-why", has_text=OVER)
    page.get_by_text("Another key has signed in").or_(over).wait_for()
    page.locator("dialog:not(#sign-in)").get_by_role("button", name="Stop all").evaluate(CLICK)
    page.locator("#notice").or_(page.locator("dialog .error")).get_by_text("Another key").wait_for()
    assert page.get_by_text("Not mine").count() == 0
    assert theirs.ask("GET", "/system").json()["stopped"] is False
    screens.sign_in(page, theirs.key)
    page.get_by_role("link", name="Not mine").wait_for()


CLICK = "(button) => button.click()"  # what is under a modal dialog no pointer reaches


def test_another_web_process_takes_the_session(screens, site, account):
    process, url = site.another_web()
    page = screens.signed_in(account.key)
    other = screens.tab(page.context, url=url)  # cookies do not look at ports
    other.locator("#account").get_by_text("admin").wait_for()
    process.kill_with_children()


def test_on_plain_http_the_page_says_why_it_cannot_sign_in(screens, site, account):
    page = screens.open(url=f"http://console.example:{site.world.port}")
    page.get_by_label("API key").fill(account.key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("over plain http").wait_for()
    assert page.context.cookies() == []


def test_a_viewer_sees_no_button_that_it_may_not_press_and_is_told_why(screens, account):
    run = account.run(["+12025550111"], name="Look", start_at="2099-01-01T00:00:00Z")
    page = screens.signed_in(account.key_of("viewer"), f"#/runs/{run}")
    page.get_by_role("heading", name="Look").wait_for()
    page.get_by_text("role viewer: it may look, and change nothing").wait_for()
    for name in ("Pause", "Resume", "Cancel run"):
        assert page.get_by_role("button", name=name).count() == 0
    stop = page.get_by_role("button", name="Stop all dialling")
    wait_until(
        lambda: stop.get_attribute("aria-disabled") == "true" and stop.get_attribute("title")
    )
    page.get_by_role("link", name="New run").click()
    page.get_by_text("it may look, and start nothing").wait_for()
