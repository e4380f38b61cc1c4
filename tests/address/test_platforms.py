"""`platform=` stands for what a platform's front end writes, and for nothing that is not public."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from tests.requests_of import environ_of, scope_of
from usercontext import ConfigurationError, RequestData
from usercontext.address.platforms import PLATFORMS

CLIENT = "203.0.113.9"
GUIDE = (Path(__file__).parents[2] / "docs" / "client-ip.md").read_text(encoding="utf-8")

#: As the platform hands a request to the app, whose client has written 6.6.6.6 wherever it can.
REQUESTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "app-engine": (
        "169.254.1.1",
        [("X-Appengine-User-Ip", CLIENT), ("X-Forwarded-For", "6.6.6.6")],
    ),
    "aws-alb": ("10.0.1.7", [("X-Forwarded-For", f"6.6.6.6, {CLIENT}")]),
    "fly": ("172.16.5.2", [("Fly-Client-IP", CLIENT), ("X-Forwarded-For", "6.6.6.6")]),
    "heroku": ("10.1.45.23", [("X-Forwarded-For", f"6.6.6.6, {CLIENT}")]),
    "railway": ("100.64.0.3", [("X-Real-IP", CLIENT), ("X-Forwarded-For", "6.6.6.6")]),
}


@pytest.mark.parametrize("build", [scope_of, environ_of])
@pytest.mark.parametrize("name", REQUESTS)
def test_a_platform(name: str, build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The client's address is found behind its front end, and a direct one believed of nobody."""
    options = RequestData(include_ip=True, platform=name)
    peer, headers = REQUESTS[name]
    assert options.ip_address(build(peer, headers)) == CLIENT
    assert options.ip_address(build("198.51.100.7", headers)) == "198.51.100.7"
    assert caplog.records == []


GATEWAY = {"requestContext": {"identity": {"sourceIp": CLIENT}}}
BALANCER = {"requestContext": {"elb": {"targetGroupArn": "arn"}}}


def test_a_function_of_lambda(caplog: pytest.LogCaptureFixture) -> None:
    """The event's own address comes first, before CloudFront's in the header; else the last one."""
    options = RequestData(include_ip=True, platform="aws-lambda")
    for event, forwarded in ((GATEWAY, f"{CLIENT}, 130.176.0.1"), (BALANCER, f"6.6.6.6, {CLIENT}")):
        scope = scope_of(headers=[("X-Forwarded-For", forwarded)], **{"aws.event": event})
        assert options.ip_address(scope) == CLIENT
    assert caplog.records == []


@pytest.mark.parametrize("build", [scope_of, environ_of])
def test_a_function_of_vercel(build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The front end's own header has the client alone, whatever the runtime connects from."""
    options = RequestData(include_ip=True, platform="vercel")
    for peer in ("127.0.0.1", "10.0.0.7", None):
        headers = [("X-Forwarded-For", CLIENT), ("X-Vercel-Forwarded-For", "6.6.6.6")]
        assert options.ip_address(build(peer, headers)) == CLIENT
    assert [one for one in caplog.records if one.name == "usercontext"] == []


def test_options_of_a_platform_are_values() -> None:
    """Equal by name, the same after pickling, and shown as written."""
    options = RequestData(platform="fly")
    assert options == pickle.loads(pickle.dumps(options)) != RequestData(platform="heroku")
    assert repr(options) == "RequestData(platform='fly')"
    assert options.forwarded_header == "fly-client-ip"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"platform": "cloudflare"}, "give trusted_proxies"),
    "misspelled": ({"platform": "herok"}, 'did you mean "heroku"'),
    "no text": ({"platform": 1}, "not known"),
    "with hops": ({"platform": "fly", "trusted_hops": 1}, "leave trusted_proxies"),
    "with proxies": ({"platform": "fly", "trusted_proxies": ["unix"]}, "leave trusted_proxies"),
    "with a header": ({"platform": "fly", "forwarded_header": "x-real-ip"}, "leave trusted"),
}


@pytest.mark.parametrize(("options", "fix"), WRONG.values(), ids=WRONG)
def test_a_wrong_platform(options: dict[str, Any], fix: str) -> None:
    """A name that is not known, or an option beside it, is refused with what to write."""
    with pytest.raises(ConfigurationError, match=re.escape(fix)):
        RequestData(**options)


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_platform_is_documented(name: str) -> None:
    """The guide has it in a row, with the page of the platform's own that says so."""
    (row,) = [line for line in GUIDE.splitlines() if line.startswith(f'| `platform="{name}"`')]
    assert PLATFORMS[name].source in row
