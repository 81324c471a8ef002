"""Ages of episodes."""

from __future__ import annotations

import torch

from sim_rl_plugin.env.vec_env import VecEnv


def spread_episode_ends(env: VecEnv) -> None:
    """Give episodes random ages, so that those with a time limit do not end all at once."""
    ages = env.episode_length_buf
    if isinstance(env.max_episode_length, torch.Tensor):
        limits = env.max_episode_length.to(ages.device)
        env.episode_length_buf = (torch.rand(ages.shape, device=ages.device) * limits).to(ages.dtype)
    else:
        env.episode_length_buf = torch.randint_like(ages, high=int(env.max_episode_length))
