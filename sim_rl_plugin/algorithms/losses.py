"""The losses of PPO (Schulman et al. 2017, arXiv:1707.06347) and its learning-rate rule.

Legend of shapes: ``b`` samples.
"""

from __future__ import annotations

import torch

ROUNDING_KL = 1e-8
"""KL divergence in nats below which a policy counts as unmoved.

Before the first step of an update the policy is the one that collected the rollout, but a matrix
product rounds differently in a batch of another size, which leaves a KL of about 1e-14 (1e-9 for
actions a hundred deviations wide). Without this floor rounding alone would raise the rate.
"""

SMALLEST_LEARNING_RATE = 1e-5
LARGEST_LEARNING_RATE = 1e-2
LEARNING_RATE_FACTOR = 1.5


def surrogate_loss(
    log_prob_b: torch.Tensor, old_log_prob_b: torch.Tensor, advantages_b: torch.Tensor, clip_param: float
) -> torch.Tensor:
    """Return the clipped surrogate, a scalar to minimise (equation 7 of the paper, negated)."""
    ratio_b = torch.exp(log_prob_b - old_log_prob_b)
    clipped_b = ratio_b.clamp(1.0 - clip_param, 1.0 + clip_param)
    return torch.max(-advantages_b * ratio_b, -advantages_b * clipped_b).mean()


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_param: float | None
) -> torch.Tensor:
    """Return the mean squared error of the critic, a scalar.

    Args:
        values: ``(b, 1)``, with gradient.
        old_values: ``(b, 1)``, as they were in the rollout.
        returns: ``(b, 1)``.
        clip_param: With a number, the larger of this error and that of values which moved by at
            most ``clip_param``, in the unit of the return; with None, the plain error.
    """
    losses = (values - returns).square()
    if clip_param is None:
        return losses.mean()
    clipped = old_values + (values - old_values).clamp(-clip_param, clip_param)
    return torch.max(losses, (clipped - returns).square()).mean()


def adapted_learning_rate(learning_rate: torch.Tensor, kl_mean: torch.Tensor, desired_kl: float) -> torch.Tensor:
    """Return the learning rate that steers the KL divergence towards ``desired_kl``, without a host read.

    rsl_rl's rule: divide by 1.5 above twice the desired KL, multiply below half of it, within
    [1e-5, 1e-2].

    Args:
        learning_rate: Scalar tensor.
        kl_mean: Scalar tensor, mean KL(old || new) in nats.
        desired_kl: In nats.
    """
    lower = (learning_rate / LEARNING_RATE_FACTOR).clamp(min=SMALLEST_LEARNING_RATE)
    higher = (learning_rate * LEARNING_RATE_FACTOR).clamp(max=LARGEST_LEARNING_RATE)
    too_small = (kl_mean < desired_kl / 2.0) & (kl_mean > ROUNDING_KL)
    return torch.where(kl_mean > desired_kl * 2.0, lower, torch.where(too_small, higher, learning_rate))


def adapted_rate(learning_rate: float, kl_mean: float, desired_kl: float) -> float:
    """Return what ``adapted_learning_rate`` does, of numbers."""
    if kl_mean > desired_kl * 2.0:
        return max(learning_rate / LEARNING_RATE_FACTOR, SMALLEST_LEARNING_RATE)
    if ROUNDING_KL < kl_mean < desired_kl / 2.0:
        return min(learning_rate * LEARNING_RATE_FACTOR, LARGEST_LEARNING_RATE)
    return learning_rate
