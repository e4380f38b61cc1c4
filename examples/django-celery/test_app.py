"""Django with REST framework, Celery, structlog and hijack: all of them name the customer."""

import json
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

for package in ("celery", "rest_framework", "hijack", "structlog"):
    pytest.importorskip(package)

from usercontext.testing import RecordingClient  # noqa: E402

SESSION = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(scope="module")
def people(shop: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A database with two customers and an admin."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connection

    connection.settings_dict["NAME"] = str(tmp_path_factory.mktemp("shop") / "shop.db")
    call_command("migrate", verbosity=0)
    accounts = get_user_model().objects
    people: dict[str, Any] = {name: accounts.create_user(name) for name in ("ada", "bob")}
    people["root"] = accounts.create_superuser("root")
    return people


def client_of(person: Any = None) -> Any:
    """A client that has logged in."""
    from django.test import Client

    client = Client(raise_request_exception=False)
    if person is not None:
        client.force_login(person, SESSION)
    return client


@pytest.fixture
def ended(shop: ModuleType) -> Iterator[threading.Event]:
    """Set when a worker in this process has run a task, whose queue is in memory."""
    from celery import signals
    from celery.contrib.testing.worker import start_worker

    ended = threading.Event()

    def end(**_: Any) -> None:
        ended.set()

    shop.celery.conf.broker_url = "memory://"
    signals.task_postrun.connect(end)
    with start_worker(shop.celery, perform_ping_check=False, shutdown_timeout=30):
        yield ended


def test_a_report_names_the_customer(
    people: dict[str, Any], usercontext_recorder: RecordingClient
) -> None:
    """Whom REST framework has authenticated is the user of the report, and of no other."""
    client_of(people["ada"]).get("/orders/7")
    client_of(people["bob"]).get("/orders/8")
    assert client_of().get("/orders/7").status_code == 403
    users = [event["user"] for event in usercontext_recorder.events]
    expected = [{"id": str(people[name].pk), "username": name} for name in ("ada", "bob")]
    assert users == expected


def test_an_admin_in_a_customers_name(
    people: dict[str, Any], usercontext_recorder: RecordingClient
) -> None:
    """Behind django-hijack the report names the customer, and who acts."""
    client = client_of(people["root"])
    answer = client.post("/hijack/acquire/", {"user_pk": people["ada"].pk, "next": "/orders/1"})
    assert answer.status_code == 302
    client.get("/orders/7")
    (event,) = usercontext_recorder.events
    assert event["user"]["username"] == "ada"
    assert event["user"]["impersonator"] == str(people["root"].pk)


def test_a_job_names_the_customer(
    ended: threading.Event, people: dict[str, Any], usercontext_recorder: RecordingClient
) -> None:
    """The invoice that fails later is reported with whoever asked for it."""
    assert client_of(people["ada"]).post("/orders/7/invoice").status_code == 202
    assert ended.wait(30)
    users = [event["user"] for event in usercontext_recorder.events]
    assert users == [{"id": str(people["ada"].pk)}]


def test_a_log_line_names_the_customer(
    people: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Structlog's lines have the customer's id."""
    client_of(people["ada"]).get("/orders/1")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "asked" in line]
    assert [line["user_id"] for line in lines] == [str(people["ada"].pk)]
