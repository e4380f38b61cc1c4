"""The version, written here alone: the build and the built-in client read it."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
