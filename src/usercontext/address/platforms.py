"""What to trust on platforms that say in public what their front ends write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from usercontext import checks
from usercontext.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FUNCTIONS", "PLATFORMS", "Platform", "platform_named"]


class Platform(NamedTuple):
    """How a platform tells the client's address.

    Attributes:
        trusted_proxies: where its front ends connect from.
        trusted_hops: as `RequestData` has it.
        forwarded_header: which header they write.
        source: the page of the platform's own that says so.
    """

    trusted_proxies: tuple[str, ...]
    trusted_hops: int | None
    forwarded_header: str
    source: str


_FORWARDED: Final = "x-forwarded-for"

PLATFORMS: Final[dict[str, Platform]] = {
    "app-engine": Platform(
        ("loopback", "linklocal", "private"),
        None,
        "x-appengine-user-ip",
        "https://cloud.google.com/appengine/docs/standard/reference/request-headers",
    ),
    "aws-alb": Platform(
        ("private",),
        1,
        _FORWARDED,
        "https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html",
    ),
    # The event's own address comes first; a load balancer's event has none, but the header.
    "aws-lambda": Platform(
        (),
        1,
        _FORWARDED,
        "https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html",
    ),
    "fly": Platform(
        ("private",),
        None,
        "fly-client-ip",
        "https://fly.io/docs/networking/request-headers/",
    ),
    "heroku": Platform(
        ("private",),
        1,
        _FORWARDED,
        "https://devcenter.heroku.com/articles/http-routing",
    ),
    "railway": Platform(
        ("private", "cgnat"),
        None,
        "x-real-ip",
        "https://docs.railway.com/reference/public-networking",
    ),
    # What a client or a proxy before it sends under that name is overwritten.
    "vercel": Platform(
        (),
        1,
        _FORWARDED,
        "https://vercel.com/docs/headers/request-headers",
    ),
}

#: Where nobody reaches the app but through the platform's own front end.
FUNCTIONS: Final = frozenset({"aws-lambda", "vercel"})


def platform_named(
    name: object,
    trusted_proxies: Iterable[str],
    trusted_hops: int | None,
    forwarded_header: str,
) -> Platform:
    """Return a platform by its name, beside which nothing else is to be trusted.

    Raises:
        ConfigurationError: there is none of that name, or another option is given with it.
    """
    if not isinstance(name, str) or name not in PLATFORMS:
        meant = checks.nearest(name, list(PLATFORMS)) if isinstance(name, str) else None
        known = ", ".join(f'"{one}"' for one in PLATFORMS)
        slip = f'did you mean "{meant}"? ' if meant else ""
        raise ConfigurationError(
            f"platform={name!r:.80} is not known: {slip}write one of {known}, or leave it out and "
            "give trusted_proxies, trusted_hops and forwarded_header"
        )
    if trusted_proxies or trusted_hops is not None or forwarded_header != _FORWARDED:
        raise ConfigurationError(
            f'platform="{name}" says what to trust: leave trusted_proxies, trusted_hops and '
            "forwarded_header out, or platform"
        )
    return PLATFORMS[name]
