"""Names the user in the segments of AWS X-Ray."""

from __future__ import annotations

import string
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from usercontext import event_loop
from usercontext.clients.collected import is_unasked
from usercontext.clients.error_texts import replacer_of_error
from usercontext.clients.fields import checked_fields, identifier, plain
from usercontext.clients.hooks import call_before, wrap
from usercontext.clients.per_request import RequestSpans
from usercontext.clients.transaction import TransactionClient
from usercontext.core.lifecycle import inside
from usercontext.core.record import current
from usercontext.diagnostics import harmless, warn_once
from usercontext.exceptions import ConfigurationError
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["FIELDS", "XRayClient"]

#: The user's fields, and the annotations of a segment that hold them beside its `user`.
FIELDS: Final[Mapping[str, str]] = {
    "username": "user_name",
    "email": "user_email",
    "name": "user_full_name",
}

# Where X-Ray's middlewares put the first X-Forwarded-For, which anyone can write, or the peer.
_ADDRESS: Final = "client_ip"
_FORWARDED: Final = "x_forwarded_for"

_LOST: Final = ("X-Ray end", "a segment of X-Ray went out without its user")

# https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html: the SDK drops
# annotations with other names.
_LETTERS: Final = frozenset(string.ascii_letters + string.digits + "_")


class XRayClient(TransactionClient):
    """Makes ours the user of every segment that is sampled, and our address its client.

    A segment takes the user who becomes known while it is open, and asks for the user when it
    ends: X-Ray's own middlewares may be outside of ours or inside. Its `user` is the user's id,
    else the username, else the email; other fields are annotations, by which traces can be
    searched.

    Inside a request ours is the whole truth: a `set_user()` of the app on the segment is replaced,
    and removed where the user is nobody. The `client_ip` that X-Ray's middlewares take of the
    first X-Forwarded-For is replaced by ours, or removed.

    Texts of errors in segments and subsegments follow the option `exception_text`.

    What it cannot do: a segment that ended before the user was known stays without. In AWS Lambda
    the segment is not the app's, and is left alone. In an async app X-Ray must keep its segments
    with `AsyncContext`; a segment begun outside of our middleware is else not found.

    Args:
        recorder: the recorder whose segments are named; by default the SDK's `xray_recorder`.
        fields: the user's fields to annotate, each with its annotation; by default `FIELDS`.

    Raises:
        ConfigurationError: `fields` is not a mapping of names, or a name has other characters than
            letters, digits and `_`.
        MissingDependencyError: aws-xray-sdk is not installed.
    """

    def __init__(self, recorder: Any = None, *, fields: Mapping[str, str] | None = None) -> None:
        self._fields = _checked_names(checked_fields(fields, FIELDS))
        with importing("aws-xray-sdk", "xray", purpose="XRayClient"):
            from aws_xray_sdk.core import xray_recorder
            from aws_xray_sdk.core.models.entity import Entity
            from aws_xray_sdk.core.models.facade_segment import FacadeSegment
        self._recorder: Any = xray_recorder if recorder is None else recorder
        self._entity: Any = Entity
        self._of_lambda: Any = FacadeSegment
        # A segment keeps its record, as long as X-Ray keeps the segment, and no record a segment.
        self._segments = RequestSpans(lambda segment: segment.in_progress)
        self._owners: WeakKeyDictionary[Any, RequestRecord] = WeakKeyDictionary()
        super().__init__(self._segments)

    def hook(self) -> None:
        """Have the recorder hand us the segments that begin and end."""
        begin = self._recorder.begin_segment

        def begin_segment(*args: Any, **kwargs: Any) -> Any:
            segment = begin(*args, **kwargs)
            with harmless("X-Ray begin", "a segment of X-Ray goes without its user"):
                self._keep(segment)
            return segment

        self._recorder.begin_segment = begin_segment
        call_before(self._recorder, "end_segment", self._name_ending, *_LOST)
        wrap(self._entity, "add_exception", _add_exception)

    def request_scope(self, get_user: GetUser, /) -> None:
        """Keep the segment that was begun outside of our middleware."""
        del get_user
        record = current()
        if record is None or record.source is None:
            # The segment that a job starts in is not the job's: other jobs may follow in it.
            return
        if event_loop.is_running() and isinstance(self._local, threading.local):
            if self._current() is not None:
                warn_once(
                    "X-Ray's context",
                    "X-Ray keeps its segments by thread, so that concurrent requests mix them: "
                    "run xray_recorder.configure(context=AsyncContext()) in an async app",
                )
            return
        self._keep(self._current())

    @property
    def _local(self) -> Any:
        return getattr(self._recorder.context, "_local", None)

    def _current(self) -> Any:
        """Return the open segment here, or None; the public call logs or raises where none is."""
        entities = getattr(self._local, "entities", None)
        if not entities:
            return None
        return getattr(entities[-1], "parent_segment", entities[-1])

    def _keep(self, segment: Any) -> None:
        record = current()
        if record is None or segment is None or not segment.sampled:
            return
        if segment in self._owners or isinstance(segment, self._of_lambda):
            return
        self._owners[segment] = record
        self._segments.keep(segment)

    def _name_ending(self, *_: object, **__: object) -> None:
        segment = self._current()
        record = None if segment is None else self._owners.get(segment)
        if record is not None and segment.in_progress:
            # It may end in a middleware outside of ours, or in another task's turn.
            with inside(record):
                self._name(segment, record, self._get_user())

    def name(self, segment: Any, user: dict[str, Any] | None) -> None:
        """Replace the user of an open segment."""
        self._name(segment, self._owners[segment].root, user)

    def _name(self, segment: Any, record: RequestRecord, user: dict[str, Any] | None) -> None:
        if not is_unasked(record):
            segment.set_user(identifier(user))
            for name in self._fields.values():
                segment.annotations.pop(name, None)  # no public call removes an annotation
            for name, value in plain(user, self._fields).items():
                segment.put_annotation(name, value)
        _replace_address(segment, (user or {}).get("ip_address"))


def _checked_names(fields: dict[str, str]) -> dict[str, str]:
    for name in fields.values():
        if not _LETTERS.issuperset(name):
            raise ConfigurationError(
                f"fields has the annotation {name!r:.80}, which X-Ray drops: use letters, digits "
                "and _ alone"
            )
    return fields


def _replace_address(segment: Any, address: str | None) -> None:
    # With URLS_AS_ANNOTATION Django's middleware annotates the address as well.
    for place in (segment.http.get("request", {}), segment.annotations):
        place.pop(_ADDRESS, None)
        place.pop(_FORWARDED, None)
    if address is not None:
        segment.put_http_meta(_ADDRESS, address)


def _add_exception(function: Any, entity: Any, exception: Any, *args: Any, **options: Any) -> None:
    function(entity, exception, *args, **options)
    with harmless("X-Ray error", "the text of an error in a segment may quote its input"):
        # Of an error that another segment holds there is no more than a reference.
        found = entity.cause.get("exceptions") if isinstance(entity.cause, dict) else None
        replace = replacer_of_error(exception)
        if found and replace is not None and isinstance(found[-1].message, str):
            found[-1].message = replace(found[-1].message)
