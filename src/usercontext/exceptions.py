"""Every exception that usercontext raises.

UserContextError
├── InvalidUserError        (also a ValueError)
├── ConfigurationError      (also a ValueError)
│   └── InvalidDsnError
└── MissingDependencyError  (also an ImportError)
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "InvalidDsnError",
    "InvalidUserError",
    "MissingDependencyError",
    "UserContextError",
]


class UserContextError(Exception):
    """The base of everything that usercontext raises itself."""


class InvalidUserError(UserContextError, ValueError):
    """A value cannot be made a user; raised by `User(...)`, `User.of` and `with_fields` alone.

    The message names the field and the kind of value, never the value itself.
    """


class ConfigurationError(UserContextError, ValueError):
    """An option is wrong; raised where the object is built, naming the option and the fix."""


class InvalidDsnError(ConfigurationError):
    """A DSN cannot be used; the message never holds the DSN's key or secret."""


class MissingDependencyError(UserContextError, ImportError):
    """An optional package is needed, and not installed or not in a version that can be used.

    Attributes:
        package: the distribution that is needed, as named on PyPI.
        extra: the extra of usercontext that brings it.
    """

    def __init__(
        self, package: str, extra: str, *, purpose: str, problem: str | None = None
    ) -> None:
        self.package = package
        self.extra = extra
        self._purpose = purpose
        self._problem = problem
        absent = f'which is not installed: run `pip install "usercontext[{extra}]"`'
        super().__init__(f"{purpose} needs {package}{f': {problem}' if problem else f', {absent}'}")

    def __reduce__(self) -> tuple[object, ...]:
        # Without it no process could send it to another one: pickle calls with the text alone.
        return _missing_dependency, (self.package, self.extra, self._purpose, self._problem)


def _missing_dependency(
    package: str, extra: str, purpose: str, problem: str | None
) -> MissingDependencyError:
    return MissingDependencyError(package, extra, purpose=purpose, problem=problem)
