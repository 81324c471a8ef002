"""Everything that the next iteration depends on is in a checkpoint, and is taken out of it again.

A case is trained straight, and once more from the checkpoint in the middle: the last checkpoints and the metrics
must be the same bit for bit. Then one item of the checkpoint is changed, which is what leaving it out would do: now
they must differ. So nothing is saved in vain, and the comparison sees every item.
"""

import copy
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_configs import GRU, MLP, distillation_cfg, mirror, ppo_cfg_with

from sim_rl_plugin import plugins
from sim_rl_plugin.checkpoint import random_state, read_checkpoint, save_checkpoint, set_random_state
from sim_rl_plugin.env.clip_actions import ClipActions
from sim_rl_plugin.env.foreign import ForeignVecEnv
from sim_rl_plugin.hooks import hookimpl
from sim_rl_plugin.runners import DistillationRunner, OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from torture import differing, read_curve, read_points

RND = {
    "weight": 0.5, "num_outputs": 2, "predictor_hidden_dims": [8], "target_hidden_dims": [8],
    "state_normalization": True, "reward_normalization": True,
    "weight_schedule": {"mode": "linear", "initial_step": 8, "final_step": 64, "final_value": 0.0},
}  # fmt: skip

SYMMETRY = {
    "data_augmentation_func": mirror, "use_data_augmentation": True, "use_mirror_loss": True, "mirror_loss_coeff": 0.1,
}  # fmt: skip


class Gusty(PointEnv):
    """``PointEnv`` in a wind that NumPy's and Python's global generators decide, and that a curriculum strengthens."""

    steps = 0

    def step(self, actions):
        self.steps += 1
        wind = 1e-3 * self.steps * float(np.random.standard_normal() + random.random())
        return super().step(actions + wind)

    def state_dict(self):
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.steps = state["steps"]


class Legged:
    """An environment of legged_gym's shape that saves its state: five values a step, a log that stays in ``extras``."""

    def __init__(self, **kwargs):
        self.inner = PointEnv(**kwargs)
        self.num_envs, self.num_actions, self.device = self.inner.num_envs, 2, "cpu"
        self.max_episode_length = float(self.inner.max_episode_length)
        self.cfg, self.extras = {}, {}

    @property
    def episode_length_buf(self):
        return self.inner.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value):
        self.inner.episode_length_buf = value

    def reset(self):
        self.extras["episode"] = {"progress": torch.tensor(100.0)}

    def get_observations(self):
        return self.inner.get_observations()["policy"]

    def get_privileged_observations(self):
        return self.inner.get_observations()["critic"]

    def step(self, actions):
        obs, rewards, dones, extras = self.inner.step(actions)
        if dones.any():
            self.extras["episode"] = {"progress": extras["log"]["return"]}
            self.extras["time_outs"] = extras["time_outs"]
        return obs["policy"], obs["critic"], rewards, dones, self.extras

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)


def ppo(model: dict = MLP, **algorithm) -> dict:
    cfg = {**ppo_cfg_with(model, **algorithm), "save_interval": 2, "logger": ["csv", "tensorboard"]}
    if algorithm.get("rnd_cfg"):
        cfg["obs_groups"]["rnd_state"] = ["critic"]
    return cfg


def distillation() -> dict:
    cfg = distillation_cfg(GRU, GRU, dagger_cfg={"num_updates": 8}, keep_teacher_memory=True, gradient_length=3)
    return {**cfg, "save_interval": 2}


@dataclass(frozen=True)
class Case:
    """A training that is resumed: its settings, and what makes its environment."""

    cfg: Callable[[], dict]
    env: Callable[..., Any] = PointEnv
    runner: type = OnPolicyRunner


CASES = {
    "ppo": Case(ppo),
    "gru": Case(lambda: ppo(GRU)),
    "lstm": Case(lambda: ppo({**GRU, "rnn_type": "lstm"})),
    "rnd": Case(lambda: ppo(rnd_cfg=copy.deepcopy(RND))),
    "symmetry": Case(lambda: ppo(symmetry_cfg=SYMMETRY)),
    "fixed rate": Case(lambda: ppo(schedule="fixed", optimizer="rmsprop")),
    "each step": Case(lambda: ppo(normalizer_update="each_step", reward_scale=0.5)),
    "curriculum": Case(ppo, Gusty),
    "clipped": Case(ppo, lambda **kwargs: ClipActions(PointEnv(**kwargs), 0.5)),
    "foreign": Case(ppo, lambda **kwargs: ForeignVecEnv(Legged(**kwargs))),
    "distillation": Case(distillation, PointEnv, DistillationRunner),
}


def runner_of(case: Case, folder: Path, seed: int) -> OnPolicyRunner:
    set_seeds(seed)
    cfg = case.cfg()
    if case.runner is DistillationRunner:
        cfg["init_from"] = str(folder.parent / "teacher")
    return case.runner(case.env(num_envs=8, max_episode_length=11, seed=seed), cfg, str(folder))


def set_seeds(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Callable[[str], Path]:
    """A function that returns the folder of a case's straight training of 5 iterations, made when first asked for."""
    root = tmp_path_factory.mktemp("straight")

    def make(name: str) -> Path:
        folder = root / name / "straight"
        if not folder.exists():
            case = CASES[name]
            if case.runner is DistillationRunner:
                OnPolicyRunner(PointEnv(), ppo_cfg_with(GRU), str(folder.parent / "teacher")).learn(1)
            runner_of(case, folder, seed=0).learn(5, init_at_random_ep_len=True)
        return folder

    return make


def resumed(name: str, straight: Path, folder: Path, change: Callable[[dict], None] | None = None) -> list[str]:
    """Resume a case from its checkpoint in the middle, and return in what it then differs from the straight one."""
    folder.mkdir(parents=True)
    for path in [straight / "metrics.csv", *straight.glob("*tfevents*")]:
        shutil.copy(path, folder)
    contents = read_checkpoint(straight / "model_2.pt")
    if change is not None:
        change(contents)
    save_checkpoint(folder / "model_2.pt", contents)
    if (straight.parent / "teacher").exists():
        shutil.copytree(straight.parent / "teacher", folder.parent / "teacher", dirs_exist_ok=True)
    runner = runner_of(CASES[name], folder, seed=7)
    runner.resume(str(folder / "model_2.pt"))
    runner.learn(2, init_at_random_ep_len=True)
    last = [
        read_checkpoint(place / "model_4.pt") if (place / "model_4.pt").exists() else {} for place in (straight, folder)
    ]
    found = [where for where in differing(*last) if not where.endswith(".init_from")]
    if read_curve(straight) != read_curve(folder):
        found.append("metrics.csv")
    if "tensorboard" in CASES[name].cfg()["logger"] and read_points(straight) != read_points(folder):
        found.append("tensorboard")
    return found


@pytest.mark.parametrize("name", list(CASES))
def test_a_resumed_training_is_the_straight_one_bit_for_bit(straight, tmp_path, name):
    assert resumed(name, straight(name), tmp_path / "cut") == []


def changed(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, torch.Tensor):
        return value + 0.25 if value.is_floating_point() else value + 1
    if isinstance(value, dict):
        return {key: changed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(changed(item) for item in value)
    return value if value is None else value + type(value)(1)


def other_random_states(states: dict) -> dict:
    before = random_state()
    set_seeds(77)
    others = random_state()
    set_random_state(before)
    return others


ITEMS = [
    ("ppo", "actor_state_dict/mlp.0.weight"),
    ("ppo", "actor_state_dict/distribution.std_param"),
    ("ppo", "actor_state_dict/obs_normalizer._mean"),
    ("ppo", "actor_state_dict/obs_normalizer._var"),
    ("ppo", "actor_state_dict/obs_normalizer._std"),
    ("ppo", "actor_state_dict/obs_normalizer.count"),
    ("ppo", "critic_state_dict/mlp.0.weight"),
    ("ppo", "critic_state_dict/obs_normalizer._mean"),
    ("ppo", "critic_state_dict/obs_normalizer.count"),
    ("ppo", "optimizer_state_dict/state/0/exp_avg"),
    ("ppo", "optimizer_state_dict/state/0/exp_avg_sq"),
    ("ppo", "optimizer_state_dict/state/0/step"),
    ("ppo", "optimizer_state_dict/param_groups/0/lr"),
    ("ppo", "sim_rl/completed_iterations"),
    ("ppo", "sim_rl/logger/total_steps"),
    ("ppo", "sim_rl/logger/recent"),
    ("ppo", "sim_rl/logger/episodes/running"),
    ("ppo", "sim_rl/random/torch"),
    ("ppo", "sim_rl/environment/position"),
    ("ppo", "sim_rl/environment/episode_length_buf"),
    ("ppo", "sim_rl/environment/generator"),
    ("gru", "sim_rl/algorithm/memories/0"),
    ("gru", "sim_rl/algorithm/memories/1"),
    ("lstm", "sim_rl/algorithm/memories/0/0"),
    ("lstm", "sim_rl/algorithm/memories/0/1"),
    ("lstm", "sim_rl/algorithm/memories/1"),
    ("rnd", "rnd_state_dict/predictor.0.weight"),
    ("rnd", "rnd_state_dict/target.0.weight"),
    ("rnd", "rnd_state_dict/state_normalizer._mean"),
    ("rnd", "rnd_state_dict/reward_normalizer.emp_norm._var"),
    ("rnd", "rnd_optimizer_state_dict/state/0/exp_avg"),
    ("rnd", "sim_rl/algorithm/rnd/update_counter"),
    ("rnd", "sim_rl/algorithm/rnd/discounted_sum"),
    ("fixed rate", "optimizer_state_dict/param_groups/0/lr"),
    ("fixed rate", "optimizer_state_dict/state/0/square_avg"),
    ("curriculum", "sim_rl/environment/steps"),
    ("curriculum", "sim_rl/random/numpy"),
    ("curriculum", "sim_rl/random/python"),
    ("clipped", "sim_rl/environment/position"),
    ("foreign", "sim_rl/environment/env/position"),
    ("foreign", "sim_rl/environment/obs/policy"),
    ("distillation", "student_state_dict/mlp.0.weight"),
    ("distillation", "teacher_state_dict/mlp.0.weight"),
    ("distillation", "optimizer_state_dict/state/1/exp_avg"),
    ("distillation", "sim_rl/algorithm/num_updates"),
    ("distillation", "sim_rl/algorithm/memories/0"),
    ("distillation", "sim_rl/algorithm/memories/1"),
]


@pytest.mark.parametrize(("name", "path"), ITEMS, ids=[f"{name}-{path}" for name, path in ITEMS])
def test_what_is_left_out_is_noticed(straight, tmp_path, name, path):
    def change(contents: dict) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        place = contents
        for key in parents:
            place = place[key]
        if path.startswith("sim_rl/random/"):
            place[last] = other_random_states(place)[last]
        elif path.endswith("/generator"):
            place[last] = torch.Generator().manual_seed(77).get_state()
        elif isinstance(place, tuple):
            above = contents["sim_rl"]["algorithm"]["memories"]
            above[parents[-1]] = tuple(changed(item) if i == last else item for i, item in enumerate(place))
        else:
            place[last] = changed(place[last])

    assert resumed(name, straight(name), tmp_path / "cut", change) != []


def test_what_hooks_draw_is_no_part_of_the_training(straight, tmp_path):
    """A hook that evaluates, say, runs at other times in a training that is cut."""

    class Drawing:
        @hookimpl
        def sim_rl_run_start(self):
            torch.rand(3)

        @hookimpl
        def sim_rl_checkpoint_saved(self):
            np.random.rand()
            torch.rand(5)

    expected = straight("ppo")
    plugins.get_manager().register(Drawing(), "drawing")
    try:
        assert resumed("ppo", expected, tmp_path / "cut") == []
        assert runner_of(CASES["ppo"], tmp_path / "again", seed=0).learn(5, init_at_random_ep_len=True) is None
    finally:
        plugins.get_manager().unregister("drawing")
    assert read_curve(tmp_path / "again") == read_curve(expected)


def test_resuming_a_runner_that_has_trained_already_leaves_nothing_of_what_it_did(straight, tmp_path):
    runner = runner_of(CASES["rnd"], tmp_path / "mine", seed=3)
    runner.learn(3)
    shutil.copy(straight("rnd") / "model_2.pt", tmp_path / "model_2.pt")
    runner.resume(str(tmp_path / "model_2.pt"))
    runner.learn(2)
    runner.save(str(tmp_path / "last.pt"))
    assert differing(read_checkpoint(straight("rnd") / "model_4.pt"), read_checkpoint(tmp_path / "last.pt")) == []


def test_a_foreign_environments_word_on_its_state_is_kept():
    inner = Legged(num_envs=2)
    assert ForeignVecEnv(inner).restores_exactly
    inner.restores_exactly = False
    assert not ForeignVecEnv(inner).restores_exactly


def test_what_a_foreign_environment_logged_before_the_checkpoint_is_not_logged_again():
    env = ForeignVecEnv(Legged(num_envs=2, max_episode_length=4, terminate_at=None))
    states = []
    for _ in range(5):
        states.append(env.step(torch.zeros(2, 2))[3]["log"])
    assert [bool(log) for log in states] == [True, False, False, True, False]
    other = ForeignVecEnv(Legged(num_envs=2, max_episode_length=4, terminate_at=None))
    other.load_state_dict(env.state_dict())
    assert [bool(other.step(torch.zeros(2, 2))[3]["log"]) for _ in range(3)] == [False, False, True]


def test_an_environment_that_saves_and_cannot_load_starts_its_episodes_afresh(tmp_path):
    class OneWay:
        def __init__(self):
            self.inner = PointEnv()

        def __getattr__(self, name):
            if name in ("inner", "load_state_dict"):
                raise AttributeError(name)
            return getattr(self.inner, name)

    OnPolicyRunner(OneWay(), ppo(), str(tmp_path)).learn(1)
    runner = OnPolicyRunner(OneWay(), ppo(), str(tmp_path))
    with pytest.warns(UserWarning, match="cannot restore its state"):
        runner.resume(str(tmp_path / "model_0.pt"))
