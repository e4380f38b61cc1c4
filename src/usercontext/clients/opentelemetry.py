"""Names the user in OpenTelemetry's spans and log records."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from usercontext.clients.error_texts import replacer_of_error, told_attributes
from usercontext.clients.fields import checked_fields, plain
from usercontext.clients.hooks import processor
from usercontext.clients.per_request import PerRequest, RequestSpans
from usercontext.clients.transaction import TransactionClient
from usercontext.core.record import UNKNOWN, current
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usercontext.core.record import RequestRecord
    from usercontext.types import GetUser

__all__ = ["FIELDS", "OpenTelemetryClient"]

#: The user's fields, and the attributes of the semantic conventions that hold them.
FIELDS: Final[Mapping[str, str]] = {
    "id": "user.id",
    "username": "user.name",
    "email": "user.email",
    "name": "user.full_name",
    "ip_address": "client.address",
}

_ADDRESS: Final = "ip_address"

#: Where instrumentations write the peer's address, by the conventions of today and before.
_PEERS: Final = (
    "client.address",
    "network.peer.address",
    "net.peer.ip",
    "net.sock.peer.addr",
    "http.client_ip",
)

_TEXTS: Final = ("exception.message", "exception.stacktrace")
_UNTOLD: Final = ("OpenTelemetry error", "the text of an error may quote its input")


class OpenTelemetryClient(TransactionClient):
    """Names the user on server spans, the spans below them, and log records.

    A span takes the user when it starts, if known, and when the user becomes known while it is
    open: at the latest when the response starts. Attributes that the app gives a span win whole:
    our user is not blended with them. Nothing goes into baggage, which is sent to every service
    that is called.

    Texts of errors follow the option `exception_text`: in recorded exceptions, in the status
    that comes of them, and of exceptions in log records.

    What an instrumentation itself says of the peer's address is taken off server spans without
    `include_ip`, and with `anonymize_ip`; `client.address` is replaced by ours where we have one.

    What it cannot do: a span that ended before the user was known stays without. Past its limit of
    attributes (128) a span drops the oldest.

    Args:
        fields: the user's fields to set, each with its attribute; for Azure Monitor and others
            `{**FIELDS, "id": "enduser.id"}`.
        resolve: ask a sync resolver when a span below the server's starts; a None is not kept,
            as authentication may itself start spans. False: only take a user who is known.
        tracer_provider: where the span processor is added; by default the global provider, which
            may be set after `init()`.
        logger_provider: where the log processor is added; by default the global provider.

    Attributes:
        span_processor: for providers that take their processors elsewhere, such as
            `logfire.configure(additional_span_processors=[client.span_processor])`.
        log_processor: the same for log records; it belongs before the exporting ones.

    Raises:
        ConfigurationError: `fields` is not a mapping of names.
        MissingDependencyError: opentelemetry-sdk is not installed.
    """

    def __init__(
        self,
        *,
        fields: Mapping[str, str] | None = None,
        resolve: bool = True,
        tracer_provider: Any = None,
        logger_provider: Any = None,
    ) -> None:
        self._fields = checked_fields(fields, FIELDS)
        self._resolve = resolve
        with importing("opentelemetry-sdk", "opentelemetry", purpose="OpenTelemetryClient"):
            from opentelemetry import _logs, trace
            from opentelemetry.sdk._logs import LogRecordProcessor
            from opentelemetry.sdk.trace import SpanProcessor
        self._server: Any = trace.SpanKind.SERVER
        self._calls: Any = (trace.SpanKind.CLIENT, trace.SpanKind.PRODUCER)
        self._current_span: Any = trace.get_current_span
        self._providers = [
            _Provider(tracer_provider, trace.get_tracer_provider, "span"),
            _Provider(logger_provider, _logs.get_logger_provider, "log_record"),
        ]
        self.span_processor: Any = processor(SpanProcessor, on_start=self.start_span)
        self.log_processor: Any = processor(
            LogRecordProcessor,
            on_emit=self.emit_log,
            emit=self.emit_log,  # its name before opentelemetry-sdk 1.35
            shutdown=lambda: None,
            force_flush=lambda *_, **__: True,
        )
        self._spans = RequestSpans(lambda span: span.is_recording())
        self._asked: PerRequest[int] = PerRequest()
        self._written: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
        super().__init__(self._spans)

    def hook(self) -> None:
        """Add the processors to the providers."""
        processors = self.span_processor, self.log_processor
        for provider, one in zip(self._providers, processors, strict=True):
            provider.add(one)

    def request_scope(self, get_user: GetUser, /) -> None:
        """Keep the server span, where its middleware is outside of ours."""
        del get_user
        self.hook()  # into providers set after `init()`
        record = current()
        if record is None or record.source is None:
            # The span that a job starts in is not the job's: other jobs may follow in it.
            return
        span = self._current_span()
        if span.is_recording() and getattr(span, "kind", None) not in self._calls:
            self._keep(span)
            self._hide_peer(span, record)

    def _keep(self, span: Any) -> None:
        record = current()
        # What starts in a `use_user` block stays that user's.
        if record is not None and record.root is record:
            self._spans.keep(span)

    def start_span(self, span: Any, parent_context: object = None) -> None:
        """Name the user of a span that starts; what the span processor calls."""
        del parent_context
        if not span.is_recording():
            return
        _tell_safely(span)
        with harmless("OpenTelemetry span", "a span went out without its user"):
            self._keep(span)
            if span.kind is self._server:
                self._hide_peer(span, current())
                # It starts before anything has authenticated the request.
                _ask_before_end(span, self._get_user)
                self.name(span, self._get_user(resolve=False))
            else:
                self.name(span, self._pull())
            _call_before_end(span, self._unblend)

    def _hide_peer(self, span: Any, record: RequestRecord | None) -> None:
        """Take off what an instrumentation said of the peer, where no address is to leave."""
        if record is None or span.kind is not self._server:
            return
        settings = record.settings
        if not settings.includes_ip or settings.request_data.anonymize_ip:
            for name in _PEERS:
                if name in span.attributes:
                    _remove(span, name)

    def _unblend(self, span: Any) -> None:
        """Take ours off a span that the app has given another user since it started."""
        present, written = span.attributes, self._written.get(span, {})
        names = self._identity_names()
        if any(name in present and present[name] != written.get(name) for name in names):
            self.name(span, None)

    def emit_log(self, log: Any) -> None:
        """Name the known user of a log record; what the log processor calls."""
        with harmless(*_UNTOLD):
            _hide_error(log.log_record)
        with harmless("OpenTelemetry log", "a log record went out without its user"):
            attributes = log.log_record.attributes
            if any(name in attributes for name in self._fields.values()):
                return
            for name, value in plain(self._get_user(resolve=False), self._fields).items():
                attributes[name] = value

    def _pull(self) -> dict[str, Any] | None:
        record = current()
        if record is None or not self._resolve or not _is_unresolved(record):
            return self._get_user(resolve=False)
        # The 1st, 2nd, 4th, 8th ... span asks: nobody so far may be somebody later, and the
        # request of nobody must not pay at each span.
        asked = (self._asked.get() or 0) + 1
        self._asked.keep(asked)
        asks = asked & (asked - 1) == 0
        user = self._get_user(resolve=asks)
        if asks and record.user is None:
            record.ask_again()
        return user

    def name(self, span: Any, user: dict[str, Any] | None) -> None:
        """Write the user's attributes, and remove those that we wrote for another one."""
        present = span.attributes
        written = self._written.get(span, {})
        ours = {name for name, value in written.items() if present.get(name) == value}
        wanted = plain(user, self._fields)
        if any(name in present and name not in ours for name in self._identity_names()):
            wanted = {}
        address = self._fields.get(_ADDRESS, "")
        if span.kind is not self._server and address in present.keys() - ours:
            wanted.pop(address, None)
        for name in ours - wanted.keys():
            _remove(span, name)
        if wanted:
            span.set_attributes(wanted)
        self._written[span] = wanted

    def _identity_names(self) -> list[str]:
        return [name for field, name in self._fields.items() if field != _ADDRESS]


class _Provider:
    """A provider of OpenTelemetry, which may be set later than we are set up."""

    def __init__(self, given: Any, find: Any, kind: str) -> None:
        self._given = given
        self._find = find
        self._kind = kind
        self._method = f"add_{kind}_processor"
        self._added_to: object = None

    def add(self, processor: Any) -> None:
        provider = self._find() if self._given is None else self._given
        if provider is self._added_to:
            return
        add = getattr(provider, self._method, None)
        if add is None:
            return
        self._added_to = provider
        multi = getattr(provider, f"_multi_{self._kind}_processor", None)
        name = f"_{self._kind}_processors"
        if isinstance(getattr(multi, name, None), tuple):
            # A log record is exported while the processors run: ours must be the first of them,
            # and the public call makes it the last.
            setattr(multi, name, (processor, *getattr(multi, name)))
        else:
            add(processor)


def _ask_before_end(span: Any, get_user: GetUser) -> None:
    """Have the user of a failing request asked for while its server span is still open.

    There is no response, and a span processor is told too late: on_end finds it immutable.
    """
    end = span.end

    def ask_and_end(*args: Any, **kwargs: Any) -> None:
        if span.is_recording():
            get_user()
        end(*args, **kwargs)

    span.end = ask_and_end


def _call_before_end(span: Any, function: Callable[[Any], None]) -> None:
    end = span.end

    def call_and_end(*args: Any, **kwargs: Any) -> None:
        if span.is_recording():
            with harmless("OpenTelemetry span", "a span went out with our user beside another"):
                function(span)
        end(*args, **kwargs)

    span.end = call_and_end


def _tell_safely(span: Any) -> None:
    """Have the exceptions that a span records told by the option `exception_text`."""
    record_exception, set_status = span.record_exception, span.set_status
    recorded: list[BaseException] = []

    def record_safely(
        exception: BaseException, attributes: Any = None, *args: Any, **options: Any
    ) -> None:
        recorded[:] = [exception]
        with harmless(*_UNTOLD):
            # What is given here goes before what the span makes itself.
            attributes = told_attributes(exception, attributes)
        record_exception(exception, attributes, *args, **options)

    def set_safe_status(status: Any, description: str | None = None) -> None:
        with harmless(*_UNTOLD):
            status, description = _safe_status(status, description, recorded)
        set_status(status, description)

    span.record_exception, span.set_status = record_safely, set_safe_status


def _safe_status(status: Any, description: Any, recorded: list[BaseException]) -> tuple[Any, Any]:
    """Return a span's status and its description, which instrumentations make of an error."""
    text = getattr(status, "description", None) or description
    error = recorded[0] if recorded else sys.exc_info()[1]
    replace = None if error is None or not isinstance(text, str) else replacer_of_error(error)
    if replace is None:
        return status, description
    if hasattr(status, "status_code"):
        return type(status)(status.status_code, replace(text)), None
    return status, replace(text)


def _hide_error(log: Any) -> None:
    """Tell the exception of a log record safely, and what the record says of it."""
    attributes = log.attributes
    if not attributes or not any(name in attributes for name in _TEXTS):
        return
    replace = replacer_of_error(getattr(log, "exception", None) or sys.exc_info()[1])
    if replace is None:
        return
    for name in _TEXTS:
        if isinstance(attributes.get(name), str):
            attributes[name] = replace(attributes[name])
    if isinstance(log.body, str):
        log.body = replace(log.body)


def _is_unresolved(record: RequestRecord) -> bool:
    return record.user is UNKNOWN


def _remove(span: Any, name: str) -> None:
    # No public call removes an attribute; setting None exports an empty value.
    try:
        del span._attributes[name]
    except (AttributeError, KeyError, TypeError):
        span.set_attribute(name, "")
