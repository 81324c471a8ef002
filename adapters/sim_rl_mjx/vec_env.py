"""JAX environments behind the contract of ``VecEnv``."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
from tensordict import TensorDict

from sim_rl_mjx.batch import Batch, Carry
from sim_rl_mjx.commands import COMMAND, command_of, with_command
from sim_rl_mjx.render import Film
from sim_rl_mjx.transfer import Bridge, from_state_dict, to_state_dict
from sim_rl_plugin.env import Term, VecEnv
from sim_rl_plugin.env.commands import command_named, command_values
from sim_rl_plugin.errors import UserError


class MjxVecEnv(VecEnv):
    """Environments of one JAX task, stepped by one compiled function.

    Observation groups are the keys of a dict observation (``state``, ``privileged_state``); a single array
    is the group ``state``.

    Args:
        env: One environment with Playground's or Brax's interface.
        name: The task's name, which a saved state is recognised by.
        num_envs: Number of environments.
        max_episode_length: Control steps after which an episode is truncated.
        device: Where tensors are returned. The simulation runs on the JAX device that shares its memory.
        seed: Decides every random number.
        action_repeat: Steps of the environment per control step.
        full_reset: Whether episodes begin with ``env.reset``, see ``Batch``.
        clip_actions: Whether actions are clipped to -1..1.
        render_size: Height and width of pictures, pixels.
        render_camera: A camera of the model, or None for its default view.
        cfg: Written into the run folder.
    """

    def __init__(
        self,
        env: Any,
        *,
        name: str,
        num_envs: int,
        max_episode_length: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        action_repeat: int = 1,
        full_reset: bool = False,
        clip_actions: bool = True,
        render_size: tuple[int, int] = (240, 320),
        render_camera: str | None = None,
        cfg: dict[str, Any] | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.num_actions = int(env.action_size)
        self.max_episode_length = max_episode_length
        self.device = torch.device(device)
        self.cfg = cfg or {}
        self.action_terms = _actuators(env, self.num_actions)
        step_dt = getattr(env, "dt", None)
        self.step_dt = None if step_dt is None else float(step_dt) * action_repeat  # seconds, for whoever films
        self._name = name
        self._full_reset = full_reset
        self._bridge = Bridge(self.device)
        self._film = Film(env, render_size, render_camera)
        with jax.default_device(self._bridge.jax_device):
            self._batch = Batch(env, num_envs, max_episode_length, action_repeat, full_reset, clip_actions)
            self._carry, self._first = self._start(seed)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.int32, device=self.device)
        command = command_of(env, self._carry)
        self.command_terms = () if command is None else (command,)
        self._held_command: jax.Array | None = None
        self._shown = 0

    def get_observations(self) -> TensorDict:
        """Return a copy of the current observations; the simulation stays as it is."""
        groups = self._batch.observe(self._carry)
        # A compiled function that has nothing to do may return its argument, which is the simulation's.
        return self._tensordict({name: self._bridge.to_torch(values).clone() for name, values in groups.items()})

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step every environment, and reset those that terminated, diverged, or reached the limit.

        ``final_obs`` is given in every step on a GPU, where finding out whether an episode ended would make the
        host wait.
        """
        if tuple(actions.shape) != (self.num_envs, self.num_actions):
            raise UserError(
                f"actions have shape {tuple(actions.shape)}, expected (num_envs, num_actions), "
                f"which is ({self.num_envs}, {self.num_actions})"
            )
        # One tensor for one hand-over, and new memory: the caller may overwrite its actions at once, while
        # JAX has hardly begun. Ages are exact in float32 up to 16 million steps.
        packed = torch.cat((actions.detach().float(), self.episode_length_buf.float().unsqueeze(1)), dim=1)
        # The task draws its commands at the end of a step and looks at them in the next.
        carry = self._carry if self._held_command is None else with_command(self._carry, self._held_command)
        self._carry, outcome = self._batch.step(carry, self._first, self._bridge.to_jax(packed))
        to_torch = self._bridge.to_torch
        # Zeros and ones, so the bytes are valid bools.
        dones = to_torch(outcome.dones).view(torch.bool)
        self.episode_length_buf = to_torch(outcome.ages)
        extras: dict[str, Any] = {
            "time_outs": to_torch(outcome.time_outs).view(torch.bool),
            # Stays on the device: the logger fetches all sums of an iteration at once.
            "log": dict(zip(self._batch.metric_names, to_torch(outcome.metrics).unbind(), strict=True)),
        }
        if self._bridge.device.type != "cpu" or bool(dones.any()):
            extras["final_obs"] = self._tensordict({name: to_torch(v) for name, v in outcome.final_obs.items()})
        obs = self._tensordict({name: to_torch(values) for name, values in outcome.obs.items()})
        return obs, to_torch(outcome.rewards), dones, extras

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        """See ``VecEnv``; without full resets the new episodes begin with the environments' own first states."""
        chosen = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        chosen[env_ids] = True
        self._carry = self._batch.restart(self._carry, self._first, self._bridge.to_jax(chosen.to(torch.uint8)))
        self.episode_length_buf = torch.where(chosen, 0, self.episode_length_buf)
        return True

    def get_command(self, name: str) -> torch.Tensor:
        """See ``VecEnv``."""
        command_named(self.command_terms, name)
        values = self._carry.state.info[COMMAND] if self._held_command is None else self._held_command
        return self._bridge.to_torch(values).to(torch.float32, copy=True)

    def hold_command(self, name: str, values: torch.Tensor | None) -> None:
        """See ``VecEnv``."""
        command = command_named(self.command_terms, name)
        if values is None:
            self._held_command = None
            return
        rows = command_values(command, values).to(self.device).repeat(self.num_envs, 1)
        held = jax.device_put(self._bridge.to_jax(rows), self._bridge.jax_device)
        self._held_command = held.astype(self._carry.state.info[COMMAND].dtype)
        self._carry = with_command(self._carry, self._held_command)

    def render(self) -> Any:
        """Return one environment as an RGB array ``(height, width, 3)``, or None where it cannot be drawn."""
        return self._film.frame(self._batch.row(self._carry, self._shown))

    def show_env(self, index: int) -> bool:
        """See ``VecEnv``."""
        self._shown = index
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the simulation, its random keys and the episodes' ages.

        The first states, to which episodes go back, are not in it: the seed decides them.
        """
        return {
            "task": self._name,
            "num_envs": self.num_envs,
            "seed": self._seed,
            "episode_length_buf": self.episode_length_buf.cpu().clone(),
            "simulation": to_state_dict(self._carry),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same task and number of environments, bit for bit.

        Raises:
            UserError: The state belongs to another task, number of environments or version of the task.
        """
        for key, own in (("task", self._name), ("num_envs", self.num_envs)):
            if state.get(key) != own:
                raise UserError(f"the saved simulation has {key} {state.get(key)!r}, this one has {own!r}")
        carry = from_state_dict(state["simulation"], self._carry, self._bridge.jax_device)
        if state["seed"] != self._seed:
            _, self._first = self._start(state["seed"])
        self._carry = carry
        self.episode_length_buf = state["episode_length_buf"].to(self.device, copy=True)

    def _start(self, seed: int) -> tuple[Carry, Any]:
        """Return the first states, and what episodes go back to."""
        self._seed = int(seed)
        # Bound to the device, and so is everything that is computed from it.
        carry = self._batch.reset(jax.device_put(np.uint32(self._seed % 2**32), self._bridge.jax_device))
        return carry, None if self._full_reset else carry.state

    def _tensordict(self, groups: dict[str, torch.Tensor]) -> TensorDict:
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)


def _actuators(env: Any, num_actions: int) -> tuple[Term, ...]:
    """Return the actuators of Playground's model, if the actions are for them; Brax's tasks have no such model."""
    model: Any = getattr(env, "mj_model", None)
    if getattr(model, "nu", None) != num_actions:
        return ()
    names = (model.actuator(i).name or f"actuator_{i}" for i in range(num_actions))
    return (Term("actuators", (num_actions,), tuple(names)),)
