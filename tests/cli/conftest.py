"""The command line, with a simulator of its own plugged in."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sim_rl_plugin import plugins

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# The simulator of these tests is found by its module name, as any plugin is.
sys.path.insert(0, str(HERE))

PLUGINS = {
    "lab": "from fake_lab import *",
    "light": """
from sim_rl_plugin.hooks import Entry, hookimpl

@hookimpl
def sim_rl_commands():
    return [Entry("greet", "light_command:greet", "Say hello"), Entry("broken", "light_command:nothing", "Fail")]
""",
    "sick": "raise RuntimeError('the driver is too old')",
}
COMMAND = """
import click

@click.command()
def greet():
    click.echo("hello")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path in which plugins can be installed; by default only ours is active."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("SIM_RL_PLUGINS", "")
    # A display would make `play` open a window.
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    plugins.reset_manager()
    yield folder
    plugins.reset_manager()
    for name in [name for name in sys.modules if name.startswith(("plug_", "light_command"))]:
        del sys.modules[name]


@pytest.fixture
def install(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that installs some of ``PLUGINS`` and switches them on, and nothing else."""

    def install_plugins(*names: str) -> None:
        for name in names:
            (site / f"plug_{name}.py").write_text(PLUGINS[name])
            info = site / f"plug_{name}-0.3.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plug-{name}\nVersion: 0.3\n")
            (info / "entry_points.txt").write_text(f"[sim_rl_plugin]\n{name} = plug_{name}\n")
        (site / "light_command.py").write_text(COMMAND)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("SIM_RL_PLUGINS", ",".join(names))
        plugins.reset_manager()

    return install_plugins


@pytest.fixture
def sim_rl() -> Callable[..., Result]:
    """A function that runs ``sim-rl`` in this process."""
    from sim_rl_plugin.cli.main import main

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="sim-rl")

    return run


@pytest.fixture
def python(site: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """A function that runs Python code in a process of its own, with the installed plugins."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), str(HERE), str(site)])
        environ = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)

    return run
