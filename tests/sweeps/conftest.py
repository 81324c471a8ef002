"""Sweep files on the simulator of ``sweep_lab``, and ``sim-rl`` in a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sweep_lab
from click.testing import CliRunner, Result

from sim_rl_plugin import plugins
from sim_rl_plugin.config.files import merge
from sim_rl_plugin.config.yaml_text import dump

FILE = {
    "train": sweep_lab.TRAIN,
    "parameters": {"env.bonus": {"distribution": "float", "low": 0.0, "high": 1.0}},
    "budget": {"trials": 3, "iterations": 4},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, without plugins of third parties."""
    monkeypatch.setenv("SIM_RL_PLUGINS", "")
    monkeypatch.chdir(tmp_path)
    plugins.reset_manager()
    yield tmp_path
    plugins.reset_manager()


@pytest.fixture
def sweep_file() -> Callable[..., Path]:
    """A function that writes a sweep file: three trials of four iterations, with changes; None removes a key."""

    def write(name: str = "search.yaml", **changes: Any) -> Path:
        contents = {key: value for key, value in merge(FILE, changes).items() if value is not None}
        Path(name).write_text(dump(contents))
        return Path(name)

    return write


@pytest.fixture
def sim_rl() -> Callable[..., Result]:
    """A function that runs ``sim-rl`` in this process."""
    from sim_rl_plugin.cli.main import main

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="sim-rl")

    return run
