"""What the examples' tests share: their app, loaded by its path, and answers about reports."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleType]:
    """The `app.py` beside the test.

    Loaded by path, because its folder has the name of a framework that it must not hide. What
    its own `init()` configures gives way to `usercontext_recorder`.
    """
    path = Path(request.path).with_name("app.py")
    name = f"shop_on_{path.parent.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        reports = tmp_path_factory.mktemp("reports") / "reports.db"
        patch.setenv("USERCONTEXT_DSN", f"sqlite:///{reports}")
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        yield module
