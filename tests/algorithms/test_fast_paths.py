"""The fast paths give the plain path's numbers, and stay away where they would not."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.algorithms.fast import kernels, perceptron, selection, threads
from sim_rl_plugin.algorithms.losses import adapted_learning_rate, adapted_rate
from sim_rl_plugin.algorithms.optimizer import build_optimizer, load_portable_state_dict
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.modules.distribution import GaussianDistribution

NUM_ENVS, NUM_STEPS, NUM_ACTIONS = 40, 12, 3
SIZES = {"policy": 7, "height": 4}
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.8}


class Shapes:
    num_actions, num_envs = NUM_ACTIONS, NUM_ENVS


def observations() -> TensorDict:
    drawn = {name: 2.0 * torch.randn(NUM_ENVS, size) + 1.0 for name, size in SIZES.items()}
    return TensorDict(drawn, batch_size=[NUM_ENVS])


def build(
    fast: bool,
    algorithm: dict[str, Any] | None = None,
    distribution: dict[str, Any] | None = None,
    **model: Any,
) -> PPO:
    torch.manual_seed(0)
    network = {
        "class_name": "MLPModel",
        "hidden_dims": [24, 16],
        "activation": "elu",
        "obs_normalization": True,
    } | model
    cfg = {
        "num_steps_per_env": NUM_STEPS,
        "obs_groups": {"actor": ["policy"], "critic": ["policy", "height"]},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 3, **(algorithm or {})},
        "actor": {**network, "distribution_cfg": distribution or GAUSSIAN},
        "critic": network,
        "fast": fast,
    }
    built = PPO.construct_algorithm(observations(), Shapes(), cfg, "cpu")
    built.train_mode()
    return built


def iterate(algorithm: PPO, number: int) -> list[dict[str, float]]:
    """Play rollouts of random numbers and learn from them; return the losses."""
    losses = []
    for index in range(number):
        torch.manual_seed(index)
        with torch.inference_mode():
            algorithm.begin_rollout()
            obs = observations()
            for _ in range(NUM_STEPS):
                algorithm.act(obs)
                obs = observations()
                dones = torch.rand(NUM_ENVS) < 0.1
                extras = {"time_outs": dones & (torch.rand(NUM_ENVS) < 0.5)}
                algorithm.process_env_step(obs, torch.randn(NUM_ENVS), dones, extras)
            algorithm.compute_returns(obs)
        losses.append(algorithm.update())
    return losses


def parameters(algorithm: PPO) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in algorithm._parameters()])


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(number: int = 3, tolerance: float = 1e-4, **settings: Any) -> None:
    """Train on both paths; their parameters are apart by a small share of the way that they moved."""
    fast, plain = build(True, **settings), build(False, **settings)
    assert fast.fast_paths.update and not plain.fast_paths.update
    start = parameters(plain)
    our_losses, their_losses = iterate(fast, number), iterate(plain, number)
    for ours, theirs in zip(our_losses, their_losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert fast.learning_rate == pytest.approx(plain.learning_rate)
    apart = (parameters(fast) - parameters(plain)).norm() / (parameters(plain) - start).norm()
    assert apart < tolerance
    ours, theirs = (algorithm.get_policy().output_std.reshape(-1, NUM_ACTIONS)[0] for algorithm in (fast, plain))
    assert torch.allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"distribution": {**GAUSSIAN, "std_type": "log"}},
        {"distribution": {**GAUSSIAN, "learn_std": False}},
        {"distribution": {**GAUSSIAN, "std_range": [0.7, 0.79]}},
        {"algorithm": {"use_clipped_value_loss": False, "value_loss_coef": 0.3, "entropy_coef": 0.1}},
        {"algorithm": {"num_mini_batches": 7, "normalize_advantage_per_mini_batch": True}},
        {"algorithm": {"schedule": "fixed", "max_grad_norm": 0.05}},
        {"algorithm": {"optimizer": "adamw"}},
        {"algorithm": {"optimizer": "sgd", "learning_rate": 1e-2}},
        {"activation": "relu"},
        {"activation": "tanh"},
        {"activation": "sigmoid"},
        {"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 20, "hidden_dims": [16]},
        {"activation": "swish", "hidden_dims": [16], "obs_normalization": False},
    ],
    ids=str,
)
def test_both_paths_learn_the_same(settings: dict[str, Any]):
    compare(**settings)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_share_a_mini_batch(num_threads: int, monkeypatch: pytest.MonkeyPatch):
    # Chunks of 14 rows at the most, so that every thread has several, and the last one is shorter.
    monkeypatch.setattr(threads, "_FEWEST_OPERATIONS", 1)
    monkeypatch.setattr(threads, "_CHUNK_BYTES", 14 * 8 * 24)
    with torch_threads(num_threads):
        compare()
        compare(class_name="RNNModel", rnn_type="gru", rnn_hidden_dim=20)
        assert torch.get_num_threads() == num_threads


def test_mixed_precision_is_close_and_keeps_the_rollout_in_float32():
    settings = {"algorithm": {"use_mixed_precision": True, "schedule": "fixed"}}
    fast, plain = build(True, **settings), build(False, **settings)
    start = parameters(plain)
    our_losses, their_losses = iterate(fast, 1), iterate(plain, 1)
    assert our_losses[0] == pytest.approx(their_losses[0], rel=1e-2, abs=1e-2)
    apart = (parameters(fast) - parameters(plain)).norm() / (parameters(plain) - start).norm()
    assert apart < 0.1  # bfloat16 keeps eight bits
    assert torch.equal(fast.storage.actions, plain.storage.actions) or torch.allclose(
        fast.storage.actions, plain.storage.actions, atol=1e-6
    )


def test_a_rollout_is_the_same():
    fast, plain = build(True), build(False)
    iterate(fast, 1)
    iterate(plain, 1)
    for name in ("actions", "actions_log_prob", "values", "returns", "advantages"):
        ours, theirs = getattr(fast.storage, name), getattr(plain.storage, name)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5), name


def test_optimizer_state_is_the_optimizers_own():
    fast, plain = build(True), build(False)
    iterate(fast, 2)
    iterate(plain, 2)
    ours, theirs = fast.save()["optimizer_state_dict"], plain.save()["optimizer_state_dict"]
    assert ours["param_groups"][0]["lr"] == pytest.approx(theirs["param_groups"][0]["lr"])
    for index, state in theirs["state"].items():
        assert ours["state"][index]["step"] == state["step"] == 2 * 3 * 4
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.allclose(ours["state"][index][moment], state[moment], rtol=1e-3, atol=1e-6)
    # Any Adam takes it.
    other = build_optimizer(
        "adam", [p.detach().clone().requires_grad_() for p in fast._parameters()], torch.tensor(1.0)
    )
    load_portable_state_dict(other, copy.deepcopy(ours))


def test_training_goes_on_from_what_was_loaded():
    """Loading replaces the optimizer's tensors, and a move to another device the parameters'."""
    fast, plain = build(True), build(False)
    iterate(fast, 1)
    iterate(plain, 1)
    saved = copy.deepcopy(plain.save())
    for algorithm in (fast, plain):
        algorithm.load(copy.deepcopy(saved), None, strict=True)
        for parameter in algorithm.get_policy().parameters():
            parameter.data = parameter.data.clone()
            parameter.grad = None
    start = parameters(plain)
    assert torch.equal(parameters(fast), start)
    iterate(fast, 2)
    iterate(plain, 2)
    assert (parameters(fast) - parameters(plain)).norm() / (parameters(plain) - start).norm() < 1e-4


def test_hooks_of_the_optimizer_are_called_with_the_gradients():
    fast, plain = build(True), build(False)
    norms: dict[int, list[float]] = {0: [], 1: []}
    for index, algorithm in enumerate((fast, plain)):

        def note(optimizer: Any, args: Any, kwargs: Any, index: int = index) -> None:
            gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
            norms[index].append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

        algorithm.optimizer.register_step_pre_hook(note)
        iterate(algorithm, 1)
    assert len(norms[0]) == 12 and norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert torch.allclose(parameters(fast), parameters(plain), atol=1e-5)


def test_a_nan_is_noticed():
    algorithm = build(True)
    with torch.no_grad():
        algorithm.critic.mlp[0].bias[3] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        iterate(algorithm, 1)


def _deterministic_twin(algorithm: PPO) -> None:
    algorithm._raw_actor.get_kl_divergence = lambda old, new: torch.zeros(1)  # type: ignore[method-assign]


def _derived(algorithm: PPO) -> None:
    class Shifted(GaussianDistribution):
        pass

    algorithm._raw_actor.distribution.__class__ = Shifted


CHANGES: dict[str, tuple[Callable[[PPO], Any], str]] = {
    "switched off": (lambda a: setattr(a, "fast", False), "switched off"),
    "a method of one actor": (_deterministic_twin, "actor has hooks or changed methods"),
    "a hook": (lambda a: a._raw_critic.mlp[2].register_forward_hook(lambda *_: None), "critic has hooks"),
    "a frozen layer": (lambda a: a._raw_actor.mlp[0].weight.requires_grad_(False), "frozen"),
    "another distribution": (_derived, "Shifted, not GaussianDistribution"),
    "another activation": (lambda a: a._raw_actor.mlp.__setitem__(1, torch.nn.GELU()), "the activation GELU"),
    "compiled": (lambda a: a.compile("default"), "compiled"),
    "a method of the update": (lambda a: setattr(a, "_loss", lambda batch: None), "overridden"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
def test_what_somebody_changed_is_used(change: Callable[[PPO], Any], reason: str):
    algorithm = build(True)
    assert str(algorithm.fast_paths) == "fast paths: rollout on, update on"
    change(algorithm)
    assert not algorithm.fast_paths.update
    assert reason in algorithm.fast_paths.reasons["update"]


def test_the_table_of_activations_is_complete():
    assert perceptron.ACTIVATIONS.keys() == selection._ACTIVATIONS


def test_the_plain_path_is_taken_where_numba_has_nowhere_to_write(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "_against_numba", lambda: ["numba cannot be used: no locator"])
    algorithm = build(True)
    assert "numba cannot be used" in algorithm.fast_paths.reasons["update"]
    iterate(algorithm, 1)


def test_numba_is_imported_when_it_is_needed():
    script = "import sys, sim_rl_plugin.runners; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


class Counter(TorchDispatchMode):
    """Counts what reads a tensor back, and the largest tensor that an operation allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        if isinstance(result, torch.Tensor) and not any(alias.alias_info for alias in func._schema.returns):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("fast", [True, False])
def test_reads_of_an_update_do_not_grow_with_its_mini_batches(fast: bool):
    """On a GPU each of them would make the host wait."""
    reads = []
    for num_mini_batches in (2, 8):
        algorithm = build(fast, {"num_mini_batches": num_mini_batches})
        iterate(algorithm, 1)
        with Counter() as counter:
            iterate(algorithm, 1)
        reads.append(counter.reads)
    assert reads[0] == reads[1] <= 12 + 2  # one per step is of this test's own drawing, at the most


def test_no_activations_of_a_whole_mini_batch_are_allocated():
    settings = {"algorithm": {"num_mini_batches": 1}, "hidden_dims": [64, 64]}
    largest = {}
    for fast in (True, False):
        algorithm = build(fast, **settings)
        iterate(algorithm, 1)
        with torch_threads(1), Counter() as counter:
            iterate(algorithm, 1)
        largest[fast] = counter.largest
    samples = NUM_ENVS * NUM_STEPS
    assert largest[False] >= 64 * samples
    assert largest[True] <= sum(SIZES.values()) * samples  # the gathered observations of the critic


def test_kernels_agree_with_torch():
    torch.manual_seed(0)
    x = torch.cat(
        (torch.linspace(-100.0, 100.0, 4001), torch.randn(4000), torch.tensor([0.0, -0.0, torch.inf, -torch.inf]))
    )
    y = x.clone().view(1, -1)
    kernels.elu(y.numpy())
    assert torch.allclose(y[0].double(), torch.nn.functional.elu(x.double()), rtol=1e-6, atol=1e-7)
    bad = torch.full((1, 3), torch.nan)
    kernels.elu(bad.numpy())
    assert bad.isnan().all()

    half = x.bfloat16().view(1, -1).clone()
    slope = torch.empty_like(half)
    expected = torch.nn.functional.elu(x.bfloat16())
    kernels.elu_bfloat16(half.view(torch.uint16).numpy(), slope.view(torch.uint16).numpy())
    assert torch.allclose(half[0].float(), expected.float(), rtol=2**-7, atol=1e-6)
    derivative = x.bfloat16().double().clamp(max=0.0).exp()
    assert torch.allclose(slope[0].double(), derivative, rtol=2**-7, atol=1e-30)


def test_kl_divergence_agrees_with_the_distribution():
    torch.manual_seed(0)
    old_mean, mean = torch.randn(50, 3), torch.randn(50, 3)
    old_std, std = torch.rand(50, 3) + 0.5, torch.rand(3) + 0.5
    expected = GaussianDistribution(3).kl_divergence((old_mean, old_std), (mean, std)).sum().item()
    found = kernels.kl_divergence(old_mean.numpy(), old_std.numpy(), mean.numpy(), std.numpy())
    assert found == pytest.approx(expected, rel=1e-5)
    # An unmoved policy has none, not even by rounding.
    same = np.broadcast_to(std.numpy(), (50, 3))
    assert kernels.kl_divergence(mean.numpy(), np.ascontiguousarray(same), mean.numpy(), std.numpy()) == 0.0


@pytest.mark.parametrize("kl", [0.0, 1e-14, 1e-8, 2e-8, 0.0049, 0.005, 0.0051, 0.02, 0.0201, 1.0, float("nan")])
@pytest.mark.parametrize("rate", [1e-5, 1.2e-5, 1e-3, 9e-3, 1e-2])
def test_the_rule_of_numbers_is_the_rule_of_tensors(rate: float, kl: float):
    of_tensors = adapted_learning_rate(
        torch.tensor(rate, dtype=torch.float64), torch.tensor(kl, dtype=torch.float64), 0.01
    )
    assert adapted_rate(rate, kl, 0.01) == of_tensors.item()


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("number", [1, 2, 7, 1000, 4096])
def test_shares_are_all_rows_once(number: int, num_threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "_CHUNK_BYTES", 3000)
    found = threads.shares(number, bytes_per_row=10, operations_per_row=10**7, num_threads=num_threads)
    rows = [row for share in found for chunk in share for row in range(chunk.start, chunk.stop)]
    assert sorted(rows) == list(range(number))
    assert len(found) <= num_threads
    assert all(chunk.stop - chunk.start <= min(300, found[0][0].stop) for share in found for chunk in share)
