"""The gate that an exported file must pass: on what the policy has seen, it acts as the policy does.

Legend of shapes: ``t`` steps, ``n`` environments, ``a`` actions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import own_memory
from sim_rl_plugin.export.players import Player
from sim_rl_plugin.models.memory import memory_of

TOLERANCE = 4e-6
"""Largest difference of actions, and of memories, relative to the largest of the recording where that exceeds 1.
float32 rounds to 6e-8 of each number, and runtimes add in another order: ten times what usual networks need."""

_ENVIRONMENTS = 4
_SEED = 20240229


@dataclass(frozen=True)
class Recording:
    """What a policy has met in some environments, and when its episodes began.

    Attributes:
        groups: Observation groups of each step, ``t`` mappings of arrays ``(n, ...)``.
        starts: Bool ``(t, n)``: the step is the first of an episode, before which the policy forgets.
    """

    groups: Sequence[Mapping[str, np.ndarray]]
    starts: np.ndarray

    @property
    def num_envs(self) -> int:
        """How many environments were recorded."""
        return self.starts.shape[1]


@dataclass(frozen=True)
class Agreement:
    """How well a file acts as its policy.

    Attributes:
        steps: Steps that were compared, of all environments together.
        resets: How many of them began an episode.
        largest: Difference of an action or of a number of the memory, the one closest to what is allowed or beyond.
        allowed: What it may be.
        place: Where it is, in words.
    """

    steps: int
    resets: int
    largest: float
    allowed: float
    place: str

    @property
    def is_enough(self) -> bool:
        """Whether the file may stay."""
        return self.largest <= self.allowed

    def __str__(self) -> str:
        return (
            f"differs by {self.largest:.1e} at most ({self.allowed:.1e} allowed) "
            f"over {self.steps} steps with {self.resets} resets"
        )


def copied_to_cpu(policy: Any) -> Any:
    """Return a copy of a policy that decides nothing at random, on the CPU, with an empty memory."""
    with own_memory(policy):
        return copy.deepcopy(policy).to("cpu").eval()


def record(policy: Any, env: Any, steps: int) -> Recording:
    """Let a policy act in its environment, and keep what it saw in the first few of them.

    In the middle of the recording half of the environments begin a new episode, or at least the policy forgets
    there, so that a recording has resets however long the episodes are.

    Args:
        policy: On the CPU; it forgets.
        env: The environment, which is stepped.
        steps: How many.
    """
    num_envs = min(env.num_envs, _ENVIRONMENTS)
    obs = env.get_observations()
    starts = torch.ones(env.num_envs, dtype=torch.bool)
    seen: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    policy.reset()
    with torch.inference_mode():
        for step in range(steps):
            seen.append((_arrays(obs, num_envs), starts[:num_envs].numpy().copy()))
            obs, _, dones, _ = env.step(policy(obs.to("cpu")).to(env.device))
            starts = dones.cpu() > 0
            if step == steps // 2:
                obs, starts = _restart_half(env, obs, starts)
            policy.reset(starts)
    return Recording([groups for groups, _ in seen], np.stack([start for _, start in seen]))


def record_without_stepping(env: Any, steps: int) -> Recording:
    """Return what the environments show right now, one after the other, as if one robot had seen it.

    For environments that somebody is using, and that cannot go back to where they are.
    """
    rows = _arrays(env.get_observations(), env.num_envs)
    order = np.arange(steps) % env.num_envs
    starts = (np.arange(steps) % 12 == 0)[:, None]
    return Recording([{name: values[row : row + 1] for name, values in rows.items()} for row in order], starts)


def with_disturbed_copy(recording: Recording) -> Recording:
    """Return a recording followed by itself with noise, so that inputs that hardly changed in it are tested, too."""
    generator = np.random.default_rng(_SEED)
    deviations = {
        name: np.stack([groups[name] for groups in recording.groups]).std(axis=(0, 1)) for name in recording.groups[0]
    }
    noisy = [
        {name: _disturbed(values, deviations[name], generator) for name, values in groups.items()}
        for groups in recording.groups
    ]
    return Recording([*recording.groups, *noisy], np.concatenate((recording.starts, recording.starts)))


def compare(policy: Any, players: Sequence[Player], recording: Recording) -> Agreement:
    """Run a policy and its file over a recording.

    Args:
        policy: On the CPU; it forgets.
        players: The file, opened once for every environment, or once for all of them together.
        recording: What they see.

    Raises:
        UserError: The file cannot be run, or gives another number of actions.
    """
    expected, expected_memory = _reference(policy, recording)
    together = len(players) == 1 and recording.num_envs > 1
    found = np.empty_like(expected)
    found_memory = [np.empty_like(part) for part in expected_memory]
    for index, player in enumerate(players):
        rows = slice(None) if together else slice(index, index + 1)
        actions, memory = _play(player, recording, rows)
        if actions.shape != expected[:, rows].shape:
            raise UserError(f"the exported file gives {actions.shape[-1]} actions, the policy {expected.shape[-1]}")
        found[:, rows] = actions
        for part, values in zip(found_memory, memory, strict=True):
            part[:, :, rows] = values
    pairs = [("action", expected, found)]
    for old, new in zip(expected_memory, found_memory, strict=True):
        pairs.append(("memory", old.swapaxes(1, 2), new.swapaxes(1, 2)))
    # Of actions and of every part of a memory, each by its own size, the one that is the farthest from agreement.
    largest, allowed, place = max((_difference(*pair) for pair in pairs), key=lambda found: found[0] / found[1])
    return Agreement(expected.shape[0] * expected.shape[1], int(recording.starts.sum()), largest, allowed, place)


def _difference(what: str, expected: np.ndarray, found: np.ndarray) -> tuple[float, float, str]:
    """Return the largest difference of two arrays ``(t, n, ...)``, what it may be, and where it is."""
    difference = np.abs(expected.astype(np.float64) - found)
    # What is NaN in one of them alone is as different as can be.
    difference = np.where(np.isnan(difference), np.where(np.isnan(expected) & np.isnan(found), 0.0, np.inf), difference)
    step, env, *rest = np.unravel_index(int(difference.argmax()), difference.shape)
    allowed = TOLERANCE * max(1.0, float(np.nan_to_num(np.abs(expected)).max()))
    return float(difference.max()), allowed, f"{what} {rest[-1]} at step {step} of environment {env}"


def _reference(policy: Any, recording: Recording) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a policy's actions ``(t, n, a)``, and the parts of its memory ``(t, l, n, h)``."""
    actions, memories = [], []
    policy.reset()
    with torch.inference_mode():
        for groups, starts in zip(recording.groups, recording.starts, strict=True):
            obs = TensorDict({name: torch.from_numpy(values) for name, values in groups.items()}, [len(starts)])
            policy.reset(torch.from_numpy(starts))
            actions.append(policy(obs).numpy().copy())
            if policy.is_recurrent:
                memory: Any = memory_of(policy)
                memories.append([part.numpy() for part in (memory if isinstance(memory, tuple) else (memory,))])
    return np.stack(actions), [np.stack(parts) for parts in zip(*memories, strict=True)]


def _play(player: Player, recording: Recording, rows: slice) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what a file does for some environments, in the shapes of ``_reference``."""
    actions, memories = [], []
    for groups, starts in zip(recording.groups, recording.starts, strict=True):
        player.reset(starts[rows])
        actions.append(player.act({name: values[rows] for name, values in groups.items()}))
        memories.append([part.copy() for part in player.memory()])
    return np.stack(actions), [np.stack(parts) for parts in zip(*memories, strict=True)]


def _restart_half(env: Any, obs: TensorDict, starts: torch.Tensor) -> tuple[TensorDict, torch.Tensor]:
    """Begin a new episode in every other environment, where the simulator can."""
    chosen = torch.arange(env.num_envs) % 2 == 0
    if hasattr(env, "reset_envs") and env.reset_envs(chosen.nonzero().flatten().to(env.device)):
        obs = env.get_observations()
    return obs, starts | chosen


def _arrays(obs: TensorDict, rows: int) -> dict[str, np.ndarray]:
    return {str(name): values[:rows].detach().cpu().numpy().copy() for name, values in obs.items()}


def _disturbed(values: np.ndarray, deviation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return values with noise as large as they vary, and somewhat more; bytes are drawn anew."""
    if values.dtype == np.uint8:
        return generator.integers(0, 256, values.shape, dtype=np.uint8)
    noise = generator.standard_normal(values.shape) * (deviation + 0.1)
    return (values + noise).astype(values.dtype)


def record_and_return(policy: Any, env: Any, steps: int) -> Recording:
    """Record in an environment that is in use, and put it back; without stepping where it cannot be put back.

    What it draws from the process's generators is the caller's to put back.
    """
    can_return = hasattr(env, "state_dict") and getattr(env, "restores_exactly", True)
    state = copy.deepcopy(env.state_dict()) if can_return else None
    if state is None:
        return record_without_stepping(env, steps)
    try:
        return record(policy, env, steps)
    finally:
        env.load_state_dict(state)
