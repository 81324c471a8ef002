"""What of the adapter needs no mjlab: settings, options, the plugin, and the registration, on a stand-in."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from sim_rl_mjlab import plugin
from sim_rl_mjlab.settings import as_run_settings, without_unset
from sim_rl_mjlab.task_options import apply_options
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError

# What `asdict` makes of mjlab's RslRlOnPolicyRunnerCfg.
RL_CFG: dict[str, Any] = {
    "seed": 42,
    "num_steps_per_env": 24,
    "max_iterations": 300,
    "obs_groups": {"actor": ("actor",), "critic": ("critic",)},
    "save_interval": 50,
    "experiment_name": "exp1",
    "run_name": "",
    "logger": "wandb",
    "wandb_project": "mjlab",
    "wandb_tags": (),
    "resume": False,
    "load_run": ".*",
    "load_checkpoint": "model_.*.pt",
    "clip_actions": None,
    "upload_model": True,
    "class_name": "OnPolicyRunner",
    "actor": {
        "hidden_dims": (128, 128, 128),
        "activation": "elu",
        "obs_normalization": False,
        "cnn_cfg": None,
        "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"},
        "rnn_type": None,
        "rnn_hidden_dim": 256,
        "rnn_num_layers": 1,
        "class_name": "MLPModel",
    },
    "critic": {
        "hidden_dims": (128, 128, 128),
        "cnn_cfg": None,
        "distribution_cfg": None,
        "rnn_type": "gru",
        "rnn_hidden_dim": 64,
        "rnn_num_layers": 2,
        "class_name": "RNNModel",
    },
    "algorithm": {"class_name": "PPO", "num_learning_epochs": 5},
}


def test_unset_model_settings_are_left_out_and_nothing_is_modified() -> None:
    before = copy.deepcopy(RL_CFG)
    cleaned = without_unset(RL_CFG)

    assert before == RL_CFG
    assert set(cleaned["actor"]) == {"hidden_dims", "activation", "obs_normalization", "distribution_cfg", "class_name"}
    assert set(cleaned["critic"]) == {"hidden_dims", "rnn_type", "rnn_hidden_dim", "rnn_num_layers", "class_name"}
    assert cleaned["upload_model"] is True


def test_the_unset_settings_are_refused_where_they_are_left_in() -> None:
    from sim_rl_plugin.config import check_train_cfg

    cleaned = without_unset(RL_CFG)
    assert check_train_cfg(cleaned)["actor"]["class_name"] == "MLPModel"
    with pytest.raises(UserError, match=r"actor\.cnn_cfg"):
        check_train_cfg({**cleaned, "actor": {**cleaned["actor"], "cnn_cfg": None}})


def test_run_settings_are_those_that_the_learner_reads() -> None:
    settings = as_run_settings(RL_CFG, num_envs=4096)
    assert set(settings) == {
        *("seed", "num_envs", "num_steps_per_env", "max_iterations", "obs_groups", "save_interval", "clip_actions"),
        *("class_name", "actor", "critic", "algorithm"),
    }
    assert settings["class_name"] == "MjlabRunner"
    assert "num_envs" not in as_run_settings(RL_CFG, num_envs=None)


def test_the_camera_model_is_exchanged_for_ours() -> None:
    theirs = {"actor": {"class_name": "mjlab.rl.spatial_softmax:SpatialSoftmaxCNNModel", "cnn_cfg": {}}}
    assert without_unset(theirs)["actor"] == {"class_name": "SpatialSoftmaxCNNModel", "cnn_cfg": {}}


@dataclasses.dataclass
class Range:
    lin_vel_x: tuple[float, float] = (-1.0, 1.0)


@dataclasses.dataclass
class TaskCfg:
    episode_length_s: float = 20.0
    decimation: int = 4
    auto_reset: bool = True
    motion_file: str = ""
    seed: int | None = None
    ranges: Range = dataclasses.field(default_factory=Range)
    rewards: dict[str, Range] = dataclasses.field(default_factory=lambda: {"upright": Range(), "speed": Range()})


def test_options_reach_every_depth_and_nothing_else() -> None:
    cfg = TaskCfg()
    apply_options(
        cfg,
        {"episode_length_s": 10, "seed": 5, "ranges": {"lin_vel_x": [0, 2]}, "rewards": {"upright": None}},
    )
    expected = TaskCfg(episode_length_s=10, seed=5, ranges=Range((0, 2)))
    expected.rewards["upright"] = None  # type: ignore[assignment]
    assert cfg == expected
    assert isinstance(cfg.ranges.lin_vel_x, tuple)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episode_lenght_s": 1.0}, "unknown option 'task_options.episode_lenght_s'.*'task_options.episode_length_s'"),
        ({"rewards": {"uprigth": None}}, r"did you mean 'task_options\.rewards\.upright'"),
        ({"ranges": {"lin_vel_y": [0, 1]}}, r"did you mean 'task_options\.ranges\.lin_vel_x'"),
        ({"ranges": 3}, r"task_options\.ranges: expected a mapping of settings or null, found 3"),
        ({"episode_length_s": "10"}, r"task_options\.episode_length_s: expected float as in 20\.0, found '10'"),
        ({"auto_reset": 1}, r"task_options\.auto_reset: expected bool"),
        ({"decimation": True}, r"task_options\.decimation: expected int"),
        ({"motion_file": 3}, r"task_options\.motion_file: expected str"),
    ],
)
def test_a_wrong_option_is_one_clear_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_options(TaskCfg(), options)


def test_the_plugin_names_what_exists_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, sim_rl_mjlab, sim_rl_mjlab.plugin as plugin, sim_rl_mjlab.backend\n"
        "assert [entry.name for entry in plugin.sim_rl_adapters()] == ['mjlab']\n"
        "print(sorted({'mjlab', 'mujoco', 'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_mjlab_the_plugin_has_no_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "mjlab" else found(name, *a))
    assert plugin.sim_rl_default_config("mjlab", "Mjlab-Cartpole-Balance") is None
    assert plugin.sim_rl_default_config("mujoco", "Ant") is None
    assert plugin.sim_rl_wrap_env(object()) is None


REGISTRY = """
import copy
from types import SimpleNamespace
_REGISTRY = {}
def register_mjlab_task(task_id, env_cfg, play_env_cfg, rl_cfg, runner_cls=None):
    if task_id in _REGISTRY:
        raise ValueError(task_id)
    _REGISTRY[task_id] = (env_cfg, play_env_cfg, rl_cfg, runner_cls)
def list_tasks(): return sorted(_REGISTRY)
def load_env_cfg(task, play=False): return copy.deepcopy(_REGISTRY[task][1 if play else 0])
def load_rl_cfg(task): return copy.deepcopy(_REGISTRY[task][2])
def load_runner_cls(task): return _REGISTRY[task][3]
"""

TASKS = """
from types import SimpleNamespace
from mjlab.tasks import registry
class Own: pass
class Foreign: pass
Foreign.__module__ = "somebody.else"
for name, runner in (("A", None), ("B", Own), ("C", Foreign)):
    registry.register_mjlab_task(name, {"env": name}, {"play": name}, SimpleNamespace(experiment_name="exp"), runner)
"""

MJLAB = """
from importlib.metadata import entry_points
for entry_point in entry_points().select(group="mjlab.tasks"):
    entry_point.load()
"""


def run_with_stand_in(folder: Path, code: str, third_party: str = "") -> str:
    """Run code beside a package ``mjlab`` that loads its entry points as the real one does."""
    tasks = folder / "mjlab" / "tasks"
    tasks.mkdir(parents=True)
    (folder / "mjlab" / "__init__.py").write_text(MJLAB)
    (tasks / "__init__.py").write_text(TASKS)
    (tasks / "registry.py").write_text(REGISTRY)
    groups = "[mjlab.tasks]\nsim_rl = sim_rl_mjlab.backend\n"
    if third_party:
        (folder / "zebra.py").write_text(third_party)
        groups += "zebra = zebra\nbroken = no_such_module\n"
    info = folder / "stand_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(groups)
    package = str(Path(plugin.__file__).parents[1])
    # Without site-packages: neither an installed mjlab nor torch is there to be imported.
    lines = f"import sys\nsys.path[:0] = [{str(folder)!r}, {package!r}]\n" + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-S", "-c", lines], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_registration_waits_for_mjlabs_registry(tmp_path: Path) -> None:
    code = """
        import mjlab
        assert "mjlab.tasks" not in sys.modules
        import mjlab.tasks
        from mjlab.tasks import registry
        from sim_rl_mjlab.backend import Runner, register_tasks
        assert registry.load_runner_cls("A-SimRl") is Runner
        assert registry.load_env_cfg("B-SimRl", play=True) == {"play": "B"}
        assert registry.load_rl_cfg("A-SimRl").experiment_name == "exp_sim_rl"
        assert registry.load_rl_cfg("A").experiment_name == "exp"
        assert register_tasks() == []
        assert mjlab.tasks.__spec__.loader is mjlab.tasks.__loader__
        assert type(mjlab.tasks.__loader__).__name__ == "SourceFileLoader"
        print(registry.list_tasks())
    """
    # C has somebody else's runner.
    assert run_with_stand_in(tmp_path, code) == "['A', 'A-SimRl', 'B', 'B-SimRl', 'C']"


def test_other_packages_tasks_are_offered_too_and_broken_ones_do_no_harm(tmp_path: Path) -> None:
    third_party = (
        "from types import SimpleNamespace\nfrom mjlab.tasks.registry import register_mjlab_task\n"
        "register_mjlab_task('Zebra', {}, {}, SimpleNamespace(experiment_name='zebra'))"
    )
    code = """
        try:
            import mjlab
        except ModuleNotFoundError as error:
            # The stand-in does not catch what the real one reports.
            assert error.name == "no_such_module"
        from mjlab.tasks import registry
        print("Zebra-SimRl" in registry.list_tasks(), "A-SimRl" in registry.list_tasks())
    """
    assert run_with_stand_in(tmp_path, code, third_party) == "True True"


def test_spatial_softmax_is_the_place_of_the_peak() -> None:
    from sim_rl_mjlab.spatial_softmax import SpatialSoftmax

    features = torch.full((1, 2, 3, 5), -100.0)
    features[0, 0, 0, 4] = 100.0  # the upper right corner: x = 1, y = -1
    features[0, 1, 1, 2] = 100.0  # the middle
    assert SpatialSoftmax(3, 5)(features).tolist() == [[1.0, -1.0, 0.0, 0.0]]
    # Two equal peaks at x = -1 and x = 1 of one row meet in the middle, y = 1.
    features = torch.full((1, 1, 3, 5), -100.0)
    features[0, 0, 2, 0] = features[0, 0, 2, 4] = 3.0
    assert SpatialSoftmax(3, 5)(features)[0].tolist() == pytest.approx([0.0, 1.0])


def test_the_camera_model_is_built_from_mjlabs_settings() -> None:
    from sim_rl_mjlab.spatial_softmax import SpatialSoftmaxCNNModel

    obs = TensorDict({"camera": torch.rand(2, 3, 16, 16), "actor": torch.rand(2, 4)}, batch_size=[2])
    cnn_cfg = {
        "output_channels": [4, 6],
        "kernel_size": [5, 3],
        "stride": [2, 2],
        "padding": "zeros",
        "max_pool": False,
        "global_pool": "none",
        "spatial_softmax": True,
        "spatial_softmax_temperature": 0.5,
    }
    model = SpatialSoftmaxCNNModel(obs, {"actor": ["actor", "camera"]}, "actor", 3, (8,), cnn_cfg=cnn_cfg)
    assert model(obs).shape == (2, 3)
    # Four flat observations and a place (x, y) for each of six channels.
    assert model.mlp[0].in_features == 4 + 2 * 6
    assert model.cnns["camera"].spatial_softmax.temperature == 0.5
    SpatialSoftmaxCNNModel.check_settings({"cnn_cfg": cnn_cfg}, "actor")
    SpatialSoftmaxCNNModel.check_settings({"cnn_cfg": {"camera": cnn_cfg}}, "actor")
    with pytest.raises(UserError, match=r"actor\.cnn_cfg\.strid.*actor\.cnn_cfg\.stride"):
        SpatialSoftmaxCNNModel.check_settings({"cnn_cfg": {**cnn_cfg, "strid": 2}}, "actor")
