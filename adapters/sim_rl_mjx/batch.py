"""A batch of JAX environments as two pure functions: the first states, and one step.

What is compiled here is more than ``env.step``: the time limit, time-outs, the final observation and
the reset belong to it, so that a control step is one call. Playground's and Brax's training wrappers
do the same with two differences that cost the learner something. Theirs return the observation after the
reset only, so what a time-out cut off has no value; and with ``full_reset=True`` the reset overwrites
``info["truncation"]``, so time-outs look like failures. Here both are read before the reset.

Legend of shapes: ``n`` environments, ``a`` actions, ``m`` metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

FLAT_GROUP = "state"
"""Name of the group of an environment whose observation is one array, as in Playground's own wrappers."""

PRESERVED_INFO = "AutoResetWrapper_preserve_info"
"""What a task puts into ``info`` under this name survives a full reset (Playground's rule, for curricula)."""

_TRUNCATED = "truncation"
"""Where ``info`` says that the task ended an episode for another reason than failure, as Brax's wrappers do.
``info["time_out"]`` does not say that: Brax's pendulum and Playground's Cartpole set it when the pole falls."""


class Carry(NamedTuple):
    """Everything that the next step depends on, apart from the ages of the episodes."""

    state: Any
    """The environments' own ``State``, every batched leaf with ``n`` in front."""
    keys: jax.Array
    """Raw PRNG keys ``(n, 2)``, from which full resets are drawn."""


class Step(NamedTuple):
    """What one step hands to the learner; none of it is part of the ``Carry``."""

    obs: dict[str, jax.Array]
    final_obs: dict[str, jax.Array]
    rewards: jax.Array
    """float32 ``(n,)``."""
    dones: jax.Array
    """uint8 ``(n,)``."""
    time_outs: jax.Array
    """uint8 ``(n,)``."""
    ages: jax.Array
    """int32 ``(n,)``, control steps since the reset."""
    metrics: jax.Array
    """float32 ``(m,)``: means over the environments, in the order of ``Batch.metric_names``."""


class Batch:
    """Compiled functions over ``num_envs`` copies of one environment.

    Args:
        env: An environment with ``reset(key)`` and ``step(state, action)``, Playground's or Brax's.
        num_envs: Number of environments.
        max_episode_length: Control steps after which an episode is truncated.
        action_repeat: Steps of the environment per control step; their rewards are summed.
        full_reset: Whether an episode begins with ``env.reset``. Otherwise physics and observation go back
            to the environment's own first state, and ``info`` stays, as in Playground's training.
        clip_actions: Whether actions are clipped to -1..1.
    """

    def __init__(
        self,
        env: Any,
        num_envs: int,
        max_episode_length: int,
        action_repeat: int = 1,
        full_reset: bool = False,
        clip_actions: bool = True,
    ) -> None:
        self._env = env
        self._num_envs = num_envs
        self._limit = max_episode_length
        self._action_repeat = action_repeat
        self._full_reset = full_reset
        self._clip_actions = clip_actions
        self.is_batched = _batched_leaves(env, num_envs)
        self.metric_names: tuple[str, ...] = ()
        """Names of what ``Step.metrics`` holds; known once ``step`` has been traced."""
        self.reset: Callable[[Any], Carry] = jax.jit(self._reset)
        self.step: Callable[..., tuple[Carry, Step]] = jax.jit(self._step)
        self.restart: Callable[[Carry, Any, jax.Array], Carry] = jax.jit(self._restart_some)
        self.observe: Callable[[Carry], dict[str, jax.Array]] = jax.jit(lambda carry: to_groups(carry.state.obs))
        self.row: Callable[[Carry, Any], Any] = jax.jit(self._row)

    def _reset(self, seed: jax.Array) -> Carry:
        """Return the first states for a seed, uint32."""
        base = jax.random.PRNGKey(seed)
        # By index, so that an environment's episodes do not depend on how many there are.
        own = jax.vmap(lambda index: jax.random.fold_in(base, index))(jnp.arange(self._num_envs))
        keys, reset_keys = _split(own)
        return _strongly_typed(Carry(jax.vmap(self._env.reset)(reset_keys), keys))

    def _step(self, carry: Carry, first: Any, packed: jax.Array) -> tuple[Carry, Step]:
        """Advance every environment and reset those that ended.

        Args:
            carry: From ``reset`` or the step before.
            first: The state that ``reset`` returned; not used with full resets.
            packed: float32 ``(n, a + 1)``: the actions, and the ages before this step.

        Returns:
            What the next step starts from, and what the learner gets.
        """
        actions, ages = packed[:, :-1], packed[:, -1].astype(jnp.int32) + 1
        if self._clip_actions:
            actions = jnp.clip(actions, -1.0, 1.0)
        before = to_groups(carry.state.obs)
        state, rewards = self._simulate(carry.state, actions)
        after = to_groups(state.obs)

        diverged = ~(_finite_rows(after) & jnp.isfinite(rewards))
        ended = state.done > 0
        at_limit = ages >= self._limit
        dones = diverged | ended | at_limit
        truncated = state.info[_TRUNCATED] > 0 if _TRUNCATED in state.info else jnp.zeros_like(ended)
        # A termination in the very step of the limit is a termination.
        time_outs = ~diverged & jnp.where(ended, truncated, at_limit)

        # Before the reset: afterwards the final observation is gone, and with a full reset `info` too.
        final_obs = {name: _where(diverged, before[name], values) for name, values in after.items()}
        rewards = jnp.where(diverged, 0.0, rewards)
        metrics = self._mean_metrics(state.metrics, diverged)
        state, keys = self._restart(state, first, carry.keys, dones, diverged)
        state = state.replace(done=jnp.zeros_like(state.done))
        outcome = Step(
            obs=to_groups(state.obs),
            final_obs=final_obs,
            rewards=rewards,
            dones=dones.astype(jnp.uint8),
            time_outs=time_outs.astype(jnp.uint8),
            ages=jnp.where(dones, 0, ages),
            metrics=metrics,
        )
        return _strongly_typed(Carry(state, keys)), outcome

    def _row(self, carry: Carry, index: jax.Array) -> Any:
        """Return the state of one environment."""
        return jax.tree.map(lambda batched, leaf: leaf[index] if batched else leaf, self.is_batched, carry.state)

    def _simulate(self, state: Any, actions: jax.Array) -> tuple[Any, jax.Array]:
        """Return the state after ``action_repeat`` steps, and the sum of their rewards ``(n,)``."""
        step = jax.vmap(self._env.step)
        if self._action_repeat == 1:
            state = step(state, actions)
            return state, state.reward.astype(jnp.float32)

        def once(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = step(state, actions)
            return state, state.reward

        state, rewards = jax.lax.scan(once, state, None, self._action_repeat)
        return state, rewards.sum(axis=0).astype(jnp.float32)

    def _mean_metrics(self, metrics: Mapping[str, jax.Array], diverged: jax.Array) -> jax.Array:
        means = {"Step/diverged": diverged.mean(dtype=jnp.float32)}
        for name, values in metrics.items():
            values = values.astype(jnp.float32)
            means[f"Step/{name}"] = jnp.where(jnp.isfinite(values), values, 0.0).mean()
        self.metric_names = tuple(means)
        return jnp.stack(list(means.values()))

    def _restart(
        self, state: Any, first: Any, keys: jax.Array, dones: jax.Array, diverged: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Return states and keys in which the environments that ended are at the start of an episode."""
        if self._full_reset:
            # Most steps end no episode, and a reset costs as much as a step or more.
            return jax.lax.cond(
                jnp.any(dones), self._draw_anew, lambda state, keys, _: (state, keys), state, keys, dones
            )
        physics = _physics_field(state)
        restored = {
            physics: self._select(dones, getattr(first, physics), getattr(state, physics), physics),
            "obs": self._select(dones, first.obs, state.obs, "obs"),
        }
        # `info` stays: a task keeps its random state there. What is broken in it must go, though.
        for name in ("info", "metrics"):
            mask = getattr(self.is_batched, name)
            restored[name] = _mended(mask, diverged, getattr(first, name), getattr(state, name))
        return state.replace(**restored), keys

    def _restart_some(self, carry: Carry, first: Any, rows: jax.Array) -> Carry:
        """Begin new episodes in some environments, uint8 ``(n,)``, whatever state they are in."""
        chosen = rows > 0
        state, keys = self._restart(carry.state, first, carry.keys, chosen, chosen)
        return _strongly_typed(Carry(state, keys))

    def _draw_anew(self, state: Any, keys: jax.Array, dones: jax.Array) -> tuple[Any, jax.Array]:
        next_keys, reset_keys = _split(keys)
        fresh = jax.vmap(self._env.reset)(reset_keys)
        selected = jax.tree.map(
            lambda batched, new, old: _where(dones, new.astype(old.dtype), old) if batched else old,
            self.is_batched,
            fresh,
            state,
        )
        if PRESERVED_INFO in state.info:
            selected = selected.replace(info={**selected.info, PRESERVED_INFO: state.info[PRESERVED_INFO]})
        return selected, _where(dones, next_keys, keys)

    def _select(self, rows: jax.Array, chosen: Any, other: Any, field: str) -> Any:
        """Return ``chosen`` in the given rows of every leaf that has rows, and ``other`` elsewhere."""
        mask = getattr(self.is_batched, field)
        return jax.tree.map(lambda batched, a, b: _where(rows, a, b) if batched else b, mask, chosen, other)


def to_groups(obs: Any) -> dict[str, jax.Array]:
    """Return an observation as named groups in the layout of the contract.

    Args:
        obs: One array, or a mapping of arrays, each with ``n`` in front. Vectors become ``(n, size)``
            float32. Images ``(n, height, width, channels)`` get their channels first; uint8 stays uint8.
    """
    named = obs if isinstance(obs, Mapping) else {FLAT_GROUP: obs}
    return {str(name): _to_group(values) for name, values in named.items()}


def _to_group(values: jax.Array) -> jax.Array:
    if values.ndim == 4:
        values = jnp.moveaxis(values, -1, 1)
        return values if values.dtype == jnp.uint8 else values.astype(jnp.float32)
    return values.reshape(values.shape[0], -1).astype(jnp.float32)


def _batched_leaves(env: Any, num_envs: int) -> Any:
    """Return the tree of a state with True where a leaf has one row per environment.

    MuJoCo Warp keeps some arrays once for all environments, such as the list of contacts. Their length may
    happen to be the number of environments, so their shape alone does not tell.
    """
    key = jax.random.PRNGKey(0)
    single = jax.eval_shape(env.reset, key)
    many = jax.eval_shape(jax.vmap(env.reset), jnp.zeros((num_envs, *key.shape), key.dtype))
    return jax.tree.map(lambda one, batch: batch.shape == (num_envs, *one.shape), single, many)


def _physics_field(state: Any) -> str:
    return "data" if hasattr(state, "data") else "pipeline_state"


def _split(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return two new keys for each of ``(n, 2)``."""
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]


def _where(rows: jax.Array, chosen: jax.Array, other: jax.Array) -> jax.Array:
    """Return ``chosen`` in ``rows`` ``(n,)`` and ``other`` elsewhere; both have ``n`` in front."""
    return jnp.where(rows.reshape(-1, *[1] * (other.ndim - 1)), chosen, other)


def _finite_rows(groups: Mapping[str, jax.Array]) -> jax.Array:
    """Return the environments ``(n,)`` whose observations are finite in every group."""
    floats = [values for values in groups.values() if jnp.issubdtype(values.dtype, jnp.floating)]
    finite = [jnp.isfinite(values).reshape(values.shape[0], -1).all(axis=1) for values in floats]
    return jnp.stack(finite).all(axis=0) if finite else jnp.asarray(True)


def _mended(mask: Any, rows: jax.Array, whole: Any, tree: Any) -> Any:
    """Return a tree in which NaN and infinity in the given rows are what they were at first."""

    def mend(batched: bool, whole: jax.Array, values: jax.Array) -> jax.Array:
        if not batched or not jnp.issubdtype(values.dtype, jnp.floating):
            return values
        return jnp.where(jnp.isfinite(values), values, _where(rows, whole, values))

    return jax.tree.map(mend, mask, whole, tree)


def _strongly_typed(tree: Any) -> Any:
    """Return a tree without weakly typed leaves, which would make JAX compile the step a second time."""

    def strong(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf  # typed PRNG keys are never weak
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strong, tree)
