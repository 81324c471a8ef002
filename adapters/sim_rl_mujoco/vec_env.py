"""The environment: engine and task behind the ``VecEnv`` contract."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from sim_rl_mujoco.driver import Driver, Outcome
from sim_rl_mujoco.engine import Engine
from sim_rl_mujoco.render import Camera, Film
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.env._trees import unlike
from sim_rl_plugin.errors import UserError


class MujocoVecEnv(VecEnv):
    """A batch of MuJoCo simulations of one task, stepped by threads on the CPU.

    An environment ends when its task says so, when its time is up, or when its simulation diverges
    (or its action is not finite). A diverged environment counts as terminated, its reward is 0, its
    row in ``final_obs`` is 0, and ``extras["log"]["diverged"]`` counts it.

    Attributes:
        engine: The physics.
        driver: The task.
        step_dt: Duration of a control step in seconds.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        name: str,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        num_threads: int | None = None,
        max_episode_steps: int | None = None,
        clip_actions: bool = True,
        camera: Camera | None = None,
        compiled: bool | None = None,
    ) -> None:
        """Build the simulations and start every environment's first episode.

        Args:
            driver: The task.
            name: The task's name, written into saved states.
            num_envs: Number of environments.
            device: Where returned tensors live; the simulation runs on the CPU.
            seed: Decides every random number.
            num_threads: Threads that step; None means every core that the process may use.
            max_episode_steps: Episode limit in control steps, instead of the task's own.
            clip_actions: Clip actions to the actuators' control range.
            camera: Size and view of ``render``.
            compiled: See ``Engine``.

        Raises:
            UserError: A number is out of range.
        """
        if max_episode_steps is not None and not 1 <= max_episode_steps < 2**31:
            raise UserError(f"max_episode_steps must be at least 1 and less than 2**31, found {max_episode_steps}")
        self.name = name
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.driver = driver
        self.engine = Engine(
            driver.model,
            num_envs,
            num_substeps=driver.num_substeps,
            num_threads=num_threads,
            forward_after_step=driver.forward_after_step,
            compiled=compiled,
        )
        self.num_actions = driver.num_actions
        self.max_episode_length = max_episode_steps or driver.max_episode_steps
        self.step_dt = driver.model.opt.timestep * driver.num_substeps
        self.cfg: dict[str, Any] = {
            "task": name,
            "task_options": driver.cfg,
            "clip_actions": clip_actions,
            "max_episode_steps": self.max_episode_length,
            "seed": seed,
            "step_dt_s": self.step_dt,
        }
        self._action_range = driver.action_range if clip_actions else None
        self._camera = camera or Camera()
        self._film: Film | None = None
        self._shown = 0
        self._warned_of: set[str] = set()
        self._episode_length = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        driver.attach(self.engine, self.device, seed)
        everyone = np.arange(num_envs)
        driver.reset(everyone)
        self._observations = driver.observations_after_reset(None, everyone)
        self.observation_terms = driver.observation_terms_by_group()
        self.action_terms = driver.action_terms()

    state_is_cheap = True

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """See ``VecEnv``; int64."""
        return self._episode_length

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        if value.shape != (self.num_envs,):
            raise UserError(f"episode_length_buf must have the shape ({self.num_envs},), found {tuple(value.shape)}")
        self._episode_length = value.to(device=self.device, dtype=torch.int64, copy=True)

    def get_observations(self) -> TensorDict:
        """See ``VecEnv``."""
        return self._tensor_dict({name: _copy(values) for name, values in self._observations.items()})

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """See ``VecEnv``.

        Raises:
            UserError: ``actions`` is not ``(num_envs, num_actions)``.
        """
        controls, bad_actions = self._controls(actions)
        self.engine.step(self.driver.inputs(controls))
        outcome = self.driver.outcome(controls)
        diverged = self._remove_diverged(outcome, bad_actions)

        self._episode_length += 1
        time_outs = (self._episode_length >= self.max_episode_length) & ~outcome.terminated
        dones = outcome.terminated | time_outs
        extras: dict[str, Any] = {"time_outs": time_outs, "log": outcome.log}
        if diverged:
            outcome.log["diverged"] = float(diverged)
        observations = outcome.observations
        env_ids = np.flatnonzero(dones.cpu().numpy())
        if len(env_ids):
            extras["final_obs"] = self._tensor_dict(observations)
            self._episode_length[dones] = 0
            self.driver.reset(env_ids)
            observations = self.driver.observations_after_reset(observations, env_ids)
            self._require_finite(observations)
        # A copy, so that a caller who changes what it was given does not change ours.
        self._observations = {name: _copy(values) for name, values in observations.items()}
        return self._tensor_dict(observations), outcome.rewards, dones, extras

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        """See ``VecEnv``."""
        rows = env_ids.cpu().numpy()
        if len(rows):
            self.driver.reset(rows)
            self._observations = self.driver.observations_after_reset(self._observations, rows)
            ages = self._episode_length.clone()
            ages[env_ids] = 0
            self._episode_length = ages
        return True

    def close(self) -> None:
        """Stop the threads and free simulations and renderer."""
        self.engine.close()
        if self._film is not None:
            self._film.close()
            self._film = None

    def render(self) -> np.ndarray:
        """Return one environment as an RGB array ``(height, width, 3)``, uint8.

        OpenGL is used where it works off screen, and otherwise rays on the CPU.
        """
        if self._film is None:
            self._film = Film(self.engine.models[0], self._camera, self.driver.camera)
        return self._film.frame(self.engine.models[self._shown], self.engine.simulation(self._shown))

    def show_env(self, index: int) -> bool:
        """See ``VecEnv``."""
        self._shown = index
        return True

    def state_dict(self) -> dict[str, Any]:
        """See ``VecEnv``."""
        return {
            "task": self.name,
            "num_envs": self.num_envs,
            "engine": self.engine.state_dict(),
            "driver": self.driver.state_dict(),
            "episode_length": self._episode_length.cpu().clone(),
            "observations": {name: values.cpu().clone() for name, values in self._observations.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``VecEnv``.

        Raises:
            UserError: The state belongs to another task, model or number of environments.
        """
        for key, own in (("task", self.name), ("num_envs", self.num_envs)):
            if state.get(key) != own:
                raise UserError(f"the simulation state was saved with {key} {state.get(key)!r}, this one has {own!r}")
        expected = {"episode_length": self._episode_length, "observations": self._observations}
        if fault := unlike(state, expected, "simulation state"):
            raise UserError(fault)
        self.engine.load_state_dict(state["engine"])
        self.driver.load_state_dict(state["driver"])
        self._episode_length = state["episode_length"].to(self.device, copy=True)
        self._observations = {name: values.to(self.device, copy=True) for name, values in state["observations"].items()}

    def _controls(self, actions: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the actions as clipped float64, and which environments' were not finite (None for none)."""
        if actions.shape != (self.num_envs, self.num_actions):
            raise UserError(
                f"actions must have the shape ({self.num_envs}, {self.num_actions}), found {tuple(actions.shape)}"
            )
        controls = actions.detach().cpu().numpy().astype(np.float64)
        bad: np.ndarray | None = None
        if not np.isfinite(controls).all():
            bad = np.asarray(~np.isfinite(controls).all(axis=1))
            controls[bad] = 0.0
        if self._action_range is not None:
            np.clip(controls, *self._action_range, out=controls)
        return controls, bad

    def _remove_diverged(self, outcome: Outcome, bad_actions: np.ndarray | None) -> int:
        """Terminate the environments that diverged, clean what they left, and return how many they are."""
        found = torch.from_numpy(self.engine.diverged.copy())
        if bad_actions is not None:
            found |= torch.from_numpy(bad_actions)
        for name, values in {**outcome.observations, "rewards": outcome.rewards}.items():
            if not _is_finite(values):
                rows = ~torch.isfinite(values).reshape(self.num_envs, -1).all(dim=1).cpu()
                if bool((rows & ~found).any()):
                    self._warn_once(name)
                found |= rows
        count = int(found.sum())
        if count:
            mask = found.to(self.device)
            outcome.terminated |= mask
            outcome.rewards[mask] = 0.0
            for values in outcome.observations.values():
                values[mask] = 0
            outcome.log = {name: value for name, value in outcome.log.items() if math.isfinite(float(value))}
        return count

    def _warn_once(self, name: str) -> None:
        if name not in self._warned_of:
            self._warned_of.add(name)
            warnings.warn(
                f"{self.name}: {name} became NaN or infinite while the physics was sound; "
                "the environment was ended and counted as diverged",
                RuntimeWarning,
                stacklevel=4,
            )

    def _require_finite(self, observations: dict[str, torch.Tensor]) -> None:
        for name, values in observations.items():
            if not _is_finite(values):
                raise UserError(f"{self.name}: the observation group {name!r} is not finite right after a reset")

    def _tensor_dict(self, observations: dict[str, torch.Tensor]) -> TensorDict:
        return TensorDict(dict(observations), batch_size=[self.num_envs], device=self.device)


def _is_finite(values: torch.Tensor) -> bool:
    """Return whether a batch is free of NaN and infinity, in one pass: a sum is finite only if all of it is."""
    if not values.is_floating_point():
        return True
    return math.isfinite(float(values.numpy().sum() if values.device.type == "cpu" else values.sum()))


def _copy(values: torch.Tensor) -> torch.Tensor:
    # On the CPU in numpy: torch would wake its own threads, which then spin on the cores that
    # the simulation's threads are about to use.
    return torch.from_numpy(values.numpy().copy()) if values.device.type == "cpu" else values.clone()
