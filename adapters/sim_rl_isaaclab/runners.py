"""Runners for Isaac Lab's own training scripts: one import is all that they need to change.

``scripts/reinforcement_learning/rsl_rl/train.py`` of Isaac Lab 2 needs nothing beyond rsl_rl's runner. Its
``play.py`` takes the networks out of it and exports them with its own exporters, which know rsl_rl 2 and 3.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn

from sim_rl_isaaclab.recognition import wrap
from sim_rl_plugin import runners
from sim_rl_plugin.errors import UserError


class OnPolicyRunner(runners.OnPolicyRunner):
    """Our runner, called with Isaac Lab's ``RslRlVecEnvWrapper`` and ``agent_cfg.to_dict()``."""

    def __init__(self, env: Any, train_cfg: dict[str, Any], log_dir: str | None = None, device: str = "cpu") -> None:
        """Take what Isaac Lab's scripts hand to rsl_rl's runner.

        Args:
            env: Its ``RslRlVecEnvWrapper``, an environment of Isaac Lab, or a ``VecEnv``.
            train_cfg: Training dict of any rsl_rl; not modified.
            log_dir: Folder for logs and checkpoints; None writes nothing.
            device: Where to learn.

        Raises:
            ValueError: The training dict has a missing, unknown or ill-typed key.
        """
        super().__init__(wrap(env) or env, train_cfg, log_dir, device)
        # Where rsl_rl 2.3 to 3.3 had both networks.
        self.alg.policy = NetworksOf(self.alg)  # type: ignore[attr-defined]

    def get_inference_policy(self, device: str | None = None) -> nn.Module:
        """Return the policy; it takes the plain tensor of Isaac Lab 2.2's wrapper, too."""
        return PolicyOfTensors(super().get_inference_policy(device))

    @property
    def obs_normalizer(self) -> nn.Module:
        """Normaliser of the policy's observations, which Isaac Lab 2.2 exports beside the network."""
        return self.alg.get_policy().obs_normalizer


class DistillationRunner(OnPolicyRunner):
    """The same under the name that Isaac Lab's scripts call for ``Distillation``."""


class PolicyOfTensors(nn.Module):
    """A policy that is called with groups, or with the group ``policy`` alone as a tensor."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.eval()

    def forward(self, obs: TensorDictBase | torch.Tensor) -> torch.Tensor:
        """Return actions ``(n, a)``.

        Raises:
            UserError: The policy reads other groups than a tensor can be.
        """
        if isinstance(obs, torch.Tensor):
            groups = getattr(self.policy, "obs_groups", ["policy"])
            if list(groups) != ["policy"]:
                raise UserError(
                    f"this policy reads the groups {', '.join(groups)}: call it with a TensorDict, not with a tensor"
                )
            obs = TensorDict({"policy": obs}, batch_size=[obs.shape[0]])
        return self.policy(obs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("policy"), name)


class NetworksOf:
    """The networks of an algorithm under the names that Isaac Lab 2's exporters and ``play.py`` know.

    ``actor`` or ``student`` is the network behind the normaliser, ``memory_a`` or ``memory_s`` holds the
    recurrent one, and ``actor_obs_normalizer`` or ``student_obs_normalizer`` the normaliser. They are copies
    of the moment.
    """

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm

    @property
    def is_recurrent(self) -> bool:
        """Whether the policy has a memory."""
        return bool(self._algorithm.get_policy().is_recurrent)

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """Let the policy forget the episodes that ended."""
        self._algorithm.get_policy().reset(dones)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        first = "student" if hasattr(self._algorithm, "student") else "actor"
        policy = self._algorithm.get_policy()
        if name == f"{first}_obs_normalizer":
            return policy.obs_normalizer
        if name == f"memory_{first[0]}" and policy.is_recurrent:
            return policy.rnn
        if name == first:
            exported = policy.as_jit()
            return nn.Sequential(*exported.mlp, exported.deterministic_output)
        raise AttributeError(f"an algorithm with {'a student' if first == 'student' else 'an actor'} has no {name!r}")
