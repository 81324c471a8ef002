"""The group of commands: quick, open to third parties, and unharmed by them."""

import json

import pytest

HEAVY = ("torch", "numpy", "tensordict", "jax", "mujoco", "warp", "gymnasium", "matplotlib", "pydantic", "rich", "yaml")


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["--version"], ["pipeline", "run", "--help"]])
def test_it_imports_nothing_heavy(install, python, arguments):
    install("light", "sick")
    code = f"""
import sys
from sim_rl_plugin.cli.main import main
try:
    main({arguments!r}, prog_name="sim-rl")
except SystemExit as end:
    assert not end.code, end.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_lists_every_command_even_those_that_cannot_be_loaded(install, sim_rl):
    install("light", "sick")
    result = sim_rl("--help")
    assert result.exit_code == 0
    for text in ("train", "eval", "play", "list", "plugins", "check-env", "plot", "greet", "Say hello", "broken"):
        assert text in result.output


def test_a_third_partys_command_runs_and_a_broken_one_is_one_line(install, sim_rl):
    install("light")
    assert sim_rl("greet").output == "hello\n"
    result = sim_rl("broken")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the command 'broken' of plugin 'light' cannot be loaded")
    assert result.stderr.count("\n") == 1


def test_an_unknown_command_gets_a_suggestion(site, sim_rl):
    result = sim_rl("trian")
    assert result.exit_code == 2
    assert "unknown command 'trian': did you mean 'train'?" in result.stderr


def test_plugins_shows_versions_entries_and_failures(install, sim_rl):
    install("lab", "sick")
    text = sim_rl("plugins").output
    assert "lab  (plug-lab 0.3)" in text
    assert "[needs absent_sim]" in text
    assert "failed: sick, import: RuntimeError: the driver is too old" in text
    report = json.loads(sim_rl("plugins", "--json").output)
    assert [plugin["name"] for plugin in report["plugins"]] == ["builtin", "lab"]
    assert report["failures"] == [
        {"plugin": "sick", "where": "import", "message": "RuntimeError: the driver is too old"}
    ]
    entries = {entry["name"]: entry for plugin in report["plugins"] for entry in plugin["entries"]}
    assert entries["lab"]["kind"] == "simulator"
    assert entries["PPO"]["target"] == "sim_rl_plugin.algorithms:PPO"


def test_plugins_shows_duplicates(install, sim_rl):
    from sim_rl_plugin import plugins
    from sim_rl_plugin.hooks import Entry, hookimpl

    class Rival:
        @hookimpl
        def sim_rl_algorithms(self):
            return [Entry("PPO", "rival:PPO")]

    install()
    plugins.get_manager().register(Rival(), "rival")
    assert "duplicate: the algorithm 'PPO' is claimed by builtin and rival" in sim_rl("plugins").output


def test_list_shows_tasks_and_what_to_install(install, sim_rl):
    install("lab")
    text = sim_rl("list").output
    assert "lab  (installed)  A point on a plane\n  Reach\n  Crawl\n" in text
    assert 'absent  (not installed: pip install "sim-rl-plugin[absent]")  Not here\n' in text
    (lab,) = json.loads(sim_rl("list", "--sim", "lab", "--json").output)
    assert lab == {
        "name": "lab",
        "summary": "A point on a plane",
        "installed": True,
        "missing": [],
        "install": "",
        "problem": "",
        "tasks": ["Reach", "Crawl"],
    }
    result = sim_rl("list", "--sim", "labb")
    assert (result.exit_code, result.stderr.startswith("error: unknown simulator 'labb': did you mean 'lab'?")) == (
        2,
        True,
    )


def test_list_goes_on_where_a_simulator_cannot_tell_its_tasks_or_talks(install, sim_rl, site):
    from sim_rl_plugin import plugins
    from sim_rl_plugin.hooks import Entry, hookimpl

    (site / "odd_sims.py").write_text(
        "def raises(): raise RuntimeError('no display')\n"
        "def leaves(): raise SystemExit(3)\n"
        "def talks():\n    print('welcome to the simulator')\n    return ['Walk']\n"
    )

    class Odd:
        @hookimpl
        def sim_rl_adapters(self):
            names = ("raises", "leaves", "talks", "absent")
            return [Entry(name, "odd_sims:none", "Odd", tasks=f"odd_sims:{name}") for name in names]

    install("lab")
    plugins.get_manager().register(Odd(), "odd")
    result = sim_rl("list", "--json")
    assert result.exit_code == 0
    report = {item["name"]: item for item in json.loads(result.stdout)}
    assert report["raises"]["problem"] == "its tasks cannot be listed: RuntimeError: no display"
    assert report["leaves"]["problem"] == "its tasks cannot be listed: SystemExit: 3"
    assert report["talks"]["tasks"] == ["Walk"]
    assert "claimed by the plugins 'lab' and 'odd'" in report["absent"]["problem"]
    assert report["lab"]["tasks"] == ["Reach", "Crawl"]
    text = sim_rl("list").output
    assert "raises  (installed)  Odd\n  its tasks cannot be listed: RuntimeError: no display\n" in text
    assert "absent  (cannot be used)\n" in text


def test_list_without_any_simulator(site, sim_rl):
    assert "no simulator is plugged in" in sim_rl("list").output
