"""Secrets that stand within a text are found by the names before them."""

from __future__ import annotations

import json
from html import escape
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usercontext.privacy.secret_names import is_secret, is_secret_parameter
from usercontext.privacy.secret_texts import secret_values, without_named_values, without_secrets

SECRET = "hunter2"
NAMING = {
    "JSON": '{"password": "hunter2"}',
    "JSON in JSON": '{"a": {"payload": "{\\"token\\": \\"hunter2\\"}"}}',
    "JSON with escapes": '{"pass\\u0077ord": "hunter2"}',
    "JSON with a byte order mark": '\ufeff{"password": "hunter2"}',
    "half of JSON": '{"a": 1, "password": "hunter2", ',
    "lines of JSON": '{"a": 1}\n{"password": "hunter2"}',
    "escaped JSON": '{\\"password\\": \\"hunter2\\"}',
    "name and value": '[{"name": "password", "value": "hunter2"}]',
    "pairs": "[('user', 'ada'), ('password', 'hunter2')]",
    "headers of a scope": "[(b'authorization', b'Bearer hunter2')]",
    "form": "user=ada&user[pin]=hunter2",
    "form with semicolons": "user=ada;password=hunter2",
    "percent": quote('{"password":"hunter2"}'),
    "percent twice": quote(quote('{"password":"hunter2"}')),
    "HTML": escape('{"password":"hunter2"}'),
    "user of a URL": "https://ada:hunter2@shop.example/",
    "query of a URL": "https://shop.example/?code=hunter2&b=1",
    "database": "postgresql://ada:hun/hunter2@db.example/shop",
    "database without a user": "redis://:hunter2@cache.example:1/0",
    "ODBC": "Driver={SQL};Server=x;UID=a;PWD=hunter2;",
    "libpq": "host=db user=ada password='hunter2 hunter2'",
    "GraphQL": 'mutation { login(password: "hunter2") { ok } }',
    "block text of GraphQL": 'mutation { login(password: """hunter2""") { ok } }',
    "object of GraphQL": 'mutation { login(credentials: {user: "a", pin: "hunter2"}) }',
    "bearer": "Authorization: Bearer hunter2",
    "bearer alone": "sent Bearer hunter2",
    "basic": "sent Basic YWRhOmh1bnRlcjI=",
    "digest": 'Authorization: Digest username="hunter2", response="hunter2"',
    "cookies": "GET / HTTP/1.1\r\nCookie: a=hunter2; b=hunter2\r\nX: 1",
    "JWT": "of eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.hunter2",
    "YAML": "user: ada\npassword: hunter2\n",
    "block of YAML": "password: |\n  hunter2\n  hunter2\nuser: ada",
    "XML": "<a><password><![CDATA[hunter2]]></password></a>",
    "XML with a namespace": '<wsse:Password Type="x">hunter2</wsse:Password>',
    "attribute of XML": '<login password="hunter2"/>',
    "field of HTML": '<input name="password" value="hunter2">',
    "multipart": 'Content-Disposition: form-data; name="password"\r\n\r\nhunter2\r\n--b--',
    "command line": "psql --password hunter2 -h db",
    "PHP": 'a:1:{s:8:"password";s:7:"hunter2";}',
    "Ruby": '{:password=>"hunter2"}',
    "SQL": "ALTER USER ada PASSWORD 'hunter2'",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
    "CSV": 'email,password\r\nada@shop.example,hunter2\r\n"Bob, Jr.","hunter2, ""too"""\r\n',
    "CSV with semicolons": '\ufeff"User";"API key"\n"ada";"hunter2"\n',
    "a table with tabs": "user\ttoken\nada\thunter2\n",
    "field of a password": '<input type="password" name="field1" value="hunter2">',
    "PGP": "-----BEGIN PGP PRIVATE KEY BLOCK-----\nhunter2\n-----END PGP PRIVATE KEY BLOCK-----",
    "key of an API": "of sk-hunter2hunter2hunter2",
    "webhook": "https://hooks.slack.com/services/T000/B000/hunter2",
    "parts of a URL": "SplitResult(scheme='https', netloc='ada:hunter2@shop.example')",
    "repr": "<Login name='ada' password='hunter2'>",
}


@pytest.mark.parametrize("text", NAMING.values(), ids=NAMING)
def test_without_secrets(text: str) -> None:
    """A secret goes from whatever form it is named in."""
    shown = without_secrets(text)
    assert SECRET not in shown
    assert "[Filtered]" in shown
    assert without_secrets(shown) == shown


FOUND = {name: text for name, text in NAMING.items() if name != "basic"}


@pytest.mark.parametrize("text", FOUND.values(), ids=FOUND)
def test_secret_values(text: str) -> None:
    """The same secrets are found as values, so that they can be looked for elsewhere."""
    assert any(SECRET in value for value in secret_values(text))


@pytest.mark.parametrize(
    "text",
    [
        "plain words", "see https://shop.example/a?b=1", "Note: this is fine", "a=1&b=2",
        '{"a": 1}', "<p>hi</p>", "std::vector", "C:\\path", "12:30:45", "100%", "a <b> c",
        "a basic knowledge", "bearer of news", "id,name\n1,ada\n", "Dear Ada,\nthe key, please\n",
    ],
)  # fmt: skip
def test_harmless_texts_stay(text: str) -> None:
    """What names no secret is left as it is."""
    assert without_secrets(text) == text
    assert not list(secret_values(text))


def test_the_rest_stays() -> None:
    """Of a text that names a secret, what stands around it is still told."""
    text = 'query { user(id: 7, token: "hunter2", first: 10) { name } }'
    assert without_secrets(text) == text.replace('"hunter2"', "[Filtered]")
    table = "id,pin,name\n1,2345,ada\n2,,bob\n"
    assert without_secrets(table) == table.replace("2345", "[Filtered]")
    assert json.loads(without_secrets('{"a": [1], "pin": 2}')) == {"a": [1], "pin": "[Filtered]"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Invalid token: expected a comma", "Invalid token: expected a comma"),
        ("missing key: name", "missing key: name"),
        ("refused password=hunter2", "refused password=[Filtered]"),
        ("got {'token': 'hunter2'}", "got {'token': [Filtered]}"),
        ("Password: hunter2", "Password: [Filtered]"),
        ("invalid bearer token", "invalid bearer token"),
    ],
)
def test_prose(text: str, shown: str) -> None:
    """In a sentence a colon alone makes no value of what follows."""
    assert without_secrets(text, prose=True) == shown


def test_named_values() -> None:
    """A secret's name may be a value itself, with the secret beside it."""
    rows = [
        {"name": "pin", "value": 1},
        {"name": "size", "value": 2},
        {"name": "A key", "value": 3},
    ]
    shown = [row["value"] for row in without_named_values(rows)]
    assert shown == ["[Filtered]", 2, 3]
    pair = {"Name": "password", "Value": {"text": SECRET}}
    assert without_named_values(pair) == {"Name": "password", "Value": "[Filtered]"}


def test_arguments_of_a_command() -> None:
    """What follows a secret's flag in a list of arguments is a secret."""
    arguments = ["psql", "--host", "db", "--password", SECRET, "--token=x"]
    assert without_named_values(arguments)[3:5] == ["--password", "[Filtered]"]
    assert without_named_values([]) == []


SECRET_NAMES = [
    "newpass",
    "userpass",
    "pass1",
    "cvc2",
    "PIN2",
    "securityCode",
    "security_code",
    "access-code",
    "verification_code",
    "mfaCode",
    "passwort",
    "kennwort",
    "contraseña",
    "senha",
    "mot_de_passe",
    "пароль",
    "密码",
    "p\uff41ssword",
    "X-Firebase-AppCheck",
    "X-Origin-Verify",
    "user.password",
    "ssn",
]
HARMLESS_NAMES = [
    "bypass",
    "compass",
    "zip_code",
    "country_code",
    "code",
    "passenger",
    "pinned",
    "class",
]
SECRET_PARAMETERS = ["oobCode", "invite", "__Host-id", "trusted_device", "persistent_login", "code"]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secret_name(name: str) -> None:
    """Names of secrets are known in the forms that people write."""
    assert is_secret(name)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_harmless_name(name: str) -> None:
    """A name that only looks like one is left alone."""
    assert not is_secret(name)


@pytest.mark.parametrize("name", SECRET_PARAMETERS)
def test_secret_parameter(name: str) -> None:
    """In queries and cookies further names are secret."""
    assert is_secret_parameter(name)


TEXTS = st.text(st.sampled_from("ab=:&\"'\\{}[]()<>%,; \n\u2028é@/.-"), max_size=60)


@given(TEXTS, TEXTS, st.text(st.characters(categories=["Lu", "Nd"]), min_size=6, max_size=12))
def test_json_within_any_json(before: str, after: str, secret: str) -> None:
    """Whatever stands around it, a secret in JSON is found, and the rest is JSON still."""
    inner = json.dumps({"a": before, "password": secret, "b": after})
    shown = without_secrets(json.dumps({"payload": inner}))
    assert secret not in json.loads(shown)["payload"]


@given(TEXTS)
def test_any_text_is_read(text: str) -> None:
    """Every text is read to its end, and once is enough."""
    shown = without_secrets(text)
    assert isinstance(without_secrets(shown), str)
    assert all(isinstance(value, str) for value in secret_values(text))


@pytest.mark.parametrize(
    "part",
    [
        "a,key\n",
        'a,key\n"',
        "password: {",
        "://a",
        "name=",
        "\\",
        "<a name=password ",
        "password=",
        "{",
        "[('",
        "a.",
    ],
)
def test_long_texts(part: str) -> None:
    """A long text of nothing but beginnings is read once, not once for each of them."""
    assert len(without_secrets(part * (60_000 // len(part)))) < 200_000
