"""Tools that watch language models: whom their traces name, and what is told who serves one."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

import usercontext
from usercontext import bind, isolation_scope, set_reporting, set_user
from usercontext.exceptions import ConfigurationError
from usercontext.testing import client_conformance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = b"sixteen secret bytes, or more"


class Tool:
    """A tool that is built on OpenTelemetry: its client, its spans, and what arrives.

    Attributes:
        attribute: where the tool reads the user.
    """

    attribute = "user.id"

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()

    def make_client(self) -> Any:
        """Return a client, on a provider of its own."""
        raise NotImplementedError

    def report(self) -> None:
        """Have the tool trace something."""
        raise NotImplementedError

    def report_as(self, user: str) -> None:
        """Have the tool trace something of whom the app names itself, by the tool's own means."""
        raise NotImplementedError

    def flush(self) -> None:
        """Have what was traced exported."""

    def users(self) -> list[Any]:
        """Return whom the traces named since the last call."""
        self.flush()
        spans = self.exporter.get_finished_spans()
        self.exporter.clear()
        found = [dict(span.attributes).get(self.attribute) for span in spans]
        return [None if user is None else {"id": user} for user in found]


class LangfuseTool(Tool):
    """Langfuse, with an exporter in place of its server."""

    def make_client(self) -> Any:
        langfuse = pytest.importorskip("langfuse")
        from opentelemetry.sdk.trace import TracerProvider

        from usercontext.clients.langfuse import LangfuseClient

        provider = TracerProvider()
        self.langfuse = langfuse.Langfuse(
            # Of one key Langfuse keeps one client.
            public_key=f"pk-{id(provider)}",
            secret_key="sk",
            base_url="http://127.0.0.1:1",
            tracer_provider=provider,
            span_exporter=self.exporter,
        )
        return LangfuseClient(tracer_provider=provider)

    def report(self) -> None:
        with self.langfuse.start_as_current_observation(name="answer", as_type="generation"):
            pass

    def report_as(self, user: str) -> None:
        from langfuse import propagate_attributes

        with propagate_attributes(user_id=user):
            self.report()

    def flush(self) -> None:
        if hasattr(self, "langfuse"):
            self.langfuse.flush()


class TraceloopTool(Tool):
    """OpenLLMetry, by the tracer that its decorators use."""

    attribute = "traceloop.association.properties.user_id"

    def make_client(self) -> Any:
        pytest.importorskip("traceloop.sdk")
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from traceloop.sdk.tracing.tracing import default_span_processor_on_start

        from usercontext.clients.traceloop import TraceloopClient

        class Associating(SimpleSpanProcessor):
            def on_start(self, span: Any, parent_context: Any = None) -> None:
                default_span_processor_on_start(span, parent_context)

        self.provider = TracerProvider()
        self.provider.add_span_processor(Associating(self.exporter))
        return TraceloopClient(tracer_provider=self.provider)

    def report(self) -> None:
        with self.provider.get_tracer("traceloop.tracer").start_as_current_span("answer"):
            pass

    def report_as(self, user: str) -> None:
        from opentelemetry import context
        from traceloop.sdk.tracing.tracing import set_association_properties

        token = context.attach(context.get_current())
        set_association_properties({"user_id": user})
        self.report()
        context.detach(token)


class PhoenixTool(Tool):
    """Phoenix, with the tracer of OpenInference."""

    def make_client(self) -> Any:
        pytest.importorskip("openinference.instrumentation")
        from openinference.instrumentation import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        from usercontext.clients.phoenix import PhoenixClient

        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        return PhoenixClient(tracer_provider=self.provider)

    def report(self) -> None:
        tracer = self.provider.get_tracer("shop")
        with tracer.start_as_current_span("answer", openinference_span_kind="llm"):
            pass

    def report_as(self, user: str) -> None:
        from openinference.instrumentation import using_user

        with using_user(user):
            self.report()


class _Server(BaseHTTPRequestHandler):
    """Takes traces as MLflow's server does; artifacts go into a folder."""

    taken: list[Any]
    folder: str

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        told = json.loads(body or b"{}")
        if self.path.endswith("/traces"):
            self.taken.append(told)
            tags = told["trace"]["trace_info"].setdefault("tags", {})
            tags["mlflow.artifactLocation"] = self.folder
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PATCH = do_POST  # noqa: N815 - the names of the base class

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class MlflowTool(Tool):
    """MLflow, which sends its traces to a server of the test."""

    def __init__(self, address: str, taken: list[Any]) -> None:
        import mlflow.tracing
        from mlflow.entities.trace_location import MlflowExperimentLocation

        self.mlflow = mlflow
        self.taken = taken
        mlflow.set_tracking_uri(address)
        mlflow.tracing.set_destination(MlflowExperimentLocation(experiment_id="1"))

    def make_client(self) -> Any:
        from usercontext.clients.mlflow import MlflowClient

        return MlflowClient()

    def report(self) -> None:
        with self.mlflow.start_span("answer"), self.mlflow.start_span("model"):
            pass

    def report_as(self, user: str) -> None:
        with self.mlflow.start_span("answer"):
            self.mlflow.update_current_trace(user=user)

    def users(self) -> list[Any]:
        taken = [told["trace"]["trace_info"]["trace_metadata"] for told in self.taken]
        self.taken.clear()
        found = [metadata.get("mlflow.trace.user") for metadata in taken]
        return [None if user is None else {"id": user} for user in found]


@pytest.fixture
def mlflow_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MlflowTool]:
    """Serve what MLflow sends its traces to."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    pytest.importorskip("mlflow.tracing")
    taken: list[Any] = []
    handler = type("Handler", (_Server,), {"taken": taken, "folder": tmp_path.as_uri()})
    with served_by(handler) as address:
        yield MlflowTool(address, taken)
    import mlflow.tracing

    mlflow.tracing.configure(span_processors=[])
    mlflow.tracing.reset()


@pytest.fixture(params=["langfuse", "traceloop", "phoenix", "mlflow"])
def tool(request: pytest.FixtureRequest) -> Tool:
    """Each tool in turn."""
    if request.param == "mlflow":
        return request.getfixturevalue("mlflow_tool")  # type: ignore[no-any-return]
    pytest.importorskip("opentelemetry.sdk")
    made = {"langfuse": LangfuseTool, "traceloop": TraceloopTool, "phoenix": PhoenixTool}
    return made[request.param]()


def test_it_conforms(tool: Tool) -> None:
    """Each client keeps what every client keeps."""
    client_conformance(tool.make_client, report=tool.report, users=tool.users, takes_address=False)


def test_whom_the_app_names_itself_wins(tool: Tool) -> None:
    """What the app says by the tool's own means is left alone, and is of that trace alone."""
    usercontext.init(None, clients=[tool.make_client()])
    with isolation_scope(user={"id": "ada"}):
        tool.report_as("bob")
        tool.report()
    assert tool.users() == [{"id": "bob"}, {"id": "ada"}]


def test_threads_follow_by_bind(tool: Tool) -> None:
    """A plain thread has the user of the request by `bind()`, and nobody without."""
    usercontext.init(None, clients=[tool.make_client()])
    with isolation_scope(user={"id": "ada"}):
        for target in (bind(tool.report), tool.report):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert tool.users() == [{"id": "ada"}, None]


def test_a_user_without_id(tool: Tool) -> None:
    """The one text that a tool takes is the username, or the e-mail address, where it has none."""
    usercontext.init(None, clients=[tool.make_client()])
    with isolation_scope():
        for user in ({"username": "ada"}, {"email": "ada@shop.example"}):
            set_user(user)
            tool.report()
    assert tool.users() == [{"id": "ada"}, {"id": "ada@shop.example"}]


# --- who serves the model -------------------------------------------------------------------------


def pseudonym(user: object) -> str | None:
    """Return what is told of a user."""
    from usercontext.clients.llm import safety_identifier

    with isolation_scope(user=user):
        return safety_identifier(key=KEY)


class _Model(BaseHTTPRequestHandler):
    """Takes what a model is asked, and answers nothing of use."""

    taken: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append(json.loads(body))
        self.send_error(400)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served_by(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve what a test's handler takes; yield the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


@pytest.fixture
def model() -> Iterator[tuple[str, list[Any]]]:
    """Serve what takes a model's requests; its address, and what it was asked."""
    taken: list[Any] = []
    with served_by(type("Handler", (_Model,), {"taken": taken})) as address:
        yield address, taken


def test_a_pseudonym_is_of_one_user() -> None:
    """It is the same for the same user, another for another, and never the id."""
    pytest.importorskip("opentelemetry.sdk")
    first, second = pseudonym({"id": "ada", "username": "a"}), pseudonym({"id": "ada"})
    assert first == second
    assert first is not None
    assert len(first) == 40
    assert "ada" not in first
    assert len({first, pseudonym({"id": "bob"}), pseudonym({"username": "ada"})}) == 3


def test_nobody_has_no_pseudonym() -> None:
    """Neither have a user of an address alone, and one who is withheld."""
    pytest.importorskip("opentelemetry.sdk")
    from usercontext.clients.llm import safety_identifier

    assert safety_identifier(key=KEY) is None
    assert pseudonym({"ip_address": "203.0.113.9"}) is None
    with isolation_scope(user={"id": "ada"}):
        set_reporting(False)
        assert safety_identifier(key=KEY) is None


@pytest.mark.parametrize("key", [b"short", ""])
def test_a_key_that_cannot_be_used(key: Any) -> None:
    """It is said whether somebody is there or not."""
    pytest.importorskip("opentelemetry.sdk")
    from usercontext.clients.llm import safety_identifier

    with pytest.raises(ConfigurationError, match="key"):
        safety_identifier(key=key)


def test_openai_is_told_the_pseudonym(model: tuple[str, list[Any]]) -> None:
    """OpenAI's own client sends it, and nothing else of the user."""
    openai = pytest.importorskip("openai")
    from usercontext.clients.llm import safety_identifier

    address, sent = model
    client = openai.OpenAI(api_key="sk", base_url=address, max_retries=0)
    with isolation_scope(user={"id": "user-71"}):
        for create, asked in (
            (client.responses.create, {"input": "hello"}),
            (client.chat.completions.create, {"messages": [{"role": "user", "content": "hello"}]}),
        ):
            with pytest.raises(openai.OpenAIError):
                create(model="m", safety_identifier=safety_identifier(key=KEY), **asked)
    assert [body["safety_identifier"] for body in sent] == [pseudonym({"id": "user-71"})] * 2
    assert "user-71" not in json.dumps(sent)


def test_anthropic_is_told_the_pseudonym(model: tuple[str, list[Any]]) -> None:
    """Anthropic's own client sends it in the metadata, and nothing else of the user."""
    anthropic = pytest.importorskip("anthropic")
    from usercontext.clients.llm import safety_identifier

    address, sent = model
    client = anthropic.Anthropic(api_key="sk", base_url=address, max_retries=0)
    with isolation_scope(user={"id": "user-71"}), pytest.raises(anthropic.AnthropicError):
        client.messages.create(
            model="m",
            max_tokens=1,
            messages=[{"role": "user", "content": "hello"}],
            metadata={"user_id": safety_identifier(key=KEY)},
        )
    assert [body["metadata"] for body in sent] == [{"user_id": pseudonym({"id": "user-71"})}]
    assert "user-71" not in json.dumps(sent)


def test_tasks_at_once(tool: Tool) -> None:
    """Tasks of several users at once are never mixed up."""

    async def trace(user: str) -> None:
        with isolation_scope(user={"id": user}):
            await asyncio.sleep(0)
            await asyncio.to_thread(tool.report)

    async def trace_all() -> None:
        await asyncio.gather(*(trace(f"user{number}") for number in range(8)))

    usercontext.init(None, clients=[tool.make_client()])
    asyncio.run(trace_all())
    told = sorted(user["id"] for user in tool.users())
    assert told == [f"user{number}" for number in range(8)]
