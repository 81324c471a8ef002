"""Third-party plugins: found, switched off, and kept from doing harm."""

import logging
from pathlib import Path

import pytest

from sim_rl_plugin import builtin, plugins
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.plugins import get_manager

OUR_ALGORITHMS = [entry.name for entry in builtin.sim_rl_algorithms()]
OUR_MODELS = [entry.name for entry in builtin.sim_rl_models()]

GOOD = """
    from sim_rl_plugin.hooks import Entry, hookimpl

    @hookimpl
    def sim_rl_algorithms():
        return [Entry("Mine", "collections:OrderedDict")]

    @hookimpl
    def sim_rl_default_config(adapter, task):
        return {"seed": 7} if adapter == "mujoco" else None
"""


def failures() -> dict[str, str]:
    return {failure.plugin: f"{failure.where}: {failure.message}" for failure in get_manager().failures}


def loaded() -> set[str]:
    return {info.name for info in get_manager().plugins}


def test_an_installed_plugin_is_found_with_its_version(install):
    install("good", GOOD)
    info = next(info for info in get_manager().plugins if info.name == "good")
    assert (info.distribution, info.version, info.module) == ("fake-good", "1.2.3", "fake_plugin_good")
    owners = {owned.entry.name: owned.owner for owned in get_manager().entries("sim_rl_algorithms")}
    assert owners == {**dict.fromkeys(OUR_ALGORITHMS, "builtin"), "Mine": "good"}


def test_our_plugin_is_first_so_that_a_third_party_answer_wins(install):
    install("good", GOOD)
    assert get_manager().plugins[0].name == plugins.BUILTIN
    assert get_manager().first("sim_rl_default_config", adapter="mujoco", task="HalfCheetah") == {"seed": 7}
    assert get_manager().first("sim_rl_default_config", adapter="nowhere", task="HalfCheetah") is None


def test_the_allow_list_switches_plugins_off(install, monkeypatch):
    install("good", GOOD)
    install("other", GOOD)
    monkeypatch.setenv(plugins.ALLOW_LIST, "")
    plugins.reset_manager()
    assert loaded() == {"builtin"}
    monkeypatch.setenv(plugins.ALLOW_LIST, " other ,")
    plugins.reset_manager()
    assert loaded() == {"builtin", "other"}
    assert "good" in get_manager().skipped


def test_an_unknown_name_in_the_allow_list_is_said_clearly(install, monkeypatch, caplog):
    install("good", GOOD)
    monkeypatch.setenv(plugins.ALLOW_LIST, "goood")
    plugins.reset_manager()
    with caplog.at_level(logging.WARNING):
        assert loaded() == {"builtin"}
    assert "did you mean 'good'?" in caplog.text
    assert "did you mean 'good'?" in failures()["goood"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a_package_that_nobody_has", "import: ModuleNotFoundError"),
        ("this is no python", "import: SyntaxError"),
        ("raise SystemExit(3)", "import: SystemExit: 3"),
        (
            """
            from sim_rl_plugin.hooks import hookimpl
            @hookimpl
            def sim_rl_algorithms(): return []
            @hookimpl
            def sim_rl_iteration_end(runer): pass
            """,
            "registration: PluginValidationError",
        ),
        (
            """
            from sim_rl_plugin.hooks import hookimpl
            @hookimpl(wrapper=True)
            def sim_rl_algorithms():
                return (yield)
            """,
            "registration: TypeError: sim_rl_algorithms is a hook wrapper",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_left_out(install, source, expected):
    install("broken", source)
    install("good", GOOD)
    assert loaded() >= {"builtin", "good"}
    assert "broken" not in loaded()
    assert failures()["broken"].startswith(expected)
    assert [owned.entry.name for owned in get_manager().entries("sim_rl_algorithms")] == [*OUR_ALGORITHMS, "Mine"]


def test_a_hook_that_does_not_exist_is_reported_and_the_rest_is_kept(install):
    install("typo", GOOD + "\n    @hookimpl\n    def sim_rl_algorithm(): return []\n")
    assert "typo" in loaded()
    assert failures()["typo"] == "registration: there is no hook 'sim_rl_algorithm': did you mean 'sim_rl_algorithms'?"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise RuntimeError('no GPU\\nhere')", "sim_rl_models: RuntimeError: no GPU here"),
        ("return None", "sim_rl_models: TypeError: 'NoneType' object is not iterable"),
        ("return ['MLP']", "sim_rl_models: expected an Entry, found 'MLP'"),
        ("return [Entry('M', 'my_module')]", "sim_rl_models: target of 'M': expected 'module:attribute'"),
        ("return [Entry('M', 'a:b', requires='jax')]", "sim_rl_models: requires of 'M': expected a tuple"),
    ],
)
def test_a_hook_that_hands_over_rubbish_is_reported(install, body, expected):
    install("odd", f"from sim_rl_plugin.hooks import Entry, hookimpl\n@hookimpl\ndef sim_rl_models():\n    {body}\n")
    assert [owned.entry.name for owned in get_manager().entries("sim_rl_models")] == OUR_MODELS
    assert failures()["odd"].startswith(expected)


class Recorder:
    def __init__(self, raises: bool = False) -> None:
        self.raises = raises
        self.heard: list[int] = []

    @plugins.hooks.hookimpl
    def sim_rl_iteration_end(self, iteration, metrics):
        self.heard.append(iteration)
        if self.raises:
            raise RuntimeError(f"iteration {iteration}")


def test_an_event_reaches_every_plugin_though_one_raises_and_is_reported_once(caplog):
    manager = get_manager()
    before, bad, after = Recorder(), Recorder(raises=True), Recorder()
    for name, recorder in (("before", before), ("bad", bad), ("after", after)):
        assert manager.register(recorder, name)
    with caplog.at_level(logging.WARNING):
        for iteration in range(3):
            manager.fire("sim_rl_iteration_end", runner=None, iteration=iteration, metrics={})
    assert before.heard == bad.heard == after.heard == [0, 1, 2]
    assert len([record for record in caplog.records if "bad" in record.getMessage()]) == 1
    assert [failure.plugin for failure in manager.failures if failure.where == "sim_rl_iteration_end"] == ["bad"]
    manager.unregister("bad")
    manager.fire("sim_rl_iteration_end", runner=None, iteration=3, metrics={})
    assert bad.heard == [0, 1, 2]


def test_a_user_error_of_a_plugin_reaches_the_user_and_a_bug_does_not():
    class Loader:
        error: Exception = KeyError("bug")

        @plugins.hooks.hookimpl
        def sim_rl_load_foreign_checkpoint(self, path):
            raise self.error

    loader = Loader()
    get_manager().register(loader, "loader")
    assert get_manager().first("sim_rl_load_foreign_checkpoint", path=Path("x")) is None
    loader.error = UserError("x is cut off")
    with pytest.raises(UserError, match="cut off"):
        get_manager().first("sim_rl_load_foreign_checkpoint", path=Path("x"))
