"""An environment of Isaac Lab behind the contract of ``VecEnv``.

What Isaac Lab's environments do, and what is made of it here:

- ``extras`` is one dict for the life of the environment. ``log`` and ``final_obs`` are written in the steps
  that reset somebody, and otherwise stay as they were: both are emptied before each step, so that nothing
  is counted or bootstrapped from twice.
- Rewards and flags are written into the same buffers in every step: copies are handed out.
- ``truncated`` may be true together with ``terminated``: a time-out is what was truncated alone.
- A task with ``is_finite_horizon`` wants no bootstrapping: it has no ``time_outs``.
- Observations are computed once per step. Computing them again draws new noise.
- Buffers that were created within ``torch.inference_mode`` cannot be written to outside of it, so that
  the simulator is stepped in this mode whatever the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import torch
from tensordict import TensorDict

from sim_rl_plugin.env import Command, Term, VecEnv
from sim_rl_plugin.env.manager_commands import ManagerCommands
from sim_rl_plugin.env.manager_terms import manager_action_terms, manager_observation_terms
from sim_rl_plugin.errors import UserError

_NEEDED = ("num_envs", "device", "cfg", "max_episode_length", "episode_length_buf", "step", "reset")
_COUNTERS = ("common_step_counter", "_sim_step_counter")


def is_isaaclab_env(env: Any) -> bool:
    """Return whether an object is an environment of Isaac Lab, possibly within Gymnasium's wrappers.

    By its parts: the classes can only be imported while the simulator runs, and have changed their modules.
    """
    base = getattr(env, "unwrapped", None)
    has_spaces = hasattr(base, "action_manager") or hasattr(base, "single_action_space")
    return isinstance(env, gymnasium.Env) and has_spaces and all(hasattr(base, name) for name in _NEEDED)


class IsaacLabVecEnv(VecEnv):
    """A ``ManagerBasedRLEnv`` or ``DirectRLEnv``, or what has their parts.

    Observation groups are Isaac Lab's; a group that is a dict of terms (``concatenate_terms=False``) gives one
    group ``<group>/<term>`` per term. Where the simulator gives ``extras["final_obs"]``, it is passed on.

    Args:
        env: The environment, in whatever wrappers of Gymnasium.
        clip_actions: Largest magnitude of an action, or None.
        render: Whether ``env`` was made with ``render_mode="rgb_array"``.
        channels_first: Whether images ``(n, height, width, channels)`` are turned to the contract's layout.
        reset: Whether to reset first; not where somebody has just done so.

    Raises:
        UserError: It is no environment of Isaac Lab.
    """

    restores_exactly = False  # physics engines do not tell their whole state
    one_per_process = True  # a simulation context is its process's only one

    def __init__(
        self,
        env: Any,
        *,
        clip_actions: float | None = None,
        render: bool = False,
        channels_first: bool = True,
        reset: bool = True,
    ) -> None:
        if not is_isaaclab_env(env):
            raise UserError(f"expected a ManagerBasedRLEnv or DirectRLEnv of Isaac Lab, found {type(env).__name__}")
        self.env = env
        self._base = env.unwrapped  # once: Gymnasium's wrappers ask each other, at every access
        self.clip_actions = clip_actions
        self.num_envs = int(self.unwrapped.num_envs)
        self.num_actions = _num_actions(self.unwrapped)
        self.max_episode_length = self.unwrapped.max_episode_length
        self.device = torch.device(self.unwrapped.device)
        self._render = render
        self._channels_first = channels_first
        self._commands = ManagerCommands(self._base)
        self._closed = False
        self._groups = self._reset() if reset else self._to_groups(_current_observations(self.unwrapped))

    @property
    def unwrapped(self) -> Any:
        """Isaac Lab's own object, which mirror functions and curricula look at."""
        return self._base

    @property
    def cfg(self) -> Any:  # type: ignore[override]
        """Isaac Lab's configuration of the environment."""
        return self.unwrapped.cfg

    @property
    def step_dt(self) -> float:
        """Simulated seconds of a control step."""
        return self.unwrapped.step_dt

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Control steps since each environment's last reset, ``(num_envs,)``; Isaac Lab's own buffer."""
        return self.unwrapped.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        # A copy, for Isaac Lab counts in place.
        self.unwrapped.episode_length_buf = value.to(device=self.device, dtype=torch.long, copy=True)

    @property
    def observation_terms(self) -> Mapping[str, Sequence[Term]]:  # type: ignore[override]
        """Isaac Lab's observation terms; a ``DirectRLEnv`` has none."""
        return manager_observation_terms(self.unwrapped, "/")

    @property
    def action_terms(self) -> Sequence[Term]:  # type: ignore[override]
        """Isaac Lab's action terms, with the joints that they move; a ``DirectRLEnv`` has none."""
        return manager_action_terms(self.unwrapped)

    @property
    def command_terms(self) -> Sequence[Command]:  # type: ignore[override]
        """Isaac Lab's commands, as far as they can be held."""
        return self._commands.terms

    def get_command(self, name: str) -> torch.Tensor:
        """See ``VecEnv``."""
        return self._commands.get(name)

    def hold_command(self, name: str, values: torch.Tensor | None) -> None:
        """See ``VecEnv``."""
        self._commands.hold(name, values)

    def get_observations(self) -> TensorDict:
        """Return a copy of the last observations; nothing is computed anew."""
        return self._as_tensordict(self._groups).clone()

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step every environment; those that ended are reset by Isaac Lab itself."""
        if self.clip_actions is not None:
            actions = actions.clamp(-self.clip_actions, self.clip_actions)
        else:
            actions = actions.clone()  # action terms may keep, and write to, what they are given
        self._forget_last_extras()
        observations, rewards, terminated, truncated, found = self._step_in_inference_mode(actions)
        # What is handed out from here on is new memory, and fit for a graph unless the caller is in inference mode.
        dones = (terminated | truncated).bool()
        extras: dict[str, Any] = {"log": _scalars(found.get("log") or found.get("episode") or {})}
        if not getattr(self._base.cfg, "is_finite_horizon", False):
            extras["time_outs"] = (dones ^ terminated).bool()  # ended, and not by a termination
        if found.get("final_obs") is not None:
            extras["final_obs"] = self._as_tensordict(self._to_groups(found["final_obs"]))
        self._groups = self._to_groups(observations)
        return self._as_tensordict(self._groups), _copy(rewards, torch.float32), dones, extras

    def _step_in_inference_mode(self, actions: torch.Tensor) -> tuple[Any, ...]:
        # Entering it costs about as much as copying a tensor, and the runner is in it.
        if torch.is_inference_mode_enabled():
            return self.env.step(actions)
        with torch.inference_mode():
            return self.env.step(actions)

    def close(self) -> None:
        """Close the environment; the simulator's process goes on."""
        if not self._closed:
            self._closed = True
            self.env.close()

    def render(self) -> Any:
        """Return environment 0's viewer camera, or None where frames were not asked for or Isaac Lab gives none."""
        return self.env.render() if self._render else None

    def state_dict(self) -> dict[str, Any]:
        """Return what outlives an episode: step counters, by which curricula go, and the terrain levels."""
        state: dict[str, Any] = {
            "counters": {
                name: int(getattr(self.unwrapped, name)) for name in _COUNTERS if hasattr(self.unwrapped, name)
            }
        }
        terrain = _graded_terrain(self.unwrapped)
        if terrain is not None:
            state["terrain"] = {
                "levels": _copy(terrain.terrain_levels, torch.long),
                "types": _copy(terrain.terrain_types, torch.long),
            }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned, with new episodes.

        Terrain levels are those of the robots, so they are left alone where the number of robots is another.
        """
        terrain = _graded_terrain(self.unwrapped)
        saved = state.get("terrain")
        for name, value in state.get("counters", {}).items():
            setattr(self.unwrapped, name, value)
        if terrain is not None and saved is not None and saved["levels"].shape == terrain.terrain_levels.shape:
            with torch.inference_mode():
                terrain.terrain_levels[:] = saved["levels"].to(self.device)
                terrain.terrain_types[:] = saved["types"].to(self.device)
                terrain.env_origins[:] = terrain.terrain_origins[terrain.terrain_levels, terrain.terrain_types]
        levels = None if terrain is None else _copy(terrain.terrain_levels, torch.long)
        self._groups = self._reset()
        if terrain is not None and levels is not None:
            # The reset was nobody's success or failure, but a terrain curriculum takes it for one.
            with torch.inference_mode():
                terrain.terrain_levels[:] = levels

    def _reset(self) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            observations, _ = self.env.reset()
        return self._to_groups(observations)

    def _forget_last_extras(self) -> None:
        extras = getattr(self._base, "extras", None)
        if isinstance(extras, dict):
            # Emptied, not removed: some tasks add to the dict of an earlier reset without looking.
            extras["log"] = {}
            extras.pop("episode", None)
            extras.pop("final_obs", None)

    def _to_groups(self, observations: Mapping[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
        groups: dict[str, torch.Tensor] = {}
        for name, value in observations.items():
            if isinstance(value, torch.Tensor):
                groups[f"{prefix}{name}"] = self._to_group(value)
            elif value is not None:
                groups.update(self._to_groups(value, f"{prefix}{name}/"))
        return groups

    def _as_tensordict(self, groups: dict[str, torch.Tensor]) -> TensorDict:
        # With its device: the learner then knows that nothing has to be moved.
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    def _to_group(self, value: torch.Tensor) -> torch.Tensor:
        """Copy a group, once, in the dtype and layout of the contract."""
        dtype = torch.float32
        if value.ndim == 4:
            if self._channels_first and value.shape[-1] <= value.shape[1]:
                # Channels are the shorter end; Isaac Lab's cameras have them last.
                value = value.movedim(-1, 1)
            if value.dtype == torch.uint8:
                dtype = torch.uint8
        elif value.ndim == 1:
            value = value.unsqueeze(-1)
        return value.to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)


def _num_actions(base: Any) -> int:
    if hasattr(base, "action_manager"):
        return int(base.action_manager.total_action_dim)
    space = base.single_action_space
    if not isinstance(space, gymnasium.spaces.Box):
        raise UserError(f"the action space is {space}, expected a Box: only continuous actions can be trained")
    return int(gymnasium.spaces.flatdim(space))


def _current_observations(base: Any) -> Mapping[str, Any]:
    """Return the observations of an environment that somebody else has reset.

    Those of the last step or reset where they are kept, or else computed: once, here.
    """
    kept = getattr(base, "obs_buf", None)
    if isinstance(kept, Mapping) and kept:
        return kept
    with torch.inference_mode():
        if hasattr(base, "observation_manager"):
            return base.observation_manager.compute()
        return base._get_observations()


def _graded_terrain(base: Any) -> Any:
    """Return the terrain, if its difficulty follows the robots' progress."""
    terrain = getattr(getattr(base, "scene", None), "terrain", None)
    names = ("terrain_levels", "terrain_types", "terrain_origins", "env_origins")
    return terrain if all(getattr(terrain, name, None) is not None for name in names) else None


def _scalars(log: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers and tensors of a log, copied; curricula may also put other things there."""
    kept: dict[str, Any] = {}
    for name, value in log.items():
        if isinstance(value, torch.Tensor):
            kept[name] = value.detach().clone()
        elif isinstance(value, (int, float)):
            kept[name] = value
    return kept


def _copy(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return an ordinary tensor of its own, also of one that was made in inference mode."""
    return value.to(dtype=dtype, copy=True)
