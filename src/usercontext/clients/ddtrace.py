"""Names the user in Datadog's traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from usercontext.clients.error_texts import replacer_of_error, told_attributes
from usercontext.clients.fields import checked_fields, plain
from usercontext.clients.hooks import processor, wrap
from usercontext.clients.per_request import RequestTransaction
from usercontext.clients.transaction import TransactionClient
from usercontext.core.record import current
from usercontext.diagnostics import harmless
from usercontext.optional import importing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usercontext.core.record import RequestRecord

__all__ = ["FIELDS", "DdtraceClient"]

#: The user's fields, and the tags that hold them.
FIELDS: Final[Mapping[str, str]] = {
    "id": "usr.id",
    "username": "usr.name",
    "email": "usr.email",
    "name": "usr.full_name",
    "ip_address": "http.client_ip",
}

# What ddtrace itself takes of the peer, and of headers that anybody can write.
_COLLECTED: Final = ("http.client_ip", "network.client.ip")

# The tags and attributes that hold the text of an error.
_TEXTS: Final = ("error.message", "error.stack")

_UNTOLD: Final = ("ddtrace error", "the text of an error in a span of ddtrace may quote its input")

_LOST: Final = ("ddtrace span", "a root span of ddtrace went out without its user")


class DdtraceClient(TransactionClient):
    """Names the user on the root span of the request, as `ddtrace`'s own `set_user()` does.

    A root span that starts inside of our middleware takes the user when it starts, if known,
    and asks for the user when it finishes; one that started outside takes the user who becomes
    known, at the latest when the response starts. A trace that is dropped by the sampling of a
    service further up asks nobody.

    Inside a request ours is the whole truth about these tags: what others set is replaced, and
    removed where the user is nobody. So is the address that `DD_TRACE_CLIENT_IP_ENABLED` or App
    and API Protection find: `http.client_ip` is ours, and `network.client.ip` is removed. The
    user is never propagated to the services that are called.

    Texts of errors on all spans follow the option `exception_text`.

    What it cannot do: it does not tell App and API Protection of the user, which may block
    people: that takes `ddtrace.contrib.trace_utils.set_user()`. A trace whose sampling is not
    decided yet when the user is asked for counts as one that is sent.

    Args:
        fields: the user's fields to set, each with its tag; extra keys such as
            `{**FIELDS, "plan": "usr.plan"}` are possible. By default `FIELDS`.

    Attributes:
        span_processor: what `setup()` registers with ddtrace; `unregister()` undoes that.

    Raises:
        ConfigurationError: `fields` is not a mapping of names.
        MissingDependencyError: ddtrace is not installed.
    """

    def __init__(self, *, fields: Mapping[str, str] | None = None) -> None:
        self._fields = checked_fields(fields, FIELDS)
        with importing("ddtrace", "ddtrace", purpose="DdtraceClient"):
            from ddtrace._trace.processor import SpanProcessor
            from ddtrace.trace import Span, tracer
        self._span: Any = Span
        self.span_processor: Any = processor(
            SpanProcessor, on_span_start=self.start_root, on_span_finish=self.finish_root
        )
        self._root: RequestTransaction[Any] = RequestTransaction(
            tracer.current_root_span, lambda span: not span.finished
        )
        self._started_in: WeakKeyDictionary[Any, ref[RequestRecord]] = WeakKeyDictionary()
        super().__init__(self._root)

    def hook(self) -> None:
        """Register the processor, which is told of spans that start and finish."""
        self.span_processor.register()
        wrap(self._span, "set_exc_info", _set_exc_info)
        if hasattr(self._span, "record_exception"):  # later than ddtrace 3.0
            wrap(self._span, "record_exception", _record_exception)

    def is_sampled(self, root: Any) -> bool:
        """Return whether its trace is not dropped already."""
        priority = root.context.sampling_priority
        return priority is None or priority > 0

    def start(self, root: Any) -> None:
        """Remove the addresses that ddtrace has found."""
        _remove(root, *_COLLECTED)

    def name(self, root: Any, user: dict[str, Any] | None) -> None:
        """Replace the user of a root span."""
        _remove(root, *_COLLECTED)
        named = plain(user, self._fields)
        for name in self._fields.values():
            if name in named:
                # As text: numbers would become metrics.
                root.set_tag(name, str(named[name]))
            else:
                _remove(root, name)

    def start_root(self, span: Any) -> None:
        """Name the known user of a root span that starts; what the processor calls."""
        record = current()
        if record is None or span._local_root is not span:
            return
        with harmless(*_LOST):
            self._started_in[span] = ref(record)
            self._root.opened()
            self.name(span, self._get_user(resolve=False))

    def finish_root(self, span: Any) -> None:
        """Ask for the user of a root span that started in this request, and finishes in it."""
        record = current()
        if record is None or span._local_root is not span:
            return
        started_in = self._started_in.get(span)
        if started_in is None or started_in() is not record:
            return
        with harmless(*_LOST):
            self.name(span, self._get_user(resolve=self.is_sampled(span)))


def _set_exc_info(
    function: Any, span: Any, exc_type: Any, exc_val: Any, *args: Any, **options: Any
) -> None:
    function(span, exc_type, exc_val, *args, **options)
    with harmless(*_UNTOLD):
        replace = replacer_of_error(exc_val)
        if replace is None:
            return
        for name in _TEXTS:
            text = span.get_tag(name)
            if text:
                span.set_tag(name, replace(text))


def _record_exception(
    function: Any, span: Any, exception: Any, attributes: Any = None, *args: Any, **options: Any
) -> None:
    with harmless(*_UNTOLD):
        attributes = told_attributes(exception, attributes)
    function(span, exception, attributes, *args, **options)


def _remove(span: Any, *names: str) -> None:
    for name in names:
        if hasattr(span, "remove_tag"):
            span.remove_tag(name)
        elif hasattr(span, "_meta"):  # up to ddtrace 4.8, in a dict
            span._meta.pop(name, None)
        else:  # 4.9 to 4.13
            span._remove_attribute(name)
