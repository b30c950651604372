"""`make screenshots`: docs/screenshots/*.png, of real processes at work. Collected by name only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from processes import wait_until

FOLDER = Path(os.environ.get("SCREENSHOTS", "docs/screenshots"))
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}},
}
KEPT = {"runs-light", "run-light", "run-dark", "run-phone", "call-light", "unknown-light"}
KEPT |= {"decide-light", "new-light", "system-dark"}
COLOURS = 160
LEADS = """lead_id,phone,first_name,city
crm-1001,+12025550101,Dana,Haifa
crm-1002,+12025550102,דנה כהן,תל אביב
crm-1003,+12025550103,Sam,Leeds
crm-1004,9.72E+11,Lost,Excel
"""


def phones(block: int, many: int, ending: str = "") -> list[str]:
    """Numbers that answer, or end otherwise: the emulator goes by the last two digits, 00 to 09."""
    if ending:
        return [f"+1202555{block + n:02d}{ending}" for n in range(many)]
    return [f"+1202555{block + n // 90:02d}{10 + n % 90}" for n in range(many)]


@pytest.mark.timeout(900)
def test_every_page_light_dark_and_on_a_phone(screens, site, files):
    account = site.account("Acme Clinics", calls_per_second=40.0, max_live_calls=60)
    running = make_runs(account)
    folder, everything = FOLDER, "SCREENSHOTS" in os.environ
    folder.mkdir(parents=True, exist_ok=True)
    for look, options in LOOKS.items():
        page = screens.signed_in(account.key, **options)

        def shoot(name, page=page, look=look):
            if everything or f"{name}-{look}" in KEPT:
                page.get_by_text("loading…").wait_for(state="hidden")
                path = folder / f"{name}-{look}.png"
                page.screenshot(path=path)
                shrink(path)

        page.goto(f"{site.url}/#/runs")
        page.get_by_text("Spring check-ups").wait_for()
        shoot("runs")
        page.goto(f"{site.url}/#/runs/{running}")
        page.locator(".chart .line[d^=M]").wait_for(state="attached")
        line = page.locator(".chart .line")
        wait_until(lambda line=line: len(line.get_attribute("d")) > 150, 60)
        shoot("run")
        page.get_by_role("link", name="All calls").click()
        page.locator("tbody tr").first.wait_for()
        shoot("calls")
        page.goto(f"{site.url}/#/runs/{running}/calls?state=completed")
        page.locator("tbody a").first.click()
        page.locator(".timeline li").first.wait_for()
        shoot("call")
        page.goto(f"{site.url}/#/unknown")
        page.get_by_role("link", name="Renewals, second try").click()
        page.get_by_role("button", name="Decide…").first.wait_for()
        shoot("unknown")
        page.get_by_role("button", name="Decide…").first.click()
        shoot("decide")
        page.keyboard.press("Escape")
        page.goto(f"{site.url}/#/new")
        page.get_by_label("Drop a CSV").set_input_files(files("leads.csv", LEADS))
        page.locator("table.preview").wait_for()
        shoot("new")
        page.goto(f"{site.url}/#/system")
        page.locator("tr.leads").wait_for()
        shoot("system")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("API key").wait_for()
        shoot("sign-in")


def shrink(path: Path) -> None:
    """Few colours are enough for a page, and a third of the size."""
    try:
        from PIL import Image
    except ImportError:
        return
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def make_runs(account):
    site = account.site
    done = account.run(phones(10, 30), name="תזכורות לפגישות נובמבר")
    site.world.wait_for_run(account.key, done)
    busy = phones(40, 12, "01") + phones(52, 6, "02") + phones(58, 3, "03")
    mixed = account.run(busy + phones(11, 60), name="Insurance follow-up")
    site.world.wait_for_run(account.key, mixed)
    site.world.faults(hang_without_accepting=100)
    unknown = account.run(phones(12, 9), name="Renewals, second try")
    site.world.wait_for_run(account.key, unknown, unknown=9)
    site.world.faults()
    account.run(phones(13, 40), name="Weekend survey", start_at="2099-01-01T09:00:00Z")
    cancelled = account.run(phones(14, 25), name="Wrong list", calls_per_second=1.0)
    account.ask("POST", f"/runs/{cancelled}/cancel")
    paused = account.run(phones(15, 80), name="Clinic feedback", calls_per_second=5.0)
    wait_until(lambda: site.world.run(account.key, paused)["completed"] > 8, 60)
    account.ask("POST", f"/runs/{paused}/pause")
    many = phones(60, 8, "01") + phones(70, 4, "02") + phones(16, 2000)
    return account.run(many, name="Spring check-ups", calls_per_second=8.0, concurrency=30)
