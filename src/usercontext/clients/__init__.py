"""Reporting clients of others: one lazily importing file each, enabled only by the app.

Each is a few names and short functions over one of four bases: `BaseClient` does nothing,
`log_fields.LogClient` adds fields to lines, `payload.PayloadClient` names the user in what a
library is about to send, and `transaction.TransactionClient` in what it has open.
"""

from usercontext.clients.base import BaseClient

__all__ = ["BaseClient"]
