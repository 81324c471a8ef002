"""mjlab environments made by hand, small and with short episodes."""

from __future__ import annotations

from typing import Any

CARTPOLE = "Mjlab-Cartpole-Swingup"
GO1 = "Mjlab-Velocity-Flat-Unitree-Go1"


def make_env(task: str, num_envs: int = 4, seed: int = 3, episode_length_s: float = 1.0, **changes: Any) -> Any:
    """Return a ``ManagerBasedRlEnv``; ``changes`` are fields of its configuration."""
    import mjlab.tasks  # noqa: F401
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.registry import load_env_cfg

    cfg = load_env_cfg(task)
    cfg.scene.num_envs = num_envs
    cfg.seed = seed
    cfg.episode_length_s = episode_length_s
    for name, value in changes.items():
        setattr(cfg, name, value)
    return ManagerBasedRlEnv(cfg, device="cpu")


def actions_for(env: Any, num_steps: int) -> Any:
    """Return random actions ``(num_steps, num_envs, num_actions)`` that leave the global generator alone."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_steps, env.num_envs, env.action_manager.total_action_dim, generator=generator)
