"""Its settings: the database backend, RQ's, and the immediate one."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Django has its tasks since 6.0; before that they are a package beside it.
TASKS_PACKAGE = "django.tasks" if find_spec("django.tasks") else "django_tasks"
HAS_RQ = find_spec("django_tasks_rq") is not None

SECRET_KEY = "test"
USE_TZ = True
INSTALLED_APPS = [
    "django_tasks_db",
    *(["django_rq", "django_tasks_rq"] if HAS_RQ else []),
    "tests.jobs.apps.django_tasks_project.app.Configuration",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["JOBS_SQLITE"],
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
TASKS = {
    "default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": []},
    "immediate": {"BACKEND": f"{TASKS_PACKAGE}.backends.immediate.ImmediateBackend", "QUEUES": []},
}
if HAS_RQ:
    TASKS["rq"] = {"BACKEND": "django_tasks_rq.RQBackend", "QUEUES": ["default"]}
RQ_QUEUES = {"default": {"URL": os.environ["JOBS_REDIS"]}}
