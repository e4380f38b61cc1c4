"""What every request, client or option needs is written once, and the rest of the code calls it."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.test_layers import MODULES


@cache
def code_of(module: str) -> str:
    """Return a module's code, without its comments and docstrings."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                body[0] = ast.Pass()
    return ast.unparse(tree)


# The pattern of a step, and the modules that it may stand in.
PLACES = [
    pytest.param(r"\bThread\(", {"event_loop"}, id="a thread of ours"),
    pytest.param(r"'\{\{auto\}\}'", {"user"}, id="the address that a server fills in"),
    pytest.param(r"\('id', 'username', 'email', 'ip_address'\)", {"user"}, id="what identifies"),
    pytest.param(r"\b_current\.(set|reset)\(", {"core.record"}, id="the current record"),
    pytest.param(r"\.request_scope\(", {"core.clients"}, id="a client's scope of a request"),
    pytest.param(r"\bclass \w*Copier\b|\bdef bounded\(", {"extra_values"}, id="bounded copies"),
    pytest.param(r"\bget_close_matches\(", {"checks"}, id="what was meant"),
    pytest.param(
        r"raise MissingDependencyError\(",
        {
            "optional",
            "inspector.commands.inspect",  # of whichever package its server's import misses
            "sentry.delivery.proxies",  # of a package that none of our extras brings
        },
        id="what is not installed",
    ),
]


@pytest.mark.parametrize(("pattern", "modules"), PLACES)
def test_a_step_stands_in_one_place(pattern: str, modules: set[str]) -> None:
    """What is written a second time is mended in one of both places, and leaks in the other."""
    assert {module for module in MODULES if re.search(pattern, code_of(module))} == modules


# The bases of what patches other libraries; two stand on a lower one.
BASES = ("LlmTraces", "LogClient", "PayloadClient", "TransactionClient")
APART = {
    # is a client of sentry-sdk's scopes, whose events, spans, logs and metrics are all different
    "sentry_sdk": "HookingClient",
    # hands MLflow the user at each span, and has no payload of its own
    "mlflow": "HookingClient",
    # configures handlers; the filter that they get is a LogClient
    "logging": "BaseClient",
}
CLIENTS = [
    name.partition(".")[2]
    for name in MODULES
    if name.startswith("clients.")
    and re.search(r"\bclass (?!Base|Hook|Log|Pay|Trans)\w+Client\(", code_of(name))
]


@pytest.mark.parametrize("client", [*CLIENTS, "logging"])
def test_a_client_stands_on_a_base(client: str) -> None:
    """What clients of a kind do alike is in the base of their kind."""
    classes = re.findall(r"\bclass \w+Client\(([\w, ]+)\)", code_of(f"clients.{client}"))
    assert classes
    named = {base for each in classes for base in each.split(", ")}
    assert named <= ({APART[client]} if client in APART else {*BASES})


#: Words of earlier drafts, and what the field calls it.
REPLACED = {
    "ReportTaker": "Reporter",
    "prepare_exception": "build_exception",
    "last_word": "scrub",
    "run_aside": "run_blocking",
    "run_beside": "run_in_own_thread",
    "put_back": "rehook",
    "shed": "trim",
    "app_kind": "interface",
    "async_form": "async_resolver",
    "without_resolver": "without_resolver_of",
}


@pytest.mark.parametrize("module", MODULES)
def test_names_are_the_fields_words(module: str) -> None:
    """A thing has one name in all of the code."""
    words = set(re.findall(r"\w+", code_of(module)))
    assert {word: REPLACED[word] for word in words & REPLACED.keys()} == {}
