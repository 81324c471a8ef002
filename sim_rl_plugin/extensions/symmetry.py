"""Symmetry of a robot: mirrored samples to learn from, and a loss for a policy that is not symmetric.

Mittal et al. 2024 (ICRA), "Symmetry considerations for learning task symmetric robot policies".

Legend of shapes: ``b`` samples of a mini-batch, ``m`` = b times the number of mirror images, the original counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sim_rl_plugin.config.signature import check_arguments
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.registry import resolve_callable
from sim_rl_plugin.storage import RolloutStorage


class Symmetry:
    """Edits mini-batches by the user's mirror function.

    With neither use switched on, the mirror loss is computed and reported, and changes nothing.
    """

    def __init__(
        self,
        env: VecEnv,
        data_augmentation_func: str | Callable[..., Any],
        use_data_augmentation: bool = False,
        use_mirror_loss: bool = False,
        mirror_loss_coeff: float = 0.0,
    ) -> None:
        """Find the mirror function.

        Args:
            env: The environment, handed to the mirror function.
            data_augmentation_func: Called with ``env``, ``obs`` (TensorDict ``[b]`` or None) and
                ``actions`` (``(b, a)`` or None); returns both with their mirror images behind them:
                the original in the first ``b`` rows, then one mirror image of all rows after the other.
            use_data_augmentation: Learn from the mirror images, too.
            use_mirror_loss: Add the mean squared error between the action at a mirrored observation
                and the mirrored action at the original one.
            mirror_loss_coeff: Weight of that error.

        Raises:
            ValueError: There is no such function.
        """
        self.env = env
        self.use_data_augmentation = use_data_augmentation
        self.use_mirror_loss = use_mirror_loss
        self.mirror_loss_coeff = mirror_loss_coeff
        try:
            self.data_augmentation_func = resolve_callable(data_augmentation_func)
        except (UserError, TypeError) as error:
            raise UserError(f"algorithm.symmetry_cfg.data_augmentation_func: {error}") from error

    def augment_batch(self, batch: RolloutStorage.Batch, original_batch_size: int) -> None:
        """Append the mirror images to a mini-batch, in place; nothing happens without ``use_data_augmentation``.

        A mirror image keeps log-probability, value, advantage and return of its original. The
        parameters of the old distribution are not repeated: the KL divergence is of the originals.
        """
        if not self.use_data_augmentation:
            return
        assert batch.old_actions_log_prob is not None and batch.values is not None
        assert batch.advantages is not None and batch.returns is not None
        batch.observations, batch.actions = self.data_augmentation_func(
            env=self.env, obs=batch.observations, actions=batch.actions
        )
        assert batch.observations is not None
        copies = batch.observations.batch_size[0] // original_batch_size
        batch.old_actions_log_prob = batch.old_actions_log_prob.repeat(copies, 1)
        batch.values = batch.values.repeat(copies, 1)
        batch.advantages = batch.advantages.repeat(copies, 1)
        batch.returns = batch.returns.repeat(copies, 1)

    def compute_loss(self, actor: MLPModel, batch: RolloutStorage.Batch, original_batch_size: int) -> torch.Tensor:
        """Return the mirror loss, a scalar; without ``use_mirror_loss`` it has no gradient.

        Args:
            actor: The policy; its deterministic output is compared.
            batch: The mini-batch, after ``augment_batch``.
            original_batch_size: Samples that are no mirror images, ``b``.
        """
        if not self.use_data_augmentation:
            batch.observations, _ = self.data_augmentation_func(env=self.env, obs=batch.observations, actions=None)
        assert batch.observations is not None
        actions_ma = actor(batch.observations.detach().clone())
        _, mirrored_ma = self.data_augmentation_func(env=self.env, obs=None, actions=actions_ma[:original_batch_size])
        images = slice(original_batch_size, None)
        loss = nn.functional.mse_loss(actions_ma[images], mirrored_ma.detach()[images])
        return loss if self.use_mirror_loss else loss.detach()


def check_symmetry_cfg(symmetry_cfg: dict[str, Any], path: str = "algorithm.symmetry_cfg") -> None:
    """Raise unless the settings fit the constructor, but for the environment.

    The mirror function is not looked up: its module may need a simulator that has not started yet.

    Raises:
        ValueError: With the key path of what is wrong.
    """
    check_arguments(Symmetry, symmetry_cfg, path, provided=("env",))


def resolve_symmetry_config(alg_cfg: dict[str, Any], env: VecEnv) -> dict[str, Any]:
    """Put the environment into ``symmetry_cfg``, in place, and return ``alg_cfg``.

    Raises:
        ValueError: A key is unknown or missing.
    """
    if alg_cfg.get("symmetry_cfg") is None:
        alg_cfg["symmetry_cfg"] = None
    else:
        check_symmetry_cfg(alg_cfg["symmetry_cfg"])
        alg_cfg["symmetry_cfg"]["env"] = env
    return alg_cfg
