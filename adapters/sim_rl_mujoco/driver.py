"""What lies between the physics and the environment: one task, seen as a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch

from sim_rl_mujoco.engine import Engine
from sim_rl_plugin.env import Term
from sim_rl_plugin.env.mujoco_elements import actuator_elements


@dataclass
class Outcome:
    """What a control step led to, before any reset.

    Attributes:
        observations: Group to float32 ``(num_envs, ...)``, in memory that no later step writes into.
        rewards: ``(num_envs,)`` float32.
        terminated: ``(num_envs,)`` bool.
        log: Statistics of the step.
    """

    observations: dict[str, torch.Tensor]
    rewards: torch.Tensor
    terminated: torch.Tensor
    log: dict[str, float | torch.Tensor]


class Driver(ABC):
    """A task as the environment uses it; Gymnasium's tasks and the user's own are two kinds.

    Attributes:
        model: The model to simulate.
        num_substeps: Physics steps per control step.
        forward_after_step: See ``Engine``.
        num_actions: Size of the action vector.
        max_episode_steps: Episode limit in control steps.
        action_range: ``(low, high)``, each ``(num_actions,)``, or None for no clipping.
        camera: Where a film is taken from: ``lookat``, ``distance``, ``elevation``, ``azimuth``, ``trackbodyid``.
        cfg: Settings for the run folder.
    """

    model: mujoco.MjModel
    num_substeps: int
    forward_after_step: bool = False
    num_actions: int
    max_episode_steps: int
    action_range: tuple[np.ndarray, np.ndarray] | None
    camera: dict[str, Any]
    cfg: dict[str, Any]

    @abstractmethod
    def attach(self, engine: Engine, device: torch.device, seed: int) -> None:
        """Take the running simulations; ask them for the fields that the task needs."""

    def observation_terms_by_group(self) -> dict[str, tuple[Term, ...]]:
        """Return the named parts of the observation groups, once attached; none unless overridden."""
        return {}

    def action_terms(self) -> tuple[Term, ...]:
        """Return the actuators that the actions are for, unless their number is another."""
        names = actuator_elements(self.model)
        return (Term("actuators", (self.num_actions,), names),) if len(names) == self.num_actions else ()

    @abstractmethod
    def inputs(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """Note what the reward needs from before the step, and return the fields to write.

        Args:
            actions: ``(num_envs, num_actions)`` float64, finite, clipped.
        """

    @abstractmethod
    def outcome(self, actions: np.ndarray) -> Outcome:
        """Evaluate the step that the engine has just taken."""

    @abstractmethod
    def reset(self, env_ids: np.ndarray) -> None:
        """Start the episodes of these environments anew."""

    @abstractmethod
    def observations_after_reset(
        self, observations: dict[str, torch.Tensor] | None, env_ids: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """Return new observations: those given, with the rows of the environments that were reset replaced.

        Args:
            observations: The observations before the reset, which stay as they are; None when every
                environment was reset.
            env_ids: The environments that were reset.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what the task itself remembers, random states included."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""


def control_range(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of ``ctrl``, infinite for an actuator without limits."""
    limited = model.actuator_ctrllimited.astype(bool)
    low = np.where(limited, model.actuator_ctrlrange[:, 0], -np.inf)
    high = np.where(limited, model.actuator_ctrlrange[:, 1], np.inf)
    return low, high
