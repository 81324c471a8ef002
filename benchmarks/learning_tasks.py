"""Small tasks in batched torch, each of which needs one feature of the learner.

The rewards of every task are scaled so that no episode can return more than 1: a return is the share of the
maximum. Legend of shapes: ``n`` environments.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env import VecEnv


class Task(VecEnv):
    """What the tasks share: time limits, resets, random numbers of their own, and a state to restore.

    A task keeps everything that changes in ``state``, a dict of tensors ``(n, ...)``, and replaces its entries
    instead of writing into them.

    Args:
        num_envs: Number of environments.
        num_actions: Size of an action.
        max_episode_length: Control steps of an episode.
        seed: Seed of everything that is drawn.
    """

    def __init__(self, num_envs: int, num_actions: int, max_episode_length: int, seed: int) -> None:
        self.num_envs = num_envs
        self.num_actions = num_actions
        self.max_episode_length = max_episode_length
        self.device = torch.device("cpu")
        self.cfg = {"task": type(self).__name__, "num_envs": num_envs, "seed": seed}
        self._generator = torch.Generator().manual_seed(seed)
        self.state = self._start()
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)

    @abstractmethod
    def _start(self) -> dict[str, torch.Tensor]:
        """Return the state of ``n`` new episodes."""

    @abstractmethod
    def _advance(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Move the state on by one step, ``actions (n, num_actions)`` in [-1, 1]; return rewards and terminations."""

    @abstractmethod
    def _groups(self) -> dict[str, torch.Tensor]:
        """Return the observation groups of the current state."""

    def get_observations(self) -> TensorDict:
        return TensorDict(self._groups(), batch_size=[self.num_envs], device=self.device)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        rewards, terminated = self._advance(actions.clamp(-1.0, 1.0))
        self.episode_length_buf = self.episode_length_buf + 1
        time_outs = (self.episode_length_buf >= self.max_episode_length) & ~terminated
        dones = terminated | time_outs
        extras: dict[str, Any] = {"time_outs": time_outs}
        if dones.any():
            extras["final_obs"] = self.get_observations()
            # New episodes for all are drawn and some are used, so that the draws do not depend on which ended.
            for name, fresh in self._start().items():
                ended = dones.view(-1, *[1] * (fresh.dim() - 1))
                self.state[name] = torch.where(ended, fresh, self.state[name])
            self.episode_length_buf = torch.where(dones, 0, self.episode_length_buf)
        return self.get_observations(), rewards, dones, extras

    def state_dict(self) -> dict[str, Any]:
        state = {name: value.clone() for name, value in self.state.items()}
        return {"state": state, "age": self.episode_length_buf.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = {name: value.clone() for name, value in state["state"].items()}
        self.episode_length_buf = state["age"].clone()
        self._generator.set_state(state["generator"])

    def _uniform(self, *shape: int) -> torch.Tensor:
        """Return numbers in [-1, 1], ``(n, *shape)``."""
        return 2.0 * torch.rand(self.num_envs, *shape, generator=self._generator) - 1.0

    def _phase(self) -> torch.Tensor:
        """Return the share of the episode that is over, from -1 to 1, ``(n, 1)``."""
        return (2.0 * self.episode_length_buf / self.max_episode_length - 1.0).unsqueeze(-1)


class Reach(Task):
    """A point starts in the middle of a square and goes to a target that lies anywhere in it.

    A coordinate moves by up to 0.15 a step. The reward is ``exp(-4 distance^2)``, divided by what going there
    straight earns. For the first ``num_still`` steps the point cannot move, and earns nothing.
    """

    step_size = 0.15

    def __init__(self, num_envs: int, seed: int = 0, num_still: int = 0, num_moving: int = 16) -> None:
        self.num_still, self.num_moving = num_still, num_moving
        super().__init__(num_envs, 2, num_still + num_moving, seed)

    def _start(self) -> dict[str, torch.Tensor]:
        return {"position": torch.zeros(self.num_envs, 2), "target": self._uniform(2)}

    def _advance(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moving = (self.episode_length_buf >= self.num_still).unsqueeze(-1)
        position = self.state["position"] + moving * self.step_size * actions
        self.state["position"] = position.clamp(-1.5, 1.5)
        target = self.state["target"]
        rewards = torch.exp(-4.0 * (self.state["position"] - target).square().sum(dim=-1)) / self._best(target)
        return rewards * moving.squeeze(-1), torch.zeros(self.num_envs, dtype=torch.bool)

    def _best(self, target: torch.Tensor) -> torch.Tensor:
        """Return the sum of rewards on the straight way: each coordinate at full speed until it is there."""
        steps = torch.arange(1, self.num_moving + 1)
        remaining = (target.abs().unsqueeze(-1) - self.step_size * steps).clamp(min=0.0)
        return torch.exp(-4.0 * remaining.square().sum(dim=1)).sum(dim=-1)

    def blind_limit(self, num_targets: int = 20_000) -> float:
        """Return what no policy can exceed on average that does not know the target.

        In each step the best place to be is the same one, so this is the return of being there all the time.
        """
        targets = 2.0 * torch.rand(num_targets, 2, generator=torch.Generator().manual_seed(0)) - 1.0
        weights = self.num_moving / self._best(targets)
        line = torch.linspace(0.0, 1.0, 11)  # one quadrant, for the others are its mirror images
        places = torch.cartesian_prod(line, line)
        return max(
            float((weights * torch.exp(-4.0 * (place - targets).square().sum(dim=-1))).mean()) for place in places
        )

    def _groups(self) -> dict[str, torch.Tensor]:
        return {"policy": torch.cat((self.state["position"], self._phase()), dim=-1), "target": self.state["target"]}


class Memory(Reach):
    """``Reach`` with the target shown in the first three steps; the point can move from the eleventh on.

    Since it cannot move before, it cannot remember the target by where it is. Group ``cue`` is the target while
    it is shown and zero afterwards.
    """

    num_shown = 3

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        super().__init__(num_envs, seed, num_still=10)

    def _groups(self) -> dict[str, torch.Tensor]:
        shown = (self.episode_length_buf < self.num_shown).unsqueeze(-1)
        return {**super()._groups(), "cue": self.state["target"] * shown}


class Image(Reach):
    """``Reach`` with the target as a red spot in a picture, beside a blue spot that means nothing.

    Group ``camera`` is a uint8 picture ``(3, 20, 20)``. The point itself is not in it.
    """

    pixels = 20
    spot = 0.15
    """Radius of a spot, in the unit of positions."""

    def _start(self) -> dict[str, torch.Tensor]:
        return {**super()._start(), "distraction": self._uniform(2)}

    def _groups(self) -> dict[str, torch.Tensor]:
        red, blue = (self._draw(self.state[name]) for name in ("target", "distraction"))
        return {**super()._groups(), "camera": torch.stack((red, torch.zeros_like(red), blue), dim=1)}

    def _draw(self, centre: torch.Tensor) -> torch.Tensor:
        """Return a soft spot at ``centre (n, 2)``, ``(n, height, width)``."""
        # A row and a column whose product is the spot, for a Gaussian is the product of its coordinates.
        places = torch.linspace(-1.2, 1.2, self.pixels)
        lines = torch.exp(-0.5 * ((places - centre.unsqueeze(-1)) / self.spot).square())
        return (255.0 * lines[:, 1].unsqueeze(-1) * lines[:, 0].unsqueeze(-2)).to(torch.uint8)


class Trot(Task):
    """A body on four legs that trots in the plane at a commanded velocity.

    The diagonal pairs of feet stand in turn, by a clock. An action is the velocities of the feet relative to the
    body, in its frame. Feet that stand do not slip, so the body moves as they push, and feet that reach the end of
    their range stop: a leg in the air has to be brought back. The reward of a step is
    ``exp(-2 |velocity - command|^2)``, over velocity along and across the body and rate of turning.

    The body is the same left and right, front and back: four images of every motion, the original counted.
    """

    hips = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    """Front left, front right, rear left, rear right; x forward, y to the left."""
    pair = torch.tensor([0, 1, 1, 0])
    """Which diagonal pair a leg belongs to."""
    num_stance = 4
    """Control steps for which a pair stands."""
    reach = 2.0
    """Largest distance of a foot from its place below the hip along an axis, in steps at full speed."""

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        super().__init__(num_envs, 8, 48, seed)

    def _start(self) -> dict[str, torch.Tensor]:
        clock = torch.randint(2 * self.num_stance, (self.num_envs,), generator=self._generator)
        feet = 0.5 * self.reach * self._uniform(4, 2)
        return {
            "command": 0.5 * self._uniform(3),
            "feet": feet,
            "velocity": torch.zeros(self.num_envs, 3),
            "clock": clock,
        }

    def _advance(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feet = (self.state["feet"] + actions.view(-1, 4, 2)).clamp(-self.reach, self.reach)
        moved = feet - self.state["feet"]
        stands = (self.state["clock"].unsqueeze(-1) // self.num_stance == self.pair).unsqueeze(-1)
        push = -(moved * stands).sum(dim=1) / 2.0
        turn = -(self._cross(self.hips, moved) * stands.squeeze(-1)).sum(dim=1) / 4.0
        velocity = torch.cat((push, turn.unsqueeze(-1)), dim=-1)
        self.state |= {"feet": feet, "velocity": velocity, "clock": (self.state["clock"] + 1) % (2 * self.num_stance)}
        error = (velocity - self.state["command"]).square().sum(dim=-1)
        rewards = torch.exp(-2.0 * error) / self.max_episode_length
        return rewards, torch.zeros(self.num_envs, dtype=torch.bool)

    @staticmethod
    def _cross(places: torch.Tensor, velocities: torch.Tensor) -> torch.Tensor:
        return places[..., 0] * velocities[..., 1] - places[..., 1] * velocities[..., 0]

    def _groups(self) -> dict[str, torch.Tensor]:
        angle = math.pi * self.state["clock"] / self.num_stance
        clock = torch.stack((angle.sin(), angle.cos()), dim=-1)
        parts = (self.state["command"], self.state["velocity"], self.state["feet"].flatten(1) / self.reach, clock)
        return {"policy": torch.cat(parts, dim=-1)}


LEFT_RIGHT, FRONT_BACK = [1, 0, 3, 2], [2, 3, 0, 1]
"""Which leg becomes which."""


def mirrored_trot(
    env: VecEnv, obs: TensorDict | None, actions: torch.Tensor | None
) -> tuple[TensorDict | None, torch.Tensor | None]:
    """Return observations and actions of ``Trot`` with their three mirror images behind them."""
    if obs is not None:
        rows = obs["policy"]
        images = torch.cat((rows, *(_mirrored_observation(rows, *axis) for axis in _AXES)))
        obs = TensorDict({"policy": images}, batch_size=[len(images)])
    if actions is not None:
        actions = torch.cat((actions, *(_mirrored_feet(actions, *axis) for axis in _AXES)))
    return obs, actions


# Each image: the order of the legs, and the signs of x, y and clock.
_BOTH = [LEFT_RIGHT[leg] for leg in FRONT_BACK]
_AXES = ((LEFT_RIGHT, 1.0, -1.0, -1.0), (FRONT_BACK, -1.0, 1.0, -1.0), (_BOTH, -1.0, -1.0, 1.0))


def _mirrored_feet(feet: torch.Tensor, legs: list[int], x: float, y: float, _: float) -> torch.Tensor:
    return (feet.view(-1, 4, 2)[:, legs] * torch.tensor([x, y])).flatten(1)


def _mirrored_observation(rows: torch.Tensor, legs: list[int], x: float, y: float, clock: float) -> torch.Tensor:
    command, velocity, feet, phase = rows.split((3, 3, 8, 2), dim=-1)
    # A turn changes its direction in each mirror. Each mirror also swaps the diagonal pairs: half a period later.
    signs = torch.tensor([x, y, x * y])
    return torch.cat(
        (command * signs, velocity * signs, _mirrored_feet(feet, legs, x, y, clock), phase * clock), dim=-1
    )
