"""Returns and advantages, worked out by hand."""

import pytest
import torch

from sim_rl_plugin.algorithms.returns import generalized_advantage_estimation, normalize


def column(*values: float) -> torch.Tensor:
    """One environment's values over time, (t, 1, 1)."""
    return torch.tensor(values).view(-1, 1, 1)


def test_three_steps_by_hand():
    # gamma 0.5, lam 0.5, so gamma * lam = 0.25; rewards 1, 2, 3; values 4, 5, 6; then 7.
    # delta_2 = 3 + 0.5 * 7 - 6 = 0.5          A_2 = 0.5
    # delta_1 = 2 + 0.5 * 6 - 5 = 0            A_1 = 0 + 0.25 * 0.5 = 0.125
    # delta_0 = 1 + 0.5 * 5 - 4 = -0.5         A_0 = -0.5 + 0.25 * 0.125 = -0.46875
    returns = generalized_advantage_estimation(
        column(1, 2, 3), column(0, 0, 0), column(4, 5, 6), torch.tensor([[7.0]]), gamma=0.5, lam=0.5
    )
    torch.testing.assert_close(returns, column(4 - 0.46875, 5 + 0.125, 6 + 0.5))


def test_an_episode_that_ends_takes_nothing_from_the_next():
    # As above, but the episode ends with step 1:
    # delta_1 = 2 - 5 = -3                     A_1 = -3, whatever follows
    # delta_0 = -0.5                           A_0 = -0.5 + 0.25 * -3 = -1.25
    returns = generalized_advantage_estimation(
        column(1, 2, 3), column(0, 1, 0), column(4, 5, 6), torch.tensor([[7.0]]), gamma=0.5, lam=0.5
    )
    torch.testing.assert_close(returns, column(4 - 1.25, 5 - 3, 6 + 0.5))


def test_lam_one_is_the_discounted_sum():
    rewards = torch.rand(6, 3, 1)
    last = torch.rand(3, 1)
    returns = generalized_advantage_estimation(rewards, torch.zeros(6, 3, 1), torch.rand(6, 3, 1), last, 0.9, 1.0)
    expected = last
    for step in reversed(range(6)):
        expected = rewards[step] + 0.9 * expected
        torch.testing.assert_close(returns[step], expected)


def test_dones_may_be_of_any_dtype():
    arguments = (column(4, 5, 6), torch.tensor([[7.0]]), 0.5, 0.5)
    reference = generalized_advantage_estimation(column(1, 2, 3), column(0, 1, 0), *arguments)
    for dtype in (torch.bool, torch.uint8, torch.int64):
        dones = column(0, 1, 0).to(dtype)
        assert torch.equal(generalized_advantage_estimation(column(1, 2, 3), dones, *arguments), reference)


def test_inputs_are_left_alone():
    inputs = [torch.rand(4, 2, 1), torch.zeros(4, 2, 1), torch.rand(4, 2, 1), torch.rand(2, 1)]
    copies = [tensor.clone() for tensor in inputs]
    generalized_advantage_estimation(*inputs, gamma=0.9, lam=0.9)
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)


def test_normalize_has_mean_zero_and_deviation_one():
    normalized = normalize(torch.tensor([1.0, 2.0, 3.0]))
    assert normalized.tolist() == pytest.approx([-1.0, 0.0, 1.0])
