"""Pipelines on the simulator ``points`` of ``point_lab``, through the command line and beneath it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import point_lab
import pytest
from click.testing import CliRunner, Result

from sim_rl_plugin import plugins

CURRICULUM = """
pipeline: curriculum
common: {simulator: points, task: Go}
evaluation: {episodes: 3, seed: 7}
hard: {max_iterations: 5}
"""


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plugin ``point_lab`` and nothing else of third parties, in an empty folder."""
    monkeypatch.setenv("SIM_RL_PLUGINS", "")
    monkeypatch.chdir(tmp_path)
    plugins.reset_manager()
    plugins.get_manager().register(point_lab, "point_lab")
    yield
    plugins.reset_manager()


@pytest.fixture
def curriculum() -> Path:
    """A file that trains ``easy`` for 3 iterations, ``hard`` for 5, and ``direct`` for as many steps."""
    file = Path("walk.yaml")
    file.write_text(CURRICULUM)
    return file


@pytest.fixture
def sim_rl() -> Callable[..., Result]:
    """A function that runs ``sim-rl`` in this process."""
    from sim_rl_plugin.cli.main import main

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="sim-rl")

    return run
