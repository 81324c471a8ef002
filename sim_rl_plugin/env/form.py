"""Whether an environment has what a training cannot do without; the whole contract is ``check_env``'s business.

Environments that were written for rsl_rl are trained on although they bend the contract: their rewards may
be float64, their flags numbers. Refused is what would end in an exception from the middle of the learner.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase

from sim_rl_plugin.errors import UserError


class EnvironmentForm:
    """Checks what stands on an environment, and the first step that it takes."""

    def __init__(self, env: Any) -> None:
        """Check numbers and device.

        Raises:
            UserError: Names what is wrong, and what was expected.
        """
        self._name = type(env).__name__
        for key in ("num_envs", "num_actions"):
            value: Any = getattr(env, key, None)
            if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
                raise self._error(key, value, "a whole number of at least 1")
        self._num_envs = int(env.num_envs)
        try:
            torch.device(env.device)
        except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise self._error("device", getattr(env, "device", None), "such as 'cpu' or 'cuda:0'") from error
        self._groups: dict[str, tuple[int, ...]] = {}
        self._was_checked = False

    def observed(self, obs: Any) -> Any:
        """Return what ``get_observations`` returned, once it has been checked.

        Raises:
            UserError: As for the constructor.
        """
        self._groups = self._shapes("get_observations()", obs)
        return obs

    def checked(self, result: Any) -> Any:
        """Return what ``step`` returned, once the first of them has been checked.

        Raises:
            UserError: As for the constructor.
        """
        if not self._was_checked:
            self._check(result)
            self._was_checked = True
        return result

    def _check(self, result: Any) -> None:
        if not isinstance(result, tuple) or len(result) != 4:
            raise self._error("step()", result, "(obs, rewards, dones, extras)")
        obs, rewards, dones, extras = result
        groups = self._shapes("step(): obs", obs)
        if groups != self._groups:
            raise self._error("step(): obs", groups, f"the groups of get_observations(), {self._groups}")
        for key, value in (("rewards", rewards), ("dones", dones)):
            self._check_column(f"step(): {key}", value)
        if not isinstance(extras, dict):
            raise self._error("step(): extras", extras, "a dict")
        if extras.get("time_outs") is not None:
            self._check_column("step(): extras['time_outs']", extras["time_outs"])
        if extras.get("final_obs") is not None:
            final = self._shapes("step(): extras['final_obs']", extras["final_obs"])
            if not set(self._groups.items()) <= set(final.items()):
                raise self._error("step(): extras['final_obs']", final, f"the groups of obs, {self._groups}")

    def _check_column(self, where: str, value: Any) -> None:
        """Check a tensor that holds one number per environment."""
        if not isinstance(value, torch.Tensor):
            raise self._error(where, value, f"a tensor of the shape ({self._num_envs},)")
        if value.shape != (self._num_envs,) or value.is_complex():
            raise self._error(where, value, f"one number for each of {self._num_envs} environments")

    def _shapes(self, where: str, obs: Any) -> dict[str, tuple[int, ...]]:
        """Return the groups of observations with their shapes, without the environments' dimension."""
        expected = f"a TensorDict of groups, each with {self._num_envs} rows"
        if not isinstance(obs, TensorDictBase) or not obs.keys():
            raise self._error(where, obs, expected)
        shapes = {}
        for key, value in obs.items():
            fits = isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == self._num_envs
            if not fits or value.is_complex():
                raise self._error(f"{where}[{key!r}]", value, f"a tensor of numbers with {self._num_envs} rows")
            shapes[str(key)] = tuple(value.shape[1:])
        return shapes

    def _error(self, where: str, found: Any, expected: str) -> UserError:
        what = f"a tensor {tuple(found.shape)} of {found.dtype}" if isinstance(found, torch.Tensor) else repr(found)
        text = " ".join(what.split())
        text = text if len(text) <= 120 else text[:117] + "..."
        return UserError(f"{self._name}.{where}: expected {expected}, found {text} (`sim-rl check-env` tells more)")
