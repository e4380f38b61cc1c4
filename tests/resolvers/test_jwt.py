"""JSON Web Tokens: who is named by a verified one, and nobody by any other."""

from __future__ import annotations

import base64
import json
import logging
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from werkzeug.wrappers import Request

from tests.driver import asgi_request, environ_of, plain_asgi_app, scope_of
from usercontext import asgi, get_user
from usercontext.exceptions import ConfigurationError
from usercontext.resolvers import JwtClaims
from usercontext.resolvers import jwt as module

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a secret of the shop, 64 bytes long, as the longest HMAC wants it"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
OTHER_RSA = rsa.generate_private_key(65537, 2048)
CLAIMS = {"sub": "1", "preferred_username": "ada", "email": "ada@shop.example", "name": "Ada"}
ADA = {"id": "1", "username": "ada", "email": "ada@shop.example", "name": "Ada"}
OF_SHOP: Any = {"issuer": "https://id.example", "audience": "shop"}


def pem(private: Any) -> str:
    """Return the public key of a private one."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(private.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def token_of(
    key: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **claims: Any
) -> str:
    """Write a token; a claim that is None is left out."""
    standard = {"iss": "https://id.example", "aud": "shop", "exp": time.time() + 60}
    payload = {**CLAIMS, **standard, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm, headers)


def resolver_of(key: Any = SECRET, *algorithms: str, **options: Any) -> JwtClaims:
    """Make a resolver for the shop's tokens."""
    return JwtClaims(key, algorithms=list(algorithms) or ["HS256"], **{**OF_SHOP, **options})


def bearing(token: str) -> HTTPConnection:
    """Make a request that carries a token."""
    return HTTPConnection(scope_of(authorization=f"Bearer {token}"))


@pytest.mark.parametrize(
    ("key", "public", "algorithm"),
    [(SECRET, SECRET, "HS256"), (RSA, pem(RSA), "RS256"), (EC, pem(EC), "ES256")],
)
def test_a_verified_token_names_its_user(key: Any, public: str, algorithm: str) -> None:
    """The standard claims are the user's fields."""
    assert resolver_of(public, algorithm)(bearing(token_of(key, algorithm))) == ADA


@pytest.mark.parametrize(
    "token",
    [
        token_of(exp=time.time() - 1),
        token_of(exp=None),
        token_of(nbf=time.time() + 60),
        token_of(iss="https://evil.example"),
        token_of(iss=None),
        token_of(aud="another"),
        token_of(aud=None),
        token_of("another secret, which is as long as the shop's own is, or longer"),
        token_of(algorithm="HS512"),
        token_of(None, "none"),
        token_of(sub=None, preferred_username=None, email=None, name=None),
        token_of() + "A" * 20_000,
        token_of(headers={"crit": ["exp"]}),
        "",
        "nonsense",
        "a.b.c",
        "é.é.é",
    ],
)
def test_any_other_names_nobody(token: str, caplog: pytest.LogCaptureFixture) -> None:
    """Expired, forged, malformed or not for us: no user, no error, and nothing is logged."""
    assert resolver_of()(bearing(token)) is None
    assert caplog.records == []


RIGHT = token_of(exp=time.time() + 3600)
RIGHT_RSA = token_of(RSA, "RS256", exp=time.time() + 3600)


@pytest.mark.parametrize(
    ("resolver", "right"),
    [(resolver_of(), RIGHT), (resolver_of(pem(RSA), "RS256"), RIGHT_RSA)],
    ids=["HS256", "RS256"],
)
@given(data=st.data())
def test_a_tampered_token_names_nobody(resolver: JwtClaims, right: str, data: Any) -> None:
    """Whatever is changed of what the token says, wherever: it is not believed."""
    position = data.draw(st.integers(0, len(right) - 1))
    character = data.draw(st.characters(max_codepoint=255))
    tampered = right[:position] + character + right[position + 1 :]
    if decoded(tampered) == decoded(right):
        return  # another spelling of the same bytes: of the last character two bits are spare
    assert resolver(bearing(tampered)) is None


def decoded(token: str) -> list[bytes] | None:
    """Return the bytes that a token stands for, if it stands for any."""
    try:
        return [
            base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
            for part in token.split(".")
        ]
    except ValueError:
        return None


@given(payload=st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_an_unsigned_token_names_nobody(payload: dict[str, Any]) -> None:
    """Whatever it claims."""
    parts = [{"alg": "none", "typ": "JWT"}, {**payload, "sub": "1", "exp": 9e9, "aud": "shop"}]
    encoded = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in parts]
    assert resolver_of()(bearing(".".join([*encoded, ""]).replace("=", ""))) is None


def test_a_public_key_is_no_secret() -> None:
    """Algorithm confusion: a token signed with the public key as a secret names nobody."""
    public = pem(RSA)
    head = {"alg": "HS256", "typ": "JWT"}
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    parts = [head, {**CLAIMS, "iss": OF_SHOP["issuer"], "aud": "shop", "exp": time.time() + 60}]
    encoded = [jwt.utils.base64url_encode(json.dumps(one).encode()) for one in parts]
    signature = signer.sign(b".".join(encoded), public.encode())
    forged = b".".join([*encoded, jwt.utils.base64url_encode(signature)]).decode()
    assert resolver_of(public, "RS256")(bearing(forged)) is None


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"email_verified": True}, ADA),
        ({"email_verified": False}, {**ADA, "email": None}),
        ({"email_verified": "false"}, {**ADA, "email": None}),
        ({"sub": 7}, {**ADA, "id": 7}),
        ({"sub": ["1"], "name": True}, {**ADA, "id": None, "name": None}),
    ],
)
def test_what_claims_are_taken(claims: dict[str, Any], user: dict[str, Any]) -> None:
    """An email that nobody verified may be anybody's; what is not a name is none."""
    expected = {name: value for name, value in user.items() if value is not None}
    assert resolver_of()(bearing(token_of(**claims))) == expected


def test_claims_of_ones_own() -> None:
    """A map says which claim is what, extra keys included."""
    resolver = resolver_of(claims={"id": "uid", "plan": "plan"})
    assert resolver(bearing(token_of(uid=3, plan="pro"))) == {"id": 3, "plan": "pro"}


def test_several_issuers_and_audiences() -> None:
    """Each may be a list, and None takes any."""
    several = resolver_of(issuer=["x", OF_SHOP["issuer"]], audience=["y", "shop"])
    anybody = resolver_of(issuer=None, audience=None)
    assert several(bearing(token_of())) == ADA
    assert anybody(bearing(token_of(iss="z", aud="z"))) == ADA


def test_where_the_token_stands() -> None:
    """A cookie is read where the header holds none, over WSGI and in Django too."""
    pytest.importorskip("django")
    from django.http import HttpRequest

    import tests.frameworks.django_project  # noqa: F401 - Django's settings

    resolver = resolver_of(cookie="access_token")
    basic = {"authorization": "Basic YTpi", "cookie": f"access_token={token_of()}"}
    of_django = HttpRequest()
    of_django.COOKIES["access_token"] = token_of()
    assert resolver(HTTPConnection(scope_of(**basic))) == ADA
    assert resolver(Request(environ_of(**basic))) == ADA
    assert resolver(of_django) == ADA
    bare = resolver_of(header="x-token", scheme=None)
    assert bare(Request(environ_of(x_token=token_of()))) == ADA
    assert resolver(Request(environ_of(authorization="Basic YTpi"))) is None


def test_a_request_is_resolved() -> None:
    """It is a resolver as any other."""
    seen: list[Any] = []
    app = asgi.UserContextMiddleware(
        plain_asgi_app(lambda: seen.append(get_user())), resolver=resolver_of()
    )
    asgi_request(app, scope_of(authorization=f"bearer {token_of()}"))
    assert [user.to_dict() for user in seen] == [ADA]


class Keys:
    """A server of keys that counts, and may fail."""

    def __init__(self) -> None:
        self.keys = [self.written("first", RSA)]
        self.asked = 0

    @staticmethod
    def written(name: str, private: Any) -> dict[str, Any]:
        """Write a public key as a JWK."""
        as_jwk: Any = jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        return {**as_jwk, "kid": name, "use": "sig", "alg": "RS256"}


@pytest.fixture
def keys() -> Iterator[tuple[Keys, jwt.PyJWKClient]]:
    """Serve keys over HTTP."""
    made = Keys()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked += 1
            self.send_response(200 if made.keys else 503)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": made.keys}).encode())

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with serving(Handler) as port:
        yield made, jwt.PyJWKClient(f"http://127.0.0.1:{port}", timeout=5)


@contextmanager
def serving(handler: Any) -> Iterator[int]:
    """Run a server in a thread."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the resolver a clock that stands still."""
    seconds = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: seconds[0])
    return seconds


def test_keys_are_fetched(keys: Any, clock: list[float]) -> None:
    """The issuer's keys are fetched once, and again where it has changed them."""
    server, client = keys
    resolver = resolver_of(client, "RS256")
    first, second = ({"kid": name} for name in ("first", "second"))
    assert resolver(bearing(token_of(RSA, "RS256", first))) == ADA
    assert resolver(bearing(token_of(OTHER_RSA, "RS256", first))) is None
    assert server.asked == 1
    server.keys.append(server.written("second", OTHER_RSA))
    assert resolver(bearing(token_of(OTHER_RSA, "RS256", second))) == ADA
    assert server.asked == 2


def test_names_that_are_made_up_fetch_nothing(keys: Any, clock: list[float]) -> None:
    """Nobody can have the keys fetched over and over; after a while they are looked at again."""
    server, client = keys
    resolver = resolver_of(client, "RS256")
    assert resolver(bearing(token_of(headers={"kid": "a"}))) is None  # HS256
    assert server.asked == 0
    for name in ("b", "c", "d"):
        assert resolver(bearing(token_of(OTHER_RSA, "RS256", {"kid": name}))) is None
    assert server.asked == 2
    clock[0] += 60
    assert resolver(bearing(token_of(OTHER_RSA, "RS256", {"kid": "e"}))) is None
    assert server.asked == 3


def test_a_server_of_keys_that_fails(
    keys: Any, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, without a word of the token, and not asked again for a while."""
    server, client = keys
    server.keys.clear()
    resolver, token = resolver_of(client, "RS256"), token_of(RSA, "RS256", {"kid": "first"})
    assert [resolver(bearing(token)) for _ in range(3)] == [None] * 3
    assert server.asked == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert not any(part in caplog.text for part in token.split("."))
    server.keys.append(server.written("first", RSA))
    clock[0] += 60
    assert resolver(bearing(token)) == ADA


def test_a_key_of_a_set() -> None:
    """A PyJWK knows its own algorithm."""
    key = jwt.PyJWK(Keys.written("first", RSA))
    assert resolver_of(key, "RS256")(bearing(token_of(RSA, "RS256"))) == ADA
    with pytest.raises(ConfigurationError, match="key is not a key for ES256"):
        resolver_of(key, "ES256")


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"algorithms": ["none"]}, "anybody can write"),
        ({"algorithms": ["HS256", "None"]}, "anybody can write"),
        ({"algorithms": ["HS256", "RS256"]}, "mixes HS"),
        ({"algorithms": []}, "name your issuer"),
        ({"algorithms": None}, "must be a list"),
        ({"algorithms": "HS256"}, "must be a list"),
        ({"algorithms": [1]}, "name your issuer"),
        ({"algorithms": ["XX1"]}, "does not know"),
        ({"algorithms": ["RS256"]}, "not a key for RS256"),
        ({"key": ""}, "not a key for HS256"),
        ({"key": pem(RSA)}, "not a key for HS256"),
        ({"key": jwt.PyJWKClient("http://127.0.0.1:1")}, "everybody can"),
        ({"issuer": ""}, "issuer must be"),
        ({"issuer": []}, "issuer must be"),
        ({"audience": [1]}, "audience must be"),
        ({"claims": ["sub"]}, "claims must map"),
        ({"header": ""}, "header must be a name"),
        ({"scheme": "Bearer "}, "scheme must be a name"),
        ({"cookie": 1}, "cookie must be a name"),
    ],
)
def test_what_is_refused(options: dict[str, Any], fix: str) -> None:
    """What would let forgeries pass, or never anything, is refused where it is written."""
    given: Any = {"key": SECRET, "algorithms": ["HS256"], **OF_SHOP, **options}
    with pytest.raises(ConfigurationError, match=fix) as caught:
        JwtClaims(**given)
    assert SECRET not in str(caught.value)


def test_issuer_and_audience_must_be_thought_of() -> None:
    """To take any is said by None, not by leaving them out."""
    with pytest.raises(TypeError, match="issuer"):
        JwtClaims(SECRET, algorithms=["HS256"])  # type: ignore[call-arg]


def test_the_key_is_not_shown() -> None:
    """Nor in the repr, which logs may hold."""
    assert SECRET not in repr(resolver_of())
