"""What all comparisons with rsl_rl share: identical rollouts, and the largest relative difference of each quantity.

Legend of shapes: ``t`` steps, ``n`` environments.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from tensordict import TensorDict

TOLERANCES = {
    # From one rollout, as a share of the largest value.
    "actions": 1e-5,
    "teacher's actions": 1e-5,
    "values": 1e-5,
    "log-prob.": 1e-5,
    "rewards": 1e-5,
    "returns": 1e-5,
    "advantages": 1e-5,
    "memory": 1e-5,
    "losses": 1e-5,
    "gradient": 1e-5,
    # After several updates.
    "KL": 1e-3,
    "later rollouts": 1e-3,
    "learning rate": 1e-6,
    "statistics": 1e-4,
    "parameters": 1e-3,
}
"""Largest allowed difference of each quantity; a row that needs another one says why."""

GROUPS: dict[str, tuple[int, ...]] = {
    "policy": (11,),
    "privileged": (7,),
    "state": (4,),
    "camera": (3, 12, 10),
    "depth": (1, 9, 8),
}
"""Observation groups that rows choose from, and their shapes."""

NUM_ACTIONS = 5


class DifferenceError(AssertionError):
    """Ours and theirs are further apart than the tolerance."""


@dataclass(frozen=True)
class Row:
    """One training dict that is compared."""

    name: str
    family: str
    cfg: dict[str, Any]
    num_envs: int = 24
    updates: int = 3
    tolerances: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    """Why a tolerance is another one, or what was done to the reference."""
    adjust_reference: Callable[[Any], None] | None = None
    reference_changes: dict[str, Any] = field(default_factory=dict)
    """What the reference's training dict has instead."""

    @property
    def groups(self) -> list[str]:
        used = {group for groups in self.cfg["obs_groups"].values() for group in groups}
        return [group for group in GROUPS if group in used]

    def tolerance(self, quantity: str) -> float:
        return self.tolerances.get(quantity, TOLERANCES[quantity])


class Shapes:
    """What ``construct_algorithm`` reads of an environment."""

    num_actions = NUM_ACTIONS
    step_dt = 0.02

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    @property
    def unwrapped(self) -> Shapes:
        return self


@dataclass
class Rollout:
    """Everything that an environment tells in one rollout."""

    observations: list[TensorDict]
    """One more than there are steps."""
    rewards_tn: torch.Tensor
    dones_tn: torch.Tensor
    time_outs_tn: torch.Tensor


def observations(groups: Iterable[str], num_envs: int) -> TensorDict:
    """Return random observations, off centre so that normalisation matters."""
    drawn = {group: 3.0 * torch.randn(num_envs, *GROUPS[group]) + 1.0 for group in groups}
    return TensorDict(drawn, batch_size=[num_envs])


def make_rollout(row: Row, seed: int) -> Rollout:
    """Draw a rollout with terminations and time-outs.

    Environment 0 never ends, 1 ends twice, 2 with the last step, 3 with the first; the others at random.
    """
    torch.manual_seed(seed)
    num_steps, num_envs = row.cfg["num_steps_per_env"], row.num_envs
    steps = [observations(row.groups, num_envs) for _ in range(num_steps + 1)]
    rewards_tn = torch.randn(num_steps, num_envs)
    dones_tn = torch.rand(num_steps, num_envs) < 0.1
    for env, ends in enumerate([[], [num_steps // 4, num_steps // 2], [num_steps - 1], [0]]):
        dones_tn[:, env] = False
        dones_tn[ends, env] = True
    time_outs_tn = dones_tn & (torch.rand(num_steps, num_envs) < 0.5)
    time_outs_tn[num_steps // 4, 1] = True
    return Rollout(steps, rewards_tn, dones_tn, time_outs_tn)


def play(algorithm: Any, rollout: Rollout, seed: int, deferred: bool = False) -> None:
    """Lead an algorithm through a rollout; equal seeds draw equal noise."""
    torch.manual_seed(seed)
    if deferred:
        algorithm.begin_rollout()
    with torch.inference_mode():
        for step, (rewards_n, dones_n, time_outs_n) in enumerate(
            zip(rollout.rewards_tn, rollout.dones_tn, rollout.time_outs_tn, strict=True)
        ):
            algorithm.act(rollout.observations[step])
            extras = {"time_outs": time_outs_n}
            algorithm.process_env_step(rollout.observations[step + 1], rewards_n, dones_n, extras)
        algorithm.compute_returns(rollout.observations[-1])


def build(algorithm_class: Any, row: Row, seed: int = 0, **changes: Any) -> Any:
    """Return an algorithm, built from the row's training dict with some changes, ready to learn."""
    torch.manual_seed(seed)
    obs = observations(row.groups, row.num_envs)
    torch.manual_seed(seed)
    cfg = {**copy.deepcopy(row.cfg), **changes}
    algorithm = algorithm_class.construct_algorithm(obs, Shapes(row.num_envs), cfg, "cpu")
    algorithm.train_mode()
    return algorithm


def build_pair(our_class: Any, their_class: Any, row: Row) -> tuple[Any, Any]:
    """Return our and their algorithm with the same weights."""
    ours, theirs = build(our_class, row), build(their_class, row, **row.reference_changes)
    for name, model in models_of(theirs).items():
        model.load_state_dict(models_of(ours)[name].state_dict())
    if row.adjust_reference is not None:
        row.adjust_reference(theirs)
    return ours, theirs


def models_of(algorithm: Any) -> dict[str, torch.nn.Module]:
    """Return everything with parameters; that which nobody trains, too."""
    names = ("_raw_actor", "_raw_critic", "_raw_student", "_raw_teacher", "rnd")
    found = {name.removeprefix("_raw_"): getattr(algorithm, name, None) for name in names}
    return {name: model for name, model in found.items() if model is not None}


def flat_parameters(algorithm: Any) -> torch.Tensor:
    """Return all parameters as one vector."""
    parameters = chain.from_iterable(model.parameters() for model in models_of(algorithm).values())
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])


def relative(ours: torch.Tensor, theirs: torch.Tensor, scale: float | None = None) -> float:
    """Return the largest difference, as a share of the largest value or of ``scale``."""
    if ours.shape != theirs.shape:
        return math.inf
    if theirs.numel() == 0:
        return 0.0
    ours, theirs = ours.detach().double(), theirs.detach().double()
    difference = (ours - theirs).abs().max().item()
    scale = theirs.abs().max().item() if scale is None else scale
    if not math.isfinite(difference):
        return math.inf
    if scale == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return difference / scale


class Comparison:
    """Collects the largest difference of each quantity, and raises for one that is too large."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.differences: dict[str, float] = {}

    def check(self, quantity: str, difference: float, what: str = "") -> None:
        self.differences[quantity] = max(difference, self.differences.get(quantity, 0.0))
        tolerance = self.row.tolerance(quantity)
        if not difference <= tolerance:
            raise DifferenceError(f"{self.row.name}: {what or quantity} differ by {difference:.1e}, not {tolerance:g}")

    def check_rollout(self, ours: Any, theirs: Any, is_first: bool) -> None:
        """Compare what is in the storages, and the memories after the rollout."""
        for quantity, attribute in STORED.items():
            their_value = getattr(theirs.storage, attribute, None)
            if their_value is not None:
                difference = relative(getattr(ours.storage, attribute), their_value)
                self.check(quantity if is_first else "later rollouts", difference, quantity)
        for our_memory, their_memory in zip(_memories(ours), _memories(theirs), strict=True):
            difference = relative(our_memory, their_memory)
            self.check("memory" if is_first else "later rollouts", difference, "memories")

    def check_losses(self, ours: dict[str, float], theirs: dict[str, float], advantage_size: float) -> None:
        """Compare losses; the surrogate, a mean of numbers that cancel, by the size of these numbers."""
        if ours.keys() != theirs.keys():
            raise DifferenceError(f"{self.row.name}: losses are called {list(ours)}, not {list(theirs)}")
        for name, value in theirs.items():
            scale = max(abs(value), advantage_size) if name == "surrogate" else None
            self.check("losses", relative(torch.tensor(ours[name]), torch.tensor(value), scale), f"{name} losses")

    def check_gradients(self, ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
        """Compare the gradients of the first step of each optimizer."""
        if len(ours) != len(theirs):
            raise DifferenceError(f"{self.row.name}: {len(ours)} optimizers, not {len(theirs)}")
        for our_gradient, their_gradient in zip(ours, theirs, strict=True):
            self.check("gradient", relative(our_gradient, their_gradient))

    def check_end(self, ours: Any, theirs: Any, start: torch.Tensor) -> None:
        """Compare parameters, as a share of the distance they moved, and running statistics."""
        moved = (flat_parameters(theirs) - start).norm().item()
        assert moved > 0.0, "nothing was learned"
        apart = (flat_parameters(ours) - flat_parameters(theirs)).norm().item()
        self.check("parameters", apart / moved if math.isfinite(apart) else math.inf)
        for name, model in models_of(theirs).items():
            our_buffers = dict(models_of(ours)[name].named_buffers())
            for buffer_name, value in model.named_buffers():
                difference = relative(our_buffers[buffer_name].float(), value.float())
                self.check("statistics", difference, f"{name}.{buffer_name}")


STORED = {
    "actions": "actions",
    "teacher's actions": "privileged_actions",
    "values": "values",
    "log-prob.": "actions_log_prob",
    "rewards": "rewards",
    "returns": "returns",
    "advantages": "advantages",
}
"""Quantities that storages hold, by attribute."""


def _memories(algorithm: Any) -> Iterator[torch.Tensor]:
    """Yield the memories of all models after the rollout, and the ones that the storage kept of PPO's."""
    kept = [getattr(algorithm.storage, f"saved_hidden_state_{which}", None) for which in "ac"]
    models = [model.get_hidden_state() for name, model in models_of(algorithm).items() if name != "rnd"]
    for memory in (*kept, *models):
        if memory is not None:
            yield from [memory] if isinstance(memory, torch.Tensor) else memory


def keep_from_raising_by_rounding(model_class: Any, monkeypatch: Any) -> None:
    """Make a KL divergence of about 1e-14 zero: the reference raises its learning rate by anything above zero."""
    original = model_class.get_kl_divergence

    def without_rounding(self: Any, old_params: Any, new_params: Any) -> torch.Tensor:
        kl = original(self, old_params, new_params)
        return kl if kl.mean() > 1e-8 else kl * 0.0

    monkeypatch.setattr(model_class, "get_kl_divergence", without_rounding)


def record_kl(algorithm: Any) -> list[float]:
    """Return a list that fills with the mean KL divergence of every mini-batch."""
    kl_means: list[float] = []
    actor = getattr(algorithm, "_raw_actor", None)
    if actor is None:
        return kl_means
    get_kl_divergence = actor.get_kl_divergence

    def recorded(old_params: Any, new_params: Any) -> torch.Tensor:
        kl = get_kl_divergence(old_params, new_params)
        kl_means.append(kl.mean().item())
        return kl

    actor.get_kl_divergence = recorded
    return kl_means


@contextmanager
def first_gradients(algorithm: Any) -> Iterator[list[torch.Tensor]]:
    """Give a list that holds each optimizer's gradient, as one vector, once its first step was taken."""
    gradients: list[torch.Tensor] = []
    optimizers = [algorithm.optimizer] + ([algorithm.rnd.optimizer] if getattr(algorithm, "rnd", None) else [])
    handles = []

    def keep(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any, index: int) -> None:
        if len(gradients) == index:
            parameters = optimizer.param_groups[0]["params"]
            gradients.append(torch.cat([p.grad.reshape(-1).clone() for p in parameters if p.grad is not None]))

    for index, optimizer in enumerate(optimizers):
        handles.append(optimizer.register_step_pre_hook(lambda o, a, k, index=index: keep(o, a, k, index)))
    yield gradients
    for handle in handles:
        handle.remove()


def update(algorithm: Any, seed: int) -> dict[str, float]:
    """Learn from the rollout; equal seeds draw equal permutations."""
    torch.manual_seed(seed)
    return algorithm.update()


def compare(ours: Any, theirs: Any, row: Row, deferred: bool = False, fast: bool = False) -> dict[str, float]:
    """Play and learn side by side; return the largest differences.

    Our fast paths give way to whoever overrides a method, as recording the KL divergence does. With ``fast`` it is not
    recorded: the learning rate, which it steers, is compared all the same.

    Raises:
        DifferenceError: One of them is larger than its tolerance.
    """
    comparison = Comparison(row)
    start = flat_parameters(theirs)
    our_kl, their_kl = ([], []) if fast else (record_kl(ours), record_kl(theirs))
    for index in range(row.updates):
        rollout = make_rollout(row, seed=index)
        play(ours, rollout, seed=index, deferred=deferred)
        play(theirs, rollout, seed=index)
        comparison.check_rollout(ours, theirs, is_first=index == 0)
        size = theirs.storage.advantages.abs().mean().item() if hasattr(theirs.storage, "advantages") else 0.0
        with first_gradients(ours) as our_gradients, first_gradients(theirs) as their_gradients:
            our_losses, their_losses = update(ours, seed=100 + index), update(theirs, seed=100 + index)
        if index == 0:
            comparison.check_gradients(our_gradients, their_gradients)
            comparison.check_losses(our_losses, their_losses, size)
        if their_kl or our_kl:
            comparison.check("KL", relative(torch.tensor(our_kl), torch.tensor(their_kl)))
        rate = theirs.learning_rate
        comparison.check("learning rate", abs(ours.learning_rate - rate) / rate)
    comparison.check_end(ours, theirs, start)
    return comparison.differences
