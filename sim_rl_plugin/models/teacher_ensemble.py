"""Several teachers at once, each for some of the environments.

Legend of shapes: ``n`` environments, ``a`` actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.config.loading import PROVIDED_TO_MODEL
from sim_rl_plugin.config.signature import check_arguments
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.modules import HiddenState
from sim_rl_plugin.registry import resolve_class


class TeacherEnsemble(nn.Module):
    """Teachers that each know a part of the task, such as one terrain, for one student to learn from.

    Which environment listens to which teacher is fixed, or is read from an observation group, where an
    environment may change its teacher when it changes its terrain.
    """

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        teachers: list[dict[str, Any]],
        assignment: str | list[int] = "interleave",
    ) -> None:
        """Build the teachers.

        Args:
            obs: Observations as the environment gives them, batch size ``[n]``.
            obs_groups: Observation sets; all teachers read the set ``obs_set``.
            obs_set: The set.
            output_dim: Number of actions.
            teachers: ``class_name`` and arguments of each model.
            assignment: ``interleave`` (environment i listens to teacher i modulo their number),
                ``blocks`` (equal shares, in order), a list with a teacher's index per environment, or
                the name of an observation group of size 1 that holds the index.

        Raises:
            ValueError: There is no teacher, or the assignment does not fit.
        """
        super().__init__()
        if not teachers:
            raise UserError(f"{obs_set}.teachers: expected at least one model")
        models = []
        for index, cfg in enumerate(teachers):
            model_class, arguments = resolve_class(cfg, path=f"{obs_set}.teachers[{index}]")
            models.append(model_class(obs, obs_groups, obs_set, output_dim, **arguments))
        self.teachers = nn.ModuleList(models)
        self.is_recurrent = any(model.is_recurrent for model in models)
        self.is_loaded = all(getattr(model, "is_loaded", False) for model in models)
        self._group = self._check_group(obs, assignment, obs_set)
        num_envs = obs.batch_size[0]
        indices = torch.zeros(num_envs, dtype=torch.long)
        if self._group is None:
            indices = torch.tensor(self._fixed(assignment, num_envs, obs_set))
        # Follows the module to its device, and is no part of a checkpoint.
        self.register_buffer("assignment", indices, persistent=False)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check the teachers, see ``check_arguments``."""
        for index, cfg in enumerate(settings.get("teachers") or ()):
            model_class, arguments = resolve_class(cfg, path=f"{path}.teachers[{index}]")
            check_arguments(model_class, arguments, f"{path}.teachers[{index}]", provided=PROVIDED_TO_MODEL)

    def forward(
        self,
        obs: TensorDict,
        masks: torch.Tensor | None = None,
        hidden_state: HiddenState = None,
        stochastic_output: bool = False,
    ) -> torch.Tensor:
        """Return each environment's teacher's deterministic action, ``(n, a)``."""
        return self._select(obs, [teacher(obs) for teacher in self.teachers])

    def label(self, obs: TensorDict) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return deterministic actions ``(n, a)`` and distribution parameters of each environment's teacher."""
        # Here, since algorithms are built on models.
        from sim_rl_plugin.algorithms.imitation import label

        actions, params = zip(*(label(teacher, obs, with_params=True) for teacher in self.teachers), strict=True)
        return self._select(obs, actions), tuple(self._select(obs, parts) for parts in zip(*params, strict=True))

    def reset(self, dones: torch.Tensor | None = None, hidden_state: Any = None) -> None:
        """Clear the memories where ``dones`` ``(n,)``; without ``dones`` replace them by what was got."""
        memories = [None] * len(self.teachers) if hidden_state is None else hidden_state
        for teacher, memory in zip(self._models(), memories, strict=True):
            teacher.reset(dones, memory)

    def get_hidden_state(self) -> Any:
        """Return a list with every teacher's memory; None if none has one."""
        return [teacher.get_hidden_state() for teacher in self._models()] if self.is_recurrent else None

    def detach_hidden_state(self, dones: torch.Tensor | None = None) -> None:
        """Do nothing: teachers are not trained."""

    def update_normalization(self, obs: TensorDict) -> None:
        """Do nothing: teachers are not trained."""

    def _models(self) -> list[Any]:
        return list(self.teachers)

    def _select(self, obs: TensorDict, outputs: Any) -> torch.Tensor:
        """Return each environment's row out of its teacher's output; all are computed, so nothing waits."""
        assignment: Any = self.assignment if self._group is None else obs[self._group].view(-1).long()
        chosen = assignment.clamp(0, len(self.teachers) - 1).view(1, -1, 1)
        stacked = torch.stack(list(outputs))
        return stacked.gather(0, chosen.expand(1, -1, stacked.shape[-1])).squeeze(0)

    def _check_group(self, obs: TensorDict, assignment: str | list[int], obs_set: str) -> str | None:
        if not isinstance(assignment, str) or assignment in ("interleave", "blocks"):
            return None
        if assignment not in obs.keys() or obs[assignment].shape[1:] != (1,):
            raise UserError(
                f"{obs_set}.assignment: expected 'interleave', 'blocks', a list, or an observation group of size 1, "
                f"found {assignment!r}; the groups are {', '.join(map(str, obs.keys()))}"
            )
        return assignment

    def _fixed(self, assignment: str | list[int], num_envs: int, obs_set: str) -> list[int]:
        count = len(self.teachers)
        if assignment == "interleave":
            return [env % count for env in range(num_envs)]
        if assignment == "blocks":
            return [env * count // num_envs for env in range(num_envs)]
        assert not isinstance(assignment, str)
        if len(assignment) != num_envs or not all(0 <= index < count for index in assignment):
            raise UserError(
                f"{obs_set}.assignment: expected {num_envs} indices from 0 to {count - 1}, found {len(assignment)} "
                f"from {min(assignment, default=0)} to {max(assignment, default=0)}"
            )
        return list(assignment)
