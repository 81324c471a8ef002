"""What is counted while a policy is watched."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import PointEnv
from sim_rl_plugin.viewer.page import with_margins
from sim_rl_plugin.viewer.playback import Episode, Playback


def _stand(obs):
    return torch.zeros(obs.batch_size[0], 2)


class Counting(PointEnv):
    """The reward of an environment is its index plus one, so that sums are known."""

    def step(self, actions):
        obs, _, dones, extras = super().step(actions)
        return obs, torch.arange(1.0, self.num_envs + 1), dones, extras


def test_returns_and_lengths_of_whole_episodes():
    playback = Playback(_stand, Counting(num_envs=2, max_episode_length=3), shown=1)
    for _ in range(2):
        playback.step()
    # The second environment earns 2 a step.
    assert (playback.episode, list(playback.episodes)) == (Episode(4.0, 2), [])
    for _ in range(2):
        playback.step()
    assert list(playback.episodes) == [Episode(3.0, 3), Episode(6.0, 3)]
    assert playback.episode == Episode(2.0, 1)
    assert list(playback.rewards) == [(1, 2.0), (2, 2.0), (3, 2.0), (4, 2.0)]
    assert playback.num_steps == 4


def test_a_step_that_only_resets_is_no_step():
    class Late(Counting):
        def step(self, actions):
            obs, rewards, dones, extras = super().step(actions)
            skipped = torch.tensor([self.calls % 2 == 1, False])
            self.calls += 1
            return obs, rewards * ~skipped, dones | skipped, {**extras, "skipped": skipped}

        calls = 0

    playback = Playback(_stand, Late(num_envs=2, max_episode_length=100))
    for _ in range(4):
        playback.step()
    assert playback.episode == Episode(2.0, 2)
    assert list(playback.rewards) == [(1, 1.0), (3, 1.0)]
    assert not playback.episodes


@pytest.mark.parametrize("by_hand", [True, False])
def test_reset_begins_new_episodes_everywhere(by_hand):
    class Points(Counting):
        def reset_envs(self, env_ids):
            return by_hand and super().reset_envs(env_ids)

    env = Points(num_envs=3, max_episode_length=10)
    playback = Playback(_stand, env)
    for _ in range(4):
        playback.step()
    before = env.position.clone()
    playback.reset()
    assert env.episode_length_buf.tolist() == [0, 0, 0]
    assert (env.position != before).any(dim=-1).all()
    assert playback.episode == Episode(0.0, 0)
    # What was cut off is no episode.
    assert not playback.episodes
    playback.step()
    assert playback.episode == Episode(1.0, 1)


def test_a_recurrent_policy_forgets():
    told = []
    policy = SimpleNamespace(is_recurrent=True, reset=lambda dones: told.append(dones.tolist()))

    class Recurrent:
        is_recurrent = True
        reset = staticmethod(policy.reset)

        def __call__(self, obs):
            return _stand(obs)

    playback = Playback(Recurrent(), PointEnv(num_envs=2, max_episode_length=2))
    playback.step()
    playback.step()
    playback.reset()
    assert told == [[False, False], [True, True], [True, True]]


def test_the_policy_sees_the_observations_of_the_new_episode():
    seen = []

    def look(obs):
        seen.append(obs["policy"].clone())
        return _stand(obs)

    env = PointEnv(num_envs=2)
    playback = Playback(look, env)
    playback.step()
    playback.reset()
    expected = env.position.clone()
    playback.step()
    assert torch.equal(seen[-1], expected)


def test_which_environments_can_be_shown():
    playback = Playback(_stand, PointEnv(num_envs=3))
    first = playback.frame()
    playback.show(2)
    assert (playback.frame() != first).any()
    with pytest.raises(UserError, match="environment 3 cannot be shown: there are 3, counted from 0"):
        playback.show(3)

    class Single(PointEnv):
        def show_env(self, index):
            return index == 0

    with pytest.raises(UserError, match="Single draws its environment 0 only: leave --num-envs out"):
        Playback(_stand, Single(num_envs=2), shown=1)


def test_an_environment_without_pictures():
    class Blind(PointEnv):
        def render(self):
            return None

    assert Playback(_stand, Blind()).frame() is None


def test_a_picture_keeps_its_proportions():
    frame = np.full((240, 320, 3), 255, dtype=np.uint8)
    # 240 * 2 = 480 wide: 80 more on either side.
    wide = with_margins(frame, 2.0)
    assert wide.shape == (240, 480, 3)
    assert (wide[:, 80:400] == 255).all() and (wide[:, :80] == 32).all() and (wide[:, 400:] == 32).all()
    # 320 / 0.5 = 640 high: 200 more above and below.
    high = with_margins(frame, 0.5)
    assert high.shape == (640, 320, 3)
    assert (high[200:440] == 255).all() and (high[:200] == 32).all()
    # 32 pixels become 4 * 32 = 128.
    assert with_margins(frame[:32, :32], 1.0).shape == (128, 128, 3)
