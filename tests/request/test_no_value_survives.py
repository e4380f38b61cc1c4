"""No value that a request holds and that was withheld is in its event, in whatever form."""

from __future__ import annotations

import html
import json
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote

from hypothesis import given, settings
from hypothesis import strategies as st

import usercontext
from tests.driver import asgi_request, plain_asgi_app
from tests.requests_of import scope_of
from usercontext import asgi
from usercontext.testing import RecordingClient, reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# By these letters a secret is known again, whatever stands around them in it.
MARK = "Zq7Xv9"
CHARACTERS = st.characters(min_codepoint=32, exclude_categories=["Cs", "Cn"])
SECRETS = st.builds("{}{}{}".format, st.text(CHARACTERS, max_size=6), st.just(MARK),
                    st.text(CHARACTERS, max_size=6))  # fmt: skip

#: How programs write a text into another one.
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "ascii": ascii,
    "path": quote,
    "query": lambda text: quote(text, safe=""),
    "small escapes": lambda text: re.sub("%..", lambda m: m[0].lower(), quote(text, safe="")),
    "form": quote_plus,
    "HTML": html.escape,
    "references": lambda text: html.escape(text).encode("ascii", "xmlcharrefreplace").decode(),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 of URLs": lambda text: urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 of more": lambda text: b64encode(f'{{"a": "{text}"}}'.encode()).decode(),
}
#: Those that may be used on what another one has made.
AGAIN = [name for name in FORMS if "base64" not in name]


def header(name: str, value: str) -> dict[str, Any]:
    """Return what a scope has of one header."""
    return {"headers": [(name.encode(), value.encode())]}


#: Where a request holds the secret; nothing of it is reported.
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "query": lambda secret: {"query_string": f"q={quote(secret)}&a=1".encode()},
    "nested query": lambda secret: {
        "query_string": f"q={quote(json.dumps({'pin': secret}))}".encode()
    },
    "cookie": lambda secret: header("cookie", f"a=b; c={quote(secret)}"),
    "bearer": lambda secret: header("authorization", f"Bearer {quote(secret)}"),
    "basic": lambda secret: header("authorization", f"Basic {FORMS['base64']('ada:' + secret)}"),
    "key": lambda secret: header("x-api-key", quote(secret)),
    "data": lambda secret: {"data": {"user": {"password": secret}}},
    "form": lambda secret: {"data": f"a=1&password={quote(secret)}"},
    "text in data": lambda secret: {"data": {"payload": json.dumps({"token": secret})}},
}
#: Those whose encoded value is the secret: what an app decodes by itself, nobody knows.
OPAQUE = ("bearer", "key")


def event_of(said: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the event of an error that says something, and has it in its causes and extra."""
    recorder = RecordingClient(include_local_variables=True)
    usercontext.init(client=recorder)

    def fail() -> None:
        usercontext.set_request_data(request.get("data"))
        local = said
        try:
            try:
                raise LookupError(said)
            except LookupError as error:
                error.add_note(f"of {local}")
                raise RuntimeError("worse") from error
        except RuntimeError as error:
            usercontext.capture_exception(error)

    asgi_request(asgi.UserContextMiddleware(plain_asgi_app(fail)), scope_of() | request)
    (event,) = recorder.events
    reset()
    return event


def decoded(text: str) -> Iterator[str]:
    """Yield a text, and what stands in it behind percent signs, references or base64."""
    yield text
    yield unquote(unquote(html.unescape(text)))
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        for start in range(4):
            piece = run[start:].translate(str.maketrans("-_", "+/"))
            yield b64decode(piece[: len(piece) // 4 * 4]).decode("latin-1")


@settings(max_examples=60)
@given(
    SECRETS,
    st.sampled_from(list(PLACES)),
    st.sampled_from(list(FORMS)),
    st.sampled_from(AGAIN),
    st.sampled_from(["", "no user for ", "x=", "<"]),
)
def test_no_form_of_a_withheld_value(
    secret: str, place: str, form: str, again: str, before: str
) -> None:
    """Whatever a secret is and however often a text encodes it, the event does not hold it."""
    sent = quote(secret) if place in OPAQUE else secret
    said = f"{before}{FORMS[again](FORMS[form](sent))}!"
    event = event_of(said, PLACES[place](secret))
    texts = json.dumps(event, ensure_ascii=False)
    assert not any(MARK in text for text in decoded(texts))
    assert "[Filtered]" in event["exception"]["values"][0]["value"]
