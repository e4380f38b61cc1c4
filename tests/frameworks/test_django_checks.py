"""`manage.py check`: what is wrong with the settings is said before a request meets it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("django")

from tests.frameworks.django_project import AUTHENTICATION, OURS

# isort: split
from django.core import checks
from django.core.handlers.wsgi import WSGIHandler
from django.test import modify_settings, override_settings

from usercontext import RequestData, asgi, wsgi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from django.http import HttpRequest

APP = "usercontext.frameworks.django"
PROJECT = "tests.frameworks.django_project"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"


async def find_user(request: HttpRequest) -> None:
    """Find nobody, asynchronously."""


def other(get_response: Any) -> Any:
    """Stand for a middleware that is a function; no check calls it."""


class Ours(asgi.UserContextMiddleware):
    """The middleware of an ASGI app, as somebody may have derived it."""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with override_settings(
        MIDDLEWARE=AUTHENTICATION, ROOT_URLCONF="tests.frameworks.django_project"
    ):
        yield


def found(*, deploy: bool = False) -> list[checks.CheckMessage]:
    """Run our checks as `manage.py check --tag usercontext` does."""
    messages: list[checks.CheckMessage] = checks.run_checks(
        tags=["usercontext"], include_deployment_checks=deploy
    )
    return messages


def ids(**options: bool) -> list[str]:
    """Return the ids of what the checks complain about."""
    return sorted(str(message.id) for message in found(**options))


def test_a_sound_project_passes() -> None:
    """Ours first, Django's authentication inside, no setting: nothing to complain about."""
    assert ids() == []
    assert ids(deploy=True) == []


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("x", "must be a dict, not str: write USERCONTEXT = {"),
        ({"resolvr": 1}, '["resolvr"]: resolvr is not an option: did you mean resolver?'),
        ({"resolver": "shop.nowhere"}, "'shop.nowhere' cannot be imported"),
        ({"resolver": "django.nowhere"}, "'django.nowhere' cannot be imported"),
        ({"scrub": [("$user.email", "hash")]}, "needs hash_key"),
        ({"request_data": {"include_ip": True}}, "write request_data=RequestData("),
    ],
)
def test_a_wrong_setting(setting: Any, hint: str) -> None:
    """E001: the hint says which key is wrong, and what to write instead."""
    with override_settings(USERCONTEXT=setting):
        (error,) = found()
    assert error.id == "usercontext.E001"
    assert error.hint.startswith("settings.USERCONTEXT")
    assert hint in error.hint


@pytest.mark.parametrize(
    "path",
    [
        "usercontext.wsgi.UserContextMiddleware",
        "usercontext.asgi.UserContextMiddleware",
        f"{__name__}.Ours",
    ],
)
def test_the_wrong_class(path: str) -> None:
    """E002: what wraps an application cannot stand in MIDDLEWARE; the hint names what can."""
    with override_settings(MIDDLEWARE=[path, *AUTHENTICATION[1:]]):
        (error,) = found()
    assert error.id == "usercontext.E002"
    assert OURS in error.hint


def test_none_at_all() -> None:
    """W001: the app is installed, and nothing of it is in use."""
    with override_settings(MIDDLEWARE=AUTHENTICATION[1:]):
        (warning,) = found()
    assert warning.id == "usercontext.W001"
    assert OURS in warning.hint


@pytest.mark.parametrize("outer", [SESSIONS, f"{__name__}.other"])
def test_not_first(outer: str) -> None:
    """W002 names what stands outside of ours: what that reports has no user."""
    with override_settings(MIDDLEWARE=[outer, *AUTHENTICATION]):
        (warning,) = found()
    assert warning.id == "usercontext.W002"
    assert outer in warning.msg


def test_behind_authentication() -> None:
    """W002 for the order that most people try first: behind AuthenticationMiddleware."""
    with override_settings(MIDDLEWARE=[*AUTHENTICATION[1:], OURS]):
        (warning,) = found()
    assert "AuthenticationMiddleware" in warning.msg
    assert "first in MIDDLEWARE" in warning.hint


def test_listed_twice() -> None:
    """W003: only the first of two is of use."""
    with override_settings(MIDDLEWARE=[*AUTHENTICATION, OURS]):
        assert ids() == ["usercontext.W003"]


@modify_settings(INSTALLED_APPS={"remove": ["rest_framework", "rest_framework.authtoken"]})
@override_settings(MIDDLEWARE=[OURS, SESSIONS])
def test_nothing_says_who_it_is() -> None:
    """W004: no AuthenticationMiddleware and no resolver; either of the two, named, mends it."""
    (warning,) = found()
    assert warning.id == "usercontext.W004"
    assert f"{APP}.request_user" in warning.hint
    with override_settings(USERCONTEXT={"resolver": f"{APP}.request_user"}):
        assert ids() == []
    with override_settings(MIDDLEWARE=AUTHENTICATION):
        assert ids() == []


@override_settings(MIDDLEWARE=[OURS, SESSIONS])
def test_an_app_that_authenticates_is_enough() -> None:
    """Django REST framework says who it is inside the view, without any middleware."""
    pytest.importorskip("rest_framework")
    assert ids() == []


@modify_settings(INSTALLED_APPS={"remove": ["rest_framework", "rest_framework.authtoken"]})
@override_settings(
    MIDDLEWARE=[OURS, SESSIONS, "django.contrib.auth.middleware.RemoteUserMiddleware"]
)
def test_a_server_that_authenticates_is_enough() -> None:
    """RemoteUserMiddleware says who it is as well."""
    assert ids() == []


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        ("shop.wsgi.application", ["usercontext.W005"]),
        # Beside this one stands an asgi.py.
        ("tests.frameworks.django_site.wsgi.application", []),
        (None, []),
    ],
)
def test_an_async_resolver_over_wsgi(application: str | None, expected: list[str]) -> None:
    """W005 where nothing of the project looks like ASGI."""
    resolver = f"{__name__}.find_user"
    with override_settings(USERCONTEXT={"resolver": resolver}, WSGI_APPLICATION=application):
        assert ids() == expected
    with override_settings(
        USERCONTEXT={"resolver": resolver},
        WSGI_APPLICATION=application,
        ASGI_APPLICATION="shop.asgi.application",
    ):
        assert ids() == []


def resolver(request: object) -> None:
    """Find nobody."""


wrapped = wsgi.UserContextMiddleware(
    WSGIHandler, resolver=lambda _: None, request_data=RequestData(include_ip=True)
)


class Outer:
    """A middleware of somebody else's around ours."""

    app: Any = None
    application = wrapped


deeply_wrapped = Outer()


@pytest.mark.parametrize("application", ["wrapped", "deeply_wrapped"])
@pytest.mark.parametrize("setting", ["WSGI_APPLICATION", "ASGI_APPLICATION"])
def test_options_that_contradict(application: str, setting: str) -> None:
    """W006, with --deploy: the same option in two places, and not the same."""
    options = {setting: f"{__name__}.{application}", "USERCONTEXT": {"resolver": resolver}}
    with override_settings(**options):
        assert ids() == []
        (warning,) = found(deploy=True)
    assert warning.id == "usercontext.W006"
    assert f"around {setting} both have resolver, and not the same" in warning.msg


@pytest.mark.parametrize(
    "options",
    [
        {"WSGI_APPLICATION": f"{__name__}.wrapped"},
        {"WSGI_APPLICATION": f"{__name__}.wrapped", "USERCONTEXT": {"detached_ttl": 5.0}},
        {"WSGI_APPLICATION": "shop.nowhere", "USERCONTEXT": {"resolver": resolver}},
    ],
)
def test_options_that_do_not_contradict(options: dict[str, Any]) -> None:
    """Different options in two places add up; an application that is not there is Django's."""
    with override_settings(**options):
        assert ids(deploy=True) == []


def test_wrappers_that_go_round_in_circles_end() -> None:
    """An application that says it wraps itself is not followed for ever."""
    wrapper = Outer()
    wrapper.app = wrapper
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "circle", wrapper)
        with override_settings(WSGI_APPLICATION=f"{__name__}.circle"):
            assert ids(deploy=True) == []


def test_a_check_of_a_wrong_setting_says_so_once() -> None:
    """The other checks leave a setting that cannot be read to E001."""
    with override_settings(USERCONTEXT={"resolvr": 1}, WSGI_APPLICATION=f"{__name__}.wrapped"):
        assert ids(deploy=True) == ["usercontext.E001"]


@override_settings(MIDDLEWARE=[SESSIONS, *AUTHENTICATION])
def test_without_the_app_the_order_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Where no system check runs, the server's start says what it would have said; once."""
    WSGIHandler().load_middleware()
    assert caplog.messages == []
    with modify_settings(INSTALLED_APPS={"remove": [APP]}):
        for _ in range(2):
            WSGIHandler().load_middleware()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "first in MIDDLEWARE" in record.message
    assert "usercontext.W002" in record.message


@override_settings(
    MIDDLEWARE=[SESSIONS, *AUTHENTICATION], SILENCED_SYSTEM_CHECKS=["usercontext.W002"]
)
@modify_settings(INSTALLED_APPS={"remove": [APP]})
def test_what_is_silenced_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """SILENCED_SYSTEM_CHECKS holds for the log, too."""
    WSGIHandler().load_middleware()
    assert caplog.messages == []


SETTINGS = """
from usercontext.frameworks.django import request_user
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", {app}]
MIDDLEWARE = {middleware}
USERCONTEXT = {{"resolver": request_user}}
"""


def check(folder: Path, *, app: str, middleware: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `manage.py check` on a project with these settings."""
    (folder / "shop_settings.py").write_text(SETTINGS.format(app=app, middleware=middleware))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "django", "check", "--fail-level", "WARNING"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            "PYTHONPATH": os.pathsep.join(paths),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_manage_py_check_runs_them(tmp_path: Path) -> None:
    """The name in INSTALLED_APPS is all that it takes, in a process that serves nothing."""
    done = check(tmp_path, app=f'"{APP}"', middleware=AUTHENTICATION)
    assert (done.returncode, done.stderr) == (0, "")
    done = check(tmp_path, app=f'"{APP}"', middleware=[*AUTHENTICATION[1:], OURS])
    assert done.returncode == 1
    assert "(usercontext.W002)" in done.stderr
    assert f'HINT: Put "{OURS}" first in MIDDLEWARE.' in done.stderr
