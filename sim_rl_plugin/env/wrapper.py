"""An environment around another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env.commands import Command, command_terms
from sim_rl_plugin.env.terms import Term
from sim_rl_plugin.env.vec_env import VecEnv


class EnvWrapper(VecEnv):
    """An environment that is the inner one in everything that a sub-class does not change.

    The inner one need not be a ``VecEnv``: what it lacks of the optional part of the contract has the contract's
    defaults. Whatever ``VecEnv`` defines has to be handed on by name, since Python would find the default.
    """

    def __init__(self, env: Any) -> None:
        """Wrap an environment."""
        self.env = env

    def __getattr__(self, name: str) -> Any:
        # Only asked for what this object does not have. Without the guard, copying it would never end.
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Control steps since each environment's last reset, ``(num_envs,)``."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf = value

    @property
    def restores_exactly(self) -> bool:  # type: ignore[override]
        """Whether the inner environment's state continues episodes bit for bit."""
        return getattr(self.env, "restores_exactly", True)

    @property
    def state_is_cheap(self) -> bool:  # type: ignore[override]
        """Whether the inner environment's state costs next to nothing."""
        return getattr(self.env, "state_is_cheap", False)

    @property
    def one_per_process(self) -> bool:  # type: ignore[override]
        """Whether no other environment can be opened beside the inner one."""
        return getattr(self.env, "one_per_process", False)

    @property
    def observation_terms(self) -> Mapping[str, Sequence[Term]]:  # type: ignore[override]
        """The inner environment's, if it tells."""
        return getattr(self.env, "observation_terms", {})

    @property
    def action_terms(self) -> Sequence[Term]:  # type: ignore[override]
        """The inner environment's, if it tells."""
        return getattr(self.env, "action_terms", ())

    @property
    def command_terms(self) -> Sequence[Command]:  # type: ignore[override]
        """The inner environment's, if it has any."""
        return command_terms(self.env)

    def get_command(self, name: str) -> torch.Tensor:
        """Return a command of the inner environment."""
        return self.env.get_command(name) if self.command_terms else super().get_command(name)

    def hold_command(self, name: str, values: torch.Tensor | None) -> None:
        """Hold a command of the inner environment."""
        if not self.command_terms:
            super().hold_command(name, values)
        self.env.hold_command(name, values)

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        """Reset environments of the inner one, if it can."""
        return hasattr(self.env, "reset_envs") and self.env.reset_envs(env_ids)

    def get_observations(self) -> TensorDict:
        """Return the inner environment's observations."""
        return self.env.get_observations()

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step the inner environment with ``actions``, ``(num_envs, num_actions)``."""
        return self.env.step(actions)

    def close(self) -> None:
        """Close the inner environment, if it can be closed."""
        if callable(getattr(self.env, "close", None)):
            self.env.close()

    def render(self) -> Any:
        """Render the inner environment; None if it cannot."""
        return self.env.render() if hasattr(self.env, "render") else None

    def show_env(self, index: int) -> bool:
        """Let the inner environment draw another of its environments, if it can."""
        return self.env.show_env(index) if hasattr(self.env, "show_env") else index == 0

    def state_dict(self) -> dict[str, Any] | None:
        """Return the inner environment's state; None if it has none to give, as rsl_rl's environments."""
        return self.env.state_dict() if hasattr(self.env, "state_dict") else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the inner environment's state."""
        self.env.load_state_dict(state)
