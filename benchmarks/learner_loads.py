"""The loads of the learner benchmark: training dicts, a free environment, and the arithmetic that each needs.

Legend of shapes: ``n`` environments, ``a`` actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from tensordict import TensorDict

NUM_EPOCHS = 5
NUM_MINI_BATCHES = 4
_NUM_PREPARED_STEPS = 8
_END_PROBABILITY = 0.01


@dataclass(frozen=True)
class Load:
    """One training whose iterations are timed.

    Attributes:
        num_envs: Environments.
        num_steps: Steps of a rollout.
        groups: Shapes of the observation groups.
        obs_groups: Groups that actor and critic read.
        num_actions: Actions.
        hidden_dims: Hidden layers of both perceptrons.
        model: What else both models are given, ``class_name`` included.
    """

    num_envs: int
    num_steps: int
    groups: Mapping[str, tuple[int, ...]]
    obs_groups: Mapping[str, list[str]]
    num_actions: int
    hidden_dims: tuple[int, ...]
    model: Mapping[str, Any] = field(default_factory=lambda: {"class_name": "MLPModel"})

    @property
    def num_samples(self) -> int:
        """Samples of one iteration."""
        return self.num_envs * self.num_steps


LOADS = {
    "standard": Load(
        4096, 24, {"policy": (48,), "critic": (96,)}, {"actor": ["policy"], "critic": ["critic"]}, 12, (512, 256, 128)
    ),
    "small": Load(256, 32, {"policy": (17,)}, {"actor": ["policy"], "critic": ["policy"]}, 6, (64, 64)),
    "recurrent": Load(
        1024, 24, {"policy": (48,)}, {"actor": ["policy"], "critic": ["policy"]}, 12, (128,),
        {"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 256, "rnn_num_layers": 1},
    ),
    "image": Load(
        256, 16, {"policy": (16,), "camera": (1, 32, 32)},
        {"actor": ["policy", "camera"], "critic": ["policy", "camera"]}, 4, (128,),
        {
            "class_name": "CNNModel",
            "cnn_cfg": {"output_channels": [16, 32], "kernel_size": [5, 3], "stride": [2, 2], "activation": "elu"},
        },
    ),
}  # fmt: skip


def growth(kind: str) -> dict[str, Load]:
    """Return the standard load, or the small one for environments, in sizes from small to large."""
    standard = LOADS["standard"]
    if kind == "envs":
        return {f"{number} envs": replace(standard, num_envs=number) for number in (256, 1024, 4096, 16384, 65536)}
    if kind == "networks":
        sizes = [(64, 64), (256, 128, 64), (512, 256, 128), (1024, 512, 256)]
        return {str(list(dims)): replace(standard, hidden_dims=dims) for dims in sizes}
    return {f"{steps} steps": replace(standard, num_envs=1024, num_steps=steps) for steps in (8, 24, 96, 256)}


def training_dict(load: Load, mixed: bool, compile_mode: str | None) -> dict[str, Any]:
    """Return a training dict that rsl_rl and ours both take."""
    model = {**load.model, "hidden_dims": list(load.hidden_dims), "activation": "elu", "obs_normalization": True}
    return {
        "num_steps_per_env": load.num_steps,
        "save_interval": 10**6,
        "obs_groups": {name: list(groups) for name, groups in load.obs_groups.items()},
        "algorithm": {
            "class_name": "PPO",
            "num_learning_epochs": NUM_EPOCHS,
            "num_mini_batches": NUM_MINI_BATCHES,
            "schedule": "adaptive",
            "desired_kl": 0.01,
            "learning_rate": 1e-3,
            "use_mixed_precision": mixed,
        },
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
        "critic": dict(model),
        "torch_compile_mode": compile_mode,
    }


def make_env(base: type, load: Load) -> Any:
    """Return an environment that costs nothing: random steps that were drawn beforehand, again and again.

    Args:
        base: The ``VecEnv`` of the side that is measured.
        load: Its sizes.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(load.num_envs, *shape, generator=generator)

    steps = []
    for _ in range(_NUM_PREPARED_STEPS):
        obs = TensorDict({name: drawn(*shape) for name, shape in load.groups.items()}, batch_size=[load.num_envs])
        chance_n = torch.rand(load.num_envs, generator=generator)
        steps.append((obs, drawn(), chance_n < _END_PROBABILITY, {"time_outs": chance_n < _END_PROBABILITY / 2}))

    class FreeEnv(base):  # type: ignore[misc]
        num_envs, num_actions, max_episode_length = load.num_envs, load.num_actions, 1000
        episode_length_buf = torch.zeros(load.num_envs, dtype=torch.long)
        device, cfg = "cpu", {}
        position = 0

        def get_observations(self) -> TensorDict:
            return steps[self.position][0]

        def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
            self.position = (self.position + 1) % _NUM_PREPARED_STEPS
            return steps[self.position]

    return FreeEnv()


def operations_per_iteration(load: Load) -> float:
    """Return the floating-point operations of the matrix products and convolutions of one iteration.

    A forward pass of the actor and one of the critic per sample in the rollout; forward, weight gradient and
    input gradient per sample and epoch, without the input gradient of the first layer, which nobody needs.
    """
    total = 0.0
    for role, outputs in (("actor", load.num_actions), ("critic", 1)):
        forward, first = _forward_operations(load, role, outputs)
        total += load.num_samples * (forward + NUM_EPOCHS * (3.0 * forward - first))
    return total


def _forward_operations(load: Load, role: str, outputs: int) -> tuple[float, float]:
    """Return the operations of one sample's forward pass: of all layers, and of the first."""
    shapes = [load.groups[group] for group in load.obs_groups[role]]
    size = sum(shape[0] for shape in shapes if len(shape) == 1)
    layers: list[float] = []
    if load.model["class_name"] == "RNNModel":
        hidden = load.model["rnn_hidden_dim"]
        layers += [2.0 * 3 * hidden * size, 2.0 * 3 * hidden * hidden]
        size = hidden
    for channels, height, width in (shape for shape in shapes if len(shape) == 3):
        cfg = load.model["cnn_cfg"]
        for new, kernel, stride in zip(cfg["output_channels"], cfg["kernel_size"], cfg["stride"], strict=True):
            height, width = ((extent - kernel) // stride + 1 for extent in (height, width))
            layers.append(2.0 * new * height * width * channels * kernel * kernel)
            channels = new
        size += channels * height * width
    layers += [2.0 * before * after for before, after in pairwise((size, *load.hidden_dims, outputs))]
    return sum(layers), layers[0]
