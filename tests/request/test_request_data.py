"""What of a request is reported: each part by its flag, no secret, and no address unasked."""

from __future__ import annotations

import json
import logging
import pickle
from collections import OrderedDict
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.requests_of import environ_of, scope_of
from usercontext.exceptions import ConfigurationError
from usercontext.request import RequestData
from usercontext.request.description import collect

BUILDERS = {"asgi": scope_of, "wsgi": environ_of}
both = pytest.mark.parametrize("build", BUILDERS.values(), ids=list(BUILDERS))

CLIENT = "203.0.113.9"
EVERYTHING = RequestData(
    include_query_string=True, include_headers=True, include_cookies=True, include_data=True
)


# -- options --

WRONG: list[tuple[str, dict[str, Any], str]] = [
    *((f"{flag} no flag", {flag: 1}, flag) for flag in (
        "include_ip", "include_url", "include_query_string", "include_headers",
        "include_cookies", "include_data",
    )),
    ("flag as text", {"include_ip": "yes"}, "True or False"),
    ("anonymize True", {"anonymize_ip": True}, '"mask"'),
    ("anonymize another word", {"anonymize_ip": "hash"}, '"mask"'),
    ("one prefix", {"anonymize_ip": (24,)}, "two prefixes"),
    ("prefix too long", {"anonymize_ip": (33, 48)}, "1 to 32"),
    ("prefix 0", {"anonymize_ip": (24, 0)}, "1 to 128"),
    ("prefix True", {"anonymize_ip": (True, 48)}, "1 to 32"),
    ("prefix as text", {"anonymize_ip": ("24", "48")}, "1 to 32"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "words"), [r[1:] for r in WRONG], ids=[r[0] for r in WRONG])
def test_wrong_option_says_what_to_write(config: dict[str, Any], words: str) -> None:
    """A wrong option raises when it is built, naming the option and the fix."""
    with pytest.raises(ConfigurationError) as caught:
        RequestData(**config)
    assert words in str(caught.value)
    assert next(iter(config)) in str(caught.value)


def test_equal_by_its_options() -> None:
    """Two of the same options are equal and hash alike, however these were spelled."""
    first = RequestData(include_ip=True, trusted_proxies=["10.0.0.0/8"])
    second = RequestData(True, trusted_proxies=("10.0.0.0/8",), forwarded_header="X-Forwarded-For")
    assert first == second
    assert hash(first) == hash(second)
    assert first != RequestData()
    assert first != "RequestData"


def test_repr_shows_what_was_chosen() -> None:
    """The text of it names the options that are not the default."""
    assert repr(RequestData()) == "RequestData()"
    written = repr(RequestData(include_ip=True, anonymize_ip=[16, 32]))
    assert written == "RequestData(include_ip=True, anonymize_ip=(16, 32))"


def test_cannot_be_changed() -> None:
    """It is frozen, and has no place for other attributes."""
    for name in ("include_ip", "other"):
        with pytest.raises(AttributeError, match="build another"):
            setattr(RequestData(), name, True)
    with pytest.raises(AttributeError, match="build another"):
        del RequestData().include_ip


def test_survives_pickling() -> None:
    """It goes to another process as it is."""
    options = RequestData(include_ip=True, trusted_proxies=["loopback"], anonymize_ip="mask")
    assert pickle.loads(pickle.dumps(options)) == options


# -- the address --


@both
def test_address_only_if_asked(build: Any) -> None:
    """Without include_ip there is no address to report; it can still be located."""
    assert RequestData().ip_address(build(CLIENT)) is None
    assert RequestData().locate(build(CLIENT)).address == CLIENT
    assert RequestData(include_ip=True).ip_address(build(CLIENT)) == CLIENT


ANONYMIZED: list[tuple[Any, str, str | None]] = [
    ("mask", "203.0.113.9", "203.0.113.0"),
    ("mask", "2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
    ("mask", "::1", None),
    ("mask", "0.0.0.9", None),
    ("mask", "2002:cb00:7109:2:3:4:5:6", "2002:cb00:7100::"),
    ("mask", "64:ff9b::203.0.113.9", "64:ff9b::cb00:7100"),
    ("mask", "2001:0:c633:6401:0:ffff:34ff:8ef6", "2001:0:c633::"),
    ("mask", "::203.0.113.9", "::cb00:7100"),
    ("mask", "::ffff:203.0.113.9", "203.0.113.0"),
    ((24, 128), "2001:0:c633:6401:0:ffff:34ff:8ef6", "2001:0:c633:6401::"),
    ((24, 128), "2002:cb00:7109:2:3:4:5:6", "2002:cb00:7100::"),
    ((24, 128), "2001:db8::5efe:cb00:7109", "2001:db8::5efe:cb00:7100"),
    ((8, 32), "64:ff9b::203.0.113.9", "64:ff9b::cb00:0"),
    ((16, 32), "203.0.113.9", "203.0.0.0"),
    ((16, 32), "2001:db8:1:2:3:4:5:6", "2001:db8::"),
    ((32, 128), "203.0.113.9", "203.0.113.9"),
    ([8, 8], "203.0.113.9", "203.0.0.0"),
    (lambda _: "192.0.2.1", "203.0.113.9", "192.0.2.1"),
    (lambda _: "2001:DB8::1", "203.0.113.9", "2001:db8::1"),
    (lambda _: None, "203.0.113.9", None),
    (lambda _: "a person", "203.0.113.9", None),
    (lambda _: 7, "203.0.113.9", None),
    (lambda _: "0.0.0.0", "203.0.113.9", None),
    (lambda address: [][len(address)], "203.0.113.9", None),
]


@both
@pytest.mark.parametrize(("anonymize", "peer", "expected"), ANONYMIZED)
def test_anonymized(build: Any, anonymize: Any, peer: str, expected: str | None) -> None:
    """The address is made to say less before anybody sees it."""
    options = RequestData(include_ip=True, anonymize_ip=anonymize)
    assert options.ip_address(build(peer)) == expected
    assert options.locate(build(peer)).address == expected


@pytest.mark.parametrize("answer", [lambda address: [][len(address)], lambda address: address * 2])
def test_failing_anonymizer_is_logged_once(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A callable that raises or returns no address is logged once, without the address."""
    options = RequestData(include_ip=True, anonymize_ip=answer)
    for _ in range(3):
        assert options.ip_address(scope_of(CLIENT)) is None
    assert len(caplog.records) == 1
    assert "anonymize_ip" in caplog.text
    assert CLIENT not in caplog.text


def test_anonymizer_is_not_asked_without_an_address() -> None:
    """A callable gets addresses only."""
    asked: list[str] = []
    options = RequestData(include_ip=True, anonymize_ip=asked.append)
    options.ip_address(scope_of(None))
    assert asked == []


@both
def test_reported_address_is_the_resolved_one(build: Any) -> None:
    """REMOTE_ADDR is the client's address as found and anonymised, never the raw peer."""
    source = build("10.0.0.1", [("X-Forwarded-For", CLIENT)])
    options = RequestData(include_ip=True, trusted_proxies=["10.0.0.1"], anonymize_ip="mask")
    assert collect(options, source)["env"] == {"REMOTE_ADDR": "203.0.113.0"}
    assert "env" not in collect(options, source, include_ip=False)
    assert "env" not in collect(RequestData(), source)
    assert collect(RequestData(), source, include_ip=True)["env"] == {"REMOTE_ADDR": "10.0.0.1"}


# -- the parts --


@both
def test_default_is_method_and_url(build: Any) -> None:
    """Nothing but the method and the URL without its query is reported unless asked for."""
    headers = [("Host", "example.com"), ("Cookie", "a=b"), ("User-Agent", "ua")]
    payload = collect(RequestData(), build(CLIENT, headers), data={"a": 1})
    assert payload == {"method": "GET", "url": "http://example.com/"}
    assert collect(RequestData(include_url=False), build(CLIENT, headers)) == {"method": "GET"}


URLS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "query left out",
        {"path": "/a", "query_string": b"x=1"},
        {"PATH_INFO": "/a", "QUERY_STRING": "x=1"},
        "http://198.51.100.1/a",
    ),
    (
        "mounted",
        {"path": "/api/a", "root_path": "/api"},
        {"SCRIPT_NAME": "/api", "PATH_INFO": "/a"},
        "http://198.51.100.1/api/a",
    ),
    (
        "port",
        {"server": ("example.com", 8080)},
        {"SERVER_NAME": "example.com", "SERVER_PORT": "8080"},
        "http://example.com:8080/",
    ),
    (
        "https",
        {"scheme": "https", "server": ("example.com", 443)},
        {"wsgi.url_scheme": "https", "SERVER_NAME": "example.com", "SERVER_PORT": "443"},
        "https://example.com/",
    ),
    (
        "IPv6",
        {"server": ("2001:db8::1", 80)},
        {"SERVER_NAME": "2001:db8::1"},
        "http://[2001:db8::1]/",
    ),
    (
        "escaped",
        {"path": "/é %?#"},
        {"PATH_INFO": "/é %?#".encode().decode("latin-1")},
        "http://198.51.100.1/%C3%A9%20%25%3F%23",
    ),
    (
        "odd scheme",
        {"scheme": "javascript"},
        {"wsgi.url_scheme": "javascript"},
        "http://198.51.100.1/",
    ),
    ("no slash", {"path": "*"}, {"PATH_INFO": "*"}, "http://198.51.100.1/*"),
    ("no server", {"server": None}, {"SERVER_NAME": None}, "/"),
    ("unix server", {"server": ("/run/x.sock", None)}, {"SERVER_NAME": "/run/x.sock"}, "/"),
]


@pytest.mark.parametrize(
    ("scope", "environ", "url"), [r[1:] for r in URLS], ids=[r[0] for r in URLS]
)
def test_url(scope: dict[str, Any], environ: dict[str, Any], url: str) -> None:
    """Both interfaces give the same URL."""
    assert collect(RequestData(), scope_of(CLIENT, **scope))["url"] == url
    assert collect(RequestData(), environ_of(CLIENT, **environ))["url"] == url


HOSTS = [
    ("example.com", "http://example.com/"),
    ("example.com:8080", "http://example.com:8080/"),
    ("[2001:db8::1]:80", "http://[2001:db8::1]:80/"),
    ("user:secret@example.com", "http://example.com/"),
    ("<script>", "http://198.51.100.1/"),
    ("a/b?c", "http://198.51.100.1/"),
    ("x" * 300, "http://198.51.100.1/"),
    ("\xff", "http://198.51.100.1/"),
    ("", "http://198.51.100.1/"),
    (CLIENT, "http://198.51.100.1/"),
]


@both
@pytest.mark.parametrize(("host", "url"), HOSTS)
def test_hostile_host(build: Any, host: str, url: str) -> None:
    """What is not a host is not believed: the server's own name stands there instead."""
    assert collect(RequestData(), build(CLIENT, [("Host", host)]))["url"] == url


def test_paths_of_servers_that_differ() -> None:
    """Whether or not a server puts root_path before path, it is in the URL once."""
    for path in ("/a", "/api/a"):
        scope = scope_of(CLIENT, path=path, root_path="/api/")
        assert collect(RequestData(), scope)["url"] == "http://198.51.100.1/api/a"


def test_raw_path_alone() -> None:
    """A scope without a path has its raw path shown."""
    scope = scope_of(CLIENT, path=None, raw_path=b"/a%20b?token=x")
    assert collect(RequestData(), scope)["url"] == "http://198.51.100.1/a%20b"


def test_websocket() -> None:
    """A websocket is described as the GET that its handshake was."""
    scope = scope_of(CLIENT, type="websocket", scheme="ws")
    del scope["method"]
    assert collect(RequestData(), scope) == {"method": "GET", "url": "ws://198.51.100.1/"}


@pytest.mark.parametrize("method", ["<script>", "\xff", " "])
@both
def test_hostile_method(build: Any, method: str) -> None:
    """What is not a method is left out."""
    changes = {"REQUEST_METHOD": method} if build is environ_of else {"method": method}
    assert "method" not in collect(RequestData(), build(CLIENT, **changes))


QUERIES = [
    ("a=1&b=2", "a=1&b=2"),
    ("a=1&a=2&c", "a=1&a=2&c"),
    ("token=x&api_key=y&PASSWORD=z", "token=[Filtered]&api_key=[Filtered]&PASSWORD=[Filtered]"),
    ("user%5Bpassword%5D=x", "user%5Bpassword%5D=[Filtered]"),
    ("next=%2Fx%3Ftoken%3Dabc", "next=[Filtered]"),
    (f"q={CLIENT}", "q=[Filtered]"),
    (f"{CLIENT}=q", "[Filtered]"),
    ("q=203%2E0%2E113%2E9", "q=[Filtered]"),
    ("q=203%252E0%252E113%252E9", "q=[Filtered]"),
    ("q=\xff\x00", "q=??"),
    ("token=", "token="),
    ("code=x&state=y", "code=[Filtered]&state=[Filtered]"),
    ("X-Amz-Signature=x&sig=y", "X-Amz-Signature=[Filtered]&sig=[Filtered]"),
    ("data=%7B%22password%22%3A%22x%22%7D", "data=[Filtered]"),
    ("size=%7B%22a%22%3A1%7D", "size=%7B%22a%22%3A1%7D"),
]


@both
@pytest.mark.parametrize(("query", "shown"), QUERIES)
def test_query_string(build: Any, query: str, shown: str) -> None:
    """The values of secret names are filtered, the names kept."""
    key, value = ("QUERY_STRING", query) if build is environ_of else (
        "query_string", query.encode("latin-1")
    )  # fmt: skip
    payload = collect(EVERYTHING, build(CLIENT, **{key: value}))
    assert payload["query_string"] == shown


@both
def test_long_query_is_cut(build: Any) -> None:
    """A query is bounded, and the cut is marked."""
    for query in ("a=" + "x" * 100_000, "&".join(["a=1"] * 10_000)):
        key, value = ("QUERY_STRING", query) if build is environ_of else (
            "query_string", query.encode()
        )  # fmt: skip
        shown = collect(EVERYTHING, build(CLIENT, **{key: value}))["query_string"]
        assert len(shown) < 5000
        assert shown.endswith("...")


HEADERS: list[tuple[str, str, dict[str, str]]] = [
    ("User-Agent", "ua", {"User-Agent": "ua"}),
    ("Authorization", "Bearer x", {"Authorization": "[Filtered]"}),
    ("X-Api-Key", "x", {"X-Api-Key": "[Filtered]"}),
    ("X-CSRFToken", "x", {"X-Csrftoken": "[Filtered]"}),
    ("Sec-WebSocket-Protocol", "bearer, x", {"Sec-Websocket-Protocol": "[Filtered]"}),
    ("Cookie", "a=b", {}),
    ("Host", "user:secret@example.com", {"Host": "example.com"}),
    ("Referer", "https://u:p@x.org/a?b=1&token=2#c", {"Referer": "https://x.org/a"}),
    ("X-Original-URI", "/a?token=2", {"X-Original-Uri": "/a"}),
    ("X-Thing", "\xff", {"X-Thing": "\xff"}),
    ("X-Envoy-Original-Path", "/a?b=2", {"X-Envoy-Original-Path": "/a"}),
    ("X-Forwarded-Query", "b=2", {"X-Forwarded-Query": "[Filtered]"}),
    ("X-Repeated", "/a?b=2", {"X-Repeated": "/a"}),
    ("X-Thing", "Bearer hunter2", {"X-Thing": "Bearer [Filtered]"}),
    ("X-Amzn-Oidc-Data", "x", {"X-Amzn-Oidc-Data": "[Filtered]"}),
    ("DPoP", "x", {"Dpop": "[Filtered]"}),
    ("X-Client-Cert", "x", {"X-Client-Cert": "[Filtered]"}),
]


@both
@pytest.mark.parametrize(("name", "value", "shown"), HEADERS, ids=[row[0] for row in HEADERS])
def test_headers(build: Any, name: str, value: str, shown: dict[str, str]) -> None:
    """Headers are reported by name, secrets filtered and cookies never raw."""
    payload = collect(RequestData(include_headers=True), build(CLIENT, [(name, value)]))
    assert payload.get("headers", {}) == shown


def test_path_in_a_header() -> None:
    """A header that repeats the path tells it no more than the URL does."""
    options = RequestData(include_url=False, include_headers=True)
    payload = collect(options, scope_of(CLIENT, [("X-Original-URL", "/of/ada")]))
    assert payload["headers"] == {"X-Original-Url": "[Filtered]"}


def test_query_of_a_referer() -> None:
    """The query of a URL in a header is shown as the request's own is: filtered, if asked for."""
    scope = scope_of(CLIENT, [("Referer", "https://x.org/a?b=1&token=2")])
    payload = collect(EVERYTHING, scope)
    assert payload["headers"]["Referer"] == "https://x.org/a?b=1&token=[Filtered]"


@both
def test_repeated_headers_are_one_list(build: Any) -> None:
    """Several lines of a header are shown as one, as WSGI servers join them."""
    payload = collect(EVERYTHING, build(CLIENT, [("Accept", "a"), ("Accept", "b")]))
    assert payload["headers"] == {"Accept": "a,b"}


def test_content_headers_of_wsgi() -> None:
    """The two headers that WSGI keeps apart are headers as well."""
    environ = environ_of(CLIENT, CONTENT_TYPE="text/plain", CONTENT_LENGTH="")
    assert collect(EVERYTHING, environ)["headers"] == {"Content-Type": "text/plain"}


@both
def test_headers_are_bounded(build: Any) -> None:
    """Of many headers, and of long ones, a part is reported."""
    many = collect(EVERYTHING, build(CLIENT, [(f"x-{i}", "y" * 100_000) for i in range(500)]))
    assert len(many["headers"]) <= 128
    assert all(len(value) < 2100 for value in many["headers"].values())


@both
def test_cookies(build: Any) -> None:
    """Cookies are reported by name, those of secret names filtered."""
    header = f'theme=dark; sessionid=x; csrftoken=y; q="a b"; broken; =z; seen={CLIENT}'
    payload = collect(EVERYTHING, build(CLIENT, [("Cookie", header)]))
    assert payload["cookies"] == {
        "theme": "dark",
        "sessionid": "[Filtered]",
        "csrftoken": "[Filtered]",
        "q": "a b",
        "seen": "[Filtered]",
    }
    assert "headers" not in payload


@pytest.mark.parametrize(
    "cookie",
    ["remember_me=x", "wordpress_logged_in_1=x", "koa.sess=x", "prefs=%7B%22token%22%3A%22x%22%7D"],
)
def test_secret_cookies(cookie: str) -> None:
    """Cookies that keep somebody logged in, or hold a secret within them, are filtered."""
    payload = collect(EVERYTHING, scope_of(CLIENT, [("Cookie", cookie)]))
    assert payload["cookies"] == {cookie.partition("=")[0]: "[Filtered]"}


# -- data --


class Secretive:
    """An object whose text must not be asked for."""

    def __str__(self) -> str:
        raise AssertionError


DATA: list[tuple[Any, Any]] = [
    ({"a": 1, "b": [True, None, 1.5]}, {"a": 1, "b": [True, None, 1.5]}),
    ({"password": "x"}, {"password": "[Filtered]"}),
    ({"User": {"api_token": 1}}, {"User": {"api_token": "[Filtered]"}}),
    ({1: 2}, {"1": 2}),
    ((1, 2), [1, 2]),
    (OrderedDict(a=1), {"a": 1}),
    ({"f": Secretive()}, {"f": "<Secretive>"}),
    ({"f": b"xyz"}, {"f": "<3 bytes>"}),
    ([Decimal("1.5"), UUID(int=1)], ["1.5", "00000000-0000-0000-0000-000000000001"]),
    ([date(2024, 5, 1)], ["2024-05-01"]),
    ([float("nan"), float("inf"), 10**30], ["nan", "inf", str(10**30)]),
    ("plain text", "[Filtered]"),
    ("a=1&password=x", {"a": "1", "password": "[Filtered]"}),
    (b'{"password": "x", "a": [1]}', {"password": "[Filtered]", "a": [1]}),
    ('{"password": "x', "[Filtered]"),
    ("x" * 70_000, "[Filtered]"),
    ("&".join(["a=1"] * 200), "[Filtered]"),
    ("user: ada\npassword: x", "[Filtered]"),
    ("<a><password>x</password></a>", "[Filtered]"),
    ('--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--', "[Filtered]"),
    ("a=1;password=x", "[Filtered]"),
    (b'\xef\xbb\xbf{"a": 1, "password": "x"}', {"a": 1, "password": "[Filtered]"}),
    ('"{\\"password\\": \\"x\\"}"', {"password": "[Filtered]"}),
    ('{"a": 1}\n{"password": "x"}', "[Filtered]"),
    ({"a": '{"password": "x"}'}, {"a": '{"password": "[Filtered]"}'}),
    ("a=1&b={%22token%22:%22x%22}", {"a": "1", "b": '{"token": "[Filtered]"}'}),
    ({"url": "https://ada:x@a.org/?b=1&sig=y"},
     {"url": "https://[Filtered]@a.org/?b=1&sig=[Filtered]"}),
    ([{"name": "password", "value": "x"}], [{"name": "password", "value": "[Filtered]"}]),
    ({"from": f"by {CLIENT}"}, {"from": "[Filtered]"}),
    (0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("data", "shown"), DATA)
def test_data(data: Any, shown: Any) -> None:
    """What the app handed over is copied as JSON values, the client's secrets filtered."""
    assert collect(EVERYTHING, scope_of(CLIENT), data=data)["data"] == shown


def test_data_is_bounded() -> None:
    """Deep, wide, long and endless data are cut, and the cut is marked."""
    endless: list[Any] = []
    endless.append(endless)
    data = {
        "a": endless,
        "b": ["x"] * 1000,
        "c": "y" * 100_000,
        "d": {str(i): i for i in range(500)},
    }
    text = json.dumps(collect(EVERYTHING, scope_of(CLIENT), data=data)["data"])
    assert len(text) < 10_000
    assert text.count('..."') >= 4
    total = collect(EVERYTHING, scope_of(CLIENT), data=[["z" * 2000] * 50] * 50)["data"]
    assert len(json.dumps(total)) < 50_000


def test_data_is_not_shared() -> None:
    """What the app does with its data later does not change the report."""
    data = {"a": [1]}
    payload = collect(EVERYTHING, scope_of(CLIENT), data=data)
    data["a"].append(2)
    assert payload["data"] == {"a": [1]}


# -- no address unasked --

ADDRESS_LINES = [
    "X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "Client-IP", "X-Cluster-Client-IP",
    "CF-Connecting-IP", "CF-Connecting-IPv6", "CF-Pseudo-IPv4", "True-Client-IP",
    "Fastly-Client-IP", "Fly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP",
    "X-AppEngine-User-IP", "DO-Connecting-IP", "X-Vercel-Forwarded-For",
    "X-Sentry-Forwarded-For", "X-Envoy-External-Address", "CloudFront-Viewer-Address",
    "X-Original-Forwarded-For", "X-Forwarded", "Forwarded-For", "Remote-Addr", "X_Forwarded_For",
]  # fmt: skip


@both
@pytest.mark.parametrize("name", ADDRESS_LINES)
def test_address_headers_are_dropped(build: Any, name: str) -> None:
    """Without include_ip no header made for addresses is reported, in either spelling."""
    source = build(CLIENT, [(name, "for=198.51.100.77"), ("Accept", "*/*")])
    payload = collect(EVERYTHING, source)
    assert payload["headers"] == {"Accept": "*/*"}
    asked = collect(RequestData(include_ip=True, include_headers=True), source)
    assert "198.51.100.77" in json.dumps(asked)


@pytest.mark.parametrize(
    "name",
    [
        "X-NF-Client-Connection-IP", "EO-Connecting-IP", "Ali-CDN-Real-IP", "CDN-Src-IP",
        "X-Sucuri-ClientIP", "X-Appengine-Remote-Addr", "WL-Proxy-Client-IP", "X_Remote_IP",
        "X-Originating-IP", "X-Visitor-Address", "X-Client-IPv6",
    ],
)  # fmt: skip
def test_names_of_address_headers(name: str) -> None:
    """A header whose name says that it holds an address is dropped, known or not."""
    source = scope_of(CLIENT, [(name, "for=198.51.100.77"), ("X-Zip", "94110"), ("X-Tip", "a")])
    payload = collect(EVERYTHING, source)
    assert payload["headers"] == {"X-Zip": "94110", "X-Tip": "a"}


@pytest.mark.parametrize(
    "value",
    ["198.51.100.77", "198.51.100.77:80, 10.0.0.2", "[2001:db8::7]:80", 'for="[2001:db8::7]"'],
)
def test_headers_of_addresses_alone(value: str) -> None:
    """What a header of any name says is withheld where it is nothing but addresses."""
    kept = {"X-Version": "1.2.3.4", "X-Forwarded-Host": "10.0.0.1", "User-Agent": "a 1.2.3.4"}
    payload = collect(EVERYTHING, scope_of(CLIENT, [("X-Thing", value), *kept.items()]))
    assert payload["headers"] == {"X-Thing": "[Filtered]", **kept}


@both
def test_configured_header_is_dropped(build: Any) -> None:
    """The header that the address is read from is dropped too, whatever its name."""
    options = RequestData(
        include_headers=True, trusted_proxies=["unix"], forwarded_header="X-My-Client"
    )
    assert "headers" not in collect(options, build(CLIENT, [("X-My-Client", "198.51.100.77")]))


SPELLINGS = [
    (CLIENT, CLIENT),
    (CLIENT, f"::ffff:{CLIENT}"),
    (CLIENT, "::FFFF:CB00:7109"),
    (CLIENT, f"ip={CLIENT}:8080"),
    (CLIENT, f"x{CLIENT}y"),
    (CLIENT, "203.000.113.009"),
    (CLIENT, "ec2-203-0-113-9.example.com"),
    ("2001:db8::9", "2001:DB8:0:0:0:0:0:9"),
    ("2001:db8::9", "2001:0db8::0009"),
    ("2001:db8::9", "[2001:db8::9]:443"),
    ("[2001:db8::9%eth0]:443", "2001:db8::9"),
    (f"::ffff:{CLIENT}", CLIENT),
]


@both
@pytest.mark.parametrize(("peer", "written"), SPELLINGS)
def test_no_spelling_of_the_client_leaves(build: Any, peer: str, written: str) -> None:
    """A client that repeats its address in any spelling, anywhere, is not reported with it."""
    source = build(
        peer,
        [
            ("X-Thing", written),
            ("Via", f"1.1 {written}"),
            ("X-Forwarded-Host", written),
            ("Cookie", f"seen={written}; {written}=x"),
            ("Referer", f"http://{written}/"),
        ],
    )
    if build is environ_of:
        source |= {"PATH_INFO": f"/{written}/x", "QUERY_STRING": f"a={written}&{written}"}
    else:
        source |= {"path": f"/{written}/x", "query_string": f"a={written}&{written}".encode()}
    text = json.dumps(collect(EVERYTHING, source, data={"a": [written], written: 1}))
    assert written.lower() not in text.lower()
    assert CLIENT not in text


@both
def test_no_number_of_headers_crowds_out_the_client(build: Any) -> None:
    """However much a client sends, the address that a proxy wrote at the end stays hidden."""
    noise = [(f"x-{number}", "y") for number in range(300)]
    chain = "6.6.6.6, " * 5000 + CLIENT
    headers = [("X-Thing", CLIENT), *noise, ("X-Forwarded-For", chain)]
    assert CLIENT not in json.dumps(collect(EVERYTHING, build("10.0.0.1", headers)))


@both
def test_anonymized_requests_hide_the_raw_address(build: Any) -> None:
    """With anonymize_ip the raw address leaves nowhere, though an address was asked for."""
    source = build("10.0.0.1", [("X-Forwarded-For", CLIENT), ("X-Thing", f"of {CLIENT}")])
    options = RequestData(
        include_ip=True, include_headers=True, trusted_proxies=["private"], anonymize_ip="mask"
    )
    payload = collect(options, source)
    assert payload["env"] == {"REMOTE_ADDR": "203.0.113.0"}
    assert payload["headers"] == {"X-Thing": "[Filtered]"}


@both
def test_address_of_the_host_is_no_secret(build: Any) -> None:
    """Where client and server have one address, as in development, the URL still says where."""
    changes: dict[str, Any] = {"server": ("127.0.0.1", 80)}
    if build is environ_of:
        changes = {"SERVER_NAME": "127.0.0.1"}
    source = build("127.0.0.1", [("Host", "127.0.0.1")], **changes)
    assert collect(RequestData(), source)["url"] == "http://127.0.0.1/"


def test_peer_set_aside_by_proxyfix_is_hidden() -> None:
    """The peer that werkzeug's ProxyFix replaced is an address of the request too."""
    environ = environ_of(CLIENT, [("X-Thing", "10.9.9.9")])
    environ["werkzeug.proxy_fix.orig"] = {"REMOTE_ADDR": "10.9.9.9"}
    assert collect(EVERYTHING, environ)["headers"] == {"X-Thing": "[Filtered]"}


# -- hostile requests --

HOSTILE: list[dict[str, Any]] = [
    {},
    {"type": "http"},
    {"type": "http", "headers": None, "client": None, "server": None, "path": None},
    {"type": "http", "headers": [[b"a"], None, 5, (b"a", b"b", b"c"), ("str", "str")]},
    {"type": "http", "headers": [(b"x-forwarded-for", None), (None, b"x")]},
    {"type": "http", "headers": 5, "client": 5, "server": 5, "path": 5, "query_string": 5},
    {"type": "http", "headers": {b"a": b"b"}, "client": {}, "server": {}, "scheme": []},
    {"type": "http", "client": ([], 1)},
    {"type": "http", "client": (5, 1)},
    {"type": "http", "client": "203.0.113.9", "root_path": 5, "raw_path": 5},
    {"type": "http", "path": "\ud800", "method": 5},
    {"REQUEST_METHOD": None},
    {"REQUEST_METHOD": "GET", "REMOTE_ADDR": 5, "SERVER_NAME": 5, "PATH_INFO": None},
    {"REQUEST_METHOD": "GET", "REMOTE_ADDR": [], "QUERY_STRING": b"x", "HTTP_COOKIE": 5},
    {"REQUEST_METHOD": "GET", "werkzeug.proxy_fix.orig": 5, "PATH_INFO": "/\u20ac", 5: 5},
    {"REQUEST_METHOD": "GET", "werkzeug.proxy_fix.orig": {}, "HTTP_X_FORWARDED_FOR": 5},
]


@pytest.mark.parametrize("source", HOSTILE, ids=[str(source)[:60] for source in HOSTILE])
def test_hostile_source_raises_nothing(source: dict[str, Any]) -> None:
    """Whatever stands in a scope or environ, describing it raises nothing and is JSON."""
    for options in (
        EVERYTHING,
        RequestData(include_ip=True, include_headers=True),
        RequestData(include_ip=True, trusted_hops=1, trusted_proxies=["unix", "private"]),
        RequestData(include_ip=True, trusted_hops=1),
    ):
        json.dumps(collect(options, source))
        options.ip_address(source)
        options.locate(source)


def test_headers_of_the_app_are_not_eaten() -> None:
    """Headers given as an iterator are the app's to read: none is taken from it."""
    headers = iter([(b"accept", b"*/*")])
    options = RequestData(include_ip=True, include_headers=True, trusted_hops=1)
    scope = scope_of(CLIENT) | {"headers": headers}
    collect(options, scope)
    assert options.ip_address(scope) is None
    assert list(headers) == [(b"accept", b"*/*")]


def test_unreadable_part_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """A part that cannot be read costs that part only, and is logged without the data."""

    class Broken(dict[str, Any]):
        def keys(self) -> Any:
            raise ValueError(CLIENT)

    payload = collect(EVERYTHING, scope_of(CLIENT), data=Broken())
    assert payload == {"method": "GET", "url": "http://198.51.100.1/"}
    assert CLIENT not in caplog.text
    assert "data" in caplog.text


def test_no_mapping_at_all(caplog: pytest.LogCaptureFixture) -> None:
    """Even what is not a request at all gives an empty description, and a line in the log."""
    with caplog.at_level(logging.ERROR, "usercontext"):
        assert collect(EVERYTHING, None) == {}  # type: ignore[arg-type]
    assert len(caplog.records) == 1


ANYTHING = st.none() | st.integers() | st.text(max_size=30) | st.binary(max_size=30)
PAIRS = st.lists(
    ANYTHING | st.tuples(ANYTHING, ANYTHING) | st.lists(ANYTHING, max_size=3), max_size=5
)
SCOPES = st.fixed_dictionaries(
    {"type": st.sampled_from(["http", "websocket"])},
    optional=dict.fromkeys(
        ("client", "server", "path", "raw_path", "root_path", "scheme", "method", "query_string"),
        ANYTHING | st.tuples(ANYTHING, ANYTHING),
    )
    | {"headers": PAIRS},
)
ENVIRONS = st.fixed_dictionaries(
    {"REQUEST_METHOD": ANYTHING},
    optional=dict.fromkeys(
        (
            "REMOTE_ADDR", "SERVER_NAME", "SERVER_PORT", "PATH_INFO", "SCRIPT_NAME",
            "QUERY_STRING", "HTTP_HOST", "HTTP_COOKIE", "HTTP_FORWARDED", "wsgi.url_scheme",
        ),
        ANYTHING,
    ),
)  # fmt: skip


@given(SCOPES | ENVIRONS)
def test_any_source_gives_json(source: dict[str, Any]) -> None:
    """No request makes describing it raise, or the description anything but JSON."""
    json.dumps(collect(EVERYTHING, source, data=source))
    RequestData(include_ip=True, trusted_hops=1).locate(source)
