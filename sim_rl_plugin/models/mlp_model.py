"""Models that read flat observation groups through a multi-layer perceptron."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.modules import MLP, Distribution, EmpiricalNormalization, HiddenState
from sim_rl_plugin.modules.trajectories import unpad_trajectories
from sim_rl_plugin.registry import resolve_class


class MLPModel(nn.Module):
    """Concatenate observation groups, normalise them, and run a multi-layer perceptron.

    With a distribution the output can be random; without one it is the network's output itself.

    A forward pass has three parts. ``prepare`` picks the groups and normalises them; nothing is trained
    there, so an update that visits a sample many times prepares it once. ``encode`` makes the latent
    out of that: here nothing is left to do, a recurrent model runs its network. ``forward_latent``
    runs the perceptron and the distribution. ``get_latent`` is the first two.
    """

    is_recurrent: bool = False
    """Whether the model has a memory."""

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: tuple[int, ...] | list[int] = (256, 256, 256),
        activation: str = "elu",
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Build the model for the observations that it will see.

        Args:
            obs: Observations as the environment gives them, batch size ``[num_envs]``.
            obs_groups: Observation sets: which groups each of them is made of, in order.
            obs_set: The set that this model reads (``actor``, ``critic``, ...).
            output_dim: Number of actions, or 1 for a value.
            hidden_dims: Sizes of the hidden layers; -1 stands for the size of the input.
            activation: Name of the activation function.
            obs_normalization: Shift and scale observations by their running mean and deviation.
            distribution_cfg: ``class_name`` and arguments of the distribution; None for a
                deterministic model.

        Raises:
            ValueError: A group is missing or not flat, or an argument is out of range.
        """
        super().__init__()
        self.obs_groups, self.obs_dim = self._get_obs_dim(obs, obs_groups, obs_set)
        self.obs_normalization = obs_normalization
        self.obs_normalizer: nn.Module = EmpiricalNormalization(self.obs_dim) if obs_normalization else nn.Identity()
        self.distribution: Distribution | None = None
        mlp_output_dim: int | list[int] = output_dim
        if distribution_cfg is not None:
            distribution_class, arguments = resolve_class(distribution_cfg, path=f"{obs_set}.distribution_cfg")
            self.distribution = distribution_class(output_dim, **arguments)
            mlp_output_dim = self.distribution.input_dim
        self.mlp = MLP(self._get_latent_dim(), mlp_output_dim, hidden_dims, activation)
        if self.distribution is not None:
            self.distribution.init_mlp_weights(self.mlp)

    def forward(
        self,
        obs: TensorDict,
        masks: torch.Tensor | None = None,
        hidden_state: HiddenState = None,
        stochastic_output: bool = False,
    ) -> torch.Tensor:
        """Return actions or values ``(batch, output_dim)``.

        Args:
            obs: Observation groups, batch size ``[batch]``, or padded trajectories ``[t, j]``.
            masks: Bool ``(t, j)``: which steps of padded trajectories are real; the result is then
                ``(t, n, output_dim)``.
            hidden_state: Memory at the start of each trajectory; for recurrent models.
            stochastic_output: Draw from the distribution instead of returning its deterministic
                output. Without a distribution nothing changes.
        """
        if masks is not None and not self.is_recurrent:
            obs = unpad_trajectories(obs, masks)
        return self.forward_latent(self.get_latent(obs, masks, hidden_state), stochastic_output)

    def forward_latent(self, latent: torch.Tensor, stochastic_output: bool = False) -> torch.Tensor:
        """Return what ``forward`` returns, from the result ``(batch, latent_dim)`` of ``get_latent``."""
        mlp_output = self.mlp(latent)
        if self.distribution is None:
            return mlp_output
        if stochastic_output:
            self.distribution.update(mlp_output)
            return self.distribution.sample()
        return self.distribution.deterministic_output(mlp_output)

    def update_distribution(self, latent: torch.Tensor) -> None:
        """Describe the distribution at ``latent`` ``(batch, latent_dim)`` without drawing from it."""
        self._stochastic().update(self.mlp(latent))

    def get_latent(
        self, obs: TensorDict, masks: torch.Tensor | None = None, hidden_state: HiddenState = None
    ) -> torch.Tensor:
        """Return what the perceptron reads, ``(batch, latent_dim)``."""
        return self.encode(self.prepare(obs), masks, hidden_state)

    def prepare(self, obs: TensorDict) -> torch.Tensor:
        """Return the part of the latent that no parameter changes: the groups as one normalised tensor."""
        return self.obs_normalizer(self._concatenate(obs))

    def encode(
        self, prepared: torch.Tensor, masks: torch.Tensor | None = None, hidden_state: HiddenState = None
    ) -> torch.Tensor:
        """Return the latent of what ``prepare`` returned; for a plain perceptron it is the latent already."""
        return prepared

    @property
    def has_fixed_input(self) -> bool:
        """Whether an update may call ``prepare`` once and ``encode`` often.

        Not if the normaliser has parameters, nor in a sub-class that overrides ``forward`` or ``get_latent``
        and knows nothing of the parts.
        """
        cls = type(self)
        knows_parts = _depth(cls, "prepare", "encode", "forward_latent") <= _depth(cls, "forward", "get_latent")
        return knows_parts and not any(True for _ in self.obs_normalizer.parameters())

    @property
    def is_sample_wise(self) -> bool:
        """Whether a sample's output depends on this sample alone, so that batches may be cut as one likes.

        Batch normalisation mixes samples, and dropout draws random numbers.
        """
        mixing = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
        return not any(isinstance(module, mixing) for module in self.modules())

    def reset(self, dones: torch.Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Forget, where ``dones`` is true, or take over a memory; a model without memory has nothing to forget."""

    def get_hidden_state(self) -> HiddenState:
        """Return the memory; None for a model without one."""
        return None

    def detach_hidden_state(self, dones: torch.Tensor | None = None) -> None:
        """Cut back-propagation through the memory; a model without memory has nothing to cut."""

    @property
    def output_mean(self) -> torch.Tensor:
        """Mean of the distribution of the last stochastic pass."""
        return self._stochastic().mean

    @property
    def output_std(self) -> torch.Tensor:
        """Standard deviation of the distribution of the last stochastic pass."""
        return self._stochastic().std

    @property
    def output_entropy(self) -> torch.Tensor:
        """Entropy in nats of the distribution of the last stochastic pass, ``(batch,)``."""
        return self._stochastic().entropy

    @property
    def output_distribution_params(self) -> tuple[torch.Tensor, ...]:
        """Parameters of the distribution of the last stochastic pass."""
        return self._stochastic().params

    def get_output_log_prob(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the log-density of ``outputs`` ``(batch, output_dim)`` under the last pass, ``(batch,)``."""
        return self._stochastic().log_prob(outputs)

    def get_kl_divergence(
        self, old_params: tuple[torch.Tensor, ...], new_params: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Return KL(old || new) in nats, ``(batch,)``."""
        return self._stochastic().kl_divergence(old_params, new_params)

    def as_jit(self) -> nn.Module:
        """Return a copy for ``torch.jit.script``: concatenated observations in, deterministic output out."""
        return _ExportedMLPModel(self)

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """Return a copy for ``torch.onnx.export``: concatenated observations in, deterministic output out."""
        return _ExportedMLPModel(self, verbose)

    def update_normalization(self, obs: TensorDict) -> None:
        """Let the normaliser learn from a batch of observations."""
        if self.obs_normalization:
            assert isinstance(self.obs_normalizer, EmpiricalNormalization)
            self.obs_normalizer.update(self._concatenate(obs))

    def _stochastic(self) -> Distribution:
        if self.distribution is None:
            raise UserError(f"{type(self).__name__} is deterministic: give it a distribution_cfg")
        return self.distribution

    def _concatenate(self, obs: TensorDict) -> torch.Tensor:
        if len(self.obs_groups) == 1:
            return obs[self.obs_groups[0]]
        return torch.cat([obs[group] for group in self.obs_groups], dim=-1)

    def _get_obs_dim(self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str) -> tuple[list[str], int]:
        """Return the groups of the set and the size of their concatenation."""
        groups = obs_groups[obs_set]
        for group in groups:
            if obs[group].dim() != 2:
                raise UserError(
                    f"{type(self).__name__} reads flat observation groups (batch, size), but group {group!r} of "
                    f"obs_groups.{obs_set} has shape {tuple(obs[group].shape)}"
                )
        return groups, sum(obs[group].shape[-1] for group in groups)

    def _get_latent_dim(self) -> int:
        """Return the size of the network's input; models that append to the latent override it."""
        return self.obs_dim


def _depth(cls: type, *names: str) -> int:
    """Return how far up the bases of a class the nearest definition of any of these methods is."""
    return min(depth for depth, owner in enumerate(cls.__mro__) if any(name in vars(owner) for name in names))


class ExportablePolicy(nn.Module):
    """The deterministic policy alone, in plain modules that scripting and tracing understand."""

    is_recurrent: bool = False

    def __init__(self, model: MLPModel, verbose: bool = False) -> None:
        """Copy what a deterministic pass needs.

        Args:
            model: The model.
            verbose: Kept for the exporter.
        """
        super().__init__()
        self.verbose = verbose
        self.input_size = model.obs_dim
        self.obs_normalizer = copy.deepcopy(model.obs_normalizer)
        self.mlp = nn.Sequential(*copy.deepcopy(list(model.mlp)))
        self.deterministic_output: nn.Module = nn.Identity()
        if model.distribution is not None:
            self.deterministic_output = model.distribution.as_deterministic_output_module()

    @torch.jit.export
    def reset(self) -> None:
        """Forget nothing: callers may treat every exported policy alike."""

    @torch.jit.unused
    def get_dummy_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return inputs to trace with, of one robot as in rsl_rl."""
        return (torch.zeros(1, self.input_size),)

    @torch.jit.unused
    def get_batch_axes(self) -> list[int]:
        """Return along which axis of each input the robots lie."""
        return [1 if name in ("h_in", "c_in") else 0 for name in self.input_names]

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in the exported file."""
        return ["obs"]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in the exported file."""
        return ["actions"]


class _ExportedMLPModel(ExportablePolicy):
    """Concatenated raw observations ``(n, obs_dim)`` in, actions ``(n, num_actions)`` out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deterministic_output(self.mlp(self.obs_normalizer(x)))
