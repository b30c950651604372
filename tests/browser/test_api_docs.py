"""The API's description as a page: all of it is shown, nothing else is loaded, requests work."""

from __future__ import annotations

import json

import pytest

from outbound.api.app import ROUTES

CREATE = "#operations-Runs-create_run"
LEAST_CONTRAST = 4.5
"""The least contrast that WCAG asks of small letters."""
CONTRAST = """(element) => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const shown = getComputedStyle(element).color;
  let behind = element;
  const back = () => channels(getComputedStyle(behind).backgroundColor);
  while (behind.parentElement && (back()[3] ?? 1) < 1) behind = behind.parentElement;
  const [dark, bright] = [light(channels(shown)), light(back())].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}"""
READ = [
    ".info .title",
    ".info p",
    ".opblock-summary-path",
    ".opblock-summary-description",
    ".opblock-summary-method",
    ".opblock-tag",
    ".btn.authorize span",
    f"{CREATE} .examples-select__section-label",
    f"{CREATE} td.header-col",
    f"{CREATE} .parameter__name",
    f"{CREATE} .response-col_status",
]


def open_docs(screens, **options):
    page = screens.open("api/docs", **options)
    page.locator(".opblock").first.wait_for()
    return page


def unfold(page, operation):
    page.locator(f"{operation} .opblock-summary-control").click()
    page.locator(f"{operation} .opblock-body").wait_for()


def execute(page, operation):
    """Try an operation that takes nothing; returns the status and the body that are shown."""
    unfold(page, operation)
    page.locator(operation).get_by_role("button", name="Try it out").click()
    page.locator(operation).get_by_role("button", name="Execute").click()
    live = page.locator(f"{operation} .live-responses-table tbody")
    live.wait_for()
    status = live.locator(".response-col_status").first.inner_text().split()[0]
    return int(status), json.loads(live.locator(".microlight, pre").first.inner_text())


def test_every_operation_is_shown_and_no_other_host_is_asked(screens, site):
    asked = []
    page = screens.open()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site.url}/api/docs")
    page.locator(".opblock").first.wait_for()
    shown = page.locator(".opblock").evaluate_all(
        "(all) => all.map((one) => [one.querySelector('.opblock-summary-method').textContent,"
        " one.querySelector('.opblock-summary-path').dataset.path])"
    )
    assert sorted(map(tuple, shown)) == sorted((one.method, one.path) for one in ROUTES)
    assert page.locator(".errors-wrapper").count() == 0
    unfold(page, CREATE)
    page.locator(CREATE).get_by_text("Schema", exact=True).first.click()
    page.locator(CREATE).get_by_text("calls_per_second").first.wait_for()
    assert [url for url in asked if not url.startswith((f"{site.url}/", "data:"))] == []


@pytest.mark.parametrize("look", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(screens, look):
    page = open_docs(screens, color_scheme=look)
    unfold(page, CREATE)
    contrasts = {name: page.locator(name).first.evaluate(CONTRAST) for name in READ}
    assert {name: found for name, found in contrasts.items() if found < LEAST_CONTRAST} == {}
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (look == "light")


def test_a_request_is_tried_with_the_key_that_is_typed_in(screens, account):
    page = open_docs(screens)
    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    dialog.locator("input:focus").fill(account.key)
    dialog.get_by_role("button", name="Apply credentials").first.click()
    dialog.get_by_role("button", name="Close").first.click()
    status, body = execute(page, "#operations-Account-show_account")
    assert (status, body["account_id"]) == (200, str(account.caller.account_id))


def test_the_consoles_session_is_none_of_its_business(screens, account, site):
    page = screens.signed_in(account.key, "#/system")
    page.get_by_role("link", name="the API, to read and to try").click()
    page.locator(".opblock").first.wait_for()
    status, body = execute(page, "#operations-Account-show_account")
    assert (status, body["type"]) == (401, "urn:outbound:problem:unauthorized")
