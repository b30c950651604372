"""Leads are checked one by one; a bad one never sinks the others."""

import pytest

from outbound.leads import BadLead, fill_answer_url, fill_twiml, parse_leads, parse_phone


@pytest.mark.parametrize(
    ("given", "region", "e164"),
    [
        ("+972502345678", None, "+972502345678"),
        ("+972-50-234-5678", None, "+972502345678"),
        ("00972 50 234 5678", "IL", "+972502345678"),
        ("050-2345678", "IL", "+972502345678"),
        ("(202) 555-0101", "US", "+12025550101"),
        ("202.555.0100", "US", "+12025550100"),
        ("'+12025550101", None, "+12025550101"),
        ("\u200e+12025550101", None, "+12025550101"),
        ("+٩٧٢٥٠٢٣٤٥٦٧٨", None, "+972502345678"),
        ("+390236618300", None, "+390236618300"),
    ],
)
def test_what_people_write_becomes_e164(given, region, e164):
    assert parse_phone(given, region) == e164


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, "missing_phone"),
        (12025550101, "invalid_phone"),
        ("", "invalid_phone"),
        ("+", "invalid_phone"),
        ("+1", "invalid_phone"),
        ("+15551234567", "invalid_phone"),
        ("+972501234567", "invalid_phone"),
        ("1-800-FLOWERS", "invalid_phone"),
        ("+12025550101 ext 2", "invalid_phone"),
        ("+12025550101;ext=2", "invalid_phone"),
        ("9.72E+11", "phone_mangled"),
        ("9,72502E+11", "phone_mangled"),
        ("+4930123456.0", "phone_mangled"),
        (" +4930123456,00 ", "phone_mangled"),
        ("4930123456.0", "phone_mangled"),
        ("0502345678", "phone_needs_region"),
        ("5" * 65, "invalid_phone"),
        (True, "invalid_phone"),
        ("tel:+12025550101", "invalid_phone"),
        ("+1202555010１x", "invalid_phone"),
    ],
)
def test_what_is_no_phone_is_refused_with_its_code(given, code):
    with pytest.raises(BadLead, match=f"^{code}$"):
        parse_phone(given, None)


def test_the_first_in_body_order_wins():
    leads = [
        {"lead_id": "a", "phone": "+12025550101"},
        {"lead_id": "b", "phone": "+12025550101"},
        {"lead_id": "a", "phone": "+12025550102"},
    ]
    parsed = parse_leads(leads, region=None, twiml=None)
    assert parsed.accepted == [("a", "+12025550101", None)]
    assert [r.code for r in parsed.rejections] == ["duplicate_phone", "duplicate_lead_id"]
    assert parsed.duplicates == 2


def test_a_rejected_lead_takes_nobodys_place():
    leads = [{"lead_id": "a", "phone": "x"}, {"lead_id": "a", "phone": "+12025550101"}]
    assert len(parse_leads(leads, region=None, twiml=None).accepted) == 1


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ([], "invalid_variables"),
        ({str(n): 1 for n in range(51)}, "invalid_variables"),
        ({"": 1}, "invalid_variables"),
        ({"k": {}}, "invalid_variables"),
        ({"k": "x" * 2048}, "variables_too_large"),
        ({"k": 2**53 + 1}, "invalid_variables"),
        ({"k": -1e300}, "invalid_variables"),
    ],
)
def test_variables_have_limits(variables, code):
    lead = {"lead_id": "a", "phone": "+12025550101", "variables": variables}
    assert parse_leads([lead], region=None, twiml=None).rejections[0].code == code


def test_placeholders_are_filled_and_escaped_for_xml():
    filled = fill_twiml(
        "<Say to='{{ to }}'>{{name}}{{ok}}</Say>", {"name": "<b>&", "to": "'\"", "ok": True}
    )
    assert filled == "<Say to='&apos;&quot;'>&lt;b&gt;&amp;true</Say>"


def test_a_numbers_trailing_zero_is_never_dialled_as_a_digit():
    # +49301234560 is a valid number too, and somebody else's.
    assert parse_phone("+49301234560", None) == "+49301234560"
    with pytest.raises(BadLead, match=r"^phone_mangled$"):
        parse_phone("+4930123456.0", None)


@pytest.mark.parametrize("value", ["a\x01b", "\x0b", "\ufffe"])
def test_what_xml_cannot_say_is_refused_where_it_would_be_filled_in(value):
    lead = {"lead_id": "a", "phone": "+12025550101", "variables": {"name": value}}
    filled = parse_leads([lead], region=None, twiml="<Say>{{name}}</Say>")
    assert [one.code for one in filled.rejections] == ["invalid_variables"]
    assert len(parse_leads([lead], region=None, twiml="<Say/>").accepted) == 1


@pytest.mark.parametrize("template", ["{{" + " " * 3996, "{{ " * 1300, "{" * 4000, "{{a" * 1300])
def test_no_template_takes_more_than_an_instant(template):
    # With a pattern that backtracks, a few hundred of these take longer than the test may.
    for _ in range(200):
        assert fill_twiml(template, {}) == template


def test_a_placeholder_may_have_spaces_around_its_name():
    assert fill_twiml("{{a}}{{ a }}{{\ta\n}}{{a b}}", {"a": 1, "a b": 2}) == "1112"


def test_a_variable_is_never_filled_into_another_one():
    assert fill_twiml("{{a}}", {"a": "{{b}}", "b": "x"}) == "{{b}}"


def test_variables_travel_behind_the_query_that_the_url_has():
    assert fill_answer_url("https://x.example/t?a=1#f", {"name": "ד & b", "n": None}) == (
        "https://x.example/t?a=1&name=%D7%93+%26+b&n=#f"
    )
    assert fill_answer_url("https://x.example/t", {}) == "https://x.example/t"


def test_a_url_that_would_grow_too_long_is_the_leads_fault_not_the_accounts():
    leads = [
        {"lead_id": "a", "phone": "+12025550101", "variables": {"k": "%" * 1500}},
        {"lead_id": "b", "phone": "+12025550102", "variables": {"k": "v"}},
    ]
    parsed = parse_leads(leads, region=None, twiml=None, answer_url="https://x.example/t")
    assert [r.code for r in parsed.rejections] == ["answer_url_too_long"]
    assert len(parsed.accepted) == 1


@pytest.mark.parametrize("value", ["x", "<&>", "\"'", "", None, True, 1.5, "🙂"])
@pytest.mark.parametrize("template", ["{{a}}", "{{ a }}-{{a}}{{b}}", "{{{a}}}", "{{}}{{a}"])
def test_what_fits_is_what_fill_twiml_would_make(value, template):
    variables = {"a": value, "b": "y"}
    room = 4000 - len(fill_twiml(template, variables))
    lead = {"lead_id": "a", "phone": "+12025550101", "variables": variables}
    assert parse_leads([lead], region=None, twiml=template + "." * room).accepted
    over = parse_leads([lead], region=None, twiml=template + "." * (room + 1))
    assert [one.code for one in over.rejections] == ["twiml_too_long"]
