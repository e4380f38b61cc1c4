"""Calls that are not one HTTP request: tools, RPCs, operations, events and invocations.

One module for each library, each with a `UserContext` that goes around its server: every call has
a record of its own, with a user found from what belongs to that very call.
"""

__all__: list[str] = []
