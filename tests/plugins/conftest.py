"""Plugins that are really installed: a module and its metadata in a folder on ``sys.path``."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sim_rl_plugin import plugins


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that installs a distribution with one plugin; it is gone after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    modules = []

    def write(name: str, source: str, version: str = "1.2.3") -> None:
        module = f"fake_plugin_{name}"
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake-{name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[sim_rl_plugin]\n{name} = {module}\n")
        modules.append(module)
        monkeypatch.syspath_prepend(str(folder))
        plugins.reset_manager()

    yield write
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture(autouse=True)
def fresh_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(plugins.ALLOW_LIST, raising=False)
    plugins.reset_manager()
    yield
    plugins.reset_manager()
