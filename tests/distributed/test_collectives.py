"""How often an update communicates, and what; a single rank is enough to count."""

import pytest
import torch
from small_configs import GRU, distillation_cfg, ppo_cfg, ppo_cfg_with

from sim_rl_plugin import algorithms, distributed
from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.algorithms.returns import leave_out, normalize
from sim_rl_plugin.modules import EmpiricalNormalization
from sim_rl_plugin.testing import PointEnv

PLACE = {"global_rank": 0, "local_rank": 0, "world_size": 1}


@pytest.fixture(autouse=True)
def _group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the bytes of every all-reduce."""
    sizes: list[int] = []
    original = torch.distributed.all_reduce

    def counted(tensor: torch.Tensor, *arguments, **options):
        sizes.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)

    monkeypatch.setattr(torch.distributed, "all_reduce", counted)
    return sizes


def algorithm_of(cfg: dict) -> PPO:
    env = PointEnv()
    kind = getattr(algorithms, cfg["algorithm"]["class_name"])
    return kind.construct_algorithm(env.get_observations(), env, {**cfg, "multi_gpu": PLACE}, "cpu")


def updated(algorithm: PPO, sent: list[int]) -> None:
    env = PointEnv()
    obs = env.get_observations()
    algorithm.begin_rollout()
    with torch.inference_mode():
        for _ in range(algorithm.storage.num_transitions_per_env):
            obs, rewards, dones, extras = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, rewards, dones, extras)
        algorithm.compute_returns(obs)
    sent.clear()
    algorithm.update()


def gradient_bytes(algorithm: PPO) -> int:
    return 4 * sum(parameter.numel() for parameter in set(algorithm._parameters()))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("cfg", [ppo_cfg(), ppo_cfg_with(GRU)], ids=["mlp", "gru"])
def test_one_collective_per_mini_batch_of_the_gradient_and_the_kl(cfg: dict, fast: bool, sent: list[int]):
    algorithm = algorithm_of({**cfg, "fast": fast})
    updated(algorithm, sent)
    steps = algorithm.num_learning_epochs * algorithm.num_mini_batches
    # The KL is one number of four bytes; before the first step the ranks' weights, at the end the losses.
    assert sent == [4, *[gradient_bytes(algorithm) + 4] * steps, 4 * 3]


def test_a_distillation_sends_its_gradient_alone(sent: list[int]):
    algorithm = algorithm_of(distillation_cfg())
    updated(algorithm, sent)
    student = 4 * sum(p.numel() for p in algorithm.student.parameters() if p.grad is not None)
    assert sent == [4, student, student, 4]  # 8 steps, a gradient every 4


def test_large_gradients_go_in_buckets(sent: list[int]):
    algorithm = algorithm_of(ppo_cfg(grad_reduce_bucket_mb=0.001, num_learning_epochs=1, num_mini_batches=1))
    updated(algorithm, sent)
    assert max(sent) <= 0.001 * 2**20
    assert sum(sent) == 4 + gradient_bytes(algorithm) + 4 + 4 * 3


def test_a_reduction_of_somebodys_own_takes_the_kl_separately(sent: list[int]):
    class Quiet(PPO):
        calls = 0

        def reduce_parameters(self) -> None:
            self.calls += 1

    algorithm = algorithm_of(ppo_cfg(num_learning_epochs=1, num_mini_batches=2))
    algorithm.__class__ = Quiet
    updated(algorithm, sent)
    assert algorithm.calls == 2
    assert sent == [4, 4, 4, 4 * 3]


def test_the_documented_reduction_is_a_plain_mean(sent: list[int]):
    algorithm = algorithm_of(ppo_cfg())
    for parameter in algorithm._parameters():
        parameter.grad = torch.ones_like(parameter)
    algorithm.reduce_parameters()
    assert sent == [gradient_bytes(algorithm)]
    assert all(bool((parameter.grad == 1.0).all()) for parameter in algorithm._parameters())


def test_moments_of_one_rank_are_its_own():
    values = torch.randn(50, 3) * 4.0 + 7.0
    count, mean, squares = distributed.moments(values)
    assert count.item() == 50
    torch.testing.assert_close(mean, values.mean(dim=0, keepdim=True))
    torch.testing.assert_close(squares / 49, values.var(dim=0, keepdim=True))
    normalizer = EmpiricalNormalization(3)
    normalizer.update(values)
    torch.testing.assert_close(normalizer.std, values.std(dim=0, unbiased=False))


def test_advantages_over_all_ranks_are_normalised_as_on_one():
    advantages = torch.randn(6, 4, 1) * 3.0 + 1.0
    torch.testing.assert_close(normalize(advantages, over_all_ranks=True), normalize(advantages))
    skipped = torch.zeros(6, 4, 1, dtype=torch.bool)
    skipped[2, 1] = skipped[5, 3] = True
    torch.testing.assert_close(leave_out(advantages, skipped, over_all_ranks=True), leave_out(advantages, skipped))


def test_parameters_of_every_type_are_broadcast():
    tensors = [torch.ones(3), torch.tensor(7), torch.zeros(2, 2)]
    distributed.broadcast(tensors)
    assert [tensor.tolist() for tensor in tensors] == [[1.0, 1.0, 1.0], 7, [[0.0, 0.0], [0.0, 0.0]]]
