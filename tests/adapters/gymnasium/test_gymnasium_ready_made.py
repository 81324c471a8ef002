"""Vector environments that somebody has made: every mode of automatic resets, wrapped and bare, gives the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from small_configs import ppo_cfg

from sim_rl_plugin.env import VecEnv, as_vec_env
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv, VecEnvContract

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, TransformObservation
from sim_rl_gymnasium.vec_env import GymnasiumVecEnv

MODES = list(AutoresetMode)
LIMIT = 12


class Walk(gymnasium.Env):
    """A point on a line that the action pushes; terminates at 1, and has a limit of its own when registered."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.position, self.age = self.np_random.uniform(-0.5, 0.5), 0
        return self._observation(), {}

    def step(self, action: np.ndarray):
        self.position += 0.2 * float(action[0])
        self.age += 1
        terminated = abs(self.position) > 1.0
        return self._observation(), 2.0 - abs(self.position), terminated, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.position, self.age / LIMIT])


class DictWalk(Walk):
    """The same in two groups, one of them an image."""

    observation_space = gymnasium.spaces.Dict(
        {
            "policy": Walk.observation_space,
            "camera": gymnasium.spaces.Box(0, 255, (4, 5, 3), np.uint8),
        }
    )

    def _observation(self) -> Any:
        image = np.zeros((4, 5, 3), np.uint8)
        image[:, int(np.clip(2.0 * self.position + 2.5, 0, 4))] = 1 + self.age
        return {"policy": super()._observation(), "camera": image}


@pytest.fixture(autouse=True, scope="module")
def _tasks():
    gymnasium.register("sim_rl_test/Walk-v0", Walk, max_episode_steps=LIMIT)
    gymnasium.register("sim_rl_test/DictWalk-v0", DictWalk, max_episode_steps=LIMIT)
    yield
    del gymnasium.registry["sim_rl_test/Walk-v0"], gymnasium.registry["sim_rl_test/DictWalk-v0"]


def makers(task: str = "Walk", num_envs: int = 4) -> list[Callable[[], gymnasium.Env]]:
    return [partial(gymnasium.make, f"sim_rl_test/{task}-v0")] * num_envs


def sync(mode: AutoresetMode, **options: Any) -> VectorEnv:
    return SyncVectorEnv(makers(), autoreset_mode=mode, **options)


def in_processes(mode: AutoresetMode, **options: Any) -> VectorEnv:
    return AsyncVectorEnv(makers(), autoreset_mode=mode, **options)


def shifted(mode: AutoresetMode) -> VectorEnv:
    """A wrapper that knows partial resets, though not that it does."""
    return TransformObservation(sync(mode), lambda obs: obs + 1.0)


class Foreign(VectorEnv):
    """Batched physics of a third party: no environments within, and a reset is a reset of all."""

    def __init__(self, mode: AutoresetMode, num_envs: int = 4, final_obs: str = "objects", seed: int = 0) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = Walk.observation_space
        self.single_action_space = Walk.action_space
        self.spec = gymnasium.spec("sim_rl_test/Walk-v0")
        self._mode, self._final_obs = mode, final_obs
        self._random = np.random.default_rng(seed)
        self._resetting = np.zeros(num_envs, dtype=bool)
        self.num_resets = 0

    def _restart(self, rows: np.ndarray) -> None:
        self.position[rows] = self._random.uniform(-0.5, 0.5, self.num_envs)[rows]
        self.age[rows] = 0

    def reset(self, *, seed: Any = None, options: Any = None):
        self.num_resets += 1
        self.position, self.age = np.zeros(self.num_envs), np.zeros(self.num_envs)
        self._restart(np.ones(self.num_envs, dtype=bool))
        return self._observations(), {}

    def step(self, actions: np.ndarray):
        skipped = self._resetting if self._mode is AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, dtype=bool)
        self.position = self.position + np.where(skipped, 0.0, 0.2 * actions[:, 0])
        self.age = self.age + ~skipped
        self._restart(skipped)
        terminated = (np.abs(self.position) > 1.0) & ~skipped
        truncated = (self.age >= LIMIT) & ~terminated & ~skipped
        rewards = np.where(skipped, 0.0, 2.0 - np.abs(self.position))
        self._resetting = terminated | truncated
        obs, infos = self._observations(), {}
        if self._mode is AutoresetMode.SAME_STEP and self._resetting.any():
            infos = self._final_infos(obs)
            self._restart(self._resetting)
            obs = self._observations()
        return obs, rewards, terminated, truncated, infos

    def _final_infos(self, obs: np.ndarray) -> dict[str, Any]:
        if self._final_obs == "none":
            return {}
        if self._final_obs == "batch":
            return {"final_obs": np.where(self._resetting[:, None], obs, np.nan), "_final_obs": self._resetting}
        rows = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(self._resetting):
            rows[index] = obs[index]
        return {"final_obs": rows, "_final_obs": self._resetting}

    def _observations(self) -> np.ndarray:
        return np.stack([self.position, self.age / LIMIT], axis=-1)


class RunsInTorch(Foreign):
    """The same with tensors, as simulators on a GPU have them."""

    def step(self, actions: np.ndarray):
        *arrays, infos = super().step(actions)
        return *map(torch.from_numpy, arrays), {key: _tensor(value) for key, value in infos.items()}

    def reset(self, **options: Any):
        obs, infos = super().reset(**options)
        return torch.from_numpy(obs), infos


def _tensor(value: np.ndarray) -> Any:
    return value if value.dtype == object else torch.from_numpy(value)


CASES: dict[str, Callable[[], VectorEnv]] = {
    **{f"sync-{mode.name}": partial(sync, mode) for mode in MODES},
    **{f"sync-without-copies-{mode.name}": partial(sync, mode, copy=False) for mode in MODES},
    **{f"async-{mode.name}": partial(in_processes, mode) for mode in MODES},
    **{f"async-pipes-{mode.name}": partial(in_processes, mode, shared_memory=False) for mode in MODES},
    **{f"wrapped-{mode.name}": partial(shifted, mode) for mode in MODES if mode is not AutoresetMode.SAME_STEP},
}
COUNTS_ITS_OWN_TIME = "async-pipes-NEXT_STEP"


@pytest.mark.parametrize("case", CASES)
def test_every_mode_gives_what_stepping_by_hand_gives(case: str):
    """Each environment by itself, with Gymnasium's documented loop, is the answer."""
    num_steps, seed = 120, 3
    vector_env = CASES[case]()
    vector_env.reset(seed=seed)
    env = GymnasiumVecEnv(vector_env, max_episode_length=LIMIT, seed=seed)
    shift = 1.0 if case.startswith("wrapped") else 0.0
    # A wrapped one was tried out with a second reset of environment 0.
    tried = case.startswith("wrapped")
    hands = [gymnasium.make("sim_rl_test/Walk-v0") for _ in range(4)]
    starts = [hand.reset(seed=seed + index)[0] for index, hand in enumerate(hands)]
    starts[0] = hands[0].reset()[0] if tried else starts[0]
    assert env.counts_time == (case != COUNTS_ITS_OWN_TIME)
    try:
        compare(env.get_observations()["policy"], starts, shift)
        generator = torch.Generator().manual_seed(0)
        terminations = time_outs = 0
        resetting = [False] * 4
        for _ in range(num_steps):
            actions = 2.0 * torch.randn(4, 1, generator=generator)
            obs, rewards, dones, extras = env.step(actions)
            expected = []
            for index, hand in enumerate(hands):
                if resetting[index]:
                    expected.append((hand.reset()[0], 0.0, False, False, True))
                    continue
                found, reward, terminated, truncated, _ = hand.step(np.clip(actions[index].numpy(), -1.0, 1.0))
                expected.append((found, reward, terminated, truncated and not terminated, False))
            ends = [terminated or truncated for _, _, terminated, truncated, _ in expected]
            if any(ends):
                final = [expected[index][0] for index in range(4) if ends[index]]
                compare(extras["final_obs"]["policy"][ends], final, shift)
            next_obs = [row[0] for row in expected]
            if case == COUNTS_ITS_OWN_TIME:
                resetting = ends
                assert extras["skipped"].tolist() == [row[4] for row in expected]
                assert dones.tolist() == [ends[index] or expected[index][4] for index in range(4)]
            else:
                assert "skipped" not in extras
                assert dones.tolist() == ends
                next_obs = [hands[index].reset()[0] if end else next_obs[index] for index, end in enumerate(ends)]
            compare(obs["policy"], next_obs, shift)
            compare(rewards, [row[1] for row in expected])
            assert extras["time_outs"].tolist() == [row[3] for row in expected]
            assert (rewards.dtype, obs["policy"].dtype) == (torch.float32, torch.float32)
            terminations += sum(row[2] for row in expected)
            time_outs += sum(row[3] for row in expected)
        assert terminations >= 4
        assert time_outs >= 4
    finally:
        env.close()


def compare(found: torch.Tensor, expected: list[Any], shift: float = 0.0) -> None:
    torch.testing.assert_close(found, torch.tensor(np.array(expected) + shift, dtype=torch.float32))


@pytest.mark.parametrize("vectorize", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", MODES)
def test_dict_observations_in_every_mode(vectorize: Any, mode: AutoresetMode):
    env = as_vec_env(vectorize(makers("DictWalk"), autoreset_mode=mode))
    env.episode_length_buf = torch.tensor([LIMIT - 1, 0, LIMIT - 2, 0])
    for step in range(1, 4):
        obs, _, dones, extras = env.step(torch.zeros(4, 1))
        assert obs["camera"].shape == (4, 3, 4, 5)
        if dones.any():
            # The age is in the image: as old as the episode at its end, and 1 (age 0) in the new one.
            for row in dones.nonzero().flatten().tolist():
                assert extras["final_obs"]["camera"][row].max() == 1 + step
                assert extras["final_obs"]["camera"].dtype == torch.uint8
                assert obs["camera"][row].max() == 1
                assert extras["final_obs"]["policy"][row, 1] == pytest.approx(step / LIMIT)
    env.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vectorize", [SyncVectorEnv, AsyncVectorEnv])
def test_assigned_ages_are_what_the_limit_looks_at(vectorize: Any, mode: AutoresetMode):
    env = as_vec_env(vectorize(makers(), autoreset_mode=mode))
    env.episode_length_buf = torch.tensor([LIMIT - 1, 0, 0, 0])
    obs, _, dones, extras = env.step(torch.zeros(4, 1))
    assert dones.tolist() == extras["time_outs"].tolist() == [True, False, False, False]
    assert extras["final_obs"]["policy"][0, 1] == pytest.approx(1 / LIMIT)
    assert obs["policy"][:, 1].tolist() == pytest.approx([0.0, *[1 / LIMIT] * 3])
    # And the next step is a real one for all of them.
    obs, rewards, dones, _ = env.step(torch.zeros(4, 1))
    assert not dones.any()
    assert (rewards > 0.4).all()
    assert obs["policy"][:, 1].tolist() == pytest.approx([1 / LIMIT, *[2 / LIMIT] * 3])
    env.close()


class TestSyncNextStep(VecEnvContract):
    def make_env(self) -> VecEnv:
        return as_vec_env(sync(AutoresetMode.NEXT_STEP, copy=False))


class TestSyncSameStep(VecEnvContract):
    def make_env(self) -> VecEnv:
        return as_vec_env(sync(AutoresetMode.SAME_STEP, copy=False))


class TestAsyncSameStep(VecEnvContract):
    def make_env(self) -> VecEnv:
        return as_vec_env(in_processes(AutoresetMode.SAME_STEP))


class TestRealTaskInNextStepMode(VecEnvContract):
    """Gymnasium's own default, made as its documentation says."""

    def make_env(self) -> VecEnv:
        return as_vec_env(gymnasium.make_vec("Hopper-v5", num_envs=6))


class TestForeignSameStep(VecEnvContract):
    # It resets itself when it likes, so its ages cannot be assigned.
    allowed_codes = ("episode-length-not-settable",)

    def make_env(self) -> VecEnv:
        return as_vec_env(Foreign(AutoresetMode.SAME_STEP))


class TestForeignNextStep(VecEnvContract):
    allowed_codes = ("episode-length-not-settable",)

    def make_env(self) -> VecEnv:
        return as_vec_env(Foreign(AutoresetMode.NEXT_STEP))


class TestNormalized(VecEnvContract):
    """Gymnasium's wrapper that refuses to reset single environments."""

    allowed_codes = ("episode-length-not-settable",)

    def make_env(self) -> VecEnv:
        return as_vec_env(NormalizeObservation(gymnasium.make_vec("Pendulum-v1", num_envs=6, max_episode_steps=20)))


@pytest.mark.parametrize("family", [Foreign, RunsInTorch])
@pytest.mark.parametrize("final_obs", ["objects", "batch", "none"])
def test_final_observations_of_others_are_used_in_whichever_form(family: type[Foreign], final_obs: str):
    env = as_vec_env(family(AutoresetMode.SAME_STEP, final_obs=final_obs))
    push = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    dones, age = torch.zeros(4), 0
    while not dones.any():
        obs, _, dones, extras = env.step(push)
        age += 1
    # At most 1.5 away, by 0.2 a step: environment 0 falls off before the limit, the others go on.
    assert dones.tolist() == [True, False, False, False]
    assert obs["policy"][:, 1].tolist() == pytest.approx([0.0, *[age / LIMIT] * 3])
    if final_obs == "none":
        assert "final_obs" not in extras
    else:
        assert extras["final_obs"]["policy"][0, 0] > 1.0
        assert extras["final_obs"]["policy"][0, 1] == pytest.approx(age / LIMIT)
        assert torch.isfinite(extras["final_obs"]["policy"]).all()


def test_an_environment_that_cannot_reset_some_is_never_asked_to():
    inner = Foreign(AutoresetMode.NEXT_STEP)
    env = as_vec_env(inner)
    with pytest.warns(UserWarning, match="cannot reset single environments"):
        env.episode_length_buf = torch.full((4,), LIMIT - 1)
    for _ in range(LIMIT - 1):
        assert not env.step(torch.zeros(4, 1))[2].any()
    _, rewards, dones, extras = env.step(torch.zeros(4, 1))
    assert dones.all() and extras["time_outs"].all() and not extras["skipped"].any()
    assert (rewards > 0).all()
    obs, rewards, dones, extras = env.step(torch.ones(4, 1))
    assert dones.all() and extras["skipped"].all() and not extras["time_outs"].any()
    assert "final_obs" not in extras
    assert (rewards == 0).all() and (obs["policy"][:, 1] == 0).all()
    assert not env.step(torch.zeros(4, 1))[2].any()
    assert inner.num_resets == 1


def test_one_environment_is_a_batch_of_one():
    env = as_vec_env(gymnasium.make("Pendulum-v1"))
    assert (env.num_envs, env.max_episode_length, env.get_observations()["policy"].shape) == (1, 200, (1, 3))
    env.step(torch.zeros(1, 1))
    env.close()


def test_a_batch_by_its_own_rules_is_left_to_its_plugin():
    class Batched(Walk):
        num_envs = 4

    with pytest.raises(UserError, match="Batched is no environment that can be trained on: it has no num_actions"):
        as_vec_env(Batched())


def test_the_limit_is_that_of_the_environments():
    assert as_vec_env(sync(AutoresetMode.DISABLED)).max_episode_length == LIMIT
    made = SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1", max_episode_steps=17)] * 2)
    assert as_vec_env(made).max_episode_length == 17
    assert as_vec_env(gymnasium.make_vec("Pendulum-v1", num_envs=2)).max_episode_length == 200
    assert as_vec_env(Foreign(AutoresetMode.SAME_STEP)).max_episode_length == LIMIT
    with pytest.raises(UserError, match=r"no time limit that could be found.*GymnasiumVecEnv\(env, max_episode_length"):
        as_vec_env(SyncVectorEnv([Walk] * 2))
    assert GymnasiumVecEnv(SyncVectorEnv([Walk] * 2), max_episode_length=9).max_episode_length == 9


def test_what_cannot_be_trained_on_is_one_clear_message():
    silent = Foreign(AutoresetMode.SAME_STEP)
    silent.metadata = {}
    with pytest.raises(UserError, match=r"Foreign.metadata\['autoreset_mode'\] is None, expected one of Auto.*NEXT_"):
        as_vec_env(silent)

    class Stubborn(Foreign):
        def reset(self, *, seed: Any = None, options: Any = None):
            if options:
                raise ValueError("all or none")
            return super().reset(seed=seed)

    with pytest.raises(UserError, match="refuses to reset single environments: all or none"):
        as_vec_env(Stubborn(AutoresetMode.DISABLED))
    with pytest.raises(UserError, match="expected a Box of floats"):
        as_vec_env(gymnasium.make_vec("CartPole-v1", num_envs=2))


@pytest.mark.parametrize("mode", MODES)
def test_the_runner_trains_on_it_as_it_is(mode: AutoresetMode, tmp_path):
    cfg = ppo_cfg() | {"obs_groups": {"actor": ["policy"], "critic": ["policy"]}}
    runner = OnPolicyRunner(sync(mode), cfg, log_dir=str(tmp_path))
    assert isinstance(runner.env, GymnasiumVecEnv)
    runner.learn(2, init_at_random_ep_len=True)
    assert (tmp_path / "model_1.pt").is_file()


def test_the_lesson_of_a_late_reset_is_not_learnt():
    """A critic that learns from the steps of resets takes a worse value for the end of an episode."""
    values = {}
    for told in (True, False):
        torch.manual_seed(0)
        env = as_vec_env(Foreign(AutoresetMode.NEXT_STEP, num_envs=32))
        if not told:
            env = Untold(env)
        cfg = ppo_cfg(gamma=0.0, learning_rate=5e-3, schedule="fixed", num_learning_epochs=10)
        cfg |= {"obs_groups": {"actor": ["policy"], "critic": ["policy"]}}
        runner = OnPolicyRunner(env, cfg)
        runner.learn(10)
        # Age 12 of 12 is only ever seen by the step that is spent on the reset, which earns 0; all others earn 1 to 2.
        obs = env.get_observations()
        obs["policy"] = torch.tensor([[0.0, 1.0]]).repeat(32, 1)
        values[told] = runner.alg.critic(obs).mean().item()
    assert values[True] > 1.2
    assert values[False] < 0.7


class Untold(VecEnv):
    """Hides which steps were spent on resets."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.num_envs, self.num_actions = env.num_envs, env.num_actions
        self.max_episode_length, self.device, self.cfg = env.max_episode_length, env.device, env.cfg
        self.episode_length_buf = env.episode_length_buf

    def get_observations(self):
        return self.env.get_observations()

    def step(self, actions: torch.Tensor):
        obs, rewards, dones, extras = self.env.step(actions)
        skipped = extras.pop("skipped")
        return obs, rewards, dones & ~skipped, extras


def test_nobody_elses_environments_are_recognised():
    from sim_rl_gymnasium.plugin import sim_rl_wrap_env

    assert sim_rl_wrap_env(PointEnv()) is None
    assert sim_rl_wrap_env(object()) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vectorization", [SyncVectorEnv, AsyncVectorEnv])
def test_some_environments_are_reset_by_hand_and_the_others_go_on(vectorization: Any, mode: AutoresetMode) -> None:
    def opened() -> GymnasiumVecEnv:
        return GymnasiumVecEnv(vectorization([Walk] * 3, autoreset_mode=mode), max_episode_length=LIMIT, seed=2)

    env, untouched = opened(), opened()
    try:
        actions = torch.full((3, 1), 0.3)
        for _ in range(2):
            env.step(actions)
            untouched.step(actions)
        assert env.reset_envs(torch.tensor([1]))
        assert env.episode_length_buf.tolist() == [2, 0, 2]
        obs, other = env.get_observations()["policy"], untouched.get_observations()["policy"]
        assert torch.equal(obs[[0, 2]], other[[0, 2]])
        assert float(obs[1, 1]) == 0.0  # its age
        assert abs(float(obs[1, 0])) <= 0.5
        ours, theirs = env.step(actions)[0]["policy"], untouched.step(actions)[0]["policy"]
        assert torch.equal(ours[[0, 2]], theirs[[0, 2]])
        assert float(ours[1, 0]) == pytest.approx(float(obs[1, 0]) + 0.06)
    finally:
        env.close()
        untouched.close()


def test_an_environment_that_resets_all_or_none_says_so() -> None:
    inner = Foreign(AutoresetMode.NEXT_STEP)
    env = as_vec_env(inner)
    before = inner.num_resets
    assert not env.reset_envs(torch.tensor([1]))
    assert inner.num_resets == before
