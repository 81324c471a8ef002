"""From a training dict to models: what the algorithms' ``construct_algorithm`` have in common."""

from __future__ import annotations

import copy
from typing import Any

from tensordict import TensorDict

from sim_rl_plugin.config.loading import CONSTRUCTION_KEYS, PROVIDED_TO_ALGORITHM, PROVIDED_TO_MODEL
from sim_rl_plugin.config.signature import check_arguments
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.models.observation_sets import resolve_obs_groups
from sim_rl_plugin.registry import resolve_class


class Construction:
    """The pieces of an algorithm, checked and then built one by one.

    Attributes:
        algorithm_class: Class of the algorithm.
        arguments: Its settings, a copy; whoever builds it may change them.
        obs_groups: Resolved observation sets.
    """

    def __init__(
        self, obs: TensorDict, env: VecEnv, cfg: dict[str, Any], device: str, sections: dict[str, int], sets: list[str]
    ) -> None:
        """Check algorithm and models of a training dict, which is not modified.

        Args:
            obs: Observations of ``env``.
            env: The environment.
            cfg: Training dict in rsl_rl's shape.
            device: Where the models shall lie.
            sections: Sections that describe a model, with the size of its output.
            sets: Observation sets that are needed.

        Raises:
            ValueError: A section or set is missing, or a key is unknown or ill-typed.
        """
        self._obs, self._device, self._sections = obs, device, sections
        self.algorithm_class, self.arguments = self._resolve(cfg, "algorithm", PROVIDED_TO_ALGORITHM)
        self._models = {section: self._resolve(cfg, section, PROVIDED_TO_MODEL) for section in sections}
        self.obs_groups = resolve_obs_groups(obs, copy.deepcopy(cfg.get("obs_groups") or {}), sets)

    def build_model(self, section: str, **more: Any) -> Any:
        """Return the model of a section on its device; ``more`` are arguments that no config can hold."""
        model_class, arguments = self._models[section]
        try:
            model = model_class(self._obs, self.obs_groups, section, self._sections[section], **arguments, **more)
        except UserError as error:
            # What a layer says of its own parameter, it says without knowing whose layer it is.
            is_own = str(error).partition(":")[0].partition(".")[0] in arguments
            raise UserError(f"{section}.{error}" if is_own else str(error)) from error
        return model.to(self._device)

    def is_model(self, section: str, model_class: type) -> bool:
        """Return whether the model of a section is of a class."""
        found = self._models[section][0]
        return isinstance(found, type) and issubclass(found, model_class)

    def _resolve(self, cfg: dict[str, Any], section: str, provided: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
        if cfg.get(section) is None:
            raise UserError(f"the training config has no section '{section}'; it holds {', '.join(cfg)}")
        section_class, arguments = resolve_class(cfg[section], path=section)
        also = CONSTRUCTION_KEYS if section == "algorithm" else None
        check_arguments(section_class, arguments, section, provided=provided, also=also)
        return section_class, arguments
