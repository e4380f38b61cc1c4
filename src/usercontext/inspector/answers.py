"""What the answers of servers mean for who sends reports, and what to mend."""

from __future__ import annotations

__all__ = ["advice", "is_about_the_dsn"]

_ADVICE = {
    400: "the server did not understand the report: is it one of the Sentry protocol?",
    401: "the server does not know the DSN's key: copy the DSN once more from the project",
    403: "the server refuses the DSN's key: it may have been revoked, or the project be disabled",
    404: "there is no such project, or no such server at this path: check the end of the DSN",
    405: "something else answers at this address: check host and port of the DSN",
    413: "the report is too large for the server, or for a proxy in front of it",
    429: "the server takes no more now: a quota is used up, or a rate limit applies",
}
_ABOUT_THE_DSN = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})


def advice(status: int) -> str:
    """Return what a status means, and what to do about it."""
    if status in _ADVICE:
        return _ADVICE[status]
    if 300 <= status < 400:
        return "the server is elsewhere by now, and redirects are not followed: mend the DSN"
    if status >= 500:
        return "the server, or a proxy in front of it, has a fault: look at its log"
    return "the server did not take the report"


def is_about_the_dsn(status: int) -> bool:
    """Return whether every other report would be answered the same."""
    return status in _ABOUT_THE_DSN
