"""Where reports go, read from one string: a server of the Sentry protocol, or an SQLite file.

`{scheme}://{public key}[:{secret}]@{host}[:{port}]{path}/{project}`, as Sentry's developer
documentation has it ("SDK Overview: Parsing the DSN"). No message of an error here holds a
part of the DSN: the key and the secret may stand anywhere in one that is wrong.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from usercontext.exceptions import InvalidDsnError

__all__ = ["Dsn", "sqlite_path"]

_FORM = "https://<public key>@<host>/<project>"
_SQLITE_FORM = '"sqlite:///relative.db" or "sqlite:////absolute.db"'

_PUBLIC_KEY = re.compile(r"[A-Za-z0-9_.~-]+")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.~%+-]+)*")
_PROJECT = re.compile(r"[A-Za-z0-9_-]+")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_UNWANTED = re.compile(r"[\x00-\x20\x7f-\U0010ffff]")


class Dsn:
    """The address of a project on a server of the Sentry protocol; frozen.

    Neither `repr()` nor `str()` shows the keys. The secret, which no current server wants, is
    read and forgotten.

    Attributes:
        endpoint: the URL that envelopes are posted to.
        public: the DSN without its secret, as it stands in an envelope's header.
        public_key: what identifies this app to the server.
        project: the project's id.
    """

    __slots__ = ("_base", "endpoint", "project", "public", "public_key")

    endpoint: str
    public: str
    public_key: str
    project: str

    def __init__(self, text: str) -> None:
        parts = _split(text)
        host = _host(parts)
        path, project = _path_and_project(parts)
        self.public_key = _public_key(parts)
        self.project = project
        self._base = f"{parts.scheme}://{{}}{host}{path}"
        self.endpoint = f"{self._base.format('')}/api/{project}/envelope/"
        self.public = f"{self._base.format(self.public_key + '@')}/{project}"

    @property
    def host(self) -> str:
        """The host's name or address, without port and brackets."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def place(self) -> str:
        """Host and port, as a person needs them to find out why nobody answers there."""
        parts = urlsplit(self.endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dsn):
            return NotImplemented
        return self.public == other.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"Dsn('{self._base.format('***@')}/{self.project}')"

    def __str__(self) -> str:
        return f"{self._base.format('***@')}/{self.project}"


def _split(text: str) -> SplitResult:
    if not isinstance(text, str):
        raise InvalidDsnError(f"dsn must be a str like {_FORM}, not {type(text).__name__}")
    # Before urlsplit, which silently drops tabs and newlines.
    if _UNWANTED.search(text):
        raise InvalidDsnError(f"dsn holds a blank or a character beyond ASCII: write {_FORM}")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise InvalidDsnError(f"dsn is not a URL: write {_FORM}") from None
    if parts.scheme not in {"http", "https"}:
        raise InvalidDsnError(
            f'dsn must begin with "https://", "http://" or "sqlite:///": write {_FORM}'
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise InvalidDsnError(f'dsn takes no options: remove "?" or "#" and the rest: {_FORM}')
    return parts


def _public_key(parts: SplitResult) -> str:
    if not parts.username:
        raise InvalidDsnError(f"dsn has no public key: write {_FORM}")
    if not _PUBLIC_KEY.fullmatch(parts.username):
        raise InvalidDsnError(
            f"dsn has a public key with characters other than letters, digits and _.~-: {_FORM}"
        )
    return parts.username


def _host(parts: SplitResult) -> str:
    """Return host and port as they stand in a URL."""
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        # The ValueError's own text quotes the DSN, hence `from None`.
        raise InvalidDsnError("dsn has a port that is not a number of 1 to 65535") from None
    if not host or not (_is_ipv6(host) if "[" in parts.netloc else _HOST.fullmatch(host)):
        raise InvalidDsnError(f"dsn has no host, or one that cannot be: write {_FORM}")
    if port == 0:
        raise InvalidDsnError("dsn has a port that is not a number of 1 to 65535")
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _path_and_project(parts: SplitResult) -> tuple[str, str]:
    path, _, project = parts.path.rstrip("/").rpartition("/")
    if not _PROJECT.fullmatch(project):
        raise InvalidDsnError(f"dsn has no project id at its end: write {_FORM}")
    if not _PATH.fullmatch(path):
        raise InvalidDsnError(f"dsn has a path that cannot be: write {_FORM}")
    return path, project


def sqlite_path(text: object) -> str | None:
    """Return the file that a `sqlite:///` DSN names, or None if it is a DSN of another kind.

    Three slashes begin a path relative to the working directory, four an absolute one. The
    path is taken as it is: no percent-decoding.

    Raises:
        InvalidDsnError: it begins with `sqlite:` and names no file.
    """
    if not isinstance(text, str) or not text.startswith("sqlite:"):
        return None
    path = text.removeprefix("sqlite:///")
    if path == text or not path.strip("/"):
        raise InvalidDsnError(f"dsn names no SQLite file: write {_SQLITE_FORM}")
    if path == ":memory:" or "?" in path or "\0" in path:
        raise InvalidDsnError(
            f"dsn must name a file, without options, that others can read: write {_SQLITE_FORM}"
        )
    return path
