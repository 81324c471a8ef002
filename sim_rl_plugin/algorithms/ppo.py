"""Proximal policy optimization.

Legend of shapes: ``t`` steps of a rollout, ``n`` environments, ``a`` actions, ``b`` samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin import distributed
from sim_rl_plugin.algorithms.losses import adapted_learning_rate, surrogate_loss, value_loss
from sim_rl_plugin.algorithms.optimizer import (
    build_optimizer,
    load_portable_state_dict,
    portable_state_dict,
    publish_learning_rate,
)
from sim_rl_plugin.algorithms.returns import generalized_advantage_estimation, normalize
from sim_rl_plugin.algorithms.time_outs import TimeOuts
from sim_rl_plugin.config.loading import PROVIDED_TO_ALGORITHM, PROVIDED_TO_MODEL
from sim_rl_plugin.config.signature import check_arguments
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.models.observation_sets import resolve_obs_groups
from sim_rl_plugin.registry import resolve_class
from sim_rl_plugin.storage import RolloutStorage

_CRITIC_CHUNK_SAMPLES = 8192
"""Rows the critic evaluates at once after a rollout: enough to be efficient, few enough to stay in cache."""


class _MiniBatch(NamedTuple):
    """What one step of the optimizer sees; an input is a latent, or observations where the model needs them."""

    actor_input: torch.Tensor | TensorDict
    critic_input: torch.Tensor | TensorDict
    actions: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    old_log_prob: torch.Tensor
    old_params: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, samples: RolloutStorage.Batch, actor_input: Any, critic_input: Any) -> _MiniBatch:
        """Take the fields that the loss reads; log-probabilities and advantages lose their last dimension."""
        actions, values, advantages, returns = samples.actions, samples.values, samples.advantages, samples.returns
        log_prob, params = samples.old_actions_log_prob, samples.old_distribution_params
        assert actions is not None and values is not None and advantages is not None
        assert returns is not None and log_prob is not None and params is not None
        return cls(
            actor_input, critic_input, actions, values, advantages.squeeze(-1), returns, log_prob.squeeze(-1), params
        )

    def rows(self, rows: slice) -> _MiniBatch:
        """Return views of some samples."""
        return _MiniBatch(
            self.actor_input[rows],
            self.critic_input[rows],
            self.actions[rows],
            self.values[rows],
            self.advantages[rows],
            self.returns[rows],
            self.old_log_prob[rows],
            tuple(param[rows] for param in self.old_params),
        )


class PPO:
    """Proximal policy optimization with rsl_rl's interface and mathematics.

    Schulman et al., "Proximal policy optimization algorithms", arXiv:1707.06347. Where an
    environment hands over ``final_obs``, a time-out adds the value of that observation; without it,
    the value of the observation before, as rsl_rl does.

    The documented methods can be called one by one: ``act``, ``process_env_step`` for every step,
    then ``compute_returns`` and ``update``. A runner that calls ``begin_rollout`` first gets the
    same result faster, because the critic then evaluates the whole rollout at once.
    """

    actor: MLPModel
    """The actor model."""

    critic: MLPModel
    """The critic model."""

    def __init__(
        self,
        actor: MLPModel,
        critic: MLPModel,
        storage: RolloutStorage,
        num_learning_epochs: int = 5,
        num_mini_batches: int = 4,
        clip_param: float = 0.2,
        gamma: float = 0.99,
        lam: float = 0.95,
        value_loss_coef: float = 1.0,
        entropy_coef: float = 0.01,
        learning_rate: float = 0.001,
        max_grad_norm: float = 1.0,
        optimizer: str = "adam",
        use_clipped_value_loss: bool = True,
        schedule: str = "adaptive",
        desired_kl: float | None = 0.01,
        normalize_advantage_per_mini_batch: bool = False,
        device: str = "cpu",
        rnd_cfg: dict[str, Any] | None = None,
        symmetry_cfg: dict[str, Any] | None = None,
        multi_gpu_cfg: dict[str, Any] | None = None,
        *,
        use_mixed_precision: bool = False,
        grad_reduce_bucket_mb: float = 25,
        normalizer_update: Literal["after_update", "each_step"] = "after_update",
    ) -> None:
        """Take the models and the storage, and build the optimizer.

        Args:
            actor: Model with a distribution; moved to ``device``.
            critic: Model with one output; moved to ``device``.
            storage: Storage of type ``rl``.
            num_learning_epochs: Passes over a rollout per update.
            num_mini_batches: Optimizer steps per pass.
            clip_param: Largest change of the probability ratio, and of a value in the clipped value loss.
            gamma: Discount per control step.
            lam: Weight of longer advantage estimates, 0 to 1.
            value_loss_coef: Weight of the value loss.
            entropy_coef: Weight of the entropy bonus, per nat.
            learning_rate: At the start.
            max_grad_norm: Largest norm of the gradient, for actor and critic each.
            optimizer: ``adam``, ``adamw``, ``sgd`` or ``rmsprop``.
            use_clipped_value_loss: Clip the change of values in the value loss.
            schedule: ``adaptive`` steers the learning rate by the KL divergence, ``fixed`` keeps it.
            desired_kl: Target of the adaptive schedule in nats per update; None keeps the rate.
            normalize_advantage_per_mini_batch: Normalise advantages in each mini-batch instead of
                over the whole rollout.
            device: Where models and buffers lie.
            rnd_cfg: Random network distillation; not available in this version.
            symmetry_cfg: Symmetry augmentation; not available in this version.
            multi_gpu_cfg: ``global_rank``, ``local_rank`` and ``world_size`` of a distributed run.
            use_mixed_precision: Compute losses in bfloat16 where PyTorch holds that to be safe.
            grad_reduce_bucket_mb: Largest buffer of one gradient reduction, in MB.
            normalizer_update: When new observation statistics take effect: ``after_update`` as in
                rsl_rl 5.5.1, or ``each_step`` as in 5.0, which shifts the policy during a rollout.

        Raises:
            ValueError: A value is out of range.
        """
        _check_ranges(locals())
        self.device = device
        self.is_multi_gpu = multi_gpu_cfg is not None
        self.gpu_global_rank = multi_gpu_cfg["global_rank"] if multi_gpu_cfg else 0
        self.gpu_world_size = multi_gpu_cfg["world_size"] if multi_gpu_cfg else 1
        self.grad_reduce_bucket_mb = grad_reduce_bucket_mb

        self.actor = actor.to(device)
        self.critic = critic.to(device)
        # A CPU kernel takes the rate in double precision, so it reads back as it was given.
        rate_dtype = torch.float64 if torch.device(device).type == "cpu" else torch.float32
        self._learning_rate = torch.tensor(float(learning_rate), dtype=rate_dtype, device=device)
        self.optimizer = build_optimizer(
            optimizer, chain(self.actor.parameters(), self.critic.parameters()), self._learning_rate
        )
        self.storage = storage
        self.transition = RolloutStorage.Transition()

        self.num_learning_epochs = num_learning_epochs
        self.num_mini_batches = num_mini_batches
        self.clip_param = clip_param
        self.gamma = gamma
        self.lam = lam
        self.value_loss_coef = value_loss_coef
        self.entropy_coef = entropy_coef
        self.max_grad_norm = max_grad_norm
        self.use_clipped_value_loss = use_clipped_value_loss
        self.schedule = schedule
        self.desired_kl = desired_kl
        self.normalize_advantage_per_mini_batch = normalize_advantage_per_mini_batch
        self.use_mixed_precision = use_mixed_precision
        self.normalizer_update = normalizer_update

        self._values_deferred = False
        self._time_outs: list[TimeOuts] = []

    @property
    def learning_rate(self) -> float:
        """The current learning rate; reading it waits for the device."""
        return self._learning_rate.item()

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate.fill_(value)
        publish_learning_rate(self.optimizer, self._learning_rate)

    # Rollout

    def begin_rollout(self) -> None:
        """Let the critic evaluate the coming rollout at once in ``compute_returns``.

        Until then ``transition.values`` stays None and rewards lack the value of time-outs. A
        sub-class that overrides one of the three methods is left with the documented behaviour.
        """
        documented = ("act", "process_env_step", "compute_returns")
        overridden = any(getattr(type(self), name) is not getattr(PPO, name) for name in documented)
        # Values of a rollout whose statistics change step by step must be computed step by step.
        moving = self.normalizer_update == "each_step"
        self._values_deferred = not (overridden or moving or self.critic.is_recurrent)
        self._time_outs.clear()
        # A rollout that broke off leaves its steps behind.
        self.storage.clear()
        self.transition.clear()

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Sample actions and note what the update needs in ``transition``.

        Args:
            obs: Observation groups, batch size ``[n]``.

        Returns:
            Actions ``(n, a)``, to be stepped with and not modified.
        """
        transition = self.transition
        transition.hidden_states = (self.actor.get_hidden_state(), self.critic.get_hidden_state())
        with torch.no_grad():
            actions = self.actor(obs, stochastic_output=True)
            transition.actions = actions
            if not self._values_deferred:
                transition.values = self.critic(obs)
            transition.actions_log_prob = self.actor.get_output_log_prob(actions)
            transition.distribution_params = tuple(param.detach() for param in self.actor.output_distribution_params)
        transition.observations = obs
        return actions

    def process_env_step(
        self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> None:
        """Record one environment step.

        The observations are handed to the normalisers with the storage, and the statistics take
        effect when ``update`` ends (see ``normalizer_update``).

        Args:
            obs: Observations after the step, batch size ``[n]``.
            rewards: ``(n,)``; not modified.
            dones: ``(n,)``.
            extras: See ``VecEnv.step``; ``time_outs`` and ``final_obs`` are used.
        """
        if self.normalizer_update == "each_step":
            self.actor.update_normalization(obs)
            self.critic.update_normalization(obs)
        self.transition.rewards = rewards
        self.transition.dones = dones
        if "time_outs" in extras:
            time_outs = TimeOuts.of(self.storage.step, extras, self.device)
            if self._values_deferred:
                self._time_outs.append(time_outs)
            else:
                assert self.transition.values is not None, "act() comes first"
                values = time_outs.values(self.critic, self.transition.values)
                self.transition.rewards = time_outs.added_to(rewards, self.gamma * values.squeeze(-1))
        self.storage.add_transition(self.transition)
        self.transition.clear()
        self.actor.reset(dones)
        self.critic.reset(dones)

    def compute_returns(self, obs: TensorDict) -> None:
        """Compute returns and advantages of the stored rollout.

        Args:
            obs: Observations after its last step, batch size ``[n]``.
        """
        storage = self.storage
        with torch.no_grad():
            if self._values_deferred:
                self._evaluate_rollout()
            memory = self.critic.get_hidden_state()
            last_values = self.critic(obs)
            self.critic.reset(hidden_state=memory)  # the next rollout starts from where this one ended
            returns = generalized_advantage_estimation(
                storage.rewards, storage.dones, storage.values, last_values, self.gamma, self.lam
            )
            storage.returns.copy_(returns)
            advantages = returns.sub_(storage.values)
            if not self.normalize_advantage_per_mini_batch:
                advantages = normalize(advantages)
            storage.advantages.copy_(advantages)
        self._values_deferred = False

    def _evaluate_rollout(self) -> None:
        """Fill in what ``begin_rollout`` put off: values, and the value of what time-outs cut off."""
        storage = self.storage
        steps_per_chunk = max(1, _CRITIC_CHUNK_SAMPLES // storage.num_envs)
        for start in range(0, storage.num_transitions_per_env, steps_per_chunk):
            chunk = slice(start, start + steps_per_chunk)
            values_tn = storage.values[chunk]
            values_tn.copy_(self.critic(storage.observations[chunk].flatten(0, 1)).view_as(values_tn))
        for time_outs in self._time_outs:
            rewards_n = storage.rewards[time_outs.step].squeeze(-1)
            values_n = time_outs.values(self.critic, storage.values[time_outs.step]).squeeze(-1)
            rewards_n.copy_(time_outs.added_to(rewards_n, self.gamma * values_n))
        self._time_outs.clear()

    # Update

    def update(self) -> dict[str, float]:
        """Learn from the stored rollout and empty the storage.

        Returns:
            Means over all mini-batches: ``value``, ``surrogate`` (losses) and ``entropy`` (nats).

        Raises:
            ValueError: A loss or a parameter became NaN or infinite.
        """
        publish_learning_rate(self.optimizer, self._learning_rate)
        sums = torch.zeros(3, device=self.device)
        num_updates = 0
        for batch in self._mini_batches():
            sums += self._update_once(batch)
            num_updates += 1
        if self.normalizer_update == "after_update":
            observations = self.storage.observations.flatten(0, 1)
            self.actor.update_normalization(observations)
            self.critic.update_normalization(observations)
        self.storage.clear()
        with torch.no_grad():
            models = [torch.stack([p.sum() for p in model.parameters()]).sum() for model in (self.actor, self.critic)]
        names = ("value", "surrogate", "entropy", "actor", "critic")
        results = dict(zip(names, torch.cat((sums / num_updates, torch.stack(models))).tolist(), strict=True))
        bad = [name for name, number in results.items() if not math.isfinite(number)]
        if bad:
            raise UserError(
                f"the update made {', '.join(bad)} NaN or infinite (learning rate {self.learning_rate:g}): continue "
                "from the last checkpoint with a smaller learning rate, or check the scale of the rewards"
            )
        return {name: results[name] for name in ("value", "surrogate", "entropy")}

    def _mini_batches(self) -> Iterator[_MiniBatch]:
        """Yield mini-batches: slices of one gathered, normalised copy of the rollout, the same in every epoch."""
        samples = self.storage.gather(self.storage.sample_order(self.num_mini_batches))
        with torch.no_grad():
            everything = _MiniBatch.of(samples, *(_fixed_input(model, samples) for model in (self.actor, self.critic)))
        del samples  # frees the groups whose latents are kept
        size = everything.actions.shape[0] // self.num_mini_batches
        for _ in range(self.num_learning_epochs):
            for start in range(0, size * self.num_mini_batches, size):
                yield everything.rows(slice(start, start + size))

    def _update_once(self, batch: _MiniBatch) -> torch.Tensor:
        """Take one step of the optimizer; return value loss, surrogate loss and entropy, ``(3,)``."""
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.use_mixed_precision):
            loss, terms = self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        if self.is_multi_gpu:
            self.reduce_parameters()
        nn.utils.clip_grad_norm_(self.actor.parameters(), self.max_grad_norm)
        nn.utils.clip_grad_norm_(self.critic.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return terms

    def _loss(self, batch: _MiniBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss to minimise and its terms, after adapting the learning rate to the batch."""
        if isinstance(batch.actor_input, torch.Tensor):
            self.actor.update_distribution(batch.actor_input)
        else:
            self.actor(batch.actor_input, stochastic_output=True)
        if isinstance(batch.critic_input, torch.Tensor):
            values = self.critic.forward_latent(batch.critic_input)
        else:
            values = self.critic(batch.critic_input)
        if self.schedule == "adaptive" and self.desired_kl is not None:
            self._adapt_learning_rate(batch.old_params, self.desired_kl)

        advantages = normalize(batch.advantages) if self.normalize_advantage_per_mini_batch else batch.advantages
        log_prob = self.actor.get_output_log_prob(batch.actions)
        surrogate = surrogate_loss(log_prob, batch.old_log_prob, advantages, self.clip_param)
        value = value_loss(
            values, batch.values, batch.returns, self.clip_param if self.use_clipped_value_loss else None
        )
        entropy = self.actor.output_entropy.mean()
        loss = surrogate + self.value_loss_coef * value - self.entropy_coef * entropy
        return loss, torch.stack((value, surrogate, entropy)).detach()

    def _adapt_learning_rate(self, old_params: tuple[torch.Tensor, ...], desired_kl: float) -> None:
        """Steer the learning rate by the KL divergence between the rollout's policy and the current one."""
        with torch.no_grad():
            params = self.actor.output_distribution_params
            kl_mean = self.actor.get_kl_divergence(old_params, params).float().mean()
            if self.is_multi_gpu:
                # Every rank computes the same rate from the same mean.
                distributed.all_reduce_mean(kl_mean)
            self._learning_rate.copy_(adapted_learning_rate(self._learning_rate, kl_mean, desired_kl))
        publish_learning_rate(self.optimizer, self._learning_rate)

    # Models

    def train_mode(self) -> None:
        """Let models learn: normalisers update, dropout drops."""
        self.actor.train()
        self.critic.train()

    def eval_mode(self) -> None:
        """Stop models from learning."""
        self.actor.eval()
        self.critic.eval()

    def save(self) -> dict[str, Any]:
        """Return the state of models and optimizer under rsl_rl's keys."""
        return {
            "actor_state_dict": self.actor.state_dict(),
            "critic_state_dict": self.critic.state_dict(),
            "optimizer_state_dict": portable_state_dict(self.optimizer),
        }

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, bool] | None, strict: bool) -> bool:
        """Load what ``save`` returned, or what rsl_rl's did.

        Args:
            loaded_dict: The saved state.
            load_cfg: What to load: ``actor``, ``critic``, ``optimizer``, ``iteration``; absent means
                no. None loads everything.
            strict: Whether a model's parameter names must match exactly.

        Returns:
            Whether the iteration counter shall be loaded too.

        Raises:
            ValueError: A part is missing from the saved state.
            RuntimeError: Parameter names or shapes differ.
        """
        if load_cfg is None:
            load_cfg = {"actor": True, "critic": True, "optimizer": True, "iteration": True}
        for part in ("actor", "critic", "optimizer"):
            if load_cfg.get(part) and f"{part}_state_dict" not in loaded_dict:
                raise UserError(f"the checkpoint has no {part}_state_dict; it holds {', '.join(loaded_dict)}")
        if load_cfg.get("actor"):
            self.actor.load_state_dict(loaded_dict["actor_state_dict"], strict=strict)
        if load_cfg.get("critic"):
            self.critic.load_state_dict(loaded_dict["critic_state_dict"], strict=strict)
        if load_cfg.get("optimizer"):
            load_portable_state_dict(self.optimizer, loaded_dict["optimizer_state_dict"], self._learning_rate)
        return load_cfg.get("iteration", False)

    def get_policy(self) -> MLPModel:
        """Return the actor."""
        return self.actor

    @staticmethod
    def construct_algorithm(obs: TensorDict, env: VecEnv, cfg: dict[str, Any], device: str) -> PPO:
        """Build models, storage and algorithm from a training dict, which is not modified.

        Args:
            obs: Observations of ``env``.
            env: The environment; ``num_envs`` and ``num_actions`` are used.
            cfg: Training dict in rsl_rl's shape: ``num_steps_per_env``, ``obs_groups``, and
                ``algorithm``, ``actor``, ``critic`` with ``class_name`` and arguments.
            device: Where to learn.

        Raises:
            ValueError: A key is missing, unknown or ill-typed.
        """
        classes: dict[str, tuple[Any, dict[str, Any]]] = {}
        for section in ("algorithm", "actor", "critic"):
            if section not in cfg:
                raise UserError(f"the training config has no section '{section}'; it holds {', '.join(cfg)}")
            provided = PROVIDED_TO_ALGORITHM if section == "algorithm" else PROVIDED_TO_MODEL
            section_class, arguments = resolve_class(cfg[section], section)
            # rsl_rl's dicts carry this switch although it belongs to CNN models; off, it means nothing.
            if section == "algorithm" and arguments.pop("share_cnn_encoders", None):
                raise UserError("algorithm.share_cnn_encoders: not available in this version; set it to null")
            check_arguments(section_class, arguments, section, provided=provided)
            classes[section] = (section_class, arguments)
        if cfg.get("torch_compile_mode") is not None:
            raise UserError("torch_compile_mode: not available in this version; set it to null")
        obs_groups = resolve_obs_groups(obs, copy.deepcopy(cfg.get("obs_groups") or {}), ["actor", "critic"])

        models = {}
        for name, output_dim in (("actor", env.num_actions), ("critic", 1)):
            model_class, arguments = classes[name]
            models[name] = model_class(obs, obs_groups, name, output_dim, **arguments).to(device)
        storage = RolloutStorage("rl", env.num_envs, cfg["num_steps_per_env"], obs, [env.num_actions], device)
        algorithm_class, arguments = classes["algorithm"]
        return algorithm_class(
            models["actor"],
            models["critic"],
            storage,
            device=device,
            **arguments,
            multi_gpu_cfg=cfg.get("multi_gpu"),
        )

    # Distributed training

    def broadcast_parameters(self) -> None:
        """Give every rank the models of rank 0."""
        for model in (self.actor, self.critic):
            distributed.broadcast(model.state_dict().values())

    def reduce_parameters(self) -> None:
        """Average the gradients of all ranks; call it between the backward pass and the optimizer's step."""
        parameters = chain(self.actor.parameters(), self.critic.parameters())
        distributed.average_gradients(parameters, self.grad_reduce_bucket_mb)


def _fixed_input(model: MLPModel, samples: RolloutStorage.Batch) -> torch.Tensor | TensorDict:
    """Return the samples' latents where nothing trainable comes before them, else their observations."""
    assert samples.observations is not None
    kind: Any = type(model)
    is_fixed = (
        isinstance(model, MLPModel)
        and kind.forward is MLPModel.forward
        and kind.get_latent is MLPModel.get_latent
        and kind.forward_latent is MLPModel.forward_latent
        and not any(True for _ in model.obs_normalizer.parameters())
    )
    return model.get_latent(samples.observations) if is_fixed else samples.observations


_RANGES: dict[str, tuple[float, float]] = {
    "num_learning_epochs": (1, float("inf")),
    "num_mini_batches": (1, float("inf")),
    "clip_param": (0.0, float("inf")),
    "gamma": (0.0, 1.0),
    "lam": (0.0, 1.0),
    "learning_rate": (0.0, float("inf")),
    "max_grad_norm": (0.0, float("inf")),
}


def _check_ranges(arguments: dict[str, Any]) -> None:
    """Raise for constructor arguments that make no sense, or that this version cannot serve."""
    for name, (low, high) in _RANGES.items():
        if not low <= arguments[name] <= high:
            expected = f"between {low:g} and {high:g}" if high < float("inf") else f"of {low:g} or more"
            raise UserError(f"algorithm.{name}: expected a number {expected}, found {arguments[name]}")
    for name, choices in (("schedule", ("adaptive", "fixed")), ("normalizer_update", ("after_update", "each_step"))):
        if arguments[name] not in choices:
            raise UserError(f"algorithm.{name}: expected {' or '.join(map(repr, choices))}, found {arguments[name]!r}")
    for name in ("rnd_cfg", "symmetry_cfg"):
        if arguments[name] is not None:
            raise UserError(f"algorithm.{name}: not available in this version; set it to null")
    if arguments["actor"].is_recurrent or arguments["critic"].is_recurrent:
        raise UserError("recurrent models are not available in this version")
