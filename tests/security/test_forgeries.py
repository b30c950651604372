"""A thousand forged callbacks change nothing and learn nothing; an honest one still works.

The forger knows everything but the token: whole honest callbacks, signed, of this attempt and
of others, and what the same token signed for other URLs.
"""

import itertools
import random
from dataclasses import dataclass, replace
from urllib.parse import urlencode
from uuid import uuid4

import falcon.testing
import pytest
from twilio.request_validator import RequestValidator

from factories import attempt_of, claim, make_account, make_run, phone, say
from outbound.api.app import create_app
from outbound.carriers import base
from outbound.carriers.base import Progress

FORM = "application/x-www-form-urlencoded"
MANY = 1000
REFUSALS = (400, 403, 404, 405, 411, 413, 415)


@dataclass(frozen=True)
class Sent:
    """One request, as the forger puts it together."""

    path: str
    fields: tuple
    signature: str | None
    headers: tuple = (("Content-Type", FORM),)
    query: str = ""
    raw: bytes | None = None
    method: str = "POST"

    @property
    def body(self) -> bytes:
        return urlencode(self.fields).encode() if self.raw is None else self.raw

    def having(self, *headers):
        return replace(self, headers=(*self.headers, *headers))


class Forger:
    """Makes requests that no honest carrier would have sent."""

    def __init__(self, settings, seed):
        self.base, self.token = settings.public_base_url, settings.twilio_auth_token
        self.sid = settings.twilio_account_sid
        self.random = random.Random(seed)  # noqa: S311 - so that a failure can be seen again

    def sign(self, url, fields, token=None):
        form = {}
        for name, value in fields:
            form.setdefault(name, []).append(value)
        signer = RequestValidator(token or self.token)
        s = url + "".join(f"{n}{v}" for n in sorted(form) for v in sorted(set(form[n])))
        return signer.compute_signature(s, {})

    def honest(self, attempt, **fields):
        """Write what the carrier would send."""
        path = f"/webhooks/twilio/{attempt}"
        sent = {
            "AccountSid": self.sid,
            "CallSid": "CA" + f"{self.random.getrandbits(128):032x}",
            "CallStatus": self.random.choice(["ringing", "in-progress", "completed", "busy"]),
            "CallDuration": str(self.random.randrange(1, 600)),
            "CalledCity": "",
            "CallerName": "",
            "To": phone(1),
            "From": "+97231234567",
        } | fields
        pairs = tuple(sent.items())
        return Sent(path, pairs, self.sign(self.base + path, pairs))


def _without(fields, name):
    return tuple(pair for pair in fields if pair[0] != name)


def wrong_token(forger, sent):
    token = forger.random.choice(["", "0" * 32, forger.token.upper(), forger.token[:-1], "\0"])
    return replace(sent, signature=forger.sign(forger.base + sent.path, sent.fields, token or "x"))


def another_accounts_callback(forger, sent):
    fields = (("AccountSid", "AC" + "f" * 32), *_without(sent.fields, "AccountSid"))
    signed = forger.sign(forger.base + sent.path, fields, "the other account's token")
    return replace(sent, fields=fields, signature=signed)


def no_signature(forger, sent):
    return replace(sent, signature=forger.random.choice([None, "", " ", "=", "AAAA", "null"]))


def damaged_signature(forger, sent):
    good = sent.signature
    bad = [good[:-1], good + "=", good.lower(), good[::-1], good.rstrip("="), f'"{good}"']
    bad += [good * 100, "é" * 28, good[:5] + "\u00ff" + good[6:], good.swapcase()]
    return replace(sent, signature=forger.random.choice([one for one in bad if one != good]))


def signed_for_another_url(forger, sent):
    host = forger.base.partition("://")[2]
    url = forger.random.choice(
        [
            f"https://{host}{sent.path}",
            f"http://evil.example{sent.path}",
            f"http://{host.partition(':')[0]}:8001{sent.path}",
            f"http://{host.partition(':')[0]}:80{sent.path}",
            f"{forger.base}{sent.path}/",
            f"{forger.base}{sent.path}?x=1",
            f"{forger.base}/{sent.path}",
            f"{forger.base}{sent.path.upper()}",
            f"{forger.base.upper()}{sent.path}",
            f"{forger.base}/webhooks/other/{uuid4()}",
            f"{forger.base}{sent.path}#rc=5&rp=all",
            sent.path,
        ]
    )
    return replace(sent, signature=forger.sign(url, sent.fields))


def sent_to_another_url(forger, sent):
    return forger.random.choice(
        [
            replace(sent, query="x=1"),
            replace(sent, query="CallStatus=completed"),
            replace(sent, query="bodySHA256=" + "0" * 64),
            replace(sent, path=sent.path + "/"),
            replace(sent, path=sent.path.upper().replace("/WEBHOOKS/TWILIO", "/webhooks/twilio")),
            replace(sent, path=sent.path.replace("-", "")),
            replace(sent, path=sent.path.replace("/twilio/", "/%74wilio/")),
            replace(sent, path=sent.path + "%00"),
            replace(sent, path=sent.path.replace("/twilio/", "/twilio/{") + "}"),
        ]
    )


def another_attempts_callback(forger, sent):
    other = forger.honest(uuid4())
    return replace(sent, fields=other.fields, signature=other.signature)


def field_added(forger, sent):
    extra = forger.random.choice(
        [("CallStatus", "completed"), ("X", ""), ("CallSid", "CA" + "0" * 32)]
    )
    if extra in sent.fields:
        extra = ("X", "1")
    place = forger.random.choice([0, len(sent.fields)])
    return replace(sent, fields=(*sent.fields[:place], extra, *sent.fields[place:]))


def field_removed(forger, sent):
    return replace(sent, fields=_without(sent.fields, forger.random.choice(sent.fields)[0]))


def blank_fields_dropped(_, sent):
    return replace(sent, fields=tuple(pair for pair in sent.fields if pair[1]))


def field_changed(forger, sent):
    name, value = forger.random.choice(
        [
            ("CallStatus", "failed"),
            ("CallStatus", "canceled"),
            ("CallSid", "CA" + "9" * 32),
            ("CallDuration", "100000"),
            ("To", phone(2)),
        ]
    )
    return replace(sent, fields=(*_without(sent.fields, name), (name, value)))


def values_exchanged(forger, sent):
    """Keep every name and every value, but not which belongs to which."""
    names, values = zip(*sent.fields, strict=True)
    turn = forger.random.randrange(1, len(values))
    return replace(sent, fields=tuple(zip(names, values[turn:] + values[:turn], strict=True)))


def names_in_another_case(_, sent):
    return replace(sent, fields=tuple((name.swapcase(), value) for name, value in sent.fields))


def field_twice(forger, sent):
    name = forger.random.choice(["CallStatus", "CallSid", "CallDuration"])
    twice = (name, forger.random.choice(["failed", "CA" + "8" * 32, "7"]))
    fields = (twice, *sent.fields) if forger.random.random() < 0.5 else (*sent.fields, twice)
    return replace(sent, fields=fields)


def body_truncated(forger, sent):
    return replace(sent, raw=sent.body[: forger.random.randrange(len(sent.body) - 1)])


def body_shorter_than_it_says(_, sent):
    return sent.having(("Content-Length", str(len(sent.body) + 10)))


def body_extended(forger, sent):
    tail = forger.random.choice(
        [b"&x", b"\0", b"&=1", b"\r\n", b" ", b"&CallStatus=failed", b"\xff"]
    )
    return replace(sent, raw=sent.body + tail)


def body_is_no_form(forger, sent):
    raw = forger.random.choice(
        [
            b"",
            b"\0" * 100,
            b"\xff\xfe\xfd",
            b'{"CallSid": "CA1", "CallStatus": "completed"}',
            b"<xml/>",
            b"&" * 1000,
            b"%" * 1000,
            b"CallStatus=%ff%00&CallSid=%",
            b"a=" + b"%e2%80%ae" * 50,
        ]
    )
    kinds = ["application/json", "multipart/form-data; boundary=x", "text/xml", FORM, "\u00e9"]
    kind = ("Content-Type", forger.random.choice(kinds))
    return replace(sent, raw=raw, headers=(kind,))


def huge_body(forger, sent):
    return replace(sent, raw=b"a" * forger.random.choice([64 * 1024 + 1, 200_000]))


def many_fields(forger, sent):
    more = tuple((f"f{n}", "") for n in range(forger.random.choice([500, 2000])))
    return replace(sent, fields=sent.fields + more)


def another_content_type(forger, sent):
    """Also a good body, but with a signature that somebody else made."""
    kinds = ["application/json", "text/plain", "multipart/form-data", ""]
    kind = ("Content-Type", forger.random.choice(kinds))
    return replace(wrong_token(forger, sent), headers=(kind,))


def forwarded(forger, sent):
    """Pretend that a proxy changed the URL to the one that was signed."""
    url = f"https://evil.example{sent.path}"
    lies = (
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/"),
        ("Forwarded", "host=evil.example;proto=https"),
        ("X-Original-URL", sent.path),
        ("X-Rewrite-URL", url),
        ("X-Forwarded-For", "127.0.0.1"),
    )
    chosen = forger.random.sample(lies, forger.random.randrange(1, len(lies) + 1))
    return replace(sent, signature=forger.sign(url, sent.fields)).having(*chosen)


def signature_twice(forger, sent):
    header, good = "X-Twilio-Signature", sent.signature
    other = forger.random.choice(["", "AAAA", good])
    pair = forger.random.choice([(good, other), (other, good)])
    return replace(sent, signature=None).having(*((header, value) for value in pair))


def signature_elsewhere(forger, sent):
    good = sent.signature
    return replace(
        sent,
        signature=None,
        query=urlencode({"X-Twilio-Signature": good}),
        fields=(*sent.fields, ("X-Twilio-Signature", good)),
    ).having(("X-Twilio-Email-Event-Webhook-Signature", good), ("Authorization", f"Bearer {good}"))


def stronger_algorithm(_, sent):
    settings = ("X-Twilio-Webhooks-Signature-Settings", "key=x,algorithm=HMAC_SHA256")
    return replace(sent, signature="A" * 44).having(settings)


def method_changed(forger, sent):
    header = ("X-HTTP-Method-Override", "POST")
    return replace(sent, method=forger.random.choice(["GET", "PUT", "DELETE", "PATCH"])).having(
        header
    )


def chunked(_, sent):
    return sent.having(("Transfer-Encoding", "chunked"))


KINDS = [
    wrong_token,
    another_accounts_callback,
    no_signature,
    damaged_signature,
    signed_for_another_url,
    sent_to_another_url,
    another_attempts_callback,
    field_added,
    field_removed,
    blank_fields_dropped,
    field_changed,
    values_exchanged,
    names_in_another_case,
    field_twice,
    body_truncated,
    body_shorter_than_it_says,
    body_extended,
    body_is_no_form,
    huge_body,
    many_fields,
    another_content_type,
    forwarded,
    signature_twice,
    signature_elsewhere,
    stronger_algorithm,
    method_changed,
    chunked,
]


@pytest.fixture
def forger(settings):
    return Forger(settings, seed=20)


@pytest.fixture
def attempts(node, engine):
    """Attempts of two accounts: being sent, placed, ended."""
    found = []
    for _ in range(2):
        account = make_account(engine)
        make_run(engine, account, [phone(n) for n in range(3)])
        sending, placed, ended = (call.attempt_id for call in claim(node, account))
        for attempt, word in ((placed, Progress.RINGING), (ended, Progress.BUSY)):
            say(node, attempt, word, f"CA{attempt.hex}")
        found += [sending, placed, ended]
    return found


@pytest.fixture
def deliver(node):
    http = falcon.testing.TestClient(create_app(node, base.load(node.settings)))

    def send(sent):
        signed = [] if sent.signature is None else [("X-Twilio-Signature", sent.signature)]
        target = f"{sent.path}?{sent.query}" if sent.query else sent.path
        return http.simulate_request(
            sent.method,
            sent.path,
            query_string=sent.query,
            extras={"RAW_URI": target},  # as the real server hands it on
            headers=[*sent.headers, *signed],
            body=sent.body,
        )

    return send


def told(answer):
    """Return all that an answer tells, but what names the request itself."""
    body = answer.json
    del body["request_id"], body["instance"]
    named = ("x-request-id", "content-length")
    return answer.status_code, body, {k: v for k, v in answer.headers.items() if k not in named}


def aimed_at(attempt, sent, forged):
    """Send the same forgery to an attempt that nobody has."""
    old = sent.path.rpartition("/")[2]
    return replace(
        forged,
        path=forged.path.replace(old, attempt)
        .replace(old.upper(), attempt.upper())
        .replace(old.replace("-", ""), attempt.replace("-", "")),
    )


def test_a_thousand_forgeries_change_nothing_and_learn_nothing(
    deliver, dump, engine, forger, attempts
):
    before, statuses = dump(), {}
    for number, kind in zip(range(MANY), itertools.cycle(KINDS), strict=False):
        sent = forger.honest(attempts[number % len(attempts)])
        forged = kind(forger, sent)
        answer = deliver(forged)
        statuses.setdefault(kind.__name__, set()).add(answer.status_code)
        assert answer.status_code in REFUSALS, (kind.__name__, forged, answer.text)
        nobodys = deliver(aimed_at(str(uuid4()), sent, forged))
        assert told(nobodys) == told(answer), (kind.__name__, forged)
    assert dump() == before
    other = {"huge_body": {413}, "body_shorter_than_it_says": {400}, "chunked": {411}}
    other |= {"method_changed": {405}}
    assert statuses == {kind.__name__: {403} for kind in KINDS} | other

    honest = forger.honest(attempts[0], CallStatus="completed", CallDuration="7")
    assert deliver(honest).status_code == 204
    assert attempt_of(engine, attempts[0])["duration"] == 7
    assert dump() != before


def test_what_is_signed_but_runs_together_differently_changes_nothing(
    deliver, dump, forger, attempts
):
    """Twilio signs names and values without a mark between them, so borders can be moved."""
    before = dump()
    for attempt in attempts:
        sent = forger.honest(attempt)
        text = "".join(f"{name}{value}" for name, value in sorted(sent.fields))
        for border in range(1, len(text)):
            moved = replace(sent, fields=((text[:border], text[border:]),))
            assert deliver(moved).status_code == 204  # signed, and not understood
        for cut in range(0, len(text), 3):
            path = f"{sent.path}{text[:cut]}"
            moved = replace(sent, path=path, fields=((text[cut:], ""),))
            assert deliver(moved).status_code in (204, 404)
    assert dump() == before


def test_an_honest_callback_of_a_thousand_years_ago_changes_nothing_when_replayed(
    deliver, dump, forger, attempts
):
    first = forger.honest(attempts[0], CallStatus="ringing")
    last = replace(first, fields=(*_without(first.fields, "CallStatus"), ("CallStatus", "busy")))
    last = replace(last, signature=forger.sign(forger.base + last.path, last.fields))
    assert [deliver(sent).status_code for sent in (first, last)] == [204, 204]
    before = dump()
    assert [deliver(sent).status_code for sent in (first, last, first)] == [204, 204, 204]
    assert dump() == before


def test_the_order_of_fields_and_the_type_of_the_body_are_not_signed(deliver, forger, attempts):
    """Whoever can change only these changes nothing: the callback says the same."""
    sent = forger.honest(attempts[0])
    assert deliver(replace(sent, fields=sent.fields[::-1])).status_code == 204
    assert deliver(replace(sent, headers=(("Content-Type", "text/plain"),))).status_code == 204


def test_a_callback_for_an_attempt_that_nobody_has_needs_a_signature_to_learn_so(
    deliver, forger, attempts
):
    unknown, strange = forger.honest(uuid4()), forger.honest("nonsense")
    assert [deliver(sent).status_code for sent in (unknown, strange)] == [404, 404]
    forged = [deliver(replace(sent, signature="x")) for sent in (unknown, strange)]
    forged.append(deliver(replace(forger.honest(attempts[0]), signature="x")))
    assert {answer.status_code for answer in forged} == {403}
    assert told(forged[0]) == told(forged[1]) == told(forged[2])
