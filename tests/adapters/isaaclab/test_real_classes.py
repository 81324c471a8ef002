"""Isaac Lab's own configuration classes, registry, Hydra and wrapper: real ones, without its simulator.

Runs where ``ISAACLAB_PATH`` names Isaac Lab (see ``isaaclab_stubs``), and is skipped elsewhere. The environments
are stand-ins: no physics is computed here.
"""

from __future__ import annotations

import importlib
import math
from types import SimpleNamespace
from typing import Any

import isaaclab_stubs
import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.config import RunConfig, on_task_settings
from sim_rl_plugin.env import Command, manager_commands
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import PointEnv

if not isaaclab_stubs.generation():
    pytest.skip("ISAACLAB_PATH names no Isaac Lab", allow_module_level=True)

isaaclab_stubs.make_importable()

gymnasium = pytest.importorskip("gymnasium")
stand_in = importlib.import_module("isaaclab_stand_in")
launch = importlib.import_module("sim_rl_isaaclab.launch")
runners = importlib.import_module("sim_rl_isaaclab.runners")
settings = importlib.import_module("sim_rl_isaaclab.settings")
tasks = importlib.import_module("sim_rl_isaaclab.tasks")
vec_env = importlib.import_module("sim_rl_isaaclab.vec_env")

only_2 = pytest.mark.skipif(isaaclab_stubs.generation() != 2, reason="a fact of Isaac Lab 2")


@pytest.fixture(autouse=True)
def _started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isaac Sim counts as started: the stubs stand in for it."""
    monkeypatch.setattr(launch, "_started", launch.LaunchOptions("cpu", enable_cameras=True))


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tasks compile functions of Isaac Sim when they are imported, and TorchScript refuses stubs."""
    monkeypatch.setattr(torch.jit, "script", lambda function, *args, **kwargs: function)


def agents() -> list[tuple[str, str]]:
    """Return every task and keyword under which it keeps settings for rsl_rl."""
    found = tasks.registrations().items()
    return sorted((task, key) for task, keys in found for key in keys if key.startswith("rsl_rl"))


def test_the_source_text_tells_what_the_registry_holds() -> None:
    importlib.import_module("isaaclab_tasks")
    real = {
        spec.id: {key for key in spec.kwargs if key.startswith("rsl_rl")}
        for spec in gymnasium.registry.values()
        if "env_cfg_entry_point" in spec.kwargs
    }
    read = {task: {key for key in keys if key.startswith("rsl_rl")} for task, keys in tasks.registrations().items()}
    older_names = set(real) - set(read)
    assert {task: read[task] for task in real if task in read} == {t: k for t, k in real.items() if t in read}
    # What is not read off can be opened all the same; 2.3 has nothing of the kind.
    assert not older_names or isaaclab_stubs.generation() == 3
    for task in older_names:
        tasks.check_task(task)
    assert len(tasks.task_names()) >= 80


@only_2
def test_isaac_lab_2_3_ships_111_settings() -> None:
    assert len(tasks.task_names()) == 96
    assert len(agents()) == 111


class _RobotOfTheTask(PointEnv):
    """Observations and actions of a plausible size, and what mirror functions ask an environment for."""

    has_task_encoding = False

    def __init__(self, groups: dict[str, tuple[int, ...]], num_actions: int) -> None:
        super().__init__(num_envs=16, num_actions=num_actions, max_episode_length=8)
        self._groups = groups
        self.unwrapped = self
        terms = ["height_scan"] if groups["policy"] == (235,) else []
        joints = [f"{leg}_{joint}" for joint in ("HAA", "HFE", "KFE") for leg in ("LF", "LH", "RF", "RH")]
        self.scene = {"robot": SimpleNamespace(joint_names=joints)}
        self.observation_manager = SimpleNamespace(active_terms={"policy": terms}, cfg=_Anything())

    def get_observations(self) -> TensorDict:
        values = {name: torch.randn(16, *shape) for name, shape in self._groups.items()}
        if self.has_task_encoding:
            values["policy"][:, :3] = torch.eye(3)[torch.arange(16) % 3]
        return TensorDict(values, batch_size=[16])


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return _Anything()


def _is_convolutional(config: RunConfig, section: str) -> bool:
    return "CNN" in str((getattr(config, section, None) or {}).get("class_name"))


def _robot(config: RunConfig) -> _RobotOfTheTask:
    cartpole = "artpole" in config.task
    size, num_actions = (4, 1) if cartpole else ((48, 12) if "Flat" in config.task else (235, 12))
    groups = {"policy": (size,), "critic": (size + 3,), "teacher": (size + 5,)}
    dims = (config.actor or {}).get("task_action_dims")
    num_actions = sum(dims) if dims else num_actions
    flat_readers = [names for section, names in config.obs_groups.items() if not _is_convolutional(config, section)]
    for section, names in config.obs_groups.items():
        for name in names:
            is_only_reader = not any(name in others for others in flat_readers)
            looks_like_one = len(names) == 1 or any(
                part in name for part in ("image", "camera", "rgb", "depth", "heightmap")
            )
            is_image = _is_convolutional(config, section) and is_only_reader and looks_like_one
            groups[name] = (3, 64, 64) if is_image else groups.get(name, (size,))
    robot = _RobotOfTheTask(groups, num_actions)
    robot.has_task_encoding = dims is not None
    return robot


@pytest.mark.parametrize(("task", "key"), agents())
@pytest.mark.usefixtures("not_compiled")
def test_every_runner_config_loads_migrates_and_builds(task: str, key: str) -> None:
    config = on_task_settings({"simulator": "isaaclab", "task": task, "device": "cpu", "env": {"agent": key}})
    raw = _raw_agent(task, key)
    assert config.max_iterations == raw["max_iterations"]
    assert config.num_steps_per_env == raw["num_steps_per_env"]
    assert config.clip_actions == raw.get("clip_actions")
    assert config.algorithm["gamma"] == raw["algorithm"]["gamma"] if "gamma" in raw["algorithm"] else True
    assert config.num_envs > 1
    class_name = raw["algorithm"]["class_name"].rpartition(":")[2]
    small = {**config.to_dict(), "num_steps_per_env": 4, "console": False}
    torch.manual_seed(0)
    runner = (runners.DistillationRunner if class_name == "Distillation" else runners.OnPolicyRunner)(
        _robot(config), small
    )
    assert type(runner.alg).__name__ == class_name
    _check_networks(runner, raw)
    if class_name == "Distillation":
        # Any parameters do for a teacher whose actions are only compared.
        runner.alg.teacher_loaded = True
    elif config.algorithm.get("symmetry_cfg"):
        assert runner.alg.symmetry is not None
        # The task's own function: 2 images of a cart, 4 of a quadruped, of 16 robots.
        obs = runner.env.get_observations()
        mirrored, _ = runner.alg.symmetry.data_augmentation_func(env=runner.env, obs=obs, actions=None)
        assert mirrored.batch_size[0] == (32 if "artpole" in task else 64)
    runner.learn(1)


def _raw_agent(task: str, key: str) -> dict[str, Any]:
    return settings.as_dict(settings.configurations(task, key)[1])


def _check_networks(runner: Any, raw: dict[str, Any]) -> None:
    """Compare the built networks with what the configuration says, in its own generation's words."""
    policy = raw.get("policy")
    old_style = isinstance(policy, dict) and policy.get("class_name")
    for section in ("actor", "critic", "student", "teacher"):
        model = getattr(runner.alg, section, None)
        if model is None:
            continue
        described = raw.get(section)
        if ":" in (described or {}).get("class_name", ""):
            continue  # a model of the task's own
        hidden = policy[f"{section}_hidden_dims"] if old_style else described["hidden_dims"]
        linear = [module for module in model.mlp if isinstance(module, torch.nn.Linear)]
        assert [layer.out_features for layer in linear[:-1]] == list(hidden)
        if old_style and "Recurrent" in policy["class_name"] and section != "teacher":
            assert model.is_recurrent
            assert model.rnn.rnn.hidden_size == policy["rnn_hidden_dim"]
            assert type(model.rnn.rnn).__name__.lower() == policy["rnn_type"]
    if old_style:
        first = runner.alg.get_policy()
        if policy.get("state_dependent_std"):
            assert type(first.distribution).__name__ == "HeteroscedasticGaussianDistribution"
            return
        assert math.isclose(first.distribution.std_param[0].item(), policy["init_noise_std"], rel_tol=1e-6)


def test_hydra_overrides_change_the_environments_configuration() -> None:
    task = "Isaac-Cartpole-Direct-v0" if isaaclab_stubs.generation() == 2 else "Isaac-Cartpole-Direct"
    before, _ = settings.configurations(task, None)
    cfg, _ = settings.configurations(task, None, ["env.episode_length_s=2.5", "env.sim.dt=0.01"])
    assert before.episode_length_s == 5.0
    assert cfg.episode_length_s == 2.5
    assert cfg.sim.dt == 0.01


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.episode_length", "expected KEY=VALUE"),
        ("env.scene.num_envs=7", "env.scene.num_envs is set by num_envs=7"),
        ("env.seed=7", "env.seed is set by seed=7"),
        ("agent.algorithm.gamma=0.9", "stand for themselves: algorithm.gamma=0.9"),
        (
            "env.episode_lengthy_s=2",
            r"env.overrides \['env.episode_lengthy_s=2'\] do not fit task|did you mean 'env.episode_length_s'",
        ),
    ],
)
def test_overrides_that_do_not_fit(override: str, message: str) -> None:
    task = "Isaac-Cartpole-Direct-v0" if isaaclab_stubs.generation() == 2 else "Isaac-Cartpole-Direct"
    with pytest.raises(UserError, match=message):
        settings.configurations(task, None, [override])


def test_unknown_tasks_and_settings_get_a_suggestion() -> None:
    known = tasks.task_names()[0]
    with pytest.raises(UserError, match=f"did you mean '{known}'"):
        settings.training_settings(known[:-1] + "x", {})
    with pytest.raises(UserError, match="did you mean 'rsl_rl_cfg_entry_point'"):
        settings.training_settings(known, {"device": "cpu", "env": {"agent": "rsl_rl_cfg"}})


@pytest.fixture
def real_env() -> Any:
    """Return an object of the real class ``DirectRLEnv`` with the stand-in's behaviour behind it."""
    direct = importlib.import_module("isaaclab.envs").DirectRLEnv
    # The stand-in comes first; what it does not define is Isaac Lab's own.
    concrete = type(
        "StandIn", (stand_in.StandInEnv, direct), {"__abstractmethods__": frozenset(), "close": lambda self: None}
    )
    for name in ("_pre_physics_step", "_apply_action", "_get_rewards", "_get_dones", "device", "num_envs"):
        setattr(concrete, name, None)
    for name in ("step_dt", "max_episode_length", "max_episode_length_s", "physics_dt"):
        setattr(concrete, name, None)
    concrete.__del__ = lambda self: None
    concrete.__abstractmethods__ = frozenset()
    return concrete(stand_in.task_cfg(compute_final_obs=False))


def test_a_training_runs_through_their_real_wrapper(real_env: Any, not_compiled: None, tmp_path: Any) -> None:
    rsl_rl = pytest.importorskip("isaaclab_rl.rsl_rl")
    wrapper = rsl_rl.RslRlVecEnvWrapper(real_env, clip_actions=1.0)
    task = tasks.task_names()[0]
    agent_cfg = _raw_agent(task, tasks.RSL_RL_SETTINGS)
    runner = runners.OnPolicyRunner(wrapper, {**agent_cfg, "console": False}, log_dir=str(tmp_path), device="cpu")
    runner.add_git_repo_to_log(__file__)
    runner.learn(num_learning_iterations=2, init_at_random_ep_len=True)
    assert isinstance(runner.env, vec_env.IsaacLabVecEnv)
    assert runner.env.unwrapped is real_env
    # As play.py does.
    player = runners.OnPolicyRunner(wrapper, {**agent_cfg, "console": False}, log_dir=None, device="cpu")
    player.load(str(tmp_path / "model_1.pt"))
    policy = player.get_inference_policy(device="cpu")
    obs = wrapper.get_observations()
    obs = obs[0] if isinstance(obs, tuple) else obs
    with torch.inference_mode():
        for _ in range(3):
            obs = wrapper.step(policy(obs))[0]
        assert torch.isfinite(policy(obs)).all()


@pytest.mark.parametrize("recurrent", [None, "lstm", "gru"])
def test_their_exporters_write_the_policy(recurrent: str | None, tmp_path: Any) -> None:
    exporters = pytest.importorskip("isaaclab_rl.rsl_rl")
    policy_cfg = {
        "class_name": "ActorCriticRecurrent" if recurrent else "ActorCritic",
        "actor_hidden_dims": [16],
        "critic_hidden_dims": [16],
        "activation": "elu",
        "init_noise_std": 0.5,
        "actor_obs_normalization": True,
        **({"rnn_type": recurrent, "rnn_hidden_dim": 8, "rnn_num_layers": 1} if recurrent else {}),
    }
    cfg = {
        "num_steps_per_env": 8,
        "policy": policy_cfg,
        "console": False,
        "obs_groups": {},
        "algorithm": {"class_name": "PPO", "learning_rate": 1e-3},
    }
    env = vec_env.IsaacLabVecEnv(stand_in.StandInEnv(stand_in.task_cfg()))
    runner = runners.OnPolicyRunner(env, cfg)
    runner.learn(1)
    networks = runner.alg.policy
    normalizer = networks.actor_obs_normalizer
    assert normalizer is runner.obs_normalizer
    exporters.export_policy_as_jit(networks, normalizer=normalizer, path=str(tmp_path), filename="policy.pt")
    exported = torch.jit.load(str(tmp_path / "policy.pt"))
    ours = runner.get_inference_policy("cpu")
    ours.reset()
    with torch.no_grad():
        for _ in range(2):
            obs = torch.randn(1, 3)
            expected = ours(TensorDict({"policy": obs}, batch_size=[1]))
            torch.testing.assert_close(exported(obs), expected)
    pytest.importorskip("onnx")
    exporters.export_policy_as_onnx(networks, normalizer=normalizer, path=str(tmp_path), filename="policy.onnx")
    assert (tmp_path / "policy.onnx").stat().st_size > 0


def test_velocities_of_a_real_command_manager_are_held() -> None:
    importlib.import_module("isaaclab.envs")  # first: its modules import each other in circles
    manager_class = importlib.import_module("isaaclab.managers").CommandManager
    mdp = importlib.import_module("isaaclab.envs.mdp")
    ranges = {"lin_vel_x": (-1.0, 1.0), "lin_vel_y": (-0.5, 0.5), "ang_vel_z": (-2.0, 2.0), "heading": (-3.0, 3.0)}
    cfg = mdp.UniformVelocityCommandCfg(
        asset_name="robot",
        resampling_time_range=(0.04, 0.04),  # two steps
        heading_command=True,
        rel_standing_envs=0.5,
        ranges=mdp.UniformVelocityCommandCfg.Ranges(**ranges),
    )
    # 3 wraps its buffers: there the same tensors are read through `.torch`.
    state = {name: _Buffer(4, 3) for name in ("root_lin_vel_b", "root_ang_vel_b", "root_pos_w")}
    robot = SimpleNamespace(data=SimpleNamespace(**state, heading_w=_Buffer(4)))
    base = SimpleNamespace(
        num_envs=4, device="cpu", step_dt=0.02, scene={"robot": robot}, sim=_Playing(), extras={"log": {}}
    )
    base.command_manager = manager_class(SimpleNamespace(twist=cfg), base)
    commands = manager_commands.ManagerCommands(base)
    assert commands.terms == (Command("twist", tuple(ranges)[:3], tuple(ranges.values())[:3]),)

    held = torch.tensor([0.5, 0.1, -1.0])
    commands.hold("twist", held)
    for step in range(6):
        base.command_manager.compute(dt=0.02)
        if step == 3:
            base.command_manager.reset(torch.tensor([0, 2]))
        assert torch.equal(base.command_manager.get_command("twist"), held.expand(4, 3))
        assert torch.equal(commands.get("twist"), held.expand(4, 3))
    commands.hold("twist", None)
    for _ in range(3):
        base.command_manager.compute(dt=0.02)
    assert not torch.equal(base.command_manager.get_command("twist"), held.expand(4, 3))


class _Buffer(torch.Tensor):
    """A tensor that is its own ``.torch``."""

    @staticmethod
    def __new__(cls, *shape: int) -> _Buffer:
        return torch.zeros(*shape).as_subclass(cls)

    @property
    def torch(self) -> torch.Tensor:
        return self


class _Playing:
    """A simulation that runs, and draws no markers."""

    vis_marker_registry = SimpleNamespace(clear_debug_vis_callback=lambda term: None)

    def is_playing(self) -> bool:
        return True
