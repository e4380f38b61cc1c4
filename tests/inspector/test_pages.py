"""The pages as a browser gets them: what they show, and to whom."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.inspector.running import fail, inspecting, keep, wait_for
from usercontext.exceptions import ConfigurationError
from usercontext.inspector.server import Inspector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER = {"id": "7", "username": "al", "ip_address": "203.0.113.7"}
NOTES = {
    "address": {
        "source": "header",
        "header": "x-forwarded-for",
        "hops": 2,
        "reason": "ok",
        "included": True,
    },
    "withheld": [{"what": "query string", "rule": "include_query_string=False"}],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the reports."""
    return tmp_path / "reports.db"


@pytest.fixture
def inspector(path: Path) -> Iterator[Inspector]:
    """An inspector of it."""
    with inspecting(path) as inspector:
        yield inspector


@pytest.fixture
def client(inspector: Inspector) -> Iterator[httpx.Client]:
    """A browser without scripts."""
    with httpx.Client(base_url=inspector.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    """An inspector for the tests that do not mind what others have sent."""
    with inspecting(tmp_path_factory.mktemp("standing") / "reports.db") as inspector:
        yield inspector


@pytest.fixture(scope="module")
def visitor(standing: Inspector) -> Iterator[httpx.Client]:
    """A browser before it."""
    with httpx.Client(base_url=standing.url, trust_env=False, timeout=20) as client:
        yield client


def seen(client: httpx.Client, page: str, text: str) -> str:
    """Return a page once it has a text."""
    return str(wait_for(lambda: text in (html := client.get(page).text) and html))


def test_problems_page(path: Path, client: httpx.Client) -> None:
    """The first page shows each problem with its figures, and leads to its reports."""
    fail(path, KeyError("order 1"), user=USER)
    fail(path, KeyError("order 2"), user={"id": "8"})
    html = seen(client, "/", "<b>2</b> <span>reports")

    assert "<b>KeyError</b>: &#39;order 2&#39;" in html
    assert "<b>2</b> <span>users" in html
    assert "tests.inspector.running:fail" in html
    assert '<svg class="spark"' in html
    problem = client.get("/problems/1").text
    assert problem.count("data-row") == 2


def test_users_page(path: Path, client: httpx.Client) -> None:
    """Users have a name, a number of reports, addresses, and a timeline of their own."""
    keep(path, "one", user=USER)
    keep(path, "of another", user={"id": "8"})
    keep(path, "two", user=USER)
    html = seen(client, "/users", "<b>2</b> <span>reports")
    timeline = client.get("/user", params={"of": "id:7"}).text

    for text in ("id:7", "<bdi>al</bdi>", "203.0.113.7", "/user?of=id%3A7"):
        assert text in html
    assert timeline.index("<bdi>two") < timeline.index("<bdi>one")
    assert "of another" not in timeline


def test_report_page(path: Path, client: httpx.Client) -> None:
    """A report shows traceback, lines, variables, chain, request, and how each was decided."""
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    request = {"method": "GET", "url": "http://shop/x", "headers": {"Authorization": "[Filtered]"}}
    event_id = fail(path, error, user=USER, request=request, contexts={"usercontext": NOTES})
    html = client.get(f"/reports/{event_id}").text

    for text in (
        '<li class="current">',
        "raise error",
        "<bdi>parts</bdi>",
        "the cause",
        "http://shop/x",
        "entry 2 from the right",
        "a trusted proxy",
        "include_query_string=False",
        "request.headers.Authorization",
        "id:7",
    ):
        assert text in html, text
    assert html.index("ValueError") < html.index("KeyError")


def test_raw(path: Path, client: httpx.Client) -> None:
    """The raw event is there as JSON."""
    event_id = keep(path, user=USER)
    answer = client.get(f"/reports/{event_id}.json")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["user"] == USER


def test_nobody(path: Path, client: httpx.Client) -> None:
    """Reports of nobody say so, and have a list of their own."""
    keep(path, "by nobody", user={"ip_address": "203.0.113.9"})
    keep(path, "by somebody", user=USER)
    seen(client, "/reports", "by somebody")
    html = client.get("/reports?of=nobody").text

    assert "by nobody" in html
    assert "by somebody" not in html


def test_levels(path: Path, client: httpx.Client) -> None:
    """Reports can be narrowed to a level."""
    for level in ("warning", "error"):
        keep(path, f"a {level} happened", level=level)
    seen(client, "/reports", "a error happened")
    html = client.get("/reports?level=warning").text

    assert "a warning happened" in html
    assert "a error happened" not in html


@pytest.mark.parametrize(
    "page",
    ["/nothing", "/problems/999", f"/problems/{10**30}", "/user?of=x", "/reports/0", "/user"],
)
def test_what_is_not_there(visitor: httpx.Client, page: str) -> None:
    """An unknown page, problem, user or report is answered with 404."""
    assert visitor.get(page).status_code == 404


@pytest.mark.parametrize("after", ["x", "1_x", "nan_1", "_", "1e400_5", "é_1", "1_" + "9" * 400])
def test_keys_that_are_none(client: httpx.Client, path: Path, after: str) -> None:
    """A key that is none is not an error of ours."""
    keep(path, user=USER)
    for page in ("/", "/users", "/reports", "/search"):
        assert client.get(page, params={"after": after, "q": after}).status_code == 200


def test_an_empty_file(client: httpx.Client, inspector: Inspector) -> None:
    """Without reports the page says how to get some."""
    html = client.get("/").text

    assert "No reports yet" in html
    assert inspector.dsn in html


def test_live(path: Path, client: httpx.Client) -> None:
    """A stream of server-sent events tells of each new report."""
    keep(path)
    seen(client, "/reports", "hello")
    with client.stream("GET", "/live?after=1") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        keep(path, "another")
        assert "event: reports" in (next(lines), next(lines), next(lines))


def test_an_app_reports_meanwhile(path: Path, client: httpx.Client) -> None:
    """Apps write, also from many threads, while pages are read."""
    threads = [
        threading.Thread(target=keep, args=(path, f"number {n}"), kwargs={"user": {"id": n}})
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        assert client.get("/").status_code == 200
        thread.join()

    assert "8 users in" in seen(client, "/", "8 reports ·")


# Who may see it


def test_only_this_machine(inspector: Inspector) -> None:
    """By default it listens to this machine alone."""
    assert inspector.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_names_of_others(visitor: httpx.Client, host: str) -> None:
    """A name that somebody let point here is refused: his pages could read ours."""
    assert visitor.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8741"])
def test_our_names(visitor: httpx.Client, host: str) -> None:
    """Addresses and `localhost` are ours."""
    assert visitor.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("page", ["/", "/nothing", "/static/inspector.js", "/search?q=x"])
def test_headers(visitor: httpx.Client, page: str) -> None:
    """Every answer forbids scripts, frames and styles of others, and guessing of types."""
    headers = visitor.get(page).headers

    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_no_inline_script_or_style(path: Path, client: httpx.Client) -> None:
    """No page has a script, a handler or a style in itself."""
    event_id = fail(path, KeyError("x"), user=USER)
    seen(client, "/users", "id:7")
    for page in ("/", "/users", "/reports", f"/reports/{event_id}", "/search?q=al", "/problems/1"):
        html = client.get(page).text
        assert html.count("<script") == html.count("<script src=") == 1
        assert " style=" not in html
        assert "<style" not in html


TOKEN = "0123456789abcdef"


@pytest.fixture
def guarded(path: Path) -> Iterator[httpx.Client]:
    """A browser before an inspector with a token."""
    with (
        inspecting(path, token=TOKEN) as inspector,
        httpx.Client(base_url=inspector.url.partition("?")[0], trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", f"?Token={TOKEN}"])
def test_without_the_token(guarded: httpx.Client, query: str) -> None:
    """Without the token nothing is shown, neither pages nor the stream."""
    for page in ("/", "/live", "/static/inspector.js", "/reports/0.json"):
        assert guarded.get(page + query).status_code == 401


def test_with_the_token(guarded: httpx.Client) -> None:
    """The token in the address becomes a cookie, and leaves the address."""
    answer = guarded.get(f"/search?q=a&token={TOKEN}")

    assert (answer.status_code, answer.headers["location"]) == (303, "/search?q=a")
    assert "HttpOnly; SameSite=Strict" in answer.headers["set-cookie"]
    assert TOKEN not in answer.headers["set-cookie"]
    assert guarded.get("/").status_code == 200


def test_with_the_token_in_a_header(guarded: httpx.Client) -> None:
    """Programs show it as a bearer token."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/", headers=headers).status_code == 200
    assert guarded.get("/", headers={"authorization": "Bearer x"}).status_code == 401


def test_the_token_leads_nowhere_else(guarded: httpx.Client) -> None:
    """A path that looks like another site's stays ours."""
    connection = HTTPConnection("127.0.0.1", guarded.base_url.port)
    connection.request("GET", f"//evil.example/?token={TOKEN}")
    assert connection.getresponse().headers["location"] == "/evil.example/"
    connection.close()


def test_a_taken_port(path: Path, inspector: Inspector) -> None:
    """A port that is taken is told, with what to do."""
    port = int(inspector.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="choose another --port"):
        Inspector(str(path), port=port)


# What SDKs send


def envelope(event: dict[str, Any], dsn: str = "") -> bytes:
    """Return an envelope around an event."""
    lines = [{"event_id": event["event_id"], "dsn": dsn}, {"type": "event"}, event]
    return b"\n".join(json.dumps(line).encode() for line in lines)


EVENT = {
    "event_id": "a" * 32,
    "user": USER,
    "message": "hello",
    "timestamp": "2026-01-31T08:00:00Z",
}


def post(client: httpx.Client, body: bytes, **options: Any) -> httpx.Response:
    """Post a body to the DSN."""
    return client.post("/api/1/envelope/", content=body, **options)


def test_an_envelope_is_kept(client: httpx.Client, inspector: Inspector) -> None:
    """An event is kept as it was sent, with its id and time, and answered with its id."""
    answer = post(client, envelope(EVENT, inspector.dsn))

    assert (answer.status_code, answer.json()) == (200, {"id": "a" * 32})
    assert client.get(f"/reports/{'a' * 32}.json").json() == EVENT
    assert "2026-01-31" in client.get(f"/reports/{'a' * 32}").text


@pytest.mark.parametrize("place", ["header", "query", "store"])
def test_where_the_key_stands(visitor: httpx.Client, standing: Inspector, place: str) -> None:
    """SDKs send the key in a header, in the query, or to the older address."""
    key = standing.dsn[7:39]
    if place == "header":
        headers = {"x-sentry-auth": f"Sentry sentry_version=7, sentry_key={key}, sentry_client=x"}
        answer = post(visitor, envelope(EVENT), headers=headers)
    elif place == "query":
        answer = post(visitor, envelope(EVENT), params={"sentry_key": key, "sentry_version": "7"})
    else:
        answer = visitor.post("/api/7/store/", json=EVENT, params={"sentry_key": key})
    assert answer.status_code == 200


def test_other_keys(visitor: httpx.Client) -> None:
    """Without the key, or with another one, nothing is kept."""
    assert post(visitor, envelope(EVENT)).status_code == 401
    answer = post(visitor, envelope(EVENT), params={"sentry_key": "b" * 32})
    assert answer.status_code == 403
    assert "use the DSN" in answer.json()["detail"]


def compressed(name: str, body: bytes) -> bytes:
    """Return a body in a content encoding."""
    if name == "gzip":
        import gzip

        return gzip.compress(body)
    if name == "deflate":
        import zlib

        return zlib.compress(body)
    if name == "br":
        return bytes(pytest.importorskip("brotli").compress(body))
    return bytes(pytest.importorskip("zstandard").compress(body))


ENCODINGS = ["gzip", "deflate", "br", "zstd"]


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(visitor: httpx.Client, standing: Inspector, name: str) -> None:
    """Bodies are read in the encodings that SDKs use."""
    body = compressed(name, envelope(EVENT, standing.dsn))
    assert post(visitor, body, headers={"content-encoding": name}).status_code == 200


@pytest.mark.parametrize("name", ENCODINGS)
def test_bombs(visitor: httpx.Client, standing: Inspector, name: str) -> None:
    """A small body that becomes a huge one is refused."""
    bomb = compressed(name, envelope({**EVENT, "extra": "x" * (11 << 20)}, standing.dsn))
    assert len(bomb) < 1 << 20
    assert post(visitor, bomb, headers={"content-encoding": name}).status_code == 413


@pytest.mark.parametrize("name", ENCODINGS)
def test_damaged_bodies(visitor: httpx.Client, name: str) -> None:
    """A body that is not what its encoding says is refused."""
    pytest.importorskip({"br": "brotli", "zstd": "zstandard"}.get(name, "zlib"))
    answer = post(visitor, b"{}\n" * 50, headers={"content-encoding": name})
    assert answer.status_code == 400


def test_too_large(visitor: httpx.Client, standing: Inspector) -> None:
    """Bodies and events above the protocol's limits are refused with 413."""
    large = envelope({**EVENT, "extra": "x" * (1 << 20)}, standing.dsn)
    assert post(visitor, large).status_code == 413
    assert post(visitor, b"x" * (3 << 20)).status_code == 413


@pytest.mark.parametrize(
    "lines",
    [
        ["x"],
        ["[]", "{}"],
        ["{}", "x"],
        ["{}", '{"type":"event","length":999}', "{}"],
        ["{}", '{"type":"event","length":-1}', "{}"],
        ["{}", '{"type":"event"}', "[]"],
        ["{}", '{"type":"event"}', '{"event_id":"x"}'],
        ["{}", '{"type":"event"}', "{" * 5000],
    ],
)
def test_bad_envelopes(visitor: httpx.Client, standing: Inspector, lines: list[str]) -> None:
    """What is not an envelope is refused with 400, and says why."""
    answer = post(visitor, "\n".join(lines).encode(), params={"sentry_key": standing.dsn[7:39]})
    assert (answer.status_code, bool(answer.json()["detail"])) == (400, True)


def test_other_items(client: httpx.Client, inspector: Inspector, path: Path) -> None:
    """Transactions, sessions, attachments and the like are taken, and not kept."""
    items = [b"{}"]
    for kind in ("transaction", "session", "attachment", "client_report", "replay_event"):
        items += [json.dumps({"type": kind, "length": 4}).encode(), b"\n\n\n\n"]
    body = b"\n".join([*items, b'{"type":"event"}', json.dumps(EVENT).encode()])
    assert post(client, body, params={"sentry_key": inspector.dsn[7:39]}).json()["id"] == "a" * 32


def test_browsers_may_send(visitor: httpx.Client, standing: Inspector) -> None:
    """Pages of any origin may send events, and read no page of ours."""
    origin = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    preflight = visitor.options("/api/1/envelope/", headers=origin)
    answer = post(visitor, envelope(EVENT, standing.dsn), headers={"origin": origin["origin"]})

    assert preflight.status_code == 200
    assert "X-Sentry-Auth" in preflight.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in visitor.get("/").headers


def test_what_was_sent_makes_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SDKs send is bounded; the app's own reports stay."""
    from contextlib import closing

    from usercontext.inspector import intake as module
    from usercontext.inspector.index import ReportIndex
    from usercontext.sentry import read_reports

    monkeypatch.setattr(module, "_MAX_REPORTS", 10)
    keep(path, "of the app")
    with closing(ReportIndex(path)) as index, closing(module.Intake(index.file)) as intake:
        for number in range(100):
            event = {"event_id": f"{number:032x}", "message": str(number)}
            intake.keep(module.SentEvent(event["event_id"], event))
    kept = [event.get("message") or event["logentry"]["formatted"] for event in read_reports(path)]

    assert kept == ["of the app", *map(str, range(90, 100))]


@pytest.mark.parametrize("name", ["sentry-sdk", "usercontext"])
def test_python_sdks(
    client: httpx.Client, inspector: Inspector, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sentry-sdk and our own client report to it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if name == "usercontext":
        from usercontext.sentry import SentryClient

        own = SentryClient(inspector.dsn)
        own.capture_message("from usercontext", user=USER)
        own.close(10)
    else:
        sdk = pytest.importorskip("sentry_sdk")
        hub = sdk.Client(
            inspector.dsn, default_integrations=False, auto_enabling_integrations=False
        )
        scope = sdk.Scope(client=hub)
        scope.set_user(dict(USER))  # It keeps the dict, and takes the address out of it.
        hub.capture_event({"message": "from sentry-sdk"}, scope=scope)
        hub.close(10)
    html = seen(client, "/reports", f"from {name}")
    assert "id:7" in html
