"""Which episodes count, worked out by hand."""

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.env.clip_actions import ClipActions
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EvaluationResult, evaluate


class Clocks(VecEnv):
    """Environment ``i`` ends after ``lengths[i]`` steps, each worth 1, or after its n-th episode worth n."""

    num_actions = 1
    device = "cpu"
    cfg = {}

    def __init__(self, lengths: list[int], max_episode_length: int = 10) -> None:
        self.num_envs = len(lengths)
        self.max_episode_length = max_episode_length
        self._lengths = torch.tensor(lengths)
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self._episode = torch.ones(self.num_envs)

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self.episode_length_buf.float()[:, None]}, batch_size=[self.num_envs])

    def step(self, actions):
        rewards = self._episode.clone()
        self.episode_length_buf += 1
        dones = self.episode_length_buf == self._lengths
        self.episode_length_buf[dones] = 0
        self._episode[dones] += 1
        return self.get_observations(), rewards, dones, {}


def still(obs: TensorDict) -> torch.Tensor:
    return torch.zeros(obs.batch_size[0], 1)


def test_each_environment_contributes_its_first_episode_however_short_the_others():
    result = evaluate(still, Clocks([2, 10]), 2)
    # The first environment ends five episodes while the second ends one; only its first counts.
    assert result.lengths == (2, 10)
    assert result.returns == (2.0, 10.0)
    assert (result.mean, result.std, result.mean_length) == (6.0, 4.0, 6.0)


def test_more_episodes_than_environments_are_shared_out_beforehand():
    result = evaluate(still, Clocks([2, 3]), 3)
    # Two of the first (2 steps of 1, then 2 steps of 2) and one of the second (3 steps of 1).
    assert result.lengths == (2, 2, 3)
    assert result.returns == (2.0, 4.0, 3.0)


def test_fewer_episodes_than_environments_take_the_first_ones():
    assert evaluate(still, Clocks([5, 3, 2]), 2).lengths == (5, 3)


def test_an_episode_that_does_not_end_is_given_up():
    with pytest.raises(UserError, match="do not end within 12 steps"):
        evaluate(still, Clocks([2, 99]), 2)
    with pytest.raises(UserError, match="one episode at least"):
        evaluate(still, Clocks([2]), 0)


def test_a_recurrent_policy_forgets_at_the_end_of_an_episode():
    class Recurrent:
        is_recurrent = True

        def __init__(self):
            self.resets = []

        def __call__(self, obs):
            return still(obs)

        def reset(self, dones):
            self.resets.append(dones.tolist())

    policy = Recurrent()
    evaluate(policy, Clocks([1, 2]), 2)
    assert policy.resets == [[True, False], [True, True]]


def test_a_result_in_plain_numbers():
    report = EvaluationResult((1.0, 3.0), (4, 6)).to_dict()
    assert report == {
        "episodes": 2,
        "mean": 2.0,
        "std": 1.0,
        "min": 1.0,
        "max": 3.0,
        "mean_episode_length": 5.0,
        "returns": [1.0, 3.0],
        "episode_lengths": [4, 6],
    }


def test_clipping_passes_everything_else_on():
    inner = Clocks([3, 4])
    env = ClipActions(inner, 0.5)
    seen = []
    inner.step = lambda actions: seen.append(actions)
    actions = torch.tensor([[2.0], [-0.2]])
    env.step(actions)
    assert seen[0].flatten().tolist() == pytest.approx([0.5, -0.2])
    assert actions.flatten().tolist() == pytest.approx([2.0, -0.2])
    env.episode_length_buf = torch.tensor([1, 2])
    assert inner.episode_length_buf.tolist() == [1, 2]
    assert (env.num_envs, env.max_episode_length, env.state_dict(), env.render()) == (2, 10, None, None)
    with pytest.raises(AttributeError):
        _ = env.nothing_of_the_kind
