"""The Neptune log writer, with a module that records what it is told."""

import sys
import types

import pytest
from small_configs import ppo_cfg

from sim_rl_plugin.logging.neptune import NeptuneLogWriter
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


class Field:
    def __init__(self, told: list, name: str) -> None:
        self.told, self.name = told, name

    def append(self, value: float, step: int) -> None:
        self.told.append(("append", self.name, step))

    def upload(self, path: str) -> None:
        self.told.append(("upload", self.name, path))


class Run:
    def __init__(self, **arguments) -> None:
        self.arguments = arguments
        self.told: list = []
        self.set: dict = {}

    def __getitem__(self, name: str) -> Field:
        return Field(self.told, name)

    def __setitem__(self, name: str, value) -> None:
        self.set[name] = value

    def stop(self) -> None:
        self.told.append(("stop",))


@pytest.fixture
def runs(monkeypatch) -> list[Run]:
    started: list[Run] = []

    def init_run(**arguments) -> Run:
        started.append(Run(**arguments))
        return started[-1]

    module = types.ModuleType("neptune")
    module.init_run = init_run
    module.__spec__ = types.SimpleNamespace(name="neptune")
    monkeypatch.setitem(sys.modules, "neptune", module)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "secret")
    monkeypatch.setenv("NEPTUNE_USERNAME", "me")
    return started


@pytest.mark.parametrize("name", ["neptune", "NeptuneLogWriter", "rsl_rl.utils.NeptuneLogWriter"])
def test_a_training_is_told_to_neptune(tmp_path, runs, name: str):
    logger = {"class_name": name, "project_name": "walkers"}
    env = PointEnv(max_episode_length=4)
    OnPolicyRunner(env, {**ppo_cfg(), "logger": [logger]}, str(tmp_path / "first")).learn(2)
    (run,) = runs
    assert run.arguments == {"project": "me/walkers", "api_token": "secret"}
    assert run.set["log_dir"] == "first"
    assert run.set["train_cfg"]["algorithm"] == {"class_name": "PPO"}
    assert run.set["train_cfg"]["obs_groups"]["critic"] == "['policy', 'critic']"
    assert run.set["env_cfg"]["max_episode_length"] == 4
    assert {("append", "Train/mean_reward", 1), ("append", "Loss/value", 0), ("append", "Loss/value", 1)} <= set(
        run.told
    )
    assert ("upload", "model/saved_model_1", str(tmp_path / "first" / "model_1.pt")) in run.told
    assert run.told[-1] == ("stop",)


def test_the_plain_name_has_its_project_beside_it(tmp_path, runs):
    OnPolicyRunner(PointEnv(), {**ppo_cfg(), "logger": "neptune", "neptune_project": "p"}, str(tmp_path)).learn(1)
    assert runs[0].arguments["project"] == "me/p"


def test_files_and_videos_are_uploaded_and_settings_of_any_kind_stored(tmp_path, runs):
    writer = NeptuneLogWriter(str(tmp_path))
    writer.save_file(str(tmp_path / "repository.diff"))
    writer.save_video(tmp_path / "walk.mp4", 7)
    writer.store_config(types.SimpleNamespace(decimation=4, terrain=object), {"seed": None})
    (run,) = runs
    assert run.arguments["project"] == "me/sim-rl-plugin"
    assert run.told == [
        ("upload", "files/repository", str(tmp_path / "repository.diff")),
        ("upload", "videos/walk_7", str(tmp_path / "walk.mp4")),
    ]
    assert run.set["env_cfg"] == {"decimation": "4", "terrain": str(object)}
    assert run.set["train_cfg"] == {"seed": "None"}


@pytest.mark.parametrize("variable", ["NEPTUNE_API_TOKEN", "NEPTUNE_USERNAME"])
def test_a_missing_account_is_said(tmp_path, runs, monkeypatch, variable: str):
    monkeypatch.delenv(variable)
    with pytest.raises(ValueError, match=f"needs the environment variable {variable}"):
        NeptuneLogWriter(str(tmp_path))


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "neptune", None)
    with pytest.raises(ValueError, match=r'pip install "sim-rl-plugin\[neptune\]"'):
        NeptuneLogWriter(str(tmp_path))
    with pytest.raises(ValueError, match="the log writer 'neptune' needs neptune, not installed"):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "logger": "neptune"}, str(tmp_path))
