"""Requests to other services of ours that carry the user, to listed hosts and to no other.

One module for each HTTP client; the receiving side is `usercontext.resolvers.CarriedUser`.
"""

from usercontext.services.base import HEADER

__all__ = ["HEADER"]
