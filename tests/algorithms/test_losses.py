"""The losses of PPO and its learning-rate rule, worked out by hand."""

import math

import pytest
import torch

from sim_rl_plugin.algorithms.losses import ROUNDING_KL, adapted_learning_rate, surrogate_loss, value_loss


def test_surrogate_clips_gains_and_not_losses():
    # Ratios 1.5 and 0.5 with clip 0.2, advantages +1 and +1:
    # max(-1.5, -1.2) = -1.2 (the gain is clipped), max(-0.5, -0.8) = -0.5 (the loss is not); mean -0.85.
    log_ratio = torch.tensor([math.log(1.5), math.log(0.5)])
    loss = surrogate_loss(log_ratio, torch.zeros(2), torch.ones(2), clip_param=0.2)
    assert loss.item() == pytest.approx(-0.85)
    # Advantages -1 and -1: max(1.5, 1.2) = 1.5, max(0.5, 0.8) = 0.8; mean 1.15.
    loss = surrogate_loss(log_ratio, torch.zeros(2), -torch.ones(2), clip_param=0.2)
    assert loss.item() == pytest.approx(1.15)


def test_surrogate_gradient_vanishes_beyond_the_clip():
    log_prob = torch.tensor([math.log(1.5)], requires_grad=True)
    surrogate_loss(log_prob, torch.zeros(1), torch.ones(1), 0.2).backward()
    assert log_prob.grad is not None
    assert log_prob.grad.item() == 0.0


def test_value_loss_takes_the_larger_error():
    # value 2, before 1, return 0, clip 0.5: plain (2 - 0)^2 = 4; clipped value 1.5, 1.5^2 = 2.25; max 4.
    # value 2, before 1, return 3, clip 0.5: plain (2 - 3)^2 = 1; clipped value 1.5, (1.5 - 3)^2 = 2.25; max 2.25.
    values, before, returns = (torch.tensor([[a], [b]]) for a, b in ((2.0, 2.0), (1.0, 1.0), (0.0, 3.0)))
    assert value_loss(values, before, returns, 0.5).item() == pytest.approx((4 + 2.25) / 2)
    assert value_loss(values, before, returns, None).item() == pytest.approx((4 + 1) / 2)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.021, 1 / 1.5), (0.02, 1.0), (0.01, 1.0), (0.005, 1.0), (0.0049, 1.5), (0.0, 1.0), (1e-14, 1.0)],
)
def test_learning_rate_follows_the_kl_divergence(kl: float, factor: float):
    rate = adapted_learning_rate(torch.tensor(1e-3, dtype=torch.float64), torch.tensor(kl, dtype=torch.float64), 0.01)
    assert rate.item() == pytest.approx(1e-3 * factor, rel=1e-12)


def test_rounding_does_not_raise_the_learning_rate():
    """The trap: a KL that is rounding alone must not count as a policy that moves too little."""
    assert ROUNDING_KL > 1e-14
    for rounding in (1e-16, 1e-14, 1e-10):
        rate = adapted_learning_rate(torch.tensor(1e-3), torch.tensor(rounding), 0.01)
        assert rate.item() == pytest.approx(1e-3)


def test_learning_rate_stays_in_its_range():
    assert adapted_learning_rate(torch.tensor(1.1e-5), torch.tensor(1.0), 0.01).item() == pytest.approx(1e-5)
    assert adapted_learning_rate(torch.tensor(9e-3), torch.tensor(1e-4), 0.01).item() == pytest.approx(1e-2)
