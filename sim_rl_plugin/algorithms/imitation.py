"""How Distillation compares student and teacher, and who of them acts.

Legend of shapes: ``n`` environments, ``a`` actions.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.errors import UserError, unknown_name

ACTION_LOSSES: dict[str, Any] = {"mse": nn.functional.mse_loss, "huber": nn.functional.huber_loss}
"""Losses between deterministic actions; what else there is, ``kl``, is between distributions."""


def check_loss_type(loss_type: str, student: Any, teacher: Any) -> None:
    """Raise if the loss is unknown, or if the models have no distributions that it could compare.

    Raises:
        ValueError: Names what to change.
    """
    if loss_type in ACTION_LOSSES:
        return
    if loss_type != "kl":
        raise unknown_name("algorithm.loss_type", loss_type, [*ACTION_LOSSES, "kl"])
    distributions = []
    for section, model in (("student", student), ("teacher", teacher)):
        for member in getattr(model, "teachers", None) or [model]:
            if getattr(member, "distribution", None) is None:
                raise UserError(f"algorithm.loss_type: 'kl' compares distributions, and the {section} has none")
            distributions.append(member.distribution)
    kinds = [type(distribution) for distribution in distributions]
    for kind in kinds[1:]:
        if not issubclass(kind, kinds[0]) and not issubclass(kinds[0], kind):
            raise UserError(
                f"algorithm.loss_type: 'kl' needs distributions of one kind, and the student has {kinds[0].__name__}, "
                f"the teacher {kind.__name__}"
            )
    # On different ranges a Beta distribution has another support, and the divergence is infinite.
    ranges = {
        tuple(distribution.action_range) for distribution in distributions if hasattr(distribution, "action_range")
    }
    if len(ranges) > 1:
        raise UserError(f"algorithm.loss_type: 'kl' needs distributions of one action_range, found {sorted(ranges)}")


def label(teacher: Any, obs: TensorDict, with_params: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
    """Return what the teacher would do.

    Args:
        teacher: The teacher; a recurrent one moves on by one step.
        obs: Observations, batch size ``[n]``.
        with_params: Return its distribution, too.

    Returns:
        Deterministic actions ``(n, a)``, and the parameters of the distribution or None.
    """
    if not with_params:
        return teacher(obs), None
    if hasattr(teacher, "label"):
        return teacher.label(obs)
    assert teacher.distribution is not None
    output = teacher.mlp(teacher.get_latent(obs))
    teacher.distribution.update(output)
    return teacher.distribution.deterministic_output(output), teacher.output_distribution_params


class TeacherShare:
    """Lets the teacher act in a share of the environments, which changes from update to update.

    The student then sees states that it would not reach by itself yet (DAgger, Ross et al. 2011,
    arXiv:1011.0686). The environments are drawn anew for every rollout.
    """

    def __init__(
        self,
        num_envs: int,
        device: str,
        num_updates: int,
        initial_share: float = 1.0,
        final_share: float = 0.0,
        schedule: Literal["linear", "exponential"] = "linear",
    ) -> None:
        """Set up the schedule.

        Args:
            num_envs: Number of environments.
            device: Where masks lie.
            num_updates: Updates until the final share is reached; exponentially, until 1 % of the way is left.
            initial_share: Share of the environments in which the teacher acts at first, 0 to 1.
            final_share: Share at the end.
            schedule: ``linear`` or ``exponential``.

        Raises:
            ValueError: A number is out of range.
        """
        for name, share in (("initial_share", initial_share), ("final_share", final_share)):
            if not 0.0 <= share <= 1.0:
                raise UserError(f"algorithm.dagger_cfg.{name}: expected a number between 0 and 1, found {share}")
        if num_updates < 1:
            raise UserError(f"algorithm.dagger_cfg.num_updates: expected 1 or more, found {num_updates}")
        if schedule not in ("linear", "exponential"):
            raise UserError(f"algorithm.dagger_cfg.schedule: expected 'linear' or 'exponential', found {schedule!r}")
        self.num_envs = num_envs
        self.device = device
        self.num_updates = num_updates
        self.initial_share = initial_share
        self.final_share = final_share
        self.schedule = schedule
        self._mask_n1 = torch.zeros(num_envs, 1, dtype=torch.bool, device=device)

    def at(self, update: int) -> float:
        """Return the share after a number of updates."""
        progress = update / self.num_updates
        left = 0.01**progress if self.schedule == "exponential" else max(0.0, 1.0 - progress)
        return self.final_share + (self.initial_share - self.final_share) * left

    def draw(self, update: int) -> None:
        """Choose the environments of the coming rollout, by torch's global generator."""
        chosen = torch.randperm(self.num_envs, device=self.device)[: round(self.at(update) * self.num_envs)]
        mask_n1 = torch.zeros(self.num_envs, 1, dtype=torch.bool, device=self.device)
        mask_n1[chosen] = True
        self._mask_n1 = mask_n1

    def mix(self, student_actions: torch.Tensor, teacher_actions: torch.Tensor) -> torch.Tensor:
        """Return the actions to play, ``(n, a)``."""
        return torch.where(self._mask_n1, teacher_actions, student_actions)
