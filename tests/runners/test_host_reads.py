"""How often an iteration reads tensors back, and how much memory an update asks for: neither grows with the work.

On a GPU every read waits for all that was asked of the device before. Reads are counted on the CPU, where the same
functions run: through the dispatcher, and at the methods that hand a tensor to Python. What the environment reads for
itself does not count.
"""

import copy
import inspect
from collections import Counter

import pytest
import torch
from small_configs import CNN, GRU, CameraEnv, ppo_cfg, ppo_cfg_with
from torch.utils._python_dispatch import TorchDispatchMode

import sim_rl_plugin.testing
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

READS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.nonzero", "aten.equal", "aten.masked_select")
METHODS = ("tolist", "cpu", "numpy")
EACH_ITERATION = {
    "runners/faults.py": 1,  # whether the rollout is finite
    "algorithms/algorithm.py": 2,  # losses; then, with the device idle, the learning rate
    "logging/episodes.py": 3,  # episodes that ended, which then lie on the host, and the environment's log
    "logging/logger.py": 2,  # these episodes, on the host; the deviation of the actions
}
"""Reads by file."""


class Reads(TorchDispatchMode):
    """Counts reads by the file that asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        for name in METHODS:
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))

    def _counting(self, method):
        def counted(tensor, *args, **kwargs):
            self._count()
            return method(tensor, *args, **kwargs)

        return counted

    def _count(self) -> None:
        files = [frame.filename for frame in inspect.stack(context=0) if "sim_rl_plugin" in frame.filename]
        if files and files[0] != sim_rl_plugin.testing.__file__:
            self.counts[files[0].split("sim_rl_plugin/")[-1]] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(READS):
            self._count()
        return func(*args, **(kwargs or {}))


def reads_of_an_iteration(monkeypatch: pytest.MonkeyPatch, cfg: dict, env: PointEnv) -> Counter[str]:
    """Return the reads of the second iteration, which is like all that follow."""
    runner = OnPolicyRunner(env, {**cfg, "fast": False}, None, "cpu")
    runner.learn(1)
    obs = env.get_observations()
    with monkeypatch.context() as patches, Reads(patches) as reads:
        runner._iterate(obs, 1, 1, 2)
    return reads.counts


@pytest.mark.parametrize("mini_batches", [2, 8])
@pytest.mark.parametrize("steps", [8, 24])
def test_reads_are_as_many_whatever_the_rollout_and_the_update(monkeypatch, steps: int, mini_batches: int):
    cfg = {**ppo_cfg(num_mini_batches=mini_batches), "num_steps_per_env": steps}
    counts = reads_of_an_iteration(monkeypatch, cfg, PointEnv(final_obs=False))
    assert counts == EACH_ITERATION


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "fixed"},
        {"use_mixed_precision": True},
        {"normalize_advantage_per_mini_batch": True},
        {"normalizer_update": "each_step"},
        {"reward_scale": 0.5},
    ],
)
def test_options_add_no_read(monkeypatch, settings: dict):
    counts = reads_of_an_iteration(monkeypatch, ppo_cfg(**settings), PointEnv(final_obs=False))
    assert counts == EACH_ITERATION


def test_images_add_no_read(monkeypatch):
    counts = reads_of_an_iteration(monkeypatch, ppo_cfg_with(CNN), CameraEnv(final_obs=False))
    assert counts == EACH_ITERATION


def test_a_memory_adds_reads_once_per_update(monkeypatch):
    """The number of trajectories is known on the device only; it is asked for once, not in each mini-batch."""
    by_mini_batches = []
    for number in (2, 4):
        cfg = ppo_cfg_with(GRU)
        cfg["algorithm"]["num_mini_batches"] = number
        counts = reads_of_an_iteration(monkeypatch, cfg, PointEnv(final_obs=False))
        by_mini_batches.append({name: n for name, n in counts.items() if not name.startswith("storage/")})
    assert by_mini_batches[0] == by_mini_batches[1]


def test_final_observations_are_read_in_the_steps_that_bring_them(monkeypatch):
    cfg = {**ppo_cfg(), "num_steps_per_env": 16}
    counts = reads_of_an_iteration(monkeypatch, cfg, PointEnv(final_obs=True, max_episode_length=8, terminate_at=None))
    more = {name: number for name, number in counts.items() if EACH_ITERATION.get(name) != number}
    assert more == {"algorithms/time_outs.py": 2}


def test_a_read_in_the_update_is_noticed(monkeypatch):
    from sim_rl_plugin.algorithms import ppo

    def reading(*arguments):
        loss = original(*arguments)
        loss.item()
        return loss

    original = ppo.surrogate_loss
    monkeypatch.setattr(ppo, "surrogate_loss", reading)
    counts = reads_of_an_iteration(monkeypatch, ppo_cfg(), PointEnv(final_obs=False))
    assert counts["algorithms/ppo.py"] == 20


def allocated_bytes(cfg: dict, num_epochs: int) -> int:
    """Return what an update of the fast path asks the allocator for, after one that has made its buffers."""
    cfg = copy.deepcopy(cfg)
    cfg["algorithm"]["num_learning_epochs"] = num_epochs
    env = PointEnv(num_envs=64, final_obs=False)
    algorithm = OnPolicyRunner(env, cfg, None, "cpu").alg
    assert algorithm.fast_paths.update
    for number in range(2):
        obs = env.get_observations()
        algorithm.begin_rollout()
        with torch.inference_mode():
            for _ in range(cfg["num_steps_per_env"]):
                obs, rewards, dones, extras = env.step(algorithm.act(obs))
                algorithm.process_env_step(obs, rewards, dones, extras)
            algorithm.compute_returns(obs)
        if number == 0:
            algorithm.update()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        algorithm.update()
    asked = [event.cpu_memory_usage for event in profile.events() if event.name == "[memory]"]
    return sum(number for number in asked if number > 0)


def test_the_fast_update_keeps_its_buffers():
    """More epochs ask for no more memory, but for a few scalars."""
    few, many = (allocated_bytes(ppo_cfg(), number) for number in (2, 12))
    assert many - few < 10 * 4 * 1024
    plain = ppo_cfg()["actor"]["hidden_dims"][0] * 64 * 16 * 4
    assert plain > 10 * 4 * 1024, "one activation of the plain path would be noticed"
