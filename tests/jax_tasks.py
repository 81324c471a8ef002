"""Small JAX environments whose every value can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class State:
    """Fields of Playground's ``State``."""

    data: Any
    obs: Any
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, jax.Array]
    info: dict[str, Any]


class Line:
    """A point on a line that the action moves: ``x += action``; the reward is the new ``x``.

    Observes ``state``: x and the action before this one; ``privileged_state``: x, that action, the number of
    steps since ``info`` was new. An action of NaN breaks the simulation.

    Args:
        wall: The episode terminates where ``x`` is beyond.
        mark: The episode is truncated by the task itself, which says so in ``info``, where ``x`` is beyond.
        typed_keys: Whether the random state is a key with a type of its own.
        flat: Whether there is one observation array, as most tasks have.
        episode_length: In the configuration, as Playground's tasks have it; None for none.
    """

    action_size = 1
    dt = 0.05

    def __init__(
        self,
        wall: float = np.inf,
        mark: float = np.inf,
        typed_keys: bool = False,
        flat: bool = False,
        episode_length: int | None = 5,
        config_overrides: dict[str, Any] | None = None,
    ) -> None:
        self._wall, self._mark, self._typed_keys, self._flat = wall, mark, typed_keys, flat
        self._config = SimpleNamespace(**({"episode_length": episode_length} | (config_overrides or {})))
        self.frames: Any = np.zeros((4, 6, 3), np.uint8)

    def reset(self, key: jax.Array) -> State:
        x = jax.random.uniform(key, (1,))
        info = {
            "rng": jax.random.wrap_key_data(key) if self._typed_keys else key,
            "last_act": jnp.zeros(1),
            "steps_of_info": 0,
            "truncation": jnp.zeros(()),
        }
        return State(x, self._obs(x, info), jnp.zeros(()), jnp.zeros(()), {"x": jnp.zeros(())}, info)

    def step(self, state: State, action: jax.Array) -> State:
        x = state.data + action
        state.info["rng"] = jax.random.split(state.info["rng"])[0]
        state.info["steps_of_info"] += 1
        obs = self._obs(x, state.info)
        state.info["last_act"] = action
        state.info["truncation"] = jnp.where(x[0] > self._mark, 1.0, 0.0)
        done = (jnp.abs(x[0]) > self._wall) | (x[0] > self._mark)
        state.metrics["x"] = x[0]
        return state.replace(data=x, obs=obs, reward=x[0], done=done.astype(jnp.float32))

    def _obs(self, x: jax.Array, info: dict[str, Any]) -> Any:
        seen = jnp.concatenate([x, info["last_act"]])
        if self._flat:
            return seen
        return {"state": seen, "privileged_state": jnp.append(seen, info["steps_of_info"])}

    def render(self, state: State, height: int, width: int, camera: str | None) -> np.ndarray:
        if self.frames is None:
            raise OSError("no OpenGL")
        return np.full((height, width, 3), 255 * float(state.data[0] > 0.5), np.uint8)
