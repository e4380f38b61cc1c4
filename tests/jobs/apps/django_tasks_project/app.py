"""The app whose `ready()` adds the extension."""

from __future__ import annotations

import os
from importlib import import_module

from django.apps import AppConfig

import usercontext
from tests.jobs.notes import configure


class Configuration(AppConfig):
    """Configures the process, as the documentation says."""

    name = "tests.jobs.apps.django_tasks_project"
    label = "jobs"

    def ready(self) -> None:
        """Add the extension."""
        configure()
        if os.environ.get("JOBS_STARTER"):
            usercontext.isolation_scope(user={"id": "starter"}).__enter__()
        if not os.environ.get("JOBS_PLAIN"):
            from usercontext.jobs.django_tasks import UserContext

            UserContext()
        if os.environ.get("JOBS_RQ"):
            import_module("tests.jobs.apps.rq_app")
