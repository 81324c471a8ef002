"""mjlab's environment behind the contract of ``VecEnv``.

What mjlab returns from ``step`` is its own: reward, time-outs and ``extras`` are one buffer each, and
``get_observations`` hands out the cached observations themselves. Everything that leaves this class is
a copy.

Where the environment's ``auto_reset`` is off, ``step`` returns how an episode ended, and this class
resets whoever ended. mjlab's ``reset(env_ids=...)`` is not quite what its
auto-reset does inside a step; the differences are made good here:

- it refreshes the commands' metrics of all environments a second time, which would count twice in
  those that go on;
- it draws new observation noise for all environments; those that go on keep what ``step`` returned;
- commands have moved on by then, so a curriculum would judge an episode by the next command;
- it does not tell the recorders that a reset is coming.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_mjlab.state import SimulationState
from sim_rl_plugin.env import Command, Term, VecEnv
from sim_rl_plugin.env.manager_commands import ManagerCommands
from sim_rl_plugin.env.manager_terms import manager_action_terms, manager_observation_terms
from sim_rl_plugin.errors import UserError


class MjlabVecEnv(VecEnv):
    """A ``ManagerBasedRlEnv`` of mjlab, or a ``VideoRecorder`` around one.

    Observation groups whose terms are not concatenated become one group per term, ``group.term``.
    A term that ends an episode together with the time limit makes it a termination. A task with a
    finite horizon reports no time-outs.

    Attributes:
        name: The task's name, written into saved states.
        step_dt: Duration of a control step in seconds.
    """

    cfg: Any
    """mjlab's ``ManagerBasedRlEnvCfg``."""

    def __init__(self, env: Any, *, name: str = "", reset: bool, clip_actions: float | None = None) -> None:
        """Wrap an environment.

        Args:
            env: The environment. With ``auto_reset=False`` in its configuration there is ``final_obs``.
            name: The task's name.
            reset: Reset it now; false for one that has been reset.
            clip_actions: Limit to which actions are clipped on both sides; None for none.
        """
        self._env = env
        inner = env.unwrapped
        self._inner = inner
        self.name = name
        self.num_envs: int = inner.num_envs
        self.num_actions: int = inner.action_manager.total_action_dim
        self.max_episode_length: int = inner.max_episode_length
        self.device = torch.device(inner.device)
        self.cfg = inner.cfg
        self.step_dt: float = inner.step_dt
        self._clip_actions = clip_actions
        self._commands = ManagerCommands(inner)
        self._closed = False
        self._resets_by_hand = not getattr(inner.cfg, "auto_reset", True)
        self._commands_for_curriculum = self._resets_by_hand and bool(inner.curriculum_manager.active_terms)
        observations = env.reset()[0] if reset else inner.observation_manager.compute()
        self._groups = _flat(observations)
        self._state = SimulationState(inner)

    @classmethod
    def around(cls, env: Any) -> MjlabVecEnv:
        """Wrap an environment, or the environment within mjlab's wrapper for rsl_rl, which has reset it."""
        is_wrapper = not hasattr(env, "observation_manager") and hasattr(env, "clip_actions")
        if is_wrapper:
            return cls(env.env, reset=False, clip_actions=env.clip_actions)
        return cls(env, reset=True)

    @property
    def unwrapped(self) -> Any:
        """mjlab's environment."""
        return self._inner

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """See ``VecEnv``; int64."""
        return self._inner.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        if value.shape != (self.num_envs,):
            raise UserError(f"episode_length_buf must have the shape ({self.num_envs},), found {tuple(value.shape)}")
        # mjlab counts in this very tensor.
        self._inner.episode_length_buf = value.to(device=self.device, dtype=torch.int64, copy=True)

    @property
    def observation_terms(self) -> Mapping[str, Sequence[Term]]:  # type: ignore[override]
        """mjlab's observation terms."""
        return manager_observation_terms(self._inner, ".")

    @property
    def action_terms(self) -> Sequence[Term]:  # type: ignore[override]
        """mjlab's action terms, with the joints that they move."""
        return manager_action_terms(self._inner)

    @property
    def command_terms(self) -> Sequence[Command]:  # type: ignore[override]
        """mjlab's commands, as far as they can be held."""
        return self._commands.terms

    def get_command(self, name: str) -> torch.Tensor:
        """See ``VecEnv``."""
        return self._commands.get(name)

    def hold_command(self, name: str, values: torch.Tensor | None) -> None:
        """See ``VecEnv``."""
        self._commands.hold(name, values)

    def get_observations(self) -> TensorDict:
        """See ``VecEnv``."""
        return self._copied(self._groups)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See ``VecEnv``."""
        if self._clip_actions is not None:
            actions = actions.clamp(-self._clip_actions, self._clip_actions)
        commands = self._copy_commands() if self._commands_for_curriculum else {}
        observations, rewards, terminated, truncated, theirs = self._env.step(actions)
        dones = terminated | truncated
        extras: dict[str, Any] = {}
        if not self.cfg.is_finite_horizon:
            extras["time_outs"] = truncated & ~terminated
        rewards, log = rewards.clone(), theirs["log"]
        groups = _flat(observations)
        if self._resets_by_hand:
            env_ids = dones.nonzero().squeeze(-1)
            if len(env_ids):
                extras["final_obs"] = self._copied(groups)
                groups, log = self._reset(env_ids, dones, groups, commands)
        extras["log"] = log
        self._groups = groups
        return self._copied(groups), rewards, dones, extras

    def _reset(
        self,
        env_ids: torch.Tensor,
        dones: torch.Tensor,
        final: dict[str, torch.Tensor],
        commands: dict[str, torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Reset the environments that ended.

        Args:
            env_ids: Their indices.
            dones: The same as a mask, ``(num_envs,)``.
            final: The observations that ``step`` returned.
            commands: The commands of the episodes that ended, by name.

        Returns:
            The observations to go on from, and the statistics of the episodes that ended.
        """
        inner = self._inner
        for name, before in commands.items():
            inner.command_manager.get_command(name)[env_ids] = before[env_ids]
        if hasattr(inner, "recorder_manager"):
            inner.recorder_manager.record_pre_reset(env_ids)
        metrics = [
            (values, values.clone())
            for name in inner.command_manager.active_terms
            for values in inner.command_manager.get_term(name).metrics.values()
        ]
        final = {key: value.clone() for key, value in final.items()}
        observations, theirs = self._env.reset(env_ids=env_ids)
        for values, before in metrics:
            values.copy_(torch.where(dones, values, before))
        fresh = _flat(observations)
        merged = {
            key: torch.where(dones.view(-1, *[1] * (value.ndim - 1)), fresh[key], value) for key, value in final.items()
        }
        return merged, theirs["log"]

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        """See ``VecEnv``."""
        if len(env_ids):
            chosen = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
            chosen[env_ids] = True
            self._groups, _ = self._reset(env_ids, chosen, self._groups, {})
        return True

    def _copy_commands(self) -> dict[str, torch.Tensor]:
        manager = self._inner.command_manager
        return {name: manager.get_command(name).clone() for name in manager.active_terms}

    def close(self) -> None:
        """Free the renderer and end the recorders."""
        if not self._closed:
            self._closed = True
            self._env.close()

    def render(self) -> Any:
        """Return environment 0 (or what the task's viewer follows) as an RGB array, or None if not opened to render."""
        return self._env.render()

    def show_env(self, index: int) -> bool:
        """Let the task's viewer follow another environment, if mjlab's renderer can be told."""
        renderer: Any = getattr(self._inner, "_offline_renderer", None)
        if not hasattr(renderer, "_env_ids"):
            return index == 0
        self.cfg.viewer.env_idx = index
        renderer._env_ids = None  # it asks for the index once, at its first picture
        return True

    def state_dict(self) -> dict[str, Any]:
        """See ``VecEnv``."""
        return {
            "task": self.name,
            "num_envs": self.num_envs,
            "simulation": self._state.save(),
            "observations": {key: value.cpu().clone() for key, value in self._groups.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``VecEnv``.

        Raises:
            UserError: The state belongs to another task or number of environments.
        """
        for key, own in (("task", self.name), ("num_envs", self.num_envs)):
            if state.get(key) != own:
                raise UserError(f"the simulation state was saved with {key} {state.get(key)!r}, this one has {own!r}")
        self._state.load(state["simulation"])
        self._groups = {key: value.to(self.device, copy=True) for key, value in state["observations"].items()}

    def _copied(self, groups: dict[str, torch.Tensor]) -> TensorDict:
        copies = {name: value.clone() for name, value in groups.items()}
        return TensorDict(copies, batch_size=[self.num_envs], device=self.device)


def _flat(observations: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return mjlab's observations by group; the tensors are still mjlab's."""
    groups: dict[str, torch.Tensor] = {}
    for name, value in observations.items():
        if isinstance(value, dict):
            groups.update({f"{name}.{term}": part for term, part in value.items()})
        else:
            groups[name] = value
    return groups
