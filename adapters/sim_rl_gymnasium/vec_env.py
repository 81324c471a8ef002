"""A Gymnasium vector environment behind the contract of ``VecEnv``, whichever way it resets itself.

The time limit is ours where possible, not Gymnasium's. ``TimeLimit`` counts inside each environment,
in other processes when they run there, where an assigned ``episode_length_buf`` could not reach it. So
this adapter counts, truncates, and resets whoever ended through ``reset(options={"reset_mask": ...})``,
which works the same in one process and in many, tells a time-out from a termination exactly, and
gives ``final_obs`` as the batch that ``step`` returned, before any reset. A truncation by the
environment itself counts as a time-out too: it is not a termination.

What the three modes of automatic resets make of it:

- ``DISABLED``: as above; what ``sim-rl`` opens is in this mode.
- ``NEXT_STEP``: the same where single environments can be reset, since a reset by hand also takes back
  the one that was due in the next step. Where they cannot, the step that an environment spends on its
  reset is marked in ``extras["skipped"]``, and the learner leaves it out.
- ``SAME_STEP``: ends that the environment saw itself are reset already, and their last observations
  lie in ``infos["final_obs"]``; ends by our limit are reset by hand where single environments can be.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from tensordict import TensorDict

from sim_rl_gymnasium.groups import GroupMap, check_spaces, to_tensor
from sim_rl_plugin.env import Term, VecEnv
from sim_rl_plugin.errors import UserError


class GymnasiumVecEnv(VecEnv):
    """Environments of one Gymnasium task, stepped together.

    Observations become groups as ``GroupMap`` says, rewards float32.

    Attributes:
        counts_time: Whether the time limit is counted here, so that an assigned ``episode_length_buf``
            is what it looks at. False for a vector environment that cannot reset single environments.
    """

    def __init__(
        self,
        vector_env: VectorEnv,
        *,
        max_episode_length: int,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        clip_actions: bool = True,
        step_dt: float | None = None,
        cfg: dict[str, Any] | None = None,
        observation_terms: Mapping[str, Sequence[Term]] | None = None,
        action_terms: Sequence[Term] = (),
    ) -> None:
        """Reset every environment and begin.

        Args:
            vector_env: Any vector environment, in any mode of automatic resets, with or without a
                ``TimeLimit`` of its own.
            max_episode_length: Control steps after which an episode is truncated.
            device: Where tensors are returned.
            seed: Environment ``i`` is seeded with ``seed + i``, as Gymnasium does; None keeps the
                random states that the environments have.
            clip_actions: Whether actions are clipped to the bounds of the action space.
            step_dt: Seconds of a control step, for whoever films; None if unknown.
            cfg: Written into the run folder.
            observation_terms: The named parts of each observation group, where they are known.
            action_terms: The named parts of the actions, where they are known.

        Raises:
            UserError: A space cannot be mapped, or it is not known how the environment resets itself.
        """
        check_spaces(vector_env.single_observation_space, vector_env.single_action_space)
        action_space = vector_env.single_action_space
        assert isinstance(action_space, spaces.Box)
        assert action_space.shape is not None
        self.num_envs = vector_env.num_envs
        self.num_actions = int(np.prod(action_space.shape))
        self.max_episode_length = max_episode_length
        self.device = torch.device(device)
        self.cfg = cfg or {}
        self.observation_terms = observation_terms or {}
        self.action_terms = action_terms
        self.step_dt = step_dt
        self._vector_env = vector_env
        self._mode = autoreset_mode(vector_env)
        self._action_space = action_space
        self._clip_actions = clip_actions
        self._groups = GroupMap(vector_env.single_observation_space, self.num_envs, self.device)
        observation, _ = vector_env.reset(seed=seed)
        self.counts_time, observation = _try_partial_reset(vector_env, self._mode, observation)
        self._observation = observation  # the environment's own; what is handed out is converted from it anew
        self._ages = np.zeros(self.num_envs, dtype=np.int64)  # on the host, where the environments are
        self._resetting = np.zeros(self.num_envs, dtype=bool)  # those whose next step is a reset

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """See ``VecEnv``; an assignment is without effect, and warned about, unless ``counts_time``."""
        return torch.from_numpy(self._ages).to(self.device)

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        if self.counts_time:
            self._ages = value.numpy(force=True).astype(np.int64)
        else:
            warnings.warn(
                "this vector environment cannot reset single environments, so its episodes keep their own lengths "
                "and begin all at once; AutoresetMode.DISABLED or SAME_STEP of Sync- or AsyncVectorEnv would do better",
                stacklevel=2,
            )

    def get_observations(self) -> TensorDict:
        """Return a copy of the last observations."""
        return self._groups.tensors(self._observation)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step every environment, and see to it that those that ended are reset."""
        observation, rewards, terminated, truncated, infos = self._vector_env.step(self._to_numpy(actions))
        self._observation = observation
        terminated = _flags(terminated)
        over = terminated | _flags(truncated)
        ages = self._ages + 1
        dones = over | (ages >= self.max_episode_length) if self.counts_time else over
        somebody_ended = np.count_nonzero(dones) > 0  # any() takes several times as long
        extras: dict[str, Any] = {"time_outs": self._own_flags(dones & ~terminated), "log": _reward_terms(infos)}
        # Converted before any reset, which may write into the same arrays.
        obs = self._groups.tensors(observation)
        final_obs = None
        if self._mode is AutoresetMode.SAME_STEP:
            if somebody_ended:
                final_obs = self._final_obs(obs, over, infos.get("final_obs"))
                obs = self._reset(obs, dones & ~over)
        elif self.counts_time:
            if somebody_ended:
                final_obs, obs = obs, self._reset(obs, dones)
        else:
            final_obs = obs.clone() if somebody_ended else None
            extras["skipped"] = self._own_flags(self._resetting)
            self._resetting, dones = dones, dones | self._resetting
        if final_obs is not None:
            extras["final_obs"] = final_obs
        ages[dones] = 0
        self._ages = ages
        return obs, to_tensor(rewards, torch.float32, self.device), self._own_flags(dones), extras

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        """See ``VecEnv``; false for a vector environment that resets all or none."""
        if not self.counts_time:
            return False
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[env_ids.cpu().numpy()] = True
        if mask.any():
            self._observation, _ = self._vector_env.reset(options={"reset_mask": mask})
            self._ages = np.where(mask, 0, self._ages)
        return True

    def _own_flags(self, flags: np.ndarray) -> torch.Tensor:
        """Return a mask as a tensor; not copied, since it was made here and is not written to again."""
        return torch.from_numpy(flags).to(self.device)

    def _reset(self, obs: TensorDict, mask: np.ndarray) -> TensorDict:
        """Reset these environments and return the observations of all; ``obs`` if there are none."""
        if not mask.any():
            return obs
        self._observation, _ = self._vector_env.reset(options={"reset_mask": mask})
        return self._groups.tensors(self._observation)

    def _final_obs(self, obs: TensorDict, over: np.ndarray, last: Any) -> TensorDict | None:
        """Return ``obs`` with the last observations of those that were ``over``; None if nobody gives them."""
        if last is None and over.any():
            return None
        final_obs = obs.clone()
        if isinstance(last, np.ndarray) and last.dtype == object:
            # Gymnasium's own form: one observation per environment that ended, None in the other rows.
            rows = np.flatnonzero(over)
            self._groups.write_rows(final_obs, rows, list(last[rows]))
        elif last is not None:
            # A batch. Only the rows that ended: the others hold whatever the environment put there.
            mask = torch.from_numpy(over).to(self.device)
            for name, batch in self._groups.tensors(last).items():
                final_obs[name][mask] = batch[mask]
        return final_obs

    def close(self) -> None:
        """Close the environments and end their processes."""
        close_vector_env(self._vector_env)

    def render(self) -> Any:
        """Return environment 0 as an RGB array, or None unless it was made with ``render_mode="rgb_array"``."""
        if self._vector_env.render_mode != "rgb_array":
            return None
        frames = self._vector_env.render()
        return None if frames is None else np.asarray(frames[0])

    def _to_numpy(self, actions: torch.Tensor) -> np.ndarray:
        space = self._action_space
        if actions.shape != (self.num_envs, self.num_actions):
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}, expected (num_envs, num_actions), "
                f"which is ({self.num_envs}, {self.num_actions})"
            )
        # Always a copy: environments may write into their action, and the caller keeps the tensor.
        batch = actions.numpy(force=True).reshape(self.num_envs, *space.shape)
        if not self._clip_actions:
            return np.array(batch, dtype=space.dtype)
        clipped = np.maximum(batch, space.low, dtype=space.dtype, casting="same_kind")
        return np.minimum(clipped, space.high, out=clipped)


def autoreset_mode(vector_env: VectorEnv) -> AutoresetMode:
    """Return how a vector environment resets itself.

    Raises:
        UserError: It does not say so.
    """
    found = (vector_env.metadata or {}).get("autoreset_mode")
    try:
        return AutoresetMode(found)
    except ValueError:
        modes = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise UserError(
            f"{type(vector_env.unwrapped).__name__}.metadata['autoreset_mode'] is {found!r}, expected one of {modes}: "
            "whether an episode's end is followed by a reset in the same step, in the next, or not at all, cannot "
            "be told from outside"
        ) from None


def _try_partial_reset(vector_env: VectorEnv, mode: AutoresetMode, observation: Any) -> tuple[bool, Any]:
    """Find out whether single environments can be reset, by trying where it is not known.

    Returns:
        Whether they can, and the observations, which the trial may have changed.

    Raises:
        UserError: The environment leaves resets to its caller and yet cannot do this.
    """
    base = vector_env.unwrapped
    is_theirs = isinstance(base, (SyncVectorEnv, AsyncVectorEnv))
    if not is_theirs and mode is not AutoresetMode.DISABLED:
        # Only DISABLED promises that the mask is looked at: others may reset everybody.
        return False, observation
    if isinstance(base, AsyncVectorEnv) and not base.shared_memory and mode is AutoresetMode.NEXT_STEP:
        # Its workers would reset a second time: without shared memory they keep the reset that was due.
        return False, observation
    if is_theirs and base is vector_env:
        return True, observation
    mask = np.arange(vector_env.num_envs) == 0
    try:
        # Wrappers may refuse: NormalizeObservation does, by an assertion in older versions.
        return True, vector_env.reset(options={"reset_mask": mask})[0]
    except (ValueError, AssertionError) as error:
        if mode is not AutoresetMode.DISABLED:
            return False, observation
        raise UserError(
            f"{vector_env} leaves resets to its caller (AutoresetMode.DISABLED), but refuses to reset single "
            f"environments: {error}"
        ) from error


def _flags(values: Any) -> np.ndarray:
    values = values.cpu() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, dtype=bool)


def close_vector_env(vector_env: VectorEnv) -> None:
    """Close environments and end their processes, also when some of these are gone already."""
    try:
        vector_env.close()
    except (OSError, EOFError):
        # Ctrl-C reaches every process of the terminal, so the workers may have left before us.
        base = vector_env.unwrapped
        assert isinstance(base, AsyncVectorEnv)
        for process in base.processes:
            process.terminate()
        base.closed = True


def _reward_terms(infos: dict[str, Any]) -> dict[str, float]:
    """Return the batch means of the reward terms that a step reported."""
    terms: dict[str, float] = {}
    for name, values in infos.items():
        if name.startswith("_") or "reward" not in name:
            continue
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iuf":
            mask = infos.get(f"_{name}")
            count = len(values) if mask is None else np.count_nonzero(mask)
            if count:
                reported = values if count == len(values) else values[mask]
                terms[f"Step/{name}"] = float(reported.sum() / count)
    return terms
