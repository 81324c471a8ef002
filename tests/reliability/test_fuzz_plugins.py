"""Plugins that are broken in every way: reported in one line, and never the end of what does not need them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fuzzing import attempt, short, values
from hypothesis import given
from hypothesis import strategies as st
from small_configs import ppo_cfg

from sim_rl_plugin import plugins, registry
from sim_rl_plugin.cli.main import main
from sim_rl_plugin.cli.plugins import describe_plugins
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.hooks import Entry, hookimpl
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.simulation import open_env
from sim_rl_plugin.testing import PointEnv

TARGETS = [
    "", ":", "a", "a:", ":b", "no_such_module:x", "math:no_such_name", "math:pi", "json:loads", "os.path:",
    "a b:c d", "..:x",
    "sim_rl_plugin.testing:PointEnv", "collections:OrderedDict", "math:pi.real", "\x00:x",
]  # fmt: skip
HOOKS = [f"sim_rl_{kind}" for kind in registry.KINDS]


@pytest.fixture(autouse=True)
def _own_manager(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIM_RL_PLUGINS", "")
    plugins.reset_manager()
    yield
    plugins.reset_manager()


def _entries() -> st.SearchStrategy[Any]:
    fields = {
        "name": st.one_of(st.sampled_from(["PPO", "mujoco", "train", "mine", ""]), values),
        "target": st.one_of(st.sampled_from(TARGETS), values),
        "summary": values,
        "requires": st.one_of(st.just(()), st.lists(st.sampled_from(["", ".", "a.b", "torch"])).map(tuple), values),
        "extra": values,
        "environ": st.one_of(st.just({}), values),
        "tasks": st.one_of(st.sampled_from(TARGETS), values),
    }
    return st.builds(Entry, **fields)


@short(80)
@given(
    handed_over=st.one_of(st.lists(st.one_of(_entries(), values), max_size=3), values),
    hook=st.sampled_from(HOOKS),
    name=st.sampled_from(["PPO", "mujoco", "train", "mine", "x"]),
)
def test_whatever_a_hook_hands_over(handed_over: Any, hook: str, name: str):
    plugins.reset_manager()
    manager = plugins.get_manager()

    class Plugin:
        pass

    def implementation() -> Any:
        return handed_over

    implementation.__name__ = hook
    setattr(Plugin, hook, staticmethod(hookimpl(implementation)))
    manager.register(Plugin, "fuzz")
    json.dumps(describe_plugins(), default=str)
    kind = hook.removeprefix("sim_rl_")
    for found in {*registry.names(kind), name}:
        if (kind, found) != ("commands", "train"):
            attempt(f"plugin, {kind}", lambda found=found: registry.load(kind, found))
    if kind == "adapters":
        for found in registry.names(kind):
            attempt("plugin, tasks", lambda found=found: registry.load_tasks(found))
    for command in (["--help"], ["plugins"], ["list", "--json"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code in (0, 2), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


HEAD = "from sim_rl_plugin.hooks import hookimpl\n"
MARK = f"{HEAD}@hookimpl\n"
MODULES = {
    "raises": "raise RuntimeError('the driver is too old')",
    "exits": "import sys; sys.exit(3)",
    "syntax": "def (",
    "imports": "import no_such_module_at_all",
    "empty": "",
    "signature": MARK + "def sim_rl_iteration_end(runner, iteratoin): pass",
    "unknown hook": MARK + "def sim_rl_algoritms(): return []",
    "no list": MARK + "def sim_rl_algorithms(): return 3",
    "hook raises": MARK + "def sim_rl_adapters(): raise KeyError('x')",
    "wrapper": HEAD + "@hookimpl(wrapper=True)\ndef sim_rl_algorithms():\n    return (yield)",
}


@pytest.mark.parametrize("name", MODULES)
def test_a_broken_module_is_reported_and_the_rest_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = f"plug_{name.replace(' ', '_')}"
    (tmp_path / f"{module}.py").write_text(MODULES[name])
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[sim_rl_plugin]\nbroken = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SIM_RL_PLUGINS", "broken")
    plugins.reset_manager()
    result = CliRunner().invoke(main, ["plugins", "--json"])
    assert result.exit_code == 0, result.output
    failures = json.loads(result.stdout)["failures"]
    assert (len(failures), [failure["plugin"] for failure in failures]) == (
        (0, []) if name == "empty" else (1, ["broken"])
    )
    assert all("\n" not in failure["message"] for failure in failures)
    assert attempt("plugin, modules", lambda: registry.load("algorithms", "PPO")).__name__ == "PPO"
    sys.modules.pop(module, None)


@pytest.mark.parametrize(
    "hook", ["sim_rl_iteration_end", "sim_rl_run_start", "sim_rl_checkpoint_saved", "sim_rl_run_end"]
)
def test_an_event_that_raises_does_not_end_a_training(hook: str, tmp_path: Path):
    class Plugin:
        pass

    def implementation(runner: Any) -> None:
        raise ZeroDivisionError("every time")

    implementation.__name__ = hook
    setattr(Plugin, hook, staticmethod(hookimpl(implementation)))
    plugins.get_manager().register(Plugin, "sick")
    runner = OnPolicyRunner(PointEnv(num_envs=4), ppo_cfg(), log_dir=str(tmp_path))
    runner.learn(3)
    assert runner.completed_iterations == 3
    failures = [(failure.plugin, failure.where, failure.message) for failure in plugins.get_manager().failures]
    assert failures == [("sick", hook, "ZeroDivisionError: every time")]


class _Adapters:
    """Adapters that open something else than environments."""

    opened: Any = None

    @staticmethod
    @hookimpl
    def sim_rl_adapters() -> list[Entry]:
        return [Entry("odd", f"{__name__}:_open"), Entry("greedy", f"{__name__}:_greedy")]

    @staticmethod
    @hookimpl
    def sim_rl_default_config(adapter: str, task: str) -> Any:
        return _Adapters.opened if task == "defaults" else None


def _open(task: str, *, num_envs: int, device: str, seed: int, render: bool) -> Any:
    return _Adapters.opened


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[_open.__module__])
    plugins.get_manager().register(_Adapters, "adapters")
    return _Adapters


def test_adapters_that_open_something_else(adapters: Any):
    from sim_rl_plugin.config import load_config

    @short(25)
    @given(opened=st.one_of(values, st.sampled_from([torch.zeros(2), object(), int, json])))
    def run(opened: Any) -> None:
        adapters.opened = opened

        def use() -> None:
            with open_env(load_config("odd", "x"), device="cpu"):
                raise AssertionError("this is no environment")

        assert isinstance(attempt("plugin, environments", use), UserError)

    run()


def test_default_settings_that_are_none(adapters: Any):
    from sim_rl_plugin.config import load_config

    @short(40)
    @given(opened=st.one_of(values, st.dictionaries(st.sampled_from(list(ppo_cfg())), values, max_size=3)))
    def run(opened: Any) -> None:
        adapters.opened = opened
        attempt("plugin, default settings", lambda: load_config("odd", "defaults"))

    run()
