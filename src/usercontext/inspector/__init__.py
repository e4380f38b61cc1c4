"""Shows the reports that an SQLite file keeps: on the command line, and as pages in a browser.

Only the pages need the extra `inspector`; reading, erasing, exporting and sending need nothing.
"""

from __future__ import annotations

__all__: list[str] = []
