"""The recording of the optimizer's step, with a stand-in for CUDA graphs that runs on the CPU.

Like a graph, the stand-in reads and writes the same tensors in every replay, and knows nothing of the mini-batch that
is to be learned from. What only a GPU can show is in ``tests/gpu``.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from small_configs import CNN, GRU, CameraEnv, mirror, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.algorithms.fast.recorded import RecordedUpdate
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


class Rerun:
    """Runs a recorded step again, on the tensors that it was recorded with."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def __call__(self, step: Callable[[], torch.Tensor], optimizer) -> tuple[Callable[[], None], torch.Tensor]:
        self.recordings += 1
        result = torch.full((3,), torch.nan)

        def replay() -> None:
            self.replays += 1
            result.copy_(step())

        return replay, result


def trained(cfg: dict, record: Callable | None, iterations: int = 4, change: Callable[[PPO, int], None] | None = None):
    """Return losses and parameters after some iterations."""
    cfg = {**copy.deepcopy(cfg), "fast": False}
    env = (CameraEnv if cfg["actor"]["class_name"] == "CNNModel" else PointEnv)(num_envs=16)
    torch.manual_seed(1)
    algorithm = OnPolicyRunner(env, cfg, None, "cpu").alg
    algorithm.train_mode()
    if record is not None:
        recorded = RecordedUpdate(algorithm, record)
        algorithm._plain_means = lambda number: recorded.run() if recorded.fits() else None
    losses, obs = [], env.get_observations()
    for iteration in range(iterations):
        algorithm.begin_rollout()
        with torch.inference_mode():
            for _ in range(cfg["num_steps_per_env"]):
                obs, rewards, dones, extras = env.step(algorithm.act(obs))
                algorithm.process_env_step(obs, rewards, dones, extras)
            algorithm.compute_returns(obs)
        losses.append(algorithm.update())
        if change is not None:
            change(algorithm, iteration)
    return losses, [parameter.detach().clone() for parameter in algorithm._parameters()]


def assert_same(cfg: dict, record: Rerun, **settings) -> None:
    losses, parameters = trained(cfg, None, **settings)
    recorded_losses, recorded_parameters = trained(cfg, record, **settings)
    assert recorded_losses == losses
    assert all(map(torch.equal, recorded_parameters, parameters))


@pytest.mark.parametrize(
    "cfg",
    [
        ppo_cfg(),
        ppo_cfg(schedule="fixed", optimizer="sgd", use_clipped_value_loss=False),
        ppo_cfg(optimizer="adamw", use_mixed_precision=True, normalize_advantage_per_mini_batch=True),
        ppo_cfg_with(CNN),
    ],
)
def test_replays_give_the_plain_numbers(cfg: dict):
    record = Rerun()
    assert_same(cfg, record)
    steps = 4 * cfg["algorithm"].get("num_learning_epochs", 5) * cfg["algorithm"].get("num_mini_batches", 4)
    assert (record.recordings, record.replays) == (1, steps - 3)


def test_what_a_recording_took_for_given_is_noticed():
    """Settings that a user changes, a state that is loaded, and models that are replaced."""

    def change(algorithm: PPO, iteration: int) -> None:
        if iteration == 0:
            algorithm.entropy_coef = 0.05
        if iteration == 1:
            algorithm.load(copy.deepcopy(algorithm.save()), None, strict=True)
        if iteration == 2:
            algorithm.optimizer.param_groups[0]["eps"] = 1e-5

    record = Rerun()
    assert_same(ppo_cfg(), record, iterations=5, change=change)
    assert record.recordings == 4


def test_the_learning_rate_may_change_without_a_new_recording():
    def change(algorithm: PPO, iteration: int) -> None:
        algorithm.learning_rate = 1e-4 * (iteration + 1)

    record = Rerun()
    assert_same(ppo_cfg(), record, change=change)
    assert record.recordings == 1


def test_a_rollout_of_another_size_takes_the_plain_path():
    record = Rerun()
    env = PointEnv(num_envs=16)
    algorithm = OnPolicyRunner(env, {**ppo_cfg(), "fast": False}, None, "cpu").alg
    recorded = RecordedUpdate(algorithm, record)
    algorithm._plain_means = lambda number: recorded.run()
    obs = env.get_observations()
    for iteration in range(3):
        algorithm.begin_rollout()
        with torch.inference_mode():
            for _ in range(16):
                obs, rewards, dones, extras = env.step(algorithm.act(obs))
                algorithm.process_env_step(obs, rewards, dones, extras)
            algorithm.compute_returns(obs)
        if iteration == 1:
            before = record.replays
            with algorithm.restricted_to(torch.arange(12)):
                algorithm.update()
            assert record.replays == before
        else:
            algorithm.update()
    assert record.recordings == 1
    assert record.replays == 20 - 3 + 20


def test_a_step_that_cannot_be_recorded_is_taken_plainly(caplog):
    def refuse(step, optimizer):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    losses, parameters = trained(ppo_cfg(), None)
    plain_losses, plain_parameters = trained(ppo_cfg(), refuse)
    assert plain_losses == losses
    assert all(map(torch.equal, plain_parameters, parameters))
    assert "update off (it cannot be recorded: operation not permitted when stream is capturing)" in caplog.text
    assert "and more" not in caplog.text


def on_a_gpu(cfg: dict, **settings) -> str:
    """Return the line about fast paths as it would be on a GPU."""
    env = (CameraEnv if cfg["actor"]["class_name"] == "CNNModel" else PointEnv)()
    env.symmetry = mirror
    algorithm = OnPolicyRunner(env, {**cfg, **settings}, None, "cpu").alg
    algorithm.device = "cuda:0"
    return str(algorithm.fast_paths)


@pytest.mark.parametrize(
    ("line", "cfg", "settings"),
    [
        ("update on", ppo_cfg(), {}),
        ("update on", ppo_cfg_with(CNN), {}),
        ("update off (switched off)", ppo_cfg(), {"fast": False}),
        ("update off (the actor is RNNModel, not MLPModel or CNNModel)", ppo_cfg_with(GRU), {}),
        ("update off (the models are compiled)", ppo_cfg(), {"torch_compile_mode": "default"}),
        (
            "update off (the optimizer is RMSprop, which reads its learning rate on the host)",
            ppo_cfg(optimizer="rmsprop"),
            {},
        ),
    ],
)
def test_what_is_recorded_on_a_gpu(line: str, cfg: dict, settings: dict):
    assert on_a_gpu(cfg, **settings) == f"fast paths: rollout off (not for cuda:0), {line}"
