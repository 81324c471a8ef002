"""Distillation's truncated back-propagation through time, worked out by hand and compared with autograd."""

import pytest
import torch
from small_configs import GRU, MLP, distillation_cfg
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.algorithms import Distillation
from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.storage import RolloutStorage
from sim_rl_plugin.testing import PointEnv

ONE = TensorDict({"x": torch.ones(1, 1)}, batch_size=[1])


class Accumulator(nn.Module):
    """The smallest memory: ``h = w h + x`` with ``w = 0.5``, and the action is ``h``."""

    is_recurrent = True

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))
        self.h = None

    def forward(self, obs, masks=None, hidden_state=None, stochastic_output=False):
        self.h = (0.0 if self.h is None else self.w * self.h) + obs["x"]
        return self.h

    def reset(self, dones=None, hidden_state=None):
        if dones is None:
            self.h = hidden_state
        elif self.h is not None:
            self.h = torch.where(dones.view(-1, 1) > 0, 0.0, self.h)

    def get_hidden_state(self):
        return self.h

    def detach_hidden_state(self, dones=None):
        if self.h is not None:
            self.h = self.h.detach() if dones is None else torch.where(dones.view(-1, 1) > 0, self.h.detach(), self.h)

    def update_normalization(self, obs):
        pass


class Zero(Accumulator):
    """A teacher whose action is 0, so that the loss of a step is ``h^2``."""

    def forward(self, obs, masks=None, hidden_state=None, stochastic_output=False):
        return torch.zeros(1, 1)


def accumulator(dones: list[int], **settings) -> Distillation:
    """Return a student of w = 0.5 after a rollout of ones, which learns with steps of 0.1 times the gradient."""
    storage = RolloutStorage("distillation", 1, len(dones), ONE, [1])
    settings = {"gradient_length": 2, "learning_rate": 0.1, "optimizer": "sgd", **settings}
    algorithm = Distillation(Accumulator(), Zero(), storage, **settings)
    roll(algorithm, dones)
    return algorithm


def roll(algorithm: Distillation, dones: list[int]) -> None:
    for done in dones:
        algorithm.act(ONE)
        algorithm.process_env_step(ONE, torch.zeros(1), torch.tensor([done]), {})


def test_two_windows_by_hand():
    algorithm = accumulator([0, 0, 0, 0])
    losses = algorithm.update()
    # h = 1, 1.5; dh/dw = 0, 1: the gradient is 2 * 1.5 * 1 = 3, and w = 0.5 - 0.3 = 0.2.
    # From h = 1.5 without its history: h = 1.3, 1.26; dh/dw = 1.5, 1.3 + 0.2 * 1.5 = 1.6: the gradient is
    # 2 * 1.3 * 1.5 + 2 * 1.26 * 1.6 = 7.932, and w = 0.2 - 0.7932.
    assert algorithm.student.w.item() == pytest.approx(-0.5932)
    assert losses["behavior"] == pytest.approx((1.0 + 2.25 + 1.69 + 1.5876) / 4)


def test_the_memory_and_its_gradient_end_with_the_episode():
    algorithm = accumulator([1, 0, 0, 0])
    algorithm.update()
    # h = 1 and, anew, 1: no gradient. Then h = 1.5, 1.75; dh/dw = 1, 1.5 + 0.5 * 1 = 2; 2 * 1.5 + 2 * 1.75 * 2 = 10.
    assert algorithm.student.w.item() == pytest.approx(-0.5)


def test_a_window_that_straddles_epochs():
    algorithm = accumulator([0, 0, 0], num_learning_epochs=2)
    losses = algorithm.update()
    # First window as above: w = 0.2. The second is the third step (h = 1.3, dh/dw = 1.5) and, from the memory at
    # the start of the rollout, the first (h = 1, 0): 3.9, w = -0.19. The third: h = 0.81, 0.8461;
    # dh/dw = 1, 0.81 - 0.19 = 0.62; 1.62 + 1.049164 = 2.669164.
    assert algorithm.student.w.item() == pytest.approx(-0.4569164)
    assert losses["behavior"] == pytest.approx((1.0 + 2.25 + 1.69 + 1.0 + 0.6561 + 0.8461**2) / 6)


def test_the_next_rollout_goes_on_from_the_memory_of_the_last():
    algorithm = accumulator([0, 0], learning_rate=0.0)
    algorithm.update()
    roll(algorithm, [0, 0])
    # h = 1.75, 1.875, from 1.5, whose own history is cut: dh/dw = 1.5, 1.75 + 0.75 = 2.5.
    algorithm.learning_rate = 0.1
    algorithm.update()
    assert algorithm.student.w.item() == pytest.approx(0.5 - 0.1 * (2 * 1.75 * 1.5 + 2 * 1.875 * 2.5))


def test_the_last_steps_that_would_give_no_gradient_are_warned_of():
    with pytest.warns(UserWarning, match="the last 1 of the 3 steps of an update .* 2 does not divide 3"):
        algorithm = accumulator([0, 0, 0])
    algorithm.update()
    assert algorithm.student.w.item() == pytest.approx(0.2)


def test_the_gradient_is_limited():
    algorithm = accumulator([0, 0], max_grad_norm=0.5)
    algorithm.update()
    assert algorithm.student.w.item() == pytest.approx(0.5 - 0.1 * 0.5)


def played(student: dict, seed: int = 0, **settings) -> Distillation:
    torch.manual_seed(seed)
    env = PointEnv(num_envs=4, max_episode_length=5, terminate_at=None)
    env.episode_length_buf = torch.tensor([0, 1, 2, 3])  # episodes end in the midst of windows
    algorithm = Distillation.construct_algorithm(
        env.get_observations(), env, distillation_cfg(student, **settings), "cpu"
    )
    obs = env.get_observations()
    for _ in range(8):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    return algorithm


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_the_gradient_is_autograds_through_exactly_gradient_length_steps(kind: str, loss: str):
    algorithm = played({**GRU, "rnn_type": kind}, loss_type=loss)
    student, storage = algorithm.student, algorithm.storage
    found = []
    algorithm.optimizer.step = lambda: found.append([parameter.grad.clone() for parameter in student.rnn.parameters()])
    observations = storage.observations.clone()
    labels, dones = storage.privileged_actions.clone(), storage.dones.clone()
    assert dones[1:3].any()
    algorithm.update()
    student.obs_normalizer = type(student.obs_normalizer)(2)  # the statistics before the update
    student.reset()
    function = {"mse": nn.functional.mse_loss, "huber": nn.functional.huber_loss}[loss]
    expected = []
    for start in (0, 4):
        student.detach_hidden_state()
        losses = []
        for index in range(start, start + 4):
            losses.append(function(student(observations[index]), labels[index]))
            student.reset(dones[index].view(-1))
        expected.append(torch.autograd.grad(sum(losses), list(student.rnn.parameters())))
    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, list(theirs))


class PerStep(MLPModel):
    """The same model that does not say that its samples are independent."""

    is_sample_wise = False


def test_steps_of_a_model_without_memory_may_be_merged():
    merged = played(MLP, num_learning_epochs=2, gradient_length=5)
    one_by_one = played({**MLP, "class_name": PerStep}, num_learning_epochs=2, gradient_length=5)
    assert merged.update()["behavior"] == pytest.approx(one_by_one.update()["behavior"], rel=1e-5)
    for name, value in merged.student.state_dict().items():
        torch.testing.assert_close(one_by_one.student.state_dict()[name], value, rtol=1e-4, atol=1e-6)
