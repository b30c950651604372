"""The pages and their files: what is served, to be kept for how long, and what may run in them."""

import re

import falcon.testing
import pytest

from factories import FakeCarrier
from outbound.api import static_files
from outbound.api.app import create_app

PAGES = ["/", "/api/docs"]
PROBLEM = "application/problem+json"


@pytest.fixture
def http(node):
    return falcon.testing.TestClient(create_app(node, FakeCarrier()))


def files_of(page):
    return re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)


def policy_of(answer):
    told = answer.headers["Content-Security-Policy"].split("; ")
    return {name: words for name, _, words in (one.partition(" ") for one in told)}


class TestFiles:
    @pytest.mark.parametrize(("path", "many"), [("/", 3), ("/api/docs", 5)])
    def test_a_page_names_files_that_exist_and_may_be_kept_for_ever(self, http, path, many):
        page = http.simulate_get(path)
        assert page.headers["Cache-Control"] == "no-store"
        named = files_of(page)
        assert len(named) == many
        for one in named:
            answer = http.simulate_get(one)
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["Content-Type"].endswith("; charset=utf-8")

    def test_every_module_imports_files_that_exist(self):
        for name, content in static_files.ours().items():
            for imported in re.findall(rb'from "\./([^"]+)"', content):
                assert imported.decode() in static_files.served(), name

    def test_an_unknown_version_gets_the_file_that_there_is_and_does_not_keep_it(self, http):
        answer = http.simulate_get("/static/0123456789abcdef/main.js")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize(
        "name",
        [
            *("index.html", "docs.html", "nothing.js", ".js", "main", "swagger-ui-bundle.js.map"),
            *("..%2fconsole.py", "%2e%2e%2fauth.py", "..%2f..%2fplugin.py", "%2fetc%2fpasswd"),
        ],
    )
    def test_nothing_but_the_listed_files_is_served(self, http, name):
        answer = http.simulate_get(f"/static/x/{name}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, PROBLEM)

    @pytest.mark.parametrize("path", [*PAGES, "/static/x/main.js"])
    def test_they_are_to_be_read_and_no_more(self, http, path):
        head = http.simulate_head(path)
        assert (head.status_code, head.content) == (200, b"")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert http.simulate_request(method, path).status_code == 405


class TestPolicies:
    @pytest.mark.parametrize("path", [*PAGES, "/static/x/main.js", "/static/x/rows-worker.js"])
    def test_whatever_runs_takes_our_own_files_and_our_own_host_alone(self, http, path):
        policy = policy_of(http.simulate_get(path))
        assert (policy["default-src"], policy["base-uri"]) == ("'none'", "'none'")
        for kind in ("script-src", "style-src", "connect-src"):
            assert policy[kind] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        allowed = set(" ".join(policy.values()).split())
        assert allowed <= {"'none'", "'self'", "'script'", "data:", "outbound-worker"}

    def test_the_console_takes_no_string_as_markup(self, http):
        assert policy_of(http.simulate_get("/"))["require-trusted-types-for"] == "'script'"

    def test_no_markup_is_made_of_data(self):
        for name, content in static_files.ours().items():
            if name.endswith(".js"):
                assert not re.search(
                    rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write", content
                )

    @pytest.mark.parametrize("path", PAGES)
    def test_no_page_has_inline_script_or_style(self, http, path):
        page = http.simulate_get(path).text
        assert not re.search(
            r'<style|style=|<script(?! (?:type="module"|defer) src=)|\son\w+=', page
        )

    @pytest.mark.parametrize("path", PAGES)
    def test_no_page_names_another_host(self, http, path):
        assert not re.search(r"https?:|//", http.simulate_get(path).text)


def test_swagger_ui_comes_from_a_package_and_not_from_here():
    theirs = static_files.served().keys() - static_files.ours().keys()
    assert theirs == {"swagger-ui-bundle.js", "swagger-ui.css"}
