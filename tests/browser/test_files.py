"""A run from a file: what people's files are like, and what is said about those that are bad."""

from __future__ import annotations

import json

import pytest

from processes import wait_until

GOOD = "lead_id,phone,name\ncrm-1,+12025557011,Dana\ncrm-2,+12025557012,דנה\n"
LATER = "2099-01-01T00:00"


@pytest.fixture
def form(screens, account):
    page = screens.signed_in(account.key, "#/new")
    page.get_by_label("Starts").fill(LATER)
    return page


def choose(page, path):
    page.get_by_label("Drop a CSV").set_input_files(path)


def preview(page):
    page.locator("table.preview tbody tr").first.wait_for()
    return [row.split("\t") for row in page.locator("table.preview tbody tr").all_inner_texts()]


def start(page):
    # Pressed as a person can press it, also while it says that it may not be.
    page.get_by_role("button", name="Start run").click(force=True)


def leads_of(account):
    """What the newest run has stored, by lead."""
    (run, *_) = account.ask("GET", "/runs?limit=1").json()["items"]
    calls = account.ask("GET", f"/runs/{run['run_id']}/calls?limit=500").json()["items"]
    return run, {call["lead_id"]: call for call in calls}


def test_a_file_is_shown_mapped_and_becomes_a_run(form, account, files):
    choose(form, files("leads.csv", GOOD))
    assert preview(form)[0] == ["crm-1", "+12025557011", "Dana"]
    form.get_by_label("Name", exact=True).fill("From a file")
    start(form)
    form.get_by_role("link", name="Watch the run").click()
    form.get_by_role("heading", name="From a file").wait_for()
    run, calls = leads_of(account)
    assert run["name"] == "From a file"
    assert {lead: call["variables"] for lead, call in calls.items()} == {
        "crm-1": {"name": "Dana"},
        "crm-2": {"name": "דנה"},
    }


def test_what_is_pasted_is_taken_as_a_file_is(form, account):
    form.get_by_text("or paste them").click()
    form.get_by_label("Leads as CSV").fill("id;tel\n7;+12025557013\n")
    form.get_by_role("button", name="Use this").click()
    assert preview(form) == [["7", "+12025557013"]]
    start(form)
    form.get_by_text("1 lead to call.").wait_for()
    assert list(leads_of(account)[1]) == ["7"]


def test_json_lines_become_columns_and_a_bad_line_is_left_out(form, account, files):
    lines = [
        json.dumps({"lead_id": "a", "phone": "+12025557014", "variables": {"x": 1}}),
        "not json",
        json.dumps({"lead_id": "b", "phone": "+12025557015", "y": "z"}),
    ]
    choose(form, files("leads.jsonl", "\n".join(lines)))
    preview(form)
    start(form)
    form.get_by_text("1 row left out").wait_for()
    form.get_by_text("This line is no JSON object.").wait_for()
    assert set(leads_of(account)[1]) == {"a", "b"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_encoding_that_is_certain_is_not_asked_for(form, files, encoding):
    choose(form, files("leads.csv", GOOD, encoding))
    assert preview(form)[1][2] == "דנה"


def test_an_uncertain_encoding_is_asked_for_with_how_it_would_read(form, account, files):
    choose(form, files("leads.csv", GOOD, "cp1255"))
    form.get_by_text("Choose the line that reads right").wait_for()
    start(form)
    form.get_by_text("Say first how the file is written.").wait_for()
    form.locator("label", has_text="דנה").get_by_role("radio").check()
    assert preview(form)[1] == ["crm-2", "+12025557012", "דנה"]
    start(form)
    form.get_by_text("2 leads to call.").wait_for()
    assert leads_of(account)[1]["crm-2"]["variables"] == {"name": "דנה"}


def test_quotes_separators_and_lines_within_cells_are_read(form, files):
    choose(form, files("leads.csv", 'id;phone;note\r\n1;+12025557016;"a ""b"";\r\nc"\r\n\r\n'))
    preview(form)
    assert form.locator("table.preview tbody td").nth(2).inner_text().startswith('a "b";')
    form.get_by_text("leads.csv: 1 row.").wait_for()


def test_a_number_that_excel_destroyed_is_refused_with_its_own_sentence(form, account, files):
    choose(
        form, files("leads.csv", GOOD + "crm-3,+9.72E+11,Lost\ncrm-4,,Nobody\ncrm-5,+12,Short\n")
    )
    preview(form)
    start(form)
    form.get_by_text("3 rows left out").wait_for()
    form.get_by_text("A spreadsheet destroyed this number (9.72E+11)").wait_for()
    with form.expect_download() as download:
        form.get_by_role("button", name="Download the rows left out").click()
    text = download.value.path().read_text(encoding="utf-8-sig")
    assert text.splitlines() == [
        "line,reason,lead_id,phone,name",
        "4,phone_mangled,crm-3,'+9.72E+11,Lost",
        "5,missing_phone,crm-4,,Nobody",
        "6,invalid_phone,crm-5,'+12,Short",
    ]


BAD = {
    "an empty file": (b"", "The file is empty."),
    "a workbook": (b"PK\x03\x04rest", "This is an Excel workbook"),
    "a header alone": (b"lead_id,phone\n", "The file has a header and no rows."),
    "an open quote": (
        b'id,phone\n1,"+12025557017\n',
        "A quote that opens in line 2 is never closed.",
    ),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00", "This is an old Excel workbook."),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "This is a PDF."),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00", "This is a picture."),
    "a web page": (b"\n<!doctype html><p>Log in", "This is a web page or XML"),
    "a JSON list": (b'[{"lead_id": "1"}]', "This is a JSON list."),
    "a JSON body": (b'{\n"leads": [\n]}\n', "No line is a JSON object of its own."),
    "blank lines": (b"\n\n  \n", "The file has no rows."),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_cannot_be_read_is_refused_in_words(form, files, what):
    content, told = BAD[what]
    choose(form, files("bad.csv", content))
    form.get_by_text(told).wait_for()
    start(form)
    form.get_by_text("Choose another file first.").wait_for()


def test_the_line_that_names_excels_separator_is_no_row(form, files):
    choose(form, files("leads.csv", "sep=;\r\nid;phone\r\n7;+12025557019\r\n"))
    assert preview(form) == [["7", "+12025557019"]]


def test_what_was_typed_is_not_lost_by_a_reload_without_a_question(form, files):
    asked = []
    form.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    form.get_by_label("Name", exact=True).press_sequentially("Half written")
    form.reload()
    assert asked == ["beforeunload"]
    form.reload()  # nothing was typed since
    assert len(asked) == 1


def test_a_run_that_is_too_large_is_not_sent_and_says_how_large_it_is(form, files):
    rest = "דנה " * 100  # two bytes a letter as UTF-8, which a run is sent in
    rows = "".join(f"{n},+1202555{n % 10_000:04d},{rest}\n" for n in range(99_000))
    choose(form, files("large.csv", "id,phone,note\n" + rows))
    form.locator("table.preview").wait_for(timeout=90_000)
    start(form)
    form.get_by_text("Split the file, or leave out columns.").wait_for(timeout=90_000)


def test_without_a_column_of_phones_one_is_told_to_choose(form, files):
    choose(form, files("leads.csv", "a,b\nx,y\n"))
    form.get_by_text("Say which one column has the phone numbers.").wait_for()
    form.get_by_label("What is b?").select_option("phone")
    form.get_by_text("Say which one column").wait_for(state="hidden")
    start(form)
    form.get_by_text("No lead can be accepted").or_(
        form.get_by_text("valid phone")
    ).first.wait_for()


def test_a_double_click_starts_one_run(form, account, files):
    choose(form, files("leads.csv", GOOD))
    preview(form)
    form.get_by_role("button", name="Start run").dblclick()
    form.get_by_text("2 leads to call.").wait_for()
    assert form.get_by_text("It is being sent.").count() == 0
    assert len(account.ask("GET", "/runs").json()["items"]) == 1


def test_an_answer_that_gets_lost_does_not_start_a_second_run(form, account, files):
    choose(form, files("leads.csv", GOOD))
    preview(form)
    lost = []

    def lose(route):
        if lost:
            route.continue_()
            return
        lost.append(route.fetch())  # the server has it, the page never hears
        route.abort()

    form.route(
        "**/api/outbound/runs", lambda r: lose(r) if r.request.method == "POST" else r.continue_()
    )
    start(form)
    form.get_by_text("it is started once only").wait_for()
    start(form)
    form.get_by_text("2 leads to call.").wait_for()
    assert len(account.ask("GET", "/runs").json()["items"]) == 1


def test_the_same_leads_once_more_are_asked_about(form, account, files):
    for _ in range(2):
        choose(form, files("leads.csv", GOOD))
        preview(form)
        start(form)
        form.get_by_text("2 leads to call.").or_(
            form.get_by_text("Start it once more")
        ).first.wait_for()
    form.get_by_role("button", name="Start it once more").click()
    wait_until(lambda: len(account.ask("GET", "/runs").json()["items"]) == 2)


def test_fifty_megabytes_do_not_freeze_the_page(form, files):
    rest = "x" * 500
    rows = "".join(f"crm-{n},+1202555{n:05d},{rest}\n" for n in range(99_000))
    path = files("large.csv", "lead_id,phone,note\n" + rows)
    assert path.stat().st_size > 50_000_000
    form.evaluate(
        """() => { window.longest = 0; let last = performance.now();
              setInterval(() => { const now = performance.now();
                window.longest = Math.max(window.longest, now - last); last = now; }, 20); }"""
    )
    choose(form, path)
    form.get_by_text("large.csv: 99,000 rows.").wait_for(timeout=90_000)
    assert form.evaluate("window.longest") < 1500


def test_a_file_with_too_many_rows_is_refused_with_their_number(form, files):
    rows = "".join(f"{n},+12025557018\n" for n in range(100_001))
    choose(form, files("many.csv", "lead_id,phone\n" + rows))
    form.get_by_text("The file has 100,001 rows; one run takes 100,000.").wait_for()
