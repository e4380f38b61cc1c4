"""Who may see the pages: asked from this machine, or with the token; pure ASGI."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ["Guard"]

_COOKIE = "usercontext_inspect"
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
#: Where SDKs send to: from any page's origin, with the key of the DSN instead of the token.
_INTAKE = "/api/"


class Guard:
    """Goes around the inspector: checks each request's host and token, and marks each answer.

    Args:
        app: the inspector.
        hosts: names, beside `localhost` and addresses, that the inspector is reached by.
        token: what has to be shown; None where only this machine can connect.
    """

    def __init__(self, app: Any, *, hosts: Iterable[str] = (), token: str | None = None) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._token = token
        self._digest = "" if token is None else hashlib.sha256(token.encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that may be served, and answer others."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if not self._is_ours(headers.get(b"host", b"").decode("latin-1")):
            await _answer(send, 421, b"Not the inspector's host: use the address that it printed.")
            return
        is_intake = scope["path"].startswith(_INTAKE)
        if not is_intake and not await self._is_let_in(scope, headers, send):
            return
        await self._app(scope, receive, send if is_intake else _marked(send))

    def _is_ours(self, host: str) -> bool:
        """Return whether a host was typed by somebody: a name of others may point here, too.

        A page of such a name could read ours (DNS rebinding). An address points nowhere else.
        """
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    async def _is_let_in(self, scope: Scope, headers: dict[bytes, bytes], send: Send) -> bool:
        if self._token is None or self._shows_token(headers):
            return True
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token", "")
        if given and hmac.compare_digest(given.encode(), self._token.encode()):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            await self._remember(send, scope["path"] + (f"?{rest}" if rest else ""))
        else:
            await _answer(send, 401, b"Open the address with its token, as it was printed.")
        return False

    def _shows_token(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return hmac.compare_digest(given.strip(), (self._token or "").encode())
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        cookie = cookies.get(_COOKIE)
        return cookie is not None and hmac.compare_digest(
            cookie.value.encode("latin-1", "replace"), self._digest.encode()
        )

    async def _remember(self, send: Send, path: str) -> None:
        # Without the token, which would stand in the history and in what is copied to others.
        cookie = f"{_COOKIE}={self._digest}; Path=/; HttpOnly; SameSite=Strict"
        location = "/" + path.lstrip("/").replace("\\", "/")
        headers = [(b"location", location.encode()), (b"set-cookie", cookie.encode())]
        await _answer(send, 303, b"", headers)


def _marked(send: Send) -> Send:
    async def marking(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return marking


async def _answer(
    send: Send, status: int, text: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    plain = (b"content-type", b"text/plain; charset=utf-8")
    length = (b"content-length", str(len(text)).encode())
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [plain, length, *_HEADERS, *headers]})
    await send({"type": "http.response.body", "body": text})
