"""From the command line to a training, on small packages with Isaac Lab's interface of versions 2 and 3."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import isaaclab_fakes
import pytest

from sim_rl_plugin.errors import UserError

pytest.importorskip("gymnasium")

from sim_rl_isaaclab import launch, settings, tasks

_REGISTER = (
    "import sim_rl_isaaclab.plugin as plugin\n"
    "from sim_rl_plugin.plugins import get_manager\n"
    "if not any(info.name == 'isaaclab' for info in get_manager().plugins):\n"
    "    get_manager().register(plugin, 'isaaclab')\n"
)


class Lab:
    """A folder with a fake Isaac Lab in it, and its journal."""

    def __init__(self, folder: Path, generation: int) -> None:
        self.folder = folder
        self.generation = generation
        isaaclab_fakes.write(folder, generation)

    def sim_rl(self, *arguments: str, fails: bool = False) -> str:
        return self.run("from sim_rl_plugin.cli.main import main\nmain()", *arguments, fails=fails, with_stderr=True)

    def run(self, code: str, *arguments: str, fails: bool = False, with_stderr: bool = False) -> str:
        here = str(Path(__file__).parent)
        path = os.pathsep.join([str(self.folder), here, *filter(None, sys.path)])
        env = {**os.environ, "PYTHONPATH": path, "ISAACLAB_JOURNAL": str(self.folder / "journal")}
        result = subprocess.run(
            [sys.executable, "-c", _REGISTER + code, *arguments],
            capture_output=True,
            text=True,
            env=env,
            cwd=self.folder,
        )
        assert (result.returncode != 0) == fails, result.stdout + result.stderr
        return result.stdout + (result.stderr if with_stderr else "")

    def journal(self) -> list[str]:
        file = self.folder / "journal"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture(params=[2, 3])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    return Lab(tmp_path, request.param)


def test_tasks_are_listed_without_starting_anything(lab: Lab) -> None:
    output = lab.sim_rl("list", "--sim", "isaaclab")
    assert [line.strip() for line in output.splitlines()[1:]] == ["Isaac-Ours-v0", "Isaac-Point-v0"]
    assert lab.journal() == []


def test_a_training_takes_the_tasks_settings_and_starts_the_simulator_once(lab: Lab) -> None:
    output = lab.sim_rl(
        "train", "--sim", "isaaclab", "--task", "Isaac-Point-v0", "--device", "cpu", "--eval-episodes", "2",
        "--run-dir", "run", "logger=[csv]", "env.launcher=[--livestream, '2']",
    )  # fmt: skip
    config = (lab.folder / "run" / "config.yaml").read_text()
    assert "num_envs: 12" in config
    assert "init_std: 0.5" in config
    assert "learning_rate: 0.001" in config
    assert "seed: 42" in config
    assert "clip_actions: 1.0" in config
    assert "experiment_name: point" in config
    assert (lab.folder / "run" / "model_1.pt").is_file()
    assert "2 episodes" in output

    journal = lab.journal()
    starts = [line for line in journal if line.startswith("start")]
    assert starts == ["start cpu headless True cameras False stream 2 distributed False"]
    final = "True"  # asked for wherever the configuration knows it
    assert f"env 12 cpu seed 42 final {final} steps 20 render None" in journal
    # The video wants cameras, of which the running simulator has none; the training is done all the same.
    assert "say env.enable_cameras=true" in output
    assert journal[-1] == "close app"
    assert journal.count("close env") == sum(line.startswith("env ") for line in journal) == 2
    if lab.generation == 2:
        assert journal[0] == starts[0]


def test_isaac_lab_2_without_isaac_sim_says_what_is_missing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 2)
    # As in the wheel, where importing the package imports Isaac Sim.
    (lab.folder / "isaaclab" / "__init__.py").write_text("import isaacsim\n")
    assert "Isaac-Point-v0" in lab.sim_rl("list", "--sim", "isaaclab")
    for command in ("train", "check-env"):
        output = lab.sim_rl(command, "--sim", "isaaclab", "--task", "Isaac-Point-v0", "--device", "cpu", fails=True)
        assert "error: this Isaac Lab runs on Isaac Sim, which is not installed" in output
        assert "Traceback" not in output


def test_cameras_are_there_for_the_video_if_they_were_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    lab = Lab(tmp_path, 2)
    lab.sim_rl(
        "train", "--sim", "isaaclab", "--task", "Isaac-Point-v0", "--device", "cpu", "--eval-episodes", "0",
        "--run-dir", "run", "logger=[csv]", "env.enable_cameras=true", "env.headless=false",
    )  # fmt: skip
    journal = lab.journal()
    assert "start cpu headless False cameras True stream -1 distributed False" in journal
    assert any(line.endswith("render rgb_array") for line in journal)
    assert [path.name for path in (lab.folder / "run").glob("video.*")]


def test_other_settings_of_a_task_are_chosen_by_their_keyword(tmp_path: Path) -> None:
    code = (
        "from sim_rl_plugin.config import load_config\n"
        "for task, agent in (('Point', None), ('Point', 'rsl_rl_other_cfg_entry_point'), ('Ours', None), "
        "('Ours', 'rsl_rl_cfg_entry_point'), ('Bare', None)):\n"
        "    options = {'device': 'cpu', 'env': {'agent': agent}}\n"
        "    config = load_config('isaaclab', f'Isaac-{task}-v0', options=options)\n"
        "    print(config.algorithm.get('learning_rate'), config.max_iterations)\n"
    )
    output = Lab(tmp_path, 2).run(code)
    # A task without settings gets the schema's own.
    assert output.split("\n")[:5] == ["0.001 2", "0.002 2", "0.003 3", "0.001 2", "None 500"]


def test_check_env_passes(lab: Lab) -> None:
    output = lab.sim_rl("check-env", "--sim", "isaaclab", "--task", "Isaac-Bare-v0", "--device", "cpu")
    assert "Isaac-Bare-v0 on isaaclab: 0 errors" in output


def test_a_typo_is_told_before_the_simulator_starts(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 2)
    output = lab.sim_rl("train", "--sim", "isaaclab", "--task", "Isaac-Poimt-v0", "--device", "cpu", fails=True)
    assert "unknown task 'Isaac-Poimt-v0': did you mean 'Isaac-Point-v0'" in output
    assert lab.journal() == []


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--livestream", type=int, default=-1)
    parser.add_argument("--device", default="cuda:0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--livestraem", "2"),
            "env.launcher: unrecognized arguments: --livestraem 2; .* takes --device, --livestream",
        ),
        (("--livestream", "two"), "env.launcher: argument --livestream: invalid int value: 'two'"),
        (("--device", "cuda:3"), "env.launcher: --device is set by device"),
        (("--headless",), "env.launcher: unrecognized arguments: --headless"),
    ],
)
def test_launcher_arguments_that_do_not_fit(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch._parse(_add_arguments, launch.LaunchOptions("cpu", arguments=arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"launcher": "abc"}, "env.launcher: expected a list of texts, .*found 'abc'"),
        ({"overrides": "env.sim.dt=1"}, "env.overrides: expected a list of texts"),
    ],
)
def test_options_of_a_wrong_type(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.training_settings("Isaac-Point-v0", {"env": options})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.sim.dt", "expected KEY=VALUE, found 'env.sim.dt'"),
        ("env.scene.num_envs=7", "env.scene.num_envs is set by num_envs=7"),
        ("+env.seed=7", "env.seed is set by seed=7"),
        ("agent.algorithm.gamma=0.9", "stand for themselves: algorithm.gamma=0.9"),
    ],
)
def test_overrides_that_are_settings_of_ours(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.configurations("Isaac-Point-v0", None, [override])


def test_overrides_reach_the_environment(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 3)
    lab.sim_rl(
        "check-env", "--sim", "isaaclab", "--task", "Isaac-Point-v0", "--device", "cpu",
        "env.overrides=[env.episode_steps=9]", "env.final_obs=false",
    )  # fmt: skip
    assert "env 8 cpu seed 42 final False steps 9 render None" in lab.journal()


def test_a_package_of_ones_own_registers_its_tasks(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 3)
    (lab.folder / "my_robots.py").write_text(
        "import gymnasium\n"
        "gymnasium.register(id='Mine-v0', entry_point='isaaclab_tasks.env:StandInEnv', disable_env_checker=True,\n"
        "    kwargs={'env_cfg_entry_point': 'isaaclab_tasks.env:Cfg'})\n"
    )
    output = lab.sim_rl("check-env", "--sim", "isaaclab", "--task", "my_robots:Mine-v0", "--device", "cpu")
    assert "0 errors" in output
    output = lab.sim_rl("check-env", "--sim", "isaaclab", "--task", "no_robots:Mine-v0", "--device", "cpu", fails=True)
    assert "importing 'no_robots' failed" in output


def test_each_rank_has_its_device_and_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launch.own_device("cpu"), launch.own_seed(5)) == ("cpu", 5)
    for variable, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(variable, value)
    assert (launch.own_device("cuda:0"), launch.own_seed(5)) == ("cuda:1", 8)
    with pytest.raises(UserError, match="on CUDA devices only, found 'cpu'"):
        launch.own_device("cpu")


def test_listing_the_adapter_imports_neither_isaac_lab_nor_torch() -> None:
    code = (
        "import sys, sim_rl_isaaclab.plugin as plugin\n"
        "(entry,) = plugin.sim_rl_adapters()\n"
        "assert plugin.sim_rl_default_config('mujoco', 'Ant', {}) is None\n"
        "assert plugin.sim_rl_wrap_env(object()) is None\n"
        "print(entry.name, sorted({'isaaclab', 'gymnasium', 'torch', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "isaaclab []"


def test_settings_are_ours_or_rsl_rls_or_the_users_choice() -> None:
    keys = ["env_cfg_entry_point", "rsl_rl_cfg_entry_point", "sim_rl_cfg_entry_point", "skrl_cfg_entry_point"]
    assert tasks.settings_key(keys, "T", None) == "sim_rl_cfg_entry_point"
    assert tasks.settings_key(keys[:2], "T", None) == "rsl_rl_cfg_entry_point"
    assert tasks.settings_key(keys[:1], "T", None) is None
    with pytest.raises(UserError, match=r"unknown env\.agent of T: 'skrl_cfg_entry_point'"):
        tasks.settings_key(keys, "T", "skrl_cfg_entry_point")
