"""Names, and the objects behind them."""

import os
import sys
import types

import pytest

from sim_rl_plugin import registry
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.hooks import Entry, hookimpl
from sim_rl_plugin.plugins import get_manager


class Plugin:
    def __init__(self, **entries: list[Entry]) -> None:
        self._entries = entries

    @hookimpl
    def sim_rl_algorithms(self):
        return self._entries.get("algorithms", [])

    @hookimpl
    def sim_rl_adapters(self):
        return self._entries.get("adapters", [])


class Outer:
    class Inner:
        pass


@pytest.fixture
def thing(monkeypatch) -> types.ModuleType:
    module = types.ModuleType("thing_module")
    module.Outer = Outer
    module.number = 3
    monkeypatch.setitem(sys.modules, "thing_module", module)
    return module


def register(name: str, **entries: list[Entry]) -> None:
    assert get_manager().register(Plugin(**entries), name)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match=r"unknown algorithm 'PPOO': did you mean 'PPO'\?"):
        registry.get_entry("algorithms", "PPOO")


def test_a_target_is_imported_when_it_is_asked_for(thing):
    register("mine", algorithms=[Entry("Mine", "thing_module:Outer.Inner"), Entry("Gone", "no_such_module:X")])
    assert registry.load("algorithms", "Mine") is Outer.Inner
    with pytest.raises(UserError, match=r"algorithm 'Gone' of plugin 'mine' cannot be loaded from no_such_module:X"):
        registry.load("algorithms", "Gone")


def test_a_duplicate_is_refused_when_asked_for_and_names_both_owners(thing):
    register("mine", algorithms=[Entry("PPO", "thing_module:Outer"), Entry("Fine", "thing_module:Outer")])
    assert registry.load("algorithms", "Fine") is Outer
    with pytest.raises(UserError, match=r"algorithm 'PPO' is claimed by the plugins 'builtin' and 'mine'"):
        registry.load("algorithms", "PPO")
    assert list(registry.duplicates()) == [("algorithms", "PPO", ["builtin", "mine"])]


def test_a_missing_package_names_the_extra():
    entry = Entry("lab", "lab:open", requires=("no_such_simulator.core",), extra="sim-rl-plugin[lab]")
    register("lab", adapters=[entry])
    assert registry.missing_requirements(entry) == ["no_such_simulator.core"]
    with pytest.raises(UserError) as caught:
        registry.load("adapters", "lab")
    assert str(caught.value) == (
        "the simulator 'lab' needs no_such_simulator.core, not installed: pip install \"sim-rl-plugin[lab]\""
    )


def test_environ_is_a_default_set_before_the_import(tmp_path, monkeypatch):
    (tmp_path / "environ_target.py").write_text(
        "import os\n"
        "seen = (os.environ['SIM_RL_TEST_NEW'], os.environ['SIM_RL_TEST_SET'])\n"
        "def tasks(): return ['A', 'B']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ, SIM_RL_TEST_SET="users"))
    environ = {"SIM_RL_TEST_NEW": "ours", "SIM_RL_TEST_SET": "ours"}
    register("envy", adapters=[Entry("envy", "environ_target:seen", environ=environ, tasks="environ_target:tasks")])
    assert registry.load("adapters", "envy") == ("ours", "users")
    assert registry.load_tasks("envy") == ["A", "B"]


def test_resolve_callable_takes_callables_and_qualified_names(thing):
    assert registry.resolve_callable(Outer) is Outer
    assert registry.resolve_callable("thing_module:Outer.Inner") is Outer.Inner
    assert registry.resolve_callable("thing_module.Outer.Inner") is Outer.Inner
    assert registry.resolve_callable("collections.OrderedDict") is __import__("collections").OrderedDict


def test_resolve_callable_maps_names_of_rsl_rl_to_ours():
    from sim_rl_plugin.env import VecEnv

    assert registry.resolve_callable("rsl_rl.env.VecEnv") is VecEnv
    assert registry.resolve_callable("rsl_rl.env:VecEnv") is VecEnv
    assert registry.resolve_callable("rsl_rl.env.vec_env.VecEnv") is VecEnv


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PPPO", r"unknown class 'PPPO': did you mean 'PPO'\?"),
        ("thing_module:Outr", r"'Outr': did you mean 'Outer'\?"),
        ("no_such_module_here.X", "no module 'no_such_module_here' is installed"),
        ("no_such_module_here:X", "no module 'no_such_module_here' is installed"),
        ("thing_module:number", "is no class or function but int"),
    ],
)
def test_resolve_callable_says_what_is_wrong(thing, name, message):
    with pytest.raises(UserError, match=message):
        registry.resolve_callable(name)


def test_resolve_callable_reports_the_import_that_fails_inside_a_module(install):
    install("half", "import a_package_that_nobody_has")
    with pytest.raises(UserError, match="No module named 'a_package_that_nobody_has'"):
        registry.resolve_callable("fake_plugin_half.Thing")


def test_resolve_callable_refuses_what_is_no_name():
    with pytest.raises(TypeError, match="found 3"):
        registry.resolve_callable(3)


def test_resolve_class_returns_a_deep_copy_without_the_class_name(thing):
    cfg = {"class_name": "thing_module:Outer", "sizes": [1, 2]}
    found, kwargs = registry.resolve_class(cfg, path="actor")
    kwargs["sizes"].append(3)
    assert found is Outer
    assert kwargs == {"sizes": [1, 2, 3]}
    assert cfg == {"class_name": "thing_module:Outer", "sizes": [1, 2]}


def test_resolve_class_begins_with_the_key_path(thing):
    with pytest.raises(UserError, match=r"^actor: expected a mapping with 'class_name'"):
        registry.resolve_class({"sizes": 3}, path="actor")
    with pytest.raises(UserError, match=r"^actor\.class_name: unknown class 'PPPO'"):
        registry.resolve_class({"class_name": "PPPO"}, path="actor")
