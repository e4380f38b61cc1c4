"""A report tells how the client's address was found, and what of its request was kept back."""

from __future__ import annotations

import json
from typing import Any

import usercontext
from usercontext import RequestData, asgi
from usercontext.request.description import explain
from usercontext.testing import RecordingClient

PROXY, CLIENT = "10.0.0.1", "203.0.113.7"


def scope(**changes: Any) -> dict[str, Any]:
    """A request through a proxy, with something in each of its parts."""
    headers = [(b"x-forwarded-for", CLIENT.encode()), (b"cookie", b"a=b"), (b"accept", b"*/*")]
    base = {"type": "http", "method": "GET", "path": "/", "query_string": b"page=2"}
    return {**base, "headers": headers, "client": (PROXY, 1), **changes}


def withheld(told: dict[str, Any]) -> dict[str, str]:
    """Return what was kept back, with its rule."""
    return {note["what"]: note["rule"] for note in told.get("withheld", ())}


def test_the_header() -> None:
    """The header, the entry's place in it, and why it was believed."""
    told = explain(RequestData(include_ip=True, trusted_proxies=[PROXY]), scope())

    assert told["address"] == {
        "source": "header",
        "header": "x-forwarded-for",
        "hops": 1,
        "reason": "ok",
        "included": True,
        "anonymized": False,
    }


def test_an_untrusted_peer() -> None:
    """A connection that comes from no trusted proxy is the answer itself."""
    told = explain(RequestData(trusted_proxies=["192.0.2.1"], anonymize_ip="mask"), scope())

    assert told["address"] == {
        "source": "peer",
        "hops": 0,
        "reason": "untrusted-peer",
        "included": False,
        "anonymized": True,
    }


def test_parts_that_were_not_asked_for() -> None:
    """Each part that the request has and the report has not, with its option."""
    assert withheld(explain(RequestData(include_url=False), scope(), data={"a": 1})) == {
        "client address": "include_ip=False",
        "URL": "include_url=False",
        "query string": "include_query_string=False",
        "headers": "include_headers=False",
        "cookies": "include_cookies=False",
        "data": "include_data=False",
    }


def test_what_is_not_there_is_not_kept_back() -> None:
    """A request without query, headers and cookies has none to keep back."""
    bare = scope(query_string=b"", headers=[])
    assert withheld(explain(RequestData(include_ip=True), bare)) == {}


def test_headers_that_hold_addresses() -> None:
    """Headers are reported without those that hold an address, which are named."""
    everything = {"include_headers": True, "include_query_string": True, "include_cookies": True}
    assert withheld(explain(RequestData(**everything), scope())) == {
        "client address": "include_ip=False",
        "header X-Forwarded-For": "include_ip=False",
    }
    masked = RequestData(**everything, include_ip=True, anonymize_ip="mask")
    assert withheld(explain(masked, scope())) == {"header X-Forwarded-For": "anonymize_ip"}


def test_a_broken_source() -> None:
    """What cannot be read is left out, and nothing raises."""
    assert explain(RequestData(), {"headers": 7, "client": 7})["address"]["source"] == "peer"


async def call(**options: Any) -> dict[str, Any]:
    """Return the report of a request that fails."""
    recorder = RecordingClient()
    usercontext.init(client=recorder, **options)

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        usercontext.set_user({"id": 7, "email": "al@example.com"})
        usercontext.capture_message("hello")

    await asgi.UserContextMiddleware(app)(scope(), None, None)  # type: ignore[arg-type]
    return recorder.events[0]


def notes(event: dict[str, Any]) -> dict[str, Any]:
    """Return what a report tells of our decisions."""
    told: dict[str, Any] = event["contexts"]["usercontext"]
    return told


def run(**options: Any) -> dict[str, Any]:
    """Do the same on a loop."""
    import asyncio

    return asyncio.run(call(**options))


def test_reports_tell() -> None:
    """Every report of a request has it in `contexts.usercontext`."""
    event = run(request_data=RequestData(include_ip=True, trusted_proxies=[PROXY]))

    assert notes(event)["address"]["source"] == "header"
    assert withheld(notes(event))["query string"] == "include_query_string=False"


def test_no_address_is_told() -> None:
    """An address that was not asked for stands nowhere in the report, ours included."""
    text = json.dumps(run(request_data=RequestData(trusted_proxies=[PROXY])))

    assert CLIENT not in text
    assert PROXY not in text


def test_scrub_rules_are_told() -> None:
    """A scrub rule that changed the report is told as it was written; one that did not is not."""
    event = run(scrub=[("$user.email", "replace"), "$user.name"])

    assert withheld(notes(event))["$user.email"] == "scrub: replace"
    assert "$user.name" not in withheld(notes(event))


def test_never_store_ip_is_told() -> None:
    """So is the option that takes every address out."""
    event = run(request_data=RequestData(include_ip=True), never_store_ip=True)

    assert withheld(notes(event))["every address"] == "never_store_ip=True"
    assert notes(event)["address"]["included"] is False


def test_rules_have_the_last_word() -> None:
    """A rule that removes what is told removes it for good."""
    event = run(scrub=["$contexts.usercontext", "$user.email"])

    assert "usercontext" not in event["contexts"]
