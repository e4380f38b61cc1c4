"""A Bugsink server for tests: `python bugsink_server.py DIRECTORY`, serving till it is killed.

Prints its project's DSN once it listens. Everything it keeps is in that directory; events are
stored before they are answered, no quota applies and nothing is told to its makers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SETTINGS = """
from bugsink.settings.default import *
SECRET_KEY = "for tests alone"
DATABASES["default"]["NAME"] = "{directory}/db.sqlite3"
DATABASES["snappea"]["NAME"] = "{directory}/snappea.sqlite3"
SNAPPEA = {{"TASK_ALWAYS_EAGER": True}}
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
LOGGING = {{"version": 1}}
BUGSINK = {{
    "BASE_URL": "http://127.0.0.1",
    "SINGLE_USER": True,
    "SINGLE_TEAM": True,
    "PHONEHOME": False,
    "INGEST_STORE_BASE_DIR": "{directory}/ingestion",
    "MAX_EVENTS_PER_PROJECT_PER_5_MINUTES": 1_000_000,
    "MAX_EVENTS_PER_PROJECT_PER_HOUR": 1_000_000,
    "MAX_EVENTS_PER_5_MINUTES": 1_000_000,
    "MAX_EVENTS_PER_HOUR": 1_000_000,
}}
"""


def main(directory: str) -> None:
    """Make the databases and a project, then serve."""
    Path(directory, "bugsink_test_settings.py").write_text(SETTINGS.format(directory=directory))
    sys.path.insert(0, directory)
    os.environ["DJANGO_SETTINGS_MODULE"] = "bugsink_test_settings"
    import django
    from django.core.management import call_command

    django.setup()
    for database in ("default", "snappea"):
        call_command("migrate", verbosity=0, database=database)

    from django.core.wsgi import get_wsgi_application
    from projects.models import Project  # type: ignore[import-not-found]
    from waitress import create_server  # type: ignore[import-untyped]

    project = Project.objects.create(name="shop", slug="shop")
    server = create_server(get_wsgi_application(), host="127.0.0.1", port=0, threads=1)
    key = project.sentry_key.hex
    print(f"http://{key}@127.0.0.1:{server.effective_port}/{project.pk}", flush=True)
    server.run()


if __name__ == "__main__":
    main(sys.argv[1])
