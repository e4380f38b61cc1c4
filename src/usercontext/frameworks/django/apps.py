"""The app for `INSTALLED_APPS`, which has `manage.py check` look at ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usercontext.core.context import look_again
from usercontext.frameworks.django import checks

if TYPE_CHECKING:

    class AppConfig:
        """Stands for Django's, which has no types."""

else:
    from django.apps import AppConfig

__all__ = ["UserContextConfig"]


class UserContextConfig(AppConfig):
    """Register the system checks; no models, no migrations.

    In `INSTALLED_APPS` write `"usercontext.frameworks.django"`.
    """

    name: str = "usercontext.frameworks.django"
    label: str = "usercontext"
    verbose_name: str = "usercontext"

    def ready(self) -> None:
        """Register the checks; have clients see what the settings have configured of logging."""
        checks.register()
        look_again()
