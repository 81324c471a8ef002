"""Swing a pole up from hanging and keep it there: a robot of one's own, start to finish.

The policy sees noisy positions, now and one step ago, and no velocities. The critic, which exists
only in the simulator, also sees the velocities and this cart's true masses and damping (an
asymmetric actor-critic).
"""

from __future__ import annotations

import math

import torch
from sim_rl_mujoco import MujocoTask, State


class CartpoleSwingup(MujocoTask):
    """A cart on a rail with a free pole; one action, the force on the cart."""

    model_path = "cartpole.xml"
    decimation = 4  # 0.005 s of physics per step: 50 Hz control
    episode_length_s = 10.0

    def __init__(self, *, noise: float = 0.002, randomisation: float = 0.3) -> None:
        """Set the task up.

        Args:
            noise: Standard deviation of the policy's sensors, in m and rad.
            randomisation: How far masses and damping differ from the model's, as a fraction.
        """
        self.noise = noise
        self.randomisation = randomisation

    def setup(self) -> None:
        """Look up the joints, and remember what the observations of the next step need."""
        self.slider = self.qpos_index("slider")
        self.hinge = self.qpos_index("hinge")
        self.moving = self.index("body", "cart", "pole")
        self.tip = self.sensor_index("tip_position")
        self.last_action = torch.zeros(self.num_envs, 1, device=self.device)
        self.positions = torch.zeros(self.num_envs, 2, device=self.device)
        self.last_positions = torch.zeros(self.num_envs, 2, device=self.device)
        self.parameters = torch.ones(self.num_envs, 4, device=self.device)

    def randomise(self, env_ids: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Give every cart its own two masses and two dampings at the start of an episode."""
        rows = len(env_ids)
        uniform = torch.rand(rows, 4, generator=generator, device=self.device)
        scale = 1.0 + self.randomisation * (2.0 * uniform - 1.0)
        self.parameters[env_ids] = scale
        mass = self.nominal("body_mass", rows)
        mass[:, self.moving] *= scale[:, :2]
        inertia = self.nominal("body_inertia", rows)
        inertia[:, self.moving] *= scale[:, :2, None]
        return {
            "body_mass": mass,
            "body_inertia": inertia,
            "dof_damping": self.nominal("dof_damping", rows) * scale[:, 2:],
        }

    def reset(self, env_ids: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Hang the pole down, with a little noise."""
        self.last_action[env_ids] = 0.0
        qpos, qvel = super().reset(env_ids, generator)
        qpos[:, self.hinge] = math.pi
        qpos += 0.1 * torch.randn(qpos.shape, generator=generator, device=self.device)
        self.positions[env_ids] = self.last_positions[env_ids] = qpos
        return qpos, qvel

    def step_taken(self, state: State, action: torch.Tensor) -> None:
        """Keep the action and the positions: the next observations hold them."""
        self.last_action = action
        self.last_positions, self.positions = self.positions, state.qpos.clone()

    def observations(self, state: State, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        """Return what the policy's sensors say, and what only the simulator knows."""
        x_m, angle_rad = state.qpos[:, self.slider], state.qpos[:, self.hinge]
        noise = self.noise * torch.randn(self.num_envs, 4, generator=generator, device=self.device)
        now, before = self.positions + noise[:, :2], self.last_positions + noise[:, 2:]
        seen = [torch.cat([p[:, :1], p[:, 1:].sin(), p[:, 1:].cos()], dim=1) for p in (now, before)]
        return {
            "policy": {"pose": seen[0], "last_pose": seen[1], "last_action": self.last_action},
            "critic": {
                "pose": torch.cat([x_m, angle_rad.sin(), angle_rad.cos()], dim=1),
                "velocity": state.qvel,
                "parameters": self.parameters,
            },
        }

    def reward(self, state: State, action: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tip high, and once it is: cart central, pole slow. Little force."""
        height_m = state.sensordata[:, self.tip][:, 2] - 0.6
        upright = ((height_m / 0.6 + 1.0) / 2.0).square()
        x_m = state.qpos[:, self.slider].squeeze(1)
        return {
            "upright": 0.5 * upright,
            "centred": 0.25 * upright * torch.exp(-x_m.square()),
            # Without it, turning over and over would pay almost as well.
            "slow": 0.5 * upright * torch.exp(-0.1 * state.qvel[:, 1].square()),
            "force": -0.01 * action.square().sum(dim=1),
        }

    def terminated(self, state: State) -> torch.Tensor:
        """Fail at the ends of the rail, and when the pole whirls: a swing-up needs 10 rad/s at most."""
        off_the_rail = state.qpos[:, self.slider].squeeze(1).abs() > 1.8
        return off_the_rail | (state.qvel[:, 1].abs() > 14.0)
