"""Returns and advantages of a rollout.

Legend of shapes: ``t`` steps, ``n`` environments.
"""

from __future__ import annotations

import torch

from sim_rl_plugin import distributed


def generalized_advantage_estimation(
    rewards_tn: torch.Tensor,
    dones_tn: torch.Tensor,
    values_tn: torch.Tensor,
    last_values_n: torch.Tensor,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """Return the targets of the critic: generalised advantages plus values.

    Advantages follow Schulman et al. 2016 (arXiv:1506.02438), equation 16: with
    ``delta_t = r_t + gamma * V(s_t+1) - V(s_t)``, ``A_t = delta_t + gamma * lam * A_t+1``, both
    without what follows when the episode ends at ``t``.

    Args:
        rewards_tn: ``(t, n, 1)``, with the value of what a time-out cut off already added.
        dones_tn: ``(t, n, 1)``, non-zero where the episode ended with that step.
        values_tn: ``(t, n, 1)``, values of the observations before each step.
        last_values_n: ``(n, 1)``, values of the observations after the last step.
        gamma: Discount per step.
        lam: Weight of longer estimates, from 0 (one step) to 1 (Monte Carlo).

    Returns:
        Returns ``(t, n, 1)``; subtract the values for the advantages.
    """
    continues_tn = 1.0 - dones_tn.to(values_tn.dtype)
    next_values_tn = torch.cat((values_tn[1:], last_values_n.unsqueeze(0)))
    # Same order of operations as rsl_rl's loop, so that results differ by rounding at the most.
    advantages_tn = torch.mul(continues_tn, gamma).mul_(next_values_tn).add_(rewards_tn).sub_(values_tn)
    decay_tn = continues_tn.mul_(gamma * lam)
    for step in range(rewards_tn.shape[0] - 2, -1, -1):
        advantages_tn[step].addcmul_(decay_tn[step], advantages_tn[step + 1])
    return advantages_tn.add_(values_tn)


def leave_out(advantages_tn: torch.Tensor, skipped_tn: torch.Tensor, over_all_ranks: bool = False) -> torch.Tensor:
    """Return advantages ``(t, n, 1)`` in which steps that did not take place have the mean of all others.

    Normalisation turns it into 0, and it shifts the mean of nothing else.
    """
    taken_tn = (~skipped_tn).to(advantages_tn.dtype)
    mean = (advantages_tn * taken_tn).sum() / taken_tn.sum().clamp(min=1.0)
    if over_all_ranks:
        _, mean, _ = distributed.merged_moments(taken_tn.sum(), mean, torch.zeros_like(mean))
    return torch.where(skipped_tn, mean, advantages_tn)


def normalize(advantages: torch.Tensor, over_all_ranks: bool = False) -> torch.Tensor:
    """Return advantages with mean 0 and standard deviation 1 over all entries, or over those of all ranks."""
    if over_all_ranks:
        count, mean, squares = distributed.moments(advantages.reshape(-1))
        return (advantages - mean) / ((squares / (count - 1)).sqrt() + 1e-8)
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
