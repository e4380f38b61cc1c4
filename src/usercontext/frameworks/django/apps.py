"""The app for `INSTALLED_APPS`, which has `manage.py check` look at ours."""

from __future__ import annotations

from django.apps import AppConfig

from usercontext.frameworks.django import checks

__all__ = ["UserContextConfig"]


class UserContextConfig(AppConfig):  # type: ignore[misc]
    """Register the system checks; no models, no migrations.

    In `INSTALLED_APPS` write `"usercontext.frameworks.django"`.
    """

    name = "usercontext.frameworks.django"
    label = "usercontext"
    verbose_name = "usercontext"

    def ready(self) -> None:
        """Register the checks."""
        checks.register()
