"""Reporting clients of others: one lazily importing file each, enabled only by the app."""

from usercontext.clients.base import BaseClient

__all__ = ["BaseClient"]
