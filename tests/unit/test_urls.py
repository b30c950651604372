"""URLs that we hand on lead to public hosts, in whatever spelling."""

import pytest

from outbound import urls

REFUSED = [
    "http://localhost",
    "http://localhost.",
    "http://LOCALHOST:80/x",
    "http://a.localhost",
    "http://127.0.0.1",
    "http://127.1",
    "http://127.0.1",
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.1",
    "http://0177.0.0.1",
    "http://017700000001",
    "http://127.0.0.1.",
    "http://10.0.0.1",
    "http://10.1",
    "http://172.16.0.1",
    "http://172.31.255.255",
    "http://192.168.1.1",
    "http://192.168.257",
    "http://169.254.169.254",
    "http://169.254.169.254.",
    "http://2852039166",
    "http://0xa9fea9fe",
    "http://0251.0376.0251.0376",
    "http://metadata",
    "http://metadata.google.internal",
    "http://100.64.0.1",
    "http://0.0.0.0",
    "http://0",
    "http://0x0",
    "http://255.255.255.255",
    "http://224.0.0.1",
    "http://240.0.0.1",
    "http://198.18.0.1",
    "http://192.0.2.1",
    "http://[::1]",
    "http://[::]",
    "http://[0:0:0:0:0:0:0:1]",
    "http://[::ffff:127.0.0.1]",
    "http://[::ffff:7f00:1]",
    "http://[::ffff:10.0.0.1]",
    "http://[::ffff:169.254.169.254]",
    "http://[fe80::1]",
    "http://[fe80::1%25eth0]",
    "http://[fc00::1]",
    "http://[fd00:ec2::254]",
    "http://[ff02::1]",
    "http://[2001:db8::1]",
    "http://[64:ff9b::7f00:1]",
    "http://[2002:7f00:1::]",
    "http://[::127.0.0.1]",
    "http://[::ffff:0:127.0.0.1]",
    "http://[64:ff9b:1::7f00:1]",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "http://168.63.129.16",
    "http://kubernetes.default.svc",
    "http://user@example.com",
    "http://example.com@127.0.0.1",
    "http://user:pass@example.com",
    "http://printer.local",
    "http://db.internal",
    "http://intranet",
    "http://host.lan",
    "http://127.0.0.1%2eexample",
    "http://%31%32%37.0.0.1",
    "http://１２７.0.0.1",
    "http://127。0。0。1",
    "http://⑯⑨.254.169.254",
    "http://256.1.1.1",
    "http://1.2.3.4.5",
    "http://09.1.1.1",
    "http://0x7f.0x0.0x0.0x1",
    "http://00000000000000000000000000000177.0.0.1",
    "http://x.home.arpa",
    "http://example.0",
    "http://a.b.127",
    "http://localhost。",
    "http://localhost｡",
    "http://127.0.0.1。",
    "http://127.0.0.1｡",
    "http://127.0.0.\u00ad1",
    "http://169.254.169.\u00ad254",
    "http://a.loc\u00adal",
    "http://db.inter\u200bnal",
    "http://metadata.google.intern\u00adal",
]

INVALID = [
    "",
    "example.com",
    "//example.com",
    "ftp://example.com",
    "javascript:alert(1)",
    "file:///etc/passwd",
    "http://",
    "http://[::1",
    "http://example.com:99999",
    "http://exa mple.com",
    "http://example.com/\n",
    "http://example.com\\@127.0.0.1",
    "gopher://example.com",
    "http:///x",
    "data:text/xml,x",
    "http://example.com:x",
    "http://example.com/\x7f",
    "http://[v1.x]/",
]

ALLOWED = [
    "https://example.com",
    "http://example.com/twiml?x=1#y",
    "https://example.com:8443/",
    "https://sub.example.co.il/",
    "https://8.8.8.8/",
    "https://[2606:4700::1111]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[64:ff9b::808:808]/",
    "https://xn--4dbrk0ce.example.com",
    "https://1.example.com",
    "https://א.example.com",
    "https://example.com。/",
    "https://example.com./",
]


@pytest.mark.parametrize("url", REFUSED)
def test_private_places_are_refused_in_every_spelling(url):
    assert urls.check(url, allow_private=False) in ("url_not_allowed", "invalid_url")


def test_there_are_at_least_sixty_of_them():
    assert len(set(REFUSED)) >= 60


@pytest.mark.parametrize("url", INVALID)
def test_what_is_no_web_address_is_invalid_even_in_development(url):
    assert urls.check(url, allow_private=True) == "invalid_url"


@pytest.mark.parametrize("url", ALLOWED)
def test_public_web_addresses_are_fine(url):
    assert urls.check(url, allow_private=False) is None


def test_development_may_use_private_addresses():
    assert urls.check("http://127.0.0.1:8080/twiml", allow_private=True) is None
