"""Random network distillation: a reward for states that have not been seen often.

Burda et al. 2018 (arXiv:1810.12894); with weight schedules, Schwarke et al. 2023 (CoRL).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.config.signature import check_arguments, check_value, parameters_of, unknown_key
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.modules import MLP, EmpiricalDiscountedVariationNormalization, EmpiricalNormalization
from sim_rl_plugin.modules.normalization import DiscountedAverage

_STATISTICS_UNTIL = int(1e8)
"""Samples after which the running statistics stand still, as in rsl_rl."""

_PROVIDED = ("num_states", "obs_groups", "device")

_SCHEDULES = {
    "constant": "_constant_weight_schedule",
    "step": "_step_weight_schedule",
    "linear": "_linear_weight_schedule",
}


class RandomNetworkDistillation(nn.Module):
    """A network that predicts the output of another, random one; its error is the intrinsic reward.

    The predictor learns on the states that are visited, so its error is large where the robot has
    seldom been.
    """

    def __init__(
        self,
        num_states: int,
        obs_groups: dict[str, list[str]],
        num_outputs: int,
        predictor_hidden_dims: tuple[int, ...] | list[int],
        target_hidden_dims: tuple[int, ...] | list[int],
        activation: str = "elu",
        state_normalization: bool = False,
        reward_normalization: bool = False,
        weight: float = 0.0,
        weight_schedule: dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        device: str = "cpu",
    ) -> None:
        """Build both networks and the predictor's optimizer.

        Args:
            num_states: Size of the observations that make up the state.
            obs_groups: Observation sets; the set ``rnd_state`` is the state.
            num_outputs: Size of the networks' output.
            predictor_hidden_dims: Sizes of the predictor's hidden layers; -1 stands for ``num_states``.
            target_hidden_dims: Sizes of the random network's hidden layers.
            activation: Name of the activation function.
            state_normalization: Shift and scale states by their running mean and deviation.
            reward_normalization: Scale the intrinsic reward by the running deviation of its discounted sum.
            weight: Factor of the intrinsic reward.
            weight_schedule: How the factor changes, counted in control steps: ``mode`` ``constant``;
                ``step`` with ``final_step`` and ``final_value``; or ``linear`` with ``initial_step``,
                ``final_step`` and ``final_value``.
            learning_rate: Of the predictor.
            device: Where the networks lie.

        Raises:
            ValueError: The schedule is unknown or incomplete.
        """
        super().__init__()
        self.num_states = num_states
        self.obs_groups = obs_groups
        self.num_outputs = num_outputs
        self.initial_weight = weight
        self.weight = weight
        """Factor of the last intrinsic reward."""
        self.device = device
        self.state_normalization = state_normalization
        self.reward_normalization = reward_normalization
        self.update_counter = 0
        """Control steps so far, by which the schedule goes."""
        self.weight_scheduler_params = weight_schedule or {"mode": "constant"}
        self.weight_scheduler: Callable[..., float] | None = None
        if weight_schedule is not None:
            check_weight_schedule(weight_schedule)
            self.weight_scheduler = getattr(self, _SCHEDULES[weight_schedule["mode"]])

        self.state_normalizer: nn.Module = nn.Identity()
        if state_normalization:
            self.state_normalizer = EmpiricalNormalization([num_states], until=_STATISTICS_UNTIL).to(device)
        self.reward_normalizer: nn.Module = nn.Identity()
        if reward_normalization:
            self.reward_normalizer = EmpiricalDiscountedVariationNormalization([], until=_STATISTICS_UNTIL).to(device)
        self.predictor = MLP(num_states, num_outputs, predictor_hidden_dims, activation).to(device)
        self.target = MLP(num_states, num_outputs, target_hidden_dims, activation).to(device)
        self.target.eval()
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr=learning_rate)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check the weight schedule, see ``check_arguments``."""
        if settings.get("weight_schedule") is not None:
            check_weight_schedule(settings["weight_schedule"], f"{path}.weight_schedule")

    def get_intrinsic_reward(self, obs: TensorDict) -> torch.Tensor:
        """Return the weighted intrinsic reward ``(n,)`` of one control step, and count the step."""
        self.update_counter += 1
        with torch.no_grad():
            state = self.state_normalizer(self.get_rnd_state(obs))
            error = torch.linalg.norm(self.target(state) - self.predictor(state), dim=1)
            if self.weight_scheduler is not None:
                self.weight = self.weight_scheduler(step=self.update_counter, **self.weight_scheduler_params)
            else:
                self.weight = self.initial_weight
            return self.reward_normalizer(error) * self.weight

    def compute_loss(self, obs: TensorDict) -> torch.Tensor:
        """Return the predictor's mean squared error on observations ``[...]``, a scalar with gradient."""
        with torch.no_grad():
            state = self.state_normalizer(self.get_rnd_state(obs))
        return self.loss_of_state(state)

    def loss_of_state(self, state: torch.Tensor) -> torch.Tensor:
        """Return ``compute_loss`` of states ``(..., num_states)`` that are normalised already."""
        with torch.no_grad():
            target = self.target(state)
        return nn.functional.mse_loss(self.predictor(state), target)

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: this module has two outputs, by ``get_intrinsic_reward`` and ``compute_loss``."""
        raise RuntimeError("call get_intrinsic_reward or compute_loss")

    def train(self, mode: bool = True) -> RandomNetworkDistillation:
        """Let the predictor and the statistics learn; the target never does."""
        self.predictor.train(mode)
        self.state_normalizer.train(mode)
        self.reward_normalizer.train(mode)
        return self

    def eval(self) -> RandomNetworkDistillation:
        """Stop learning."""
        return self.train(False)

    def get_rnd_state(self, obs: TensorDict) -> torch.Tensor:
        """Return the groups of the set ``rnd_state`` as one tensor ``(..., num_states)``."""
        return torch.cat([obs[group] for group in self.obs_groups["rnd_state"]], dim=-1)

    def update_normalization(self, obs: TensorDict) -> None:
        """Let the state's statistics learn from a batch of observations."""
        if isinstance(self.state_normalizer, EmpiricalNormalization):
            self.state_normalizer.update(self.get_rnd_state(obs))

    def training_state(self) -> dict[str, Any]:
        """Return what a resumed training needs beyond ``state_dict``, whose keys are rsl_rl's."""
        discounted = self._discounted_sum()
        average = None if discounted is None else discounted.avg
        return {
            "update_counter": self.update_counter,
            "weight": self.weight,
            "discounted_sum": None if average is None else average.clone(),
        }

    def load_training_state(self, state: dict[str, Any], num_envs: int) -> None:
        """Continue from ``training_state``; the discounted sums start afresh unless they are of ``num_envs``."""
        self.update_counter = state["update_counter"]
        self.weight = state["weight"]
        discounted, sums_n = self._discounted_sum(), state["discounted_sum"]
        if discounted is not None:
            fits = sums_n is not None and sums_n.shape[0] == num_envs
            discounted.avg = sums_n.to(self.device) if fits else None

    def _discounted_sum(self) -> DiscountedAverage | None:
        normalizer = self.reward_normalizer
        return normalizer.disc_avg if isinstance(normalizer, EmpiricalDiscountedVariationNormalization) else None

    def _constant_weight_schedule(self, step: int, **kwargs: Any) -> float:
        """Return the factor as it was given."""
        return self.initial_weight

    def _step_weight_schedule(self, step: int, final_step: int, final_value: float, **kwargs: Any) -> float:
        """Return the final factor from ``final_step`` on."""
        return self.initial_weight if step < final_step else final_value

    def _linear_weight_schedule(
        self, step: int, initial_step: int, final_step: int, final_value: float, **kwargs: Any
    ) -> float:
        """Return a factor on the line from ``initial_step`` to ``final_step``."""
        if step < initial_step:
            return self.initial_weight
        if step >= final_step:
            return final_value
        share = (step - initial_step) / (final_step - initial_step)
        return self.initial_weight + (final_value - self.initial_weight) * share


def check_rnd_cfg(rnd_cfg: dict[str, Any], path: str = "algorithm.rnd_cfg") -> None:
    """Raise unless the settings fit the constructor, but for what the environment fills in.

    Raises:
        ValueError: With the key path of what is wrong.
    """
    check_arguments(RandomNetworkDistillation, rnd_cfg, path, provided=_PROVIDED)


def check_weight_schedule(schedule: dict[str, Any], path: str = "algorithm.rnd_cfg.weight_schedule") -> None:
    """Raise unless a weight schedule is known and complete.

    Raises:
        ValueError: With the key path of what is wrong.
    """
    check_value(str, schedule.get("mode"), f"{path}.mode")
    if schedule["mode"] not in _SCHEDULES:
        raise unknown_name(f"{path}.mode", schedule["mode"], _SCHEDULES)
    schedulers = {mode: getattr(RandomNetworkDistillation, name) for mode, name in _SCHEDULES.items()}
    check_arguments(schedulers[schedule["mode"]], schedule, path, provided=("self", "step"), also={"mode": str})
    # Keys of another mode are taken and mean nothing, as in rsl_rl.
    known = {"mode"}.union(*(parameters_of(scheduler).annotations for scheduler in schedulers.values()))
    for key in schedule:
        if key not in known:
            raise unknown_key(path, key, known - {"self", "step"})


def resolve_rnd_config(
    alg_cfg: dict[str, Any], obs: TensorDict, obs_groups: dict[str, list[str]], env: VecEnv
) -> dict[str, Any]:
    """Fill in what ``rnd_cfg`` leaves to the environment: the state's size, the groups, the time step.

    The weight is per second, as in rsl_rl: it is multiplied by the duration of a control step
    (``step_dt`` of the environment or of what it wraps). Where there is none, it is per control step.

    Args:
        alg_cfg: The algorithm's arguments; ``rnd_cfg`` in it is completed in place.
        obs: Observations of the environment.
        obs_groups: Resolved observation sets, ``rnd_state`` among them.
        env: The environment.

    Returns:
        ``alg_cfg``.

    Raises:
        ValueError: A group of the state is not flat, or a key is unknown.
    """
    rnd_cfg = alg_cfg.get("rnd_cfg")
    if rnd_cfg is None:
        alg_cfg["rnd_cfg"] = None
        return alg_cfg
    check_rnd_cfg(rnd_cfg)
    for group in obs_groups["rnd_state"]:
        if obs[group].dim() != 2:
            raise UserError(
                f"obs_groups.rnd_state: random network distillation reads flat groups (batch, size), but {group!r} has "
                f"shape {tuple(obs[group].shape)}"
            )
    rnd_cfg["num_states"] = sum(obs[group].shape[-1] for group in obs_groups["rnd_state"])
    rnd_cfg["obs_groups"] = obs_groups
    step_dt_s = getattr(getattr(env, "unwrapped", env), "step_dt", None) or getattr(env, "step_dt", None) or 1.0
    rnd_cfg["weight"] = rnd_cfg.get("weight", 0.0) * step_dt_s
    return alg_cfg
