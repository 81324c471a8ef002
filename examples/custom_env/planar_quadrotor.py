"""A planar quadrotor in plain torch: a batched environment that knows nothing of sim-rl.

Legend of shapes: ``n`` environments.
"""

import torch

STEP_S = 0.04
GRAVITY = 9.81


class PlanarQuadrotor:
    """Fly to the origin and hover. Two rotors move a rigid body in a vertical plane."""

    def __init__(self, num_envs: int = 512, device: str = "cpu", seed: int = 0) -> None:
        self.num_envs = num_envs
        self.num_actions = 2  # thrust of the left and the right rotor; 0 hovers
        self.max_episode_length = 150  # control steps, 6 s
        self.device = device
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=device)
        self.generator = torch.Generator().manual_seed(seed)
        self.pose_n = self._starts()  # x (m), z (m), pitch (rad)
        self.velocity_n = torch.zeros(num_envs, 3, device=device)

    def _starts(self) -> torch.Tensor:
        span = torch.tensor([1.5, 1.5, 0.3])
        return ((2.0 * torch.rand(self.num_envs, 3, generator=self.generator) - 1.0) * span).to(self.device)

    def get_observations(self) -> torch.Tensor:
        """Return pose and velocity, ``(n, 6)``."""
        return torch.cat((self.pose_n, self.velocity_n), dim=-1)

    def step(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        """Fly for 40 ms, then put those whose episode ended back to a new start."""
        left_n, right_n = (0.5 * GRAVITY * (1.0 + 0.5 * actions.clamp(-1.0, 1.0))).unbind(dim=-1)
        thrust_n, pitch_n = left_n + right_n, self.pose_n[:, 2]
        acceleration_n = torch.stack(
            (-thrust_n * pitch_n.sin(), thrust_n * pitch_n.cos() - GRAVITY, 4.0 * (right_n - left_n)), dim=-1
        )
        self.velocity_n = self.velocity_n + STEP_S * acceleration_n
        self.pose_n = self.pose_n + STEP_S * self.velocity_n
        self.episode_length_buf = self.episode_length_buf + 1

        distance_n = self.pose_n[:, :2].norm(dim=-1)
        rewards_n = torch.exp(-2.0 * distance_n) - 0.05 * self.velocity_n.square().mean(dim=-1).clamp(max=10.0)
        lost_n = (distance_n > 4.0) | (self.pose_n[:, 2].abs() > 1.5)
        time_outs_n = (self.episode_length_buf >= self.max_episode_length) & ~lost_n
        dones_n = lost_n | time_outs_n
        extras = {"time_outs": time_outs_n, "log": {"distance": distance_n.mean()}}

        final_obs = self.get_observations()
        self.pose_n = torch.where(dones_n.unsqueeze(-1), self._starts(), self.pose_n)
        self.velocity_n = self.velocity_n.masked_fill(dones_n.unsqueeze(-1), 0.0)
        self.episode_length_buf = self.episode_length_buf.masked_fill(dones_n, 0)
        return self.get_observations(), rewards_n, dones_n, {**extras, "final_obs": final_obs}
