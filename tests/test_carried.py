"""A carried identity is accepted by its receiver, from somebody with the key, and in time."""

from __future__ import annotations

import copy
import hmac
import json
import logging
import os
import pickle
import subprocess
import sys
from typing import Any

import itsdangerous
import pytest
from hypothesis import given
from hypothesis import strategies as st

import usercontext
from usercontext import ConfigurationError, MissingDependencyError, User, carried
from usercontext.carried import CarriedIdentity

assert itsdangerous.__name__, "what these tests are skipped without"

NEW, OLD, OTHER = b"n" * 32, b"o" * 32, b"x" * 32
JOB = ("job", "mail.send", "17")
ADA = User(id=1, username="ada", email="ada@shop.example", plan="gold", cart=[3, 4])
EVERY_REASON = {
    "malformed", "unknown_key", "forged", "expired", "early", "audience", "receiver", "nobody",
    "too_long",
}  # fmt: skip


def identity(**options: Any) -> CarriedIdentity:
    """Make one with keys and an audience."""
    return CarriedIdentity(**{"keys": [NEW], "audience": "shop", **options})


def signed(user: User = ADA, receiver: Any = JOB, **options: Any) -> str:
    """Sign a user."""
    text = identity(**options).sign(user, receiver)
    assert text is not None
    return text


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock, relative to the one by which all else was signed."""
    now = carried.time()
    monkeypatch.setattr(carried, "time", lambda: now + seconds)


def test_the_id_alone_is_carried() -> None:
    """Of a user with many fields the receiver sees the id, and the text holds no other."""
    assert identity().read(signed(), JOB) == User(id=1)


def test_fields_are_carried_by_name() -> None:
    """What was asked for is carried, extras included; nothing else is."""
    fields = ("id", "email", "plan", "missing")
    user = identity().read(signed(fields=fields), JOB)
    assert user == User(id=1, email="ada@shop.example", plan="gold")


@given(
    st.builds(
        User,
        id=st.one_of(st.integers(), st.text(min_size=1, max_size=40)),
        name=st.none() | st.text(max_size=40),
        plan=st.none() | st.text(max_size=40) | st.lists(st.integers(), max_size=3),
    )
)
def test_what_is_signed_is_read(user: User) -> None:
    """Ids and extras of any script arrive as they were."""
    fields = ("id", "name", "plan")
    text = identity(fields=fields).sign(user, JOB)
    assert text is None or identity().read(text, JOB) == user


def test_a_text_is_small_and_safe_in_a_header() -> None:
    """An id takes some 120 visible ASCII characters, without quotes, spaces, commas or colons."""
    text = signed()
    assert len(text) < 130
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@pytest.mark.parametrize("user", [None, User(name="Ada"), User(username="ada"), User(plan="gold")])
def test_nobody_is_not_carried(user: User | None) -> None:
    """Without the fields asked for there is no text at all."""
    assert identity(fields=("id", "name", "plan")).sign(user, JOB) is None


def test_a_long_user_is_not_carried(caplog: pytest.LogCaptureFixture) -> None:
    """More than 1 KiB is left out whole, counted, and said with the fields to drop."""
    sender = identity(fields=("id", "notes"))
    assert sender.sign(User(id=1, notes="x" * 900), JOB) is None
    assert sender.stats() == {"too_long": 1}
    assert "id, notes" in caplog.text


@pytest.mark.parametrize("receiver", [("job", "mail.send", "18"), ("job", "mail", "17"), ("host",)])
def test_it_is_for_one_receiver(receiver: tuple[str, ...]) -> None:
    """What was made for one job is refused for another job and for a host."""
    reader = identity()
    assert reader.read(signed(), receiver) is None
    assert reader.stats() == {"receiver": 1}


def test_parts_of_a_receiver_are_kept_apart() -> None:
    """A name with the separator in it is not another job."""
    assert identity().read(signed(receiver=("job", "a", "b|c")), ("job", "a|b", "c")) is None


@given(st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    """One character changed, anywhere and to anything, and nobody is named."""
    text = signed(fields=("id", "email"))
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda c: c != text[place]))
    assert identity().read(text[:place] + other + text[place + 1 :], JOB) is None


@pytest.mark.parametrize("place", range(-1, -44, -1))
def test_no_other_spelling_of_a_signature_is_accepted(place: int) -> None:
    """Base64 has several texts for the same bytes at its end; only the one that was made counts."""
    text, reader = signed(), identity()
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        changed = text[:place] + other + (text[place + 1 :] if place != -1 else "")
        assert (reader.read(changed, JOB) is None) is (changed != text)


@given(st.integers(0, 117), st.integers(0, 117))
def test_no_cut_text_is_accepted(start: int, end: int) -> None:
    """A part of a text names nobody."""
    text = signed()
    part = text[start:end]
    assert identity().read(part, JOB) is None


@given(st.text() | st.binary() | st.none() | st.integers() | st.lists(st.text()))
def test_anything_may_stand_in_its_place(found: object) -> None:
    """What is not a text of ours is refused without an error."""
    assert identity().read(found, JOB) is None


def test_parts_of_two_texts_make_no_third() -> None:
    """Ada's content under bob's time and signature is forged."""
    ada, bob = signed().split("."), signed(User(id=2)).split(".")
    for mask in range(1, 15):
        mixed = ".".join(b if mask >> n & 1 else a for n, (a, b) in enumerate(zip(ada, bob)))  # noqa: B905
        if mixed not in (".".join(ada), ".".join(bob)):
            assert identity().read(mixed, JOB) is None


def test_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is accepted until max_age and leeway are over."""
    reader = identity(max_age=60, leeway=5)
    text = signed()
    at(monkeypatch, 63)
    assert reader.read(text, JOB) == User(id=1)
    at(monkeypatch, 3)
    assert reader.read(text, JOB) is None
    assert reader.stats() == {"expired": 1}


def test_clocks_may_differ_by_the_leeway(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A text from a clock that is ahead is accepted within the leeway, and else says what to do."""
    text, reader = signed(), identity(leeway=30)
    at(monkeypatch, -29)
    assert reader.read(text, JOB) == User(id=1)
    at(monkeypatch, -3)
    assert reader.read(text, JOB) is None
    assert reader.stats() == {"early": 1}
    assert "larger leeway" in caplog.text


def test_another_audience_is_refused() -> None:
    """The same keys in two systems do not make users of one those of the other."""
    reader = identity(audience="billing")
    assert reader.read(signed(), JOB) is None
    assert reader.stats() == {"audience": 1}


def test_keys_are_rotated() -> None:
    """The first key signs, each of them is accepted, and one that was taken out is not."""
    old, both, new = identity(keys=[OLD]), identity(keys=[NEW, OLD]), identity(keys=[NEW])
    before, after = old.sign(ADA, JOB), both.sign(ADA, JOB)
    assert both.read(before, JOB) == both.read(after, JOB) == new.read(after, JOB) == User(id=1)
    assert new.read(before, JOB) is None
    assert new.stats() == {"unknown_key": 1}


def test_a_missing_key_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A worker without its producer's key says so once, with both keys' ids."""
    producer, worker = identity(keys=[NEW]), identity(keys=[OLD])
    for _ in range(3):
        assert worker.read(producer.sign(ADA, JOB), JOB) is None
    (message,) = [record.getMessage() for record in caplog.records]
    assert producer.key_ids[0] in message
    assert worker.key_ids[0] in message
    assert worker.stats() == {"unknown_key": 3}


def test_a_key_id_is_not_enough() -> None:
    """Who has read a key's id and signs with another key is refused as a forger."""
    forger = identity(keys=[OTHER])
    text = forger.sign(ADA, JOB)
    assert text is not None
    reader = identity()
    assert reader.read(reader.key_ids[0] + text[8:], JOB) is None
    assert reader.stats() == {"forged": 1}


PROCESS = """
import sys, usercontext.carried
carried = usercontext.carried.CarriedIdentity(audience="shop")
text = sys.argv[1] if len(sys.argv) > 1 else ""
user = carried.read(text, ["job", "mail", "1"]) if text else None
print((user and user.id) if text else carried.sign({"id": "1"}, ["job", "mail", "1"]))
"""


def in_process(keys: str, *args: str) -> str:
    """Sign or read in another process, with keys of the environment."""
    environ = {**os.environ, "USERCONTEXT_CARRIED_KEYS": keys}
    command = [sys.executable, "-c", PROCESS, *args]
    return subprocess.run(
        command, env=environ, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_processes_believe_each_other_by_their_keys() -> None:
    """Two with the same key of the environment do; two with other keys refuse each other."""
    ours, theirs = "a" * 40, "b" * 40
    text = in_process(f"{ours}, {theirs}")
    assert in_process(ours, text) == "1"
    assert in_process(theirs, text) == "None"
    assert in_process(ours, in_process(theirs)) == "None"


@given(st.binary(max_size=300))
def test_the_signature_is_hmac_sha_256(value: bytes) -> None:
    """What is prepared once for each key gives what the standard library computes."""
    signer = next(iter(identity()._signers.values()))
    derived = hmac.digest(NEW, b"usercontext.carried", "sha256")
    expected = hmac.digest(derived, value, "sha256")
    assert itsdangerous.encoding.base64_decode(signer.get_signature(value)) == expected


def test_nothing_shows_a_key() -> None:
    """Neither repr, str, format nor pickle gives a key away."""
    made = identity(keys=[b"secret-secret-secret-secret-secret", OLD])
    assert "secret" not in f"{made!r} {made} {vars(made)}"
    assert made.key_ids[0] in repr(made)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(made)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(made)


def test_nothing_of_the_user_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What is refused is said without what it holds."""
    text = signed(User(id="ada@shop.example"))
    reader = identity(keys=[OTHER])
    reader.read(text, JOB)
    identity().read(text, ("job", "other", "1"))
    identity().read("ada@shop.example", JOB)
    assert caplog.records
    assert "ada@" not in caplog.text


def test_each_reason_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """The same refusal again is counted only; another one is said."""
    caplog.set_level(logging.WARNING)
    reader = identity()
    for found in ("x", "y", signed(keys=[OTHER]), signed(keys=[OTHER])):
        reader.read(found, JOB)
    assert len(caplog.records) == 2
    assert reader.stats() == {"malformed": 2, "unknown_key": 2}
    assert reader.stats().keys() <= EVERY_REASON


def test_what_is_signed_may_still_name_nobody() -> None:
    """A sender of another version cannot make a user without an identity."""
    one = identity()
    content = json.dumps(["shop", carried._digest_of(JOB), {"name": "Ada"}])
    encoded = carried.urlsafe_b64encode(content.encode()).rstrip(b"=")
    issued = signed().split(".")[2].encode()
    value = b".".join((one.key_ids[0].encode(), encoded, issued))
    text = value + b"." + one._signers[one.key_ids[0]].get_signature(value)
    assert one.read(text.decode(), JOB) is None
    assert one.stats() == {"nobody": 1}


def test_its_own_mark_is_told_from_a_copied_one() -> None:
    """Whether a text is meant for a job is seen without the key."""
    text = signed()
    assert identity(keys=[OTHER]).is_for(text, JOB)
    assert not identity().is_for(text, ("job", "mail.send", "18"))
    assert not identity().is_for("nonsense", JOB)
    assert not identity().is_for(None, JOB)


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"keys": None}, "USERCONTEXT_CARRIED_KEYS"),
        ({"keys": []}, r"secrets\.token_urlsafe"),
        ({"keys": [b"short"]}, "number 1 has 5 bytes and needs at least 32"),
        ({"keys": [NEW, "short"]}, "number 2 has 5 bytes"),
        ({"keys": [7]}, "must be bytes or str, not int"),
        ({"keys": NEW}, r"write keys=\[NEW, OLD\]"),
        ({"keys": 7}, "must be a list"),
        ({"keys": [NEW, NEW]}, "the same key twice"),
        ({"keys": {NEW, OLD}}, r"set has no first; write keys=\[NEW, OLD\]"),
        ({"keys": {NEW: OLD}}, "dict has no first"),
        ({"keys": ["\ud800" * 40]}, "number 1 holds a lone surrogate"),
        ({"audience": None}, 'write audience="shop"'),
        ({"audience": ""}, 'write audience="shop"'),
        ({"audience": "x" * 101}, "100 characters"),
        ({"fields": "id"}, r'write fields=\("id",\)'),
        ({"fields": 7}, "must be a list of names"),
        ({"fields": ("id", 7)}, "names alone"),
        ({"fields": ("plan",)}, r"write fields=\('id', 'plan'\)"),
        ({"max_age": 0}, "max_age must be a number of seconds, 1 or more, not 0"),
        ({"max_age": True}, "max_age must be"),
        ({"max_age": None}, "max_age must be"),
        ({"leeway": -1}, "leeway must be a number of seconds, 0 or more"),
    ],
)
def test_errors_of_use_name_the_fix(options: dict[str, Any], fix: str) -> None:
    """What is missing or wrong is said where the object is made."""
    with pytest.raises(ConfigurationError, match=fix):
        identity(**options)


def test_errors_show_no_key() -> None:
    """The text about a short key holds nothing of it."""
    with pytest.raises(ConfigurationError) as caught:
        identity(keys=["hunter2"])
    assert "hunter2" not in str(caught.value)


def test_it_needs_itsdangerous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the extra that brings it is named."""
    monkeypatch.setitem(sys.modules, "itsdangerous", None)
    with pytest.raises(MissingDependencyError, match=r"usercontext\[carried\]"):
        identity()


def test_init_takes_it() -> None:
    """`init(carried=...)` makes it the process's own."""
    made = identity()
    assert usercontext.init(None, carried=made).carried is made


@pytest.mark.parametrize("wrong", [CarriedIdentity, "key", [NEW]])
def test_init_refuses_another_thing(wrong: Any) -> None:
    """Keys alone, or the class, are not carried identity: the error says what to write."""
    with pytest.raises(ConfigurationError, match="CarriedIdentity"):
        usercontext.init(None, carried=wrong)
