"""A Gymnasium vector environment behind the contract of ``VecEnv``.

The time limit is ours, not Gymnasium's. ``TimeLimit`` counts inside each environment, in other
processes when they run there, where an assigned ``episode_length_buf`` could not reach it. So the
environments are made without it, this adapter counts, truncates, and resets whoever ended through
``reset(options={"reset_mask": ...})`` in ``AutoresetMode.DISABLED``. That makes the assignment work
the same in one process and in many, tells a time-out from a termination exactly, and gives
``final_obs`` as the batch that ``step`` returned, before any reset. (``SAME_STEP`` resets only what
Gymnasium itself takes for ended, and packs the final observations into an object array.) A
truncation by the environment itself counts as a time-out too: it is not a termination.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from tensordict import TensorDict

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError


class GymnasiumVecEnv(VecEnv):
    """Environments of one Gymnasium task, stepped together and reset by this class.

    A ``Box`` observation is the group ``policy``; a ``Dict`` of boxes gives one group per key. Numbers
    become float32. Images (three dimensions, or two of uint8) have their channels first, and uint8
    images stay uint8.

    Args:
        vector_env: In ``AutoresetMode.DISABLED``, made of environments without ``TimeLimit``.
        max_episode_length: Control steps after which an episode is truncated.
        device: Where tensors are returned.
        seed: Environment ``i`` is seeded with ``seed + i``, as Gymnasium does.
        clip_actions: Whether actions are clipped to the bounds of the action space.
        render: Whether environment 0 was made with ``render_mode="rgb_array"``.
        cfg: Written into the run folder.

    Raises:
        UserError: The action space or an observation space cannot be mapped.
    """

    def __init__(
        self,
        vector_env: SyncVectorEnv | AsyncVectorEnv,
        *,
        max_episode_length: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        clip_actions: bool = True,
        render: bool = False,
        step_dt: float | None = None,
        cfg: dict[str, Any] | None = None,
    ) -> None:
        check_spaces(vector_env.single_observation_space, vector_env.single_action_space)
        action_space = vector_env.single_action_space
        assert isinstance(action_space, spaces.Box)
        assert action_space.shape is not None
        self.num_envs = vector_env.num_envs
        self.num_actions = int(np.prod(action_space.shape))
        self.max_episode_length = max_episode_length
        self.device = torch.device(device)
        self.cfg = cfg or {}
        self.step_dt = step_dt  # seconds, for whoever films
        self._vector_env = vector_env
        self._action_space = action_space
        self._clip_actions = clip_actions
        self._render = render
        observation, _ = vector_env.reset(seed=int(seed))
        self._obs = self._to_groups(observation)
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)

    def get_observations(self) -> TensorDict:
        """Return a copy of the last observations."""
        return self._obs.clone()

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step every environment, and reset those that terminated, were truncated, or reached the limit."""
        observation, rewards, terminated, truncated, infos = self._vector_env.step(self._to_numpy(actions))
        elapsed = self.episode_length_buf + 1
        truncated = truncated | (elapsed >= self.max_episode_length).cpu().numpy()
        dones = terminated | truncated

        extras: dict[str, Any] = {
            "time_outs": self._to_tensor(truncated & ~terminated, torch.bool),
            "log": _reward_terms(infos),
        }
        if dones.any():
            # Converted before the reset, which writes into the same arrays.
            extras["final_obs"] = self._to_groups(observation)
            observation, _ = self._vector_env.reset(options={"reset_mask": dones})
        self._obs = self._to_groups(observation)
        done_tensor = self._to_tensor(dones, torch.bool)
        self.episode_length_buf = torch.where(done_tensor, 0, elapsed)
        return self._obs.clone(), self._to_tensor(rewards, torch.float32), done_tensor, extras

    def close(self) -> None:
        """Close the environments and end their processes."""
        close_vector_env(self._vector_env)

    def render(self) -> Any:
        """Return environment 0 as an RGB array, or None unless opened with ``render=True``."""
        return self._vector_env.call("render")[0] if self._render else None

    def _to_numpy(self, actions: torch.Tensor) -> np.ndarray:
        space = self._action_space
        if tuple(actions.shape) != (self.num_envs, self.num_actions):
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}, expected (num_envs, num_actions), "
                f"which is ({self.num_envs}, {self.num_actions})"
            )
        # Always a copy: environments may write into their action, and the caller keeps the tensor.
        batch = np.array(actions.detach().cpu().numpy(), dtype=space.dtype).reshape(self.num_envs, *space.shape)
        return np.clip(batch, space.low, space.high, out=batch) if self._clip_actions else batch

    def _to_tensor(self, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def _to_groups(self, observation: np.ndarray | dict[str, np.ndarray]) -> TensorDict:
        batches = observation if isinstance(observation, dict) else {"policy": observation}
        groups = {name: self._to_group(batch) for name, batch in batches.items()}
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    def _to_group(self, batch: np.ndarray) -> torch.Tensor:
        """Copy a batch, once, in the layout of the contract."""
        if batch.ndim == 4:
            # Frame stacks have their channels first already: the channels are the shorter end.
            if batch.shape[-1] <= batch.shape[1]:
                batch = np.moveaxis(batch, -1, 1)
        elif batch.ndim == 3 and batch.dtype == np.uint8:
            batch = batch[:, np.newaxis]
        else:
            return self._to_tensor(batch.reshape(self.num_envs, -1), torch.float32)
        return self._to_tensor(batch, torch.uint8 if batch.dtype == np.uint8 else torch.float32)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Refuse spaces that have no place in the contract.

    Raises:
        UserError: Names the space, what was expected, and what to do.
    """
    if not isinstance(action_space, spaces.Box) or not np.issubdtype(action_space.dtype, np.floating):
        raise UserError(
            f"the action space is {action_space}, expected a Box of floats: only continuous actions can be trained"
        )
    named = {"policy": observation_space}
    if isinstance(observation_space, spaces.Dict):
        named = dict(observation_space.spaces)
    for name, space in named.items():
        if not isinstance(space, spaces.Box):
            raise UserError(
                f"the observation space of {name!r} is {space}, expected a Box: flatten it with a wrapper "
                "such as gymnasium.wrappers.FlattenObservation"
            )


def close_vector_env(vector_env: SyncVectorEnv | AsyncVectorEnv) -> None:
    """Close environments and end their processes, also when some of these are gone already."""
    try:
        vector_env.close()
    except (OSError, EOFError):
        # Ctrl-C reaches every process of the terminal, so the workers may have left before us.
        assert isinstance(vector_env, AsyncVectorEnv)
        for process in vector_env.processes:
            process.terminate()
        vector_env.closed = True


def _reward_terms(infos: dict[str, Any]) -> dict[str, float]:
    """Return the batch means of the reward terms that a step reported."""
    terms: dict[str, float] = {}
    for name, values in infos.items():
        if name.startswith("_") or "reward" not in name:
            continue
        if isinstance(values, np.ndarray) and values.ndim == 1 and np.issubdtype(values.dtype, np.number):
            reported = values[infos[f"_{name}"]]
            terms[f"Step/{name}"] = float(reported.mean())
    return terms
