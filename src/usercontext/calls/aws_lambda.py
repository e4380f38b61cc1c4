"""AWS Lambda: the user of every invocation, whose reports leave before the handler returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, Unpack

from usercontext.calls.base import CallContext, environ_of
from usercontext.core.passage import was_ever_reported
from usercontext.exceptions import ConfigurationError
from usercontext.initialise import flush
from usercontext.source import REQUEST_METHOD, seconds_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from usercontext.calls.base import RunningCall
    from usercontext.core.options import ContextOptions

__all__ = ["BatchUserContext", "UserContext"]

_TYPE: Final = "aws_lambda"


class UserContext:
    """Give every invocation of a Lambda handler a user of its own, and send before it returns.

    `handler = UserContext(handler, resolver=find_user)`, also around `Mangum(app)` and
    apig-wsgi's `make_lambda_handler(app)`. Lambda stops the process as soon as the handler has
    returned: what waits for the built-in client is sent by then, within the time that is left.

    API Gateway, a Function URL or a load balancer says the client's address. An event of a
    schedule, of EventBridge or S3 has nobody, unless the resolver finds somebody in it.

    Args:
        handler: called with event and context.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with the event.

    Raises:
        ConfigurationError: an option is wrong, or the handler is not a function.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self, handler: Callable[[Any, Any], Any], **options: Unpack[ContextOptions]
    ) -> None:
        _check(handler)
        self._handler = handler
        self._calls = CallContext(options, is_http=False)
        update_wrapper(self, handler)

    def __call__(self, event: Any, context: Any) -> Any:
        """Handle one invocation."""
        try:
            with _running(self._calls, event, context):
                return self._handler(event, context)
        finally:
            flush(seconds_left(context))


class BatchUserContext:
    """Give every message of a batch a user of its own: of SQS, SNS, Kinesis and DynamoDB.

    `handler = BatchUserContext(handle, resolver=find_sender)` makes a Lambda handler that calls
    `handle(message)` for each of `event["Records"]`, goes on after an error, and reports it with
    the message's own user.

    Args:
        handle: called with one message.
        partial: return which messages have failed, as the queue is told with
            `ReportBatchItemFailures` switched on; by default the first error is raised at the end,
            and the whole batch comes again.
        options: see `ContextOptions`; what is left out comes from `init()`. The resolver is
            called with the message.

    Raises:
        ConfigurationError: an option is wrong, or `handle` is not a function.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        handle: Callable[[Any], Any],
        *,
        partial: bool = False,
        **options: Unpack[ContextOptions],
    ) -> None:
        _check(handle)
        self._handle = handle
        self._partial = partial
        self._calls = CallContext(options, is_http=False)
        update_wrapper(self, handle)

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        """Handle one batch."""
        failed: dict[str, Exception] = {}
        try:
            for message in event["Records"]:
                self._try(message, context, failed)
        finally:
            flush(seconds_left(context))
        if failed and not self._partial:
            raise next(iter(failed.values()))
        return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}

    def _try(self, message: Any, context: Any, failed: dict[str, Exception]) -> None:
        try:
            with _running(self._calls, message, context):
                self._handle(message)
        except Exception as error:  # noqa: BLE001 - raised at the end, or told to the queue
            failed[_id_of(message)] = error


def _check(handler: object) -> None:
    if not callable(handler):
        raise ConfigurationError(
            f"UserContext takes a handler of AWS Lambda, not {type(handler).__name__}: write "
            "handler = UserContext(handler), where `def handler(event, context)`"
        )


def _running(calls: CallContext, event: Any, context: Any) -> RunningCall:
    call = {"type": _TYPE, "name": str(getattr(context, "function_name", None) or _TYPE)}
    return calls.running(_source_of(event), event, call, is_error=_is_error)


def _is_error(error: BaseException) -> bool:
    """Leave out what an app inside, with a middleware of its own, has reported."""
    return isinstance(error, Exception) and not was_ever_reported(error)


def _id_of(message: Any) -> str:
    """Return what the queue calls a message, when it is told which have failed."""
    for part, key in ((message, "messageId"), *((message.get(of), "SequenceNumber") for of in _OF)):
        if isinstance(part, Mapping) and key in part:
            return str(part[key])
    return str(message.get("kinesis", {}).get("sequenceNumber", id(message)))


_OF: Final = ("dynamodb",)


# --- the event ------------------------------------------------------------------------------------


def _source_of(event: Any) -> dict[str, Any]:
    """Return an event as an environ; without HTTP it has neither address nor headers."""
    if not isinstance(event, Mapping):
        return environ_of("", None, ())
    about = _mapping(event.get("requestContext"))
    lines = list(_headers_of(event))
    http = _mapping(about.get("http"))
    path = str(event.get("rawPath") or event.get("path") or "")
    environ = environ_of(path, _address_of(about, http, lines), lines)
    method = http.get("method") or event.get("httpMethod")
    return environ if method is None else {**environ, REQUEST_METHOD: str(method)}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _headers_of(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    many = event.get("multiValueHeaders")
    if isinstance(many, Mapping):
        for name, values in many.items():
            yield from ((str(name), str(value)) for value in values or ())
        return
    for name, value in _mapping(event.get("headers")).items():
        yield str(name), str(value)


def _address_of(
    about: Mapping[str, Any], http: Mapping[str, Any], lines: list[tuple[str, str]]
) -> str | None:
    """Return who was connected to AWS; a load balancer writes it at the end of a header."""
    if "elb" in about:
        forwarded = [value for name, value in lines if name.lower() == "x-forwarded-for"]
        return forwarded[-1].rpartition(",")[2].strip() if forwarded else None
    found = http.get("sourceIp") or _mapping(about.get("identity")).get("sourceIp")
    return None if found is None else str(found)
