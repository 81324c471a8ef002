"""Mathematics broken on purpose, on our side, which every comparison must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from parity.harness import Row
from torch import nn

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.modules import EmpiricalNormalization
from sim_rl_plugin.modules.rnn import map_hidden_state

Break = Callable[[Any, pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Breakage:
    """One thing that is done to our algorithm, and the rows that must notice."""

    name: str
    apply: Break
    concerns: Callable[[Row], bool]

    def __str__(self) -> str:
        return self.name


def pairs(rows: dict[str, Row], breakages: list[Breakage]) -> list[Any]:
    """Return every row with every breakage that concerns it, as parameters of a test."""
    return [
        pytest.param(row, breakage, id=f"{row.name}-{breakage.name}")
        for row in rows.values()
        for breakage in breakages
        if breakage.concerns(row)
    ]


def scaled(attribute: str, factor: float = 0.99) -> Break:
    """Return a breakage that changes a number."""
    return lambda ours, patch: setattr(ours, attribute, getattr(ours, attribute) * factor)


def replaced(attribute: str, value: Any) -> Break:
    """Return a breakage that changes a setting."""
    return lambda ours, patch: setattr(ours, attribute, value)


def named(*names: str) -> Callable[[Row], bool]:
    return lambda row: row.name in names


def family(*families: str) -> Callable[[Row], bool]:
    return lambda row: row.family in families


def _override(instance: Any, name: str, value: Any) -> None:
    """Give one object another method or property."""
    instance.__class__ = type(type(instance).__name__, (type(instance),), {name: value})


# PPO, any model


def _no_time_outs(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.process_env_step = lambda obs, rewards, dones, extras: PPO.process_env_step(ours, obs, rewards, dones, {})


def _kl_reversed(ours: Any, patch: pytest.MonkeyPatch) -> None:
    actor = ours._raw_actor
    actor.get_kl_divergence = lambda old, new: type(actor).get_kl_divergence(actor, new, old)


def _adapts(row: Row) -> bool:
    """Return whether the direction of the KL divergence matters to a row."""
    algorithm = row.cfg["algorithm"]
    adaptive = algorithm.get("schedule") != "fixed" and algorithm.get("desired_kl", 0.01) is not None
    # With equal deviations both directions are the same; a divergence in bfloat16 has no digit to tell them apart.
    symmetric = row.name in ("Gaussian, constant", "Gaussian, narrow range")
    return adaptive and not symmetric and not algorithm.get("use_mixed_precision")


def _no_permutation(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ordered = ours.storage.sample_order
    ours.storage.sample_order = lambda number: ordered(number).sort().values


def _old_log_prob(ours: Any, patch: pytest.MonkeyPatch) -> None:
    gather = ours.storage.gather

    def broken(*args: Any, **kwargs: Any) -> Any:
        batch = gather(*args, **kwargs)
        batch.old_actions_log_prob += 0.01
        return batch

    ours.storage.gather = broken


def _statistics_stand_still(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.actor.update_normalization = lambda obs: None


def _advantages_as_they_are(ours: Any, patch: pytest.MonkeyPatch) -> None:
    def unchanged(advantages: torch.Tensor, over_all_ranks: bool = False) -> torch.Tensor:
        return advantages

    for module in ("ppo", "mini_batches"):
        patch.setattr(f"sim_rl_plugin.algorithms.{module}.normalize", unchanged)


def _group(key: str, value: Any) -> Break:
    return lambda ours, patch: ours.optimizer.param_groups[0].__setitem__(key, value)


def _normaliser(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.actor.obs_normalizer = EmpiricalNormalization(ours.actor.obs_dim)


EVERY_PPO_ROW = [
    Breakage("gamma off by 1 %", scaled("gamma"), lambda row: True),
    Breakage("no time-out bootstrap", _no_time_outs, lambda row: True),
    Breakage("learning rate off by 1 %", scaled("learning_rate"), lambda row: True),
    Breakage("KL the wrong way round", _kl_reversed, _adapts),
]

_DEFAULTS = named("MLP, defaults")
MLP = [
    Breakage("lam off by 1 %", scaled("lam"), _DEFAULTS),
    Breakage("clip off by 1 %", scaled("clip_param"), _DEFAULTS),
    Breakage("entropy bonus off by 1 %", scaled("entropy_coef"), _DEFAULTS),
    Breakage("value loss off by 1 %", scaled("value_loss_coef"), _DEFAULTS),
    Breakage("no gradient clipping", replaced("max_grad_norm", 1e9), _DEFAULTS),
    Breakage("other KL target", replaced("desired_kl", 0.02), _DEFAULTS),
    Breakage("plain value loss", replaced("use_clipped_value_loss", False), _DEFAULTS),
    Breakage("advantages not normalised", _advantages_as_they_are, _DEFAULTS),
    Breakage("another permutation", _no_permutation, _DEFAULTS),
    Breakage("old log-probability off by 0.01", _old_log_prob, _DEFAULTS),
    Breakage("statistics stand still", _statistics_stand_still, _DEFAULTS),
    Breakage("statistics at once", replaced("normalizer_update", "each_step"), _DEFAULTS),
    Breakage("one epoch more", replaced("num_learning_epochs", 4), _DEFAULTS),
    Breakage("adaptive schedule", replaced("schedule", "adaptive"), named("fixed schedule")),
    Breakage("a KL target", replaced("desired_kl", 0.01), named("no desired KL")),
    Breakage("clipped value loss", replaced("use_clipped_value_loss", True), named("plain value loss")),
    Breakage(
        "advantages over the rollout",
        replaced("normalize_advantage_per_mini_batch", False),
        named("advantages per mini-batch"),
    ),
    Breakage("no weight decay", _group("weight_decay", 0.0), named("AdamW")),
    Breakage("momentum", _group("momentum", 0.1), named("SGD")),
    Breakage("other smoothing", _group("alpha", 0.98), named("RMSprop")),
    Breakage("a mini-batch more", replaced("num_mini_batches", 8), named("uneven mini-batches")),
    Breakage("two mini-batches", replaced("num_mini_batches", 2), named("one mini-batch")),
    Breakage("observations normalised", _normaliser, named("no observation normalisation")),
    Breakage(
        "full precision", replaced("use_mixed_precision", False), named("mixed precision", "GRU, mixed precision")
    ),
]

# Distributions


def _log_prob(ours: Any, patch: pytest.MonkeyPatch) -> None:
    distribution = ours.actor.distribution
    distribution.log_prob = lambda outputs: 0.99 * type(distribution).log_prob(distribution, outputs)


def _entropy(ours: Any, patch: pytest.MonkeyPatch) -> None:
    original = type(ours.actor.distribution).entropy
    _override(ours.actor.distribution, "entropy", property(lambda self: 0.99 * original.fget(self)))


def _deviation(ours: Any, patch: pytest.MonkeyPatch) -> None:
    distribution = ours.actor.distribution
    if hasattr(distribution, "_scale"):
        distribution._scale *= 0.99
    else:
        clamped = distribution._clamped_std
        distribution._clamped_std = lambda raw: 0.99 * clamped(raw)


DISTRIBUTIONS = [
    Breakage("log-probability off by 1 %", _log_prob, family("distributions")),
    Breakage("entropy off by 1 %", _entropy, family("distributions")),
    Breakage("deviation off by 1 %", _deviation, family("distributions")),
]

# Recurrent models


def _recurrent_models(ours: Any) -> list[Any]:
    names = ("actor", "critic", "student", "teacher")
    return [
        model for model in (getattr(ours, name, None) for name in names) if model is not None and model.is_recurrent
    ]


def never_cleared(ours: Any, patch: pytest.MonkeyPatch) -> None:
    for model in _recurrent_models(ours):

        def reset(dones: Any = None, hidden_state: Any = None, model: Any = model) -> None:
            if dones is None:
                type(model).reset(model, None, hidden_state)

        model.reset = reset


def _at_starts(change: Callable[[torch.Tensor], torch.Tensor]) -> Break:
    def apply(ours: Any, patch: pytest.MonkeyPatch) -> None:
        original = ours.storage._hidden_states_at_starts
        ours.storage._hidden_states_at_starts = lambda *args: map_hidden_state(change, original(*args))

    return apply


def _padding_counted(ours: Any, patch: pytest.MonkeyPatch) -> None:
    def broken(trajectories: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        steps = trajectories.transpose(0, 1).reshape(-1, *trajectories.shape[2:])[: int(masks.sum())]
        return steps.view(-1, trajectories.shape[0], *trajectories.shape[2:]).transpose(0, 1)

    patch.setattr("sim_rl_plugin.modules.rnn.unpad_trajectories", broken)


def _memory_moves_on(ours: Any, patch: pytest.MonkeyPatch) -> None:
    def broken(obs: Any) -> None:
        PPO.compute_returns(ours, obs)
        ours.critic(obs)

    ours.compute_returns = broken


def forgotten_between_rollouts(ours: Any, patch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, float]:
        losses = type(ours).update(ours)
        for model in _recurrent_models(ours):
            model.reset()
        return losses

    ours.update = broken


_MEMORIES = named("GRU", "LSTM, 2 layers", "GRU actor, MLP critic", "MLP actor, LSTM critic", "RND with GRU")
RECURRENT = [
    Breakage("memory not cleared at an end", never_cleared, _MEMORIES),
    Breakage("memory of another trajectory", _at_starts(lambda state: state.roll(1, dims=1)), _MEMORIES),
    Breakage("trajectories start empty", _at_starts(torch.zeros_like), _MEMORIES),
    Breakage("padding counted", _padding_counted, _MEMORIES),
    Breakage("forgotten between rollouts", forgotten_between_rollouts, _MEMORIES),
    Breakage("critic's memory moves on", _memory_moves_on, named("GRU", "LSTM, 2 layers", "MLP actor, LSTM critic")),
]

# Images


def _scaled_images(ours: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("sim_rl_plugin.models.cnn_model.as_float_images", lambda images: 0.99 * images)


def _sees_scale(row: Row) -> bool:
    """Return whether the scale of images matters to a row: batch normalisation takes it away."""
    return row.family == "CNN" and "batch normalisation" not in row.name


def _groups_exchanged(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.actor.obs_groups_2d = ours.actor.obs_groups_2d[::-1]


def _batch_statistics_frozen(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.actor.cnns.eval()


def _encoder_learns_nothing(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours._raw_actor.cnns.requires_grad_(False)


def _shared_stepped_twice(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.optimizer = torch.optim.Adam(list(ours._parameters()), lr=ours.learning_rate)


IMAGES = [
    Breakage("images off by 1 %", _scaled_images, _sees_scale),
    Breakage("encoder learns nothing", _encoder_learns_nothing, family("CNN")),
    Breakage("image groups exchanged", _groups_exchanged, named("CNN, two image groups", "CNN, settings per group")),
    Breakage(
        "batch statistics frozen",
        _batch_statistics_frozen,
        named("CNN, batch normalisation, SGD", "CNN, batch normalisation, Adam"),
    ),
    Breakage("shared encoders stepped twice", _shared_stepped_twice, named("CNN, shared encoders")),
]

# Random network distillation


def _rnd_weight(ours: Any, patch: pytest.MonkeyPatch) -> None:
    get = ours.rnd.get_intrinsic_reward
    ours.rnd.get_intrinsic_reward = lambda obs: 0.99 * get(obs)


def _no_intrinsic_reward(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.rnd.get_intrinsic_reward = lambda obs: torch.zeros(obs.batch_size)


def _rnd_state_as_it_is(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.rnd.state_normalizer = nn.Identity()


def _rnd_reward_as_it_is(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.rnd.reward_normalizer = nn.Identity()


def _rnd_loss(ours: Any, patch: pytest.MonkeyPatch) -> None:
    loss = ours.rnd.loss_of_state
    ours.rnd.loss_of_state = lambda state: 0.99 * loss(state)


def _rnd_rate(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.rnd.optimizer.param_groups[0]["lr"] *= 0.95


def _rnd_schedule(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.rnd.weight_scheduler = None


def _rnd_has(key: str) -> Callable[[Row], bool]:
    return lambda row: row.family == "RND" and bool(row.cfg["algorithm"]["rnd_cfg"].get(key))


RND = [
    Breakage("intrinsic reward off by 1 %", _rnd_weight, family("RND")),
    Breakage("no intrinsic reward", _no_intrinsic_reward, family("RND")),
    Breakage("predictor's loss off by 1 %", _rnd_loss, family("RND")),
    Breakage("predictor's learning rate off by 5 %", _rnd_rate, family("RND")),
    Breakage("states not normalised", _rnd_state_as_it_is, _rnd_has("state_normalization")),
    Breakage("intrinsic rewards not normalised", _rnd_reward_as_it_is, _rnd_has("reward_normalization")),
    Breakage("constant weight", _rnd_schedule, named("RND, step schedule", "RND, linear schedule")),
]

# Symmetry


def _mirror_coefficient(ours: Any, patch: pytest.MonkeyPatch) -> None:
    ours.symmetry.mirror_loss_coeff *= 0.99


def _images_have_other_log_prob(ours: Any, patch: pytest.MonkeyPatch) -> None:
    augment = ours.symmetry.augment_batch

    def broken(batch: Any, original_batch_size: int) -> None:
        augment(batch, original_batch_size)
        batch.old_actions_log_prob[original_batch_size:] += 0.01

    ours.symmetry.augment_batch = broken


def _entropy_of_images(ours: Any, patch: pytest.MonkeyPatch) -> None:
    original = type(ours.actor).output_entropy
    _override(ours.actor, "output_entropy", property(lambda self: original.fget(self).flip(0)))


def _mirror_loss(ours: Any, patch: pytest.MonkeyPatch) -> None:
    compute = ours.symmetry.compute_loss
    ours.symmetry.compute_loss = lambda *args: 0.99 * compute(*args)


_AUGMENTED = named("symmetry, augmentation", "symmetry, both")
SYMMETRY = [
    Breakage("mirror loss off by 1 %", _mirror_loss, family("symmetry")),
    Breakage(
        "mirror coefficient off by 1 %",
        _mirror_coefficient,
        lambda row: row.family == "symmetry" and "mirror_loss_coeff" in row.cfg["algorithm"]["symmetry_cfg"],
    ),
    Breakage("images' old log-probability off by 0.01", _images_have_other_log_prob, _AUGMENTED),
    Breakage("entropy of the images", _entropy_of_images, _AUGMENTED),
]

# Distillation


def _loss_off(ours: Any, patch: pytest.MonkeyPatch) -> None:
    loss = ours.loss_fn
    ours.loss_fn = lambda *args: 0.99 * loss(*args)


def _not_rewound(ours: Any, patch: pytest.MonkeyPatch) -> None:
    # Copies: what was made in inference mode cannot be learned through.
    ours._rewind_memories = lambda: ours.student.reset(
        hidden_state=map_hidden_state(torch.clone, ours.student.get_hidden_state())
    )


def _student_is(*classes: str) -> Callable[[Row], bool]:
    return lambda row: row.family == "distillation" and row.cfg["student"]["class_name"] in classes


def _recurrent(row: Row) -> bool:
    return row.family == "distillation" and "RNNModel" in (
        row.cfg["student"]["class_name"],
        row.cfg["teacher"]["class_name"],
    )


def _graph_kept_at_ends(ours: Any, patch: pytest.MonkeyPatch) -> None:
    """Let gradients flow through ends of episodes: the memory's value is cleared, its history is not."""
    network = ours.student.rnn

    def reset(dones: Any = None, hidden_state: Any = None) -> None:
        if dones is None:
            type(network).reset(network, None, hidden_state)
            return
        ended = (dones > 0).view(-1, 1)
        network.hidden_state = map_hidden_state(
            lambda state: torch.where(ended, state - state.detach(), state), network.hidden_state
        )

    network.reset = reset
    network.detach_hidden_state = lambda dones=None: (
        None if dones is not None else type(network).detach_hidden_state(network)
    )


DISTILLATION = [
    Breakage("learning rate off by 1 %", scaled("learning_rate"), lambda row: True),
    Breakage("loss off by 1 %", _loss_off, lambda row: True),
    Breakage(
        "gradient length off by one",
        lambda ours, patch: setattr(ours, "gradient_length", ours.gradient_length - 1),
        lambda row: True,
    ),
    Breakage("memory not cleared at an end", never_cleared, _recurrent),
    Breakage("gradient through ends of episodes", _graph_kept_at_ends, _student_is("RNNModel")),
    Breakage("memory not rewound", _not_rewound, _student_is("RNNModel")),
    Breakage("forgotten between rollouts", forgotten_between_rollouts, _student_is("RNNModel")),
    Breakage(
        "mean squared error",
        replaced("loss_fn", nn.functional.mse_loss),
        named("MLP student, Huber", "GRU student, Huber"),
    ),
    Breakage("no gradient clipping", replaced("max_grad_norm", None), named("MLP student, gradient norm")),
    Breakage("an epoch less", replaced("num_learning_epochs", 2), named("MLP student, 3 epochs")),
    Breakage("full precision", replaced("use_mixed_precision", False), named("GRU student, mixed precision")),
]

PPO_BREAKAGES = [*EVERY_PPO_ROW, *MLP, *DISTRIBUTIONS, *RECURRENT, *IMAGES, *RND, *SYMMETRY]
