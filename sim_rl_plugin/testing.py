"""For adapter authors: a contract test to inherit, and a small environment that keeps the contract.

An adapter's test file needs four lines::

    class TestMyAdapter(VecEnvContract):
        def make_env(self) -> VecEnv:
            return MyEnv(num_envs=8)

or, for the context manager that an adapter registers, ``open_env`` that returns it.

``PointEnv`` is what this project's own tests train on, and a model of the contract to read; ``SteeredPointEnv`` is one
with a command.
Nothing here imports pytest, so the environments serve scripts and benchmarks too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from tensordict import TensorDict

from sim_rl_plugin.env._trees import unlike
from sim_rl_plugin.env.check import check_env
from sim_rl_plugin.env.commands import Command, command_named, command_values
from sim_rl_plugin.env.problems import AREAS, Problem
from sim_rl_plugin.env.terms import Term
from sim_rl_plugin.env.vec_env import VecEnv
from sim_rl_plugin.errors import UserError


class PointEnv(VecEnv):
    """Points that are driven to the origin by their velocity: the smallest problem on which learning shows.

    A point starts uniformly in ``[-1, 1]^n`` and moves by ``0.1 * clip(action, -1, 1)`` a step. The
    reward is ``exp(-4 mean(position^2))``. In two dimensions, going straight to the origin earns 0.94 a
    step, and random actions 0.34; PPO gets from one to the other in 100 000 steps. Rewards are positive:
    dying early never pays.

    Groups: ``policy`` is the position, padded with zeros to ``obs_size``; ``critic`` is the position and
    the fraction of the episode that is left. The environment is deterministic given ``seed``, and
    keeps its own random generator, so that the global one is not touched.

    Args:
        num_envs: Number of points.
        num_actions: Dimensions of the space, and of the actions.
        obs_size: Size of ``policy``, at least ``num_actions``, or None for exactly that.
        max_episode_length: Steps after which an episode is truncated.
        terminate_at: Largest absolute coordinate, beyond which an episode terminates, or None for never.
        final_obs: Whether ``extras`` holds ``final_obs`` in the steps in which an episode ended.
        device: Where every tensor lives.
        seed: Seed of the start positions.
    """

    step_size = 0.1
    state_is_cheap = True

    def __init__(
        self,
        num_envs: int = 8,
        num_actions: int = 2,
        obs_size: int | None = None,
        max_episode_length: int = 32,
        terminate_at: float | None = 1.5,
        final_obs: bool = True,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if obs_size is not None and obs_size < num_actions:
            raise ValueError(f"obs_size is {obs_size}, expected at least num_actions, which is {num_actions}")
        self.num_envs = num_envs
        self.num_actions = num_actions
        self.max_episode_length = max_episode_length
        self.device = torch.device(device)
        self.cfg = {
            "num_envs": num_envs,
            "num_actions": num_actions,
            "obs_size": obs_size,
            "max_episode_length": max_episode_length,
            "terminate_at": terminate_at,
            "final_obs": final_obs,
            "seed": seed,
        }
        position = Term("position", (num_actions,))
        padding = () if obs_size in (None, num_actions) else (Term("padding", (obs_size - num_actions,)),)
        self.observation_terms = {"policy": (position, *padding), "critic": (position, Term("remaining_time", (1,)))}
        self.action_terms = (Term("velocity", (num_actions,), scale=self.step_size),)
        self.terminate_at = float("inf") if terminate_at is None else terminate_at
        self.has_final_obs = final_obs
        self._padding = 0 if obs_size is None else obs_size - num_actions
        # On the host, so that a seed means the same positions on every device.
        self._generator = torch.Generator().manual_seed(seed)
        self.position = self._start_positions()
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self._episode_return = torch.zeros(num_envs, device=self.device)
        self._shown = 0

    def get_observations(self) -> TensorDict:
        """Return ``policy`` and ``critic`` of the current positions."""
        remaining = 1.0 - self.episode_length_buf / self.max_episode_length
        groups = {
            "policy": torch.nn.functional.pad(self._from_goal(), (0, self._padding)),
            "critic": torch.cat((self._from_goal(), remaining.unsqueeze(-1)), dim=-1),
        }
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Move every point, then put those whose episode ended back to a new start."""
        self.position = self.position + self.step_size * actions.clamp(-1.0, 1.0)
        self.episode_length_buf = self.episode_length_buf + 1
        rewards = torch.exp(-4.0 * self._from_goal().square().mean(dim=-1))
        self._episode_return = self._episode_return + rewards

        terminated = self.position.abs().amax(dim=-1) > self.terminate_at
        time_outs = (self.episode_length_buf >= self.max_episode_length) & ~terminated
        dones = terminated | time_outs

        log: dict[str, Any] = {"Step/distance": self._from_goal().norm(dim=-1).mean()}
        extras: dict[str, Any] = {"time_outs": time_outs, "log": log}
        if dones.any():
            if self.has_final_obs:
                extras["final_obs"] = self.get_observations()
            log["return"] = self._episode_return[dones].mean()
            self._reset(dones)
        return self.get_observations(), rewards, dones, extras

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        """Put some points to new starts."""
        chosen = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        chosen[env_ids] = True
        self._reset(chosen)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return positions, counters and the random state."""
        return {
            "position": self.position.clone(),
            "episode_length_buf": self.episode_length_buf.clone(),
            "episode_return": self._episode_return.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of an environment with as many points and dimensions."""
        if fault := unlike(state, self.state_dict(), "state"):
            raise UserError(f"the state is one of other points: {fault}")
        self.position = state["position"].to(self.device, copy=True)
        self.episode_length_buf = state["episode_length_buf"].to(self.device, copy=True)
        self._episode_return = state["episode_return"].to(self.device, copy=True)
        self._generator.set_state(state["generator"].cpu())

    def render(self) -> Any:
        """Return a point as a white square on black, ``[-2, 2]`` in the first two dimensions."""
        image = torch.zeros(32, 32, 3, dtype=torch.uint8)
        self._draw(image, self.position, (255, 255, 255))
        return image.numpy()

    def show_env(self, index: int) -> bool:
        """Let ``render`` draw another point."""
        self._shown = index
        return True

    def _draw(self, image: torch.Tensor, positions: torch.Tensor, color: tuple[int, int, int]) -> None:
        cells = ((positions[self._shown, :2].cpu() + 2.0) * 8.0).long().clamp(1, 30).tolist()
        column, row = cells[0], cells[-1]
        image[row - 1 : row + 2, column - 1 : column + 2] = torch.tensor(color, dtype=torch.uint8)

    def _from_goal(self) -> torch.Tensor:
        """Return where the points are, seen from where they shall go, ``(num_envs, num_actions)``."""
        return self.position

    def _start_positions(self) -> torch.Tensor:
        # Drawn for every environment, so that the random state depends on the number of resets alone.
        return (2.0 * torch.rand(self.num_envs, self.num_actions, generator=self._generator) - 1.0).to(self.device)

    def _reset(self, dones: torch.Tensor) -> None:
        self.position = torch.where(dones.unsqueeze(-1), self._start_positions(), self.position)
        self.episode_length_buf = torch.where(dones, 0, self.episode_length_buf)
        self._episode_return = torch.where(dones, 0.0, self._episode_return)


class SteeredPointEnv(PointEnv):
    """Points that are driven to a goal instead of the origin; the goal is a command, drawn for every episode.

    The observations hold the position as seen from the goal, in which a policy cannot tell this from a ``PointEnv``.

    Args:
        options: As for ``PointEnv``.
    """

    goal_range = (-0.5, 0.5)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        elements = tuple(f"goal_{axis}" for axis in range(self.num_actions))
        self.command_terms = (Command("goal", elements, (self.goal_range,) * self.num_actions),)
        self._held: torch.Tensor | None = None
        self.goal = self._draw_goals()

    def get_command(self, name: str) -> torch.Tensor:
        """Return the goals."""
        command_named(self.command_terms, name)
        return self.goal.clone()

    def hold_command(self, name: str, values: torch.Tensor | None) -> None:
        """Put all goals to one place, or draw them again from the next episode on."""
        command = command_named(self.command_terms, name)
        self._held = None if values is None else command_values(command, values).to(self.device)
        if self._held is not None:
            self.goal = self._held.repeat(self.num_envs, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the points' state and the goals."""
        return {**super().state_dict(), "goal": self.goal.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of an environment with as many points and dimensions."""
        super().load_state_dict(state)
        self.goal = state["goal"].to(self.device, copy=True)

    def render(self) -> Any:
        """Return a point as a white square and its goal as a red one."""
        image = torch.zeros(32, 32, 3, dtype=torch.uint8)
        self._draw(image, self.goal, (255, 0, 0))
        self._draw(image, self.position, (255, 255, 255))
        return image.numpy()

    def _from_goal(self) -> torch.Tensor:
        return self.position - self.goal

    def _reset(self, dones: torch.Tensor) -> None:
        super()._reset(dones)
        goals = self._draw_goals()
        if self._held is None:
            self.goal = torch.where(dones.unsqueeze(-1), goals, self.goal)

    def _draw_goals(self) -> torch.Tensor:
        low, high = self.goal_range
        uniform = torch.rand(self.num_envs, self.num_actions, generator=self._generator)
        return (low + (high - low) * uniform).to(self.device)


class VecEnvContract:
    """Base class of an adapter's contract test: one test method per area of the contract.

    A subclass whose name starts with ``Test`` gives ``make_env`` or ``open_env``. The environment is opened and
    examined once per class; every method then looks at its own area, so that the name of a failing
    test says what is wrong.

    Attributes:
        num_steps: Control steps of the first, undisturbed part of the examination.
        allowed_codes: Codes of ``Problem`` that are known and accepted, each worth a comment in the
            subclass that says why.
    """

    num_steps: ClassVar[int] = 64
    allowed_codes: ClassVar[Sequence[str]] = ()

    def make_env(self) -> VecEnv:
        """Return a new environment; it is closed by the tests."""
        raise NotImplementedError(f"{type(self).__name__} must define make_env() or open_env()")

    @contextmanager
    def open_env(self) -> Iterator[VecEnv]:
        """Yield a new environment and close it on exit."""
        env = self.make_env()
        try:
            yield env
        finally:
            env.close()

    @classmethod
    def _problems(cls) -> list[Problem]:
        # In the class's own __dict__, so that a subclass of a test class is examined by itself.
        found: list[Problem] | None = cls.__dict__.get("_found_problems")
        if found is None:
            with cls().open_env() as env:
                found = check_env(env, num_steps=cls.num_steps)
            cls._found_problems = found  # type: ignore[attr-defined]
        return found

    def _expect_none(self, area: str) -> None:
        problems = [p for p in self._problems() if p.code in AREAS[area] and p.code not in self.allowed_codes]
        assert not problems, "\n".join(str(problem) for problem in problems)

    def test_attributes(self) -> None:
        """Every attribute of the contract is there and has its type."""
        self._expect_none("attributes")

    def test_structure(self) -> None:
        """Observations, rewards, dones and extras have the contract's types and shapes, in every step."""
        self._expect_none("structure")

    def test_terms(self) -> None:
        """What ``observation_terms`` and ``action_terms`` tell, if anything, adds up."""
        self._expect_none("terms")

    def test_commands(self) -> None:
        """Commands, if there are any, stay at what they are held at."""
        self._expect_none("commands")

    def test_dtypes(self) -> None:
        """Floats are float32, flags are bool, counters are integers."""
        self._expect_none("dtypes")

    def test_devices(self) -> None:
        """Every tensor is on ``env.device``."""
        self._expect_none("devices")

    def test_buffers(self) -> None:
        """What was returned, and what was handed in, is not written to afterwards."""
        self._expect_none("buffers")

    def test_get_observations(self) -> None:
        """``get_observations`` changes nothing and agrees with ``step``."""
        self._expect_none("get_observations")

    def test_resets(self) -> None:
        """Environments that end are reset in the same step."""
        self._expect_none("resets")

    def test_episode_length(self) -> None:
        """``episode_length_buf`` counts, can be assigned, and is what the time limit looks at."""
        self._expect_none("episode_length")

    def test_time_outs(self) -> None:
        """``time_outs`` marks the time limit and nothing else."""
        self._expect_none("time_outs")

    def test_final_obs(self) -> None:
        """``final_obs``, where given, is complete."""
        self._expect_none("final_obs")

    def test_finite(self) -> None:
        """No NaN and no infinity anywhere."""
        self._expect_none("finite")

    def test_log(self) -> None:
        """``log`` belongs to its step."""
        self._expect_none("log")

    def test_reset_envs(self) -> None:
        """``reset_envs`` begins new episodes in the environments it is given, and leaves the others alone."""
        self._expect_none("reset_envs")

    def test_state(self) -> None:
        """``load_state_dict`` continues bit for bit, where there is a state."""
        self._expect_none("state")

    def test_render(self) -> None:
        """``render`` returns an RGB array or None."""
        with self.open_env() as env:
            env.step(torch.zeros(env.num_envs, env.num_actions, device=env.device))
            frame = env.render()
        if frame is not None:
            assert frame.ndim == 3, f"render() returned shape {frame.shape}, expected (height, width, 3)"
            assert frame.shape[2] == 3, f"render() returned shape {frame.shape}, expected (height, width, 3)"
            assert frame.dtype.name == "uint8", f"render() returned {frame.dtype}, expected uint8"

    def test_close_twice(self) -> None:
        """``close`` can be called again."""
        with self.open_env() as env:
            env.close()
            env.close()
