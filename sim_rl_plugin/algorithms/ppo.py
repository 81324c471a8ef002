"""Proximal policy optimization.

Legend of shapes: ``t`` steps of a rollout, ``n`` environments, ``a`` actions, ``b`` samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin import distributed
from sim_rl_plugin.algorithms.algorithm import Algorithm, overrides
from sim_rl_plugin.algorithms.construction import Construction
from sim_rl_plugin.algorithms.fast.selection import FastPaths, choose
from sim_rl_plugin.algorithms.losses import adapted_learning_rate, surrogate_loss, value_loss
from sim_rl_plugin.algorithms.mini_batches import MiniBatch, MiniBatches, from_generator
from sim_rl_plugin.algorithms.optimizer import (
    load_portable_state_dict,
    portable_state_dict,
    publish_learning_rate,
)
from sim_rl_plugin.algorithms.returns import generalized_advantage_estimation, leave_out, normalize
from sim_rl_plugin.algorithms.time_outs import TimeOuts
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.extensions import (
    RandomNetworkDistillation,
    Symmetry,
    resolve_rnd_config,
    resolve_symmetry_config,
)
from sim_rl_plugin.extensions.rnd import check_rnd_cfg
from sim_rl_plugin.extensions.symmetry import check_symmetry_cfg
from sim_rl_plugin.models import CNNModel, MLPModel
from sim_rl_plugin.models.compilation import compile_model
from sim_rl_plugin.models.memory import memory_of, restore_memory
from sim_rl_plugin.storage import RolloutStorage

if TYPE_CHECKING:
    from sim_rl_plugin.algorithms.fast.recorded import RecordedUpdate
    from sim_rl_plugin.algorithms.fast.rollout import PerceptronRollout
    from sim_rl_plugin.algorithms.fast.update import PerceptronUpdate

_CRITIC_CHUNK_SAMPLES = 8192
"""Rows the critic evaluates at once after a rollout: enough to be efficient, few enough to stay in cache."""


class PPO(Algorithm):
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
        reward_scale: float = 1.0,
        normalize_advantage_per_rank: bool = False,
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
            rnd_cfg: Arguments of ``RandomNetworkDistillation``; None for no intrinsic reward.
            symmetry_cfg: Arguments of ``Symmetry``; None for no mirror images.
            multi_gpu_cfg: ``global_rank``, ``local_rank`` and ``world_size`` of a distributed run.
            use_mixed_precision: Compute losses in bfloat16 where PyTorch holds that to be safe.
            grad_reduce_bucket_mb: Largest buffer of one gradient reduction, in MB.
            normalizer_update: When new observation statistics take effect: ``after_update`` as in
                rsl_rl 5.5.1, or ``each_step`` as in 5.0, which shifts the policy during a rollout.
            reward_scale: Factor of the environment's rewards, intrinsic ones excepted. Values and returns
                are in the scaled unit; what is logged stays in the task's.
            normalize_advantage_per_rank: In a distributed run, let each rank normalise its own advantages, as
                rsl_rl does, instead of over all ranks, with which k ranks learn what one would.

        Raises:
            ValueError: A value is out of range.
        """
        _check_ranges(locals())
        super().__init__(device, multi_gpu_cfg, grad_reduce_bucket_mb)
        self.rnd = RandomNetworkDistillation(device=device, **rnd_cfg) if rnd_cfg else None
        self.intrinsic_rewards: torch.Tensor | None = None
        """Intrinsic rewards of the last step, ``(n,)``; with random network distillation only."""
        self.symmetry = Symmetry(**symmetry_cfg) if symmetry_cfg else None

        self.actor = actor.to(device)
        self.critic = critic.to(device)
        # What is saved, exported and trained; `compile` puts a compiled front before it.
        self._raw_actor: MLPModel = self.actor
        self._raw_critic: MLPModel = self.critic
        self._build_optimizer(optimizer, self._parameters(), learning_rate)
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
        self.reward_scale = reward_scale
        self.normalize_advantage_per_rank = normalize_advantage_per_rank

        self.fast = True
        """Whether fast paths may stand in for the plain one; ``fast`` in the training dict."""
        self.against_recording: str | None = None
        """Why the optimizer's step could not be recorded, once that was tried in vain."""
        self._fast_update: PerceptronUpdate | RecordedUpdate | None = None
        self._kept_rollout: PerceptronRollout | None = None
        self._rollout: PerceptronRollout | None = None
        """Takes the policy's steps of the rollout that ``begin_rollout`` began, if a fast path may."""
        self._kl_mean: torch.Tensor | None = None
        """Of a distributed run's mini-batch, until it has been averaged over all ranks."""
        self._values_deferred = False
        self._time_outs: list[TimeOuts] = []
        self._skipped_n: dict[int, torch.Tensor] = {}
        """By step of the rollout, environments that did not take it."""

    # Rollout

    def begin_rollout(self) -> None:
        """Let the critic evaluate the coming rollout at once in ``compute_returns``.

        Until then ``transition.values`` stays None and rewards lack the value of time-outs. A
        sub-class that overrides one of the three methods is left with the documented behaviour, and so
        is a storage that overrides ``add_transition``.
        """
        self._values_deferred = self.defers_values()
        self._rollout = self._fast_rollout() if choose(self).rollout else None
        self._time_outs.clear()
        self._skipped_n.clear()
        # A rollout that broke off leaves its steps behind.
        self.storage.clear()
        self.transition.clear()

    def defers_values(self) -> bool:
        """Return whether ``begin_rollout`` puts off the critic."""
        overridden = overrides(self, PPO, "act", "process_env_step", "compute_returns")
        overridden = overridden or overrides(self.storage, RolloutStorage, "add_transition")
        # Values of a rollout whose statistics change step by step must be computed step by step.
        moving = self.normalizer_update == "each_step"
        mixing = not getattr(self._raw_critic, "is_sample_wise", False)
        return not (overridden or moving or mixing or self.critic.is_recurrent)

    def _fast_rollout(self) -> PerceptronRollout:
        from sim_rl_plugin.algorithms.fast.rollout import PerceptronRollout  # imports numba

        if self._kept_rollout is None or not self._kept_rollout.fits():
            self._kept_rollout = PerceptronRollout(self)
        return self._kept_rollout.begin()

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Sample actions and note what the update needs in ``transition``.

        Args:
            obs: Observation groups, batch size ``[n]``.

        Returns:
            Actions ``(n, a)``, to be stepped with and not modified.
        """
        if self._rollout is not None:
            return self._rollout.act(obs)
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
            extras: See ``VecEnv.step``; ``time_outs``, ``final_obs`` and ``skipped`` are used.
        """
        if self.normalizer_update == "each_step":
            self._update_normalization(obs)
        if self.reward_scale != 1.0:
            rewards = rewards * self.reward_scale
        if self.rnd is not None:
            self.intrinsic_rewards = self.rnd.get_intrinsic_reward(obs)
            rewards = rewards + self.intrinsic_rewards
        self.transition.rewards = rewards
        self.transition.dones = dones
        if "time_outs" in extras:
            time_outs = TimeOuts.of(self.storage.step, extras, self.device)
            if self._values_deferred:
                self._time_outs.append(time_outs)
            else:
                assert self.transition.values is not None, "act() comes first"
                values = time_outs.values(self._raw_critic, self.transition.values)
                self.transition.rewards = time_outs.added_to(rewards, self.gamma * values.squeeze(-1))
        if "skipped" in extras:
            self._skipped_n[self.storage.step] = extras["skipped"].to(self.device, torch.bool, copy=True)
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
            if self._skipped_n:
                advantages = self._leave_out_skipped(advantages)
            if not self.normalize_advantage_per_mini_batch:
                advantages = normalize(advantages, self._normalizes_over_all_ranks)
            storage.advantages.copy_(advantages)
        self._values_deferred = False
        self._rollout = None

    def _leave_out_skipped(self, advantages_tn: torch.Tensor) -> torch.Tensor:
        """Let nothing be learnt from steps that did not take place; return the advantages."""
        storage = self.storage
        skipped_tn = torch.zeros_like(storage.dones, dtype=torch.bool)
        for step, skipped_n in self._skipped_n.items():
            skipped_tn[step, :, 0] = skipped_n
        self._skipped_n.clear()
        # The critic's target is the value that it has.
        storage.returns.copy_(torch.where(skipped_tn, storage.values, storage.returns))
        return leave_out(advantages_tn, skipped_tn, self._normalizes_over_all_ranks)

    @property
    def _normalizes_over_all_ranks(self) -> bool:
        return self.is_multi_gpu and not self.normalize_advantage_per_rank

    @property
    def learns_each_step(self) -> bool:
        """Whether ``process_env_step`` learns from its observations: statistics that move at once, or curiosity."""
        return self.normalizer_update == "each_step" or self.rnd is not None or overrides(self, PPO, "process_env_step")

    def models(self) -> list[Any]:
        """Return actor and critic."""
        return [self._raw_actor, self._raw_critic]

    def _restrict(self, env_ids: torch.Tensor) -> None:
        self._time_outs = [time_outs.of_environments(env_ids) for time_outs in self._time_outs]
        self._skipped_n = {step: skipped_n[env_ids] for step, skipped_n in self._skipped_n.items()}

    def _evaluate_rollout(self) -> None:
        """Fill in what ``begin_rollout`` put off: values, and the value of what time-outs cut off."""
        storage = self.storage
        if self._rollout is not None:
            self._rollout.finish()
        else:
            self._evaluate_steps()
        for time_outs in self._time_outs:
            rewards_n = storage.rewards[time_outs.step].squeeze(-1)
            values_n = time_outs.values(self._raw_critic, storage.values[time_outs.step]).squeeze(-1)
            rewards_n.copy_(time_outs.added_to(rewards_n, self.gamma * values_n))
        self._time_outs.clear()

    def _evaluate_steps(self) -> None:
        """Fill in the values of the rollout's observations."""
        storage = self.storage
        steps_per_chunk = max(1, _CRITIC_CHUNK_SAMPLES // storage.num_envs)
        for start in range(0, storage.num_transitions_per_env, steps_per_chunk):
            chunk = slice(start, start + steps_per_chunk)
            values_tn = storage.values[chunk]
            values_tn.copy_(self.critic(storage.observations[chunk].flatten(0, 1)).view_as(values_tn))

    # Update

    @property
    def fast_paths(self) -> FastPaths:
        """Which fast paths stand in for the plain one now, and why not the others."""
        return choose(self)

    def update(self) -> dict[str, float]:
        """Learn from the stored rollout and empty the storage.

        Returns:
            Means over all mini-batches: ``value``, ``surrogate`` (losses) and ``entropy`` (nats), with
            random network distillation ``rnd``, with symmetry ``symmetry``.

        Raises:
            ValueError: A loss or a parameter became NaN or infinite.
        """
        publish_learning_rate(self.optimizer, self._learning_rate)
        if self.is_multi_gpu:
            self._weight = distributed.weight_of(self._mini_batch_size(), self.device)
        names = ["value", "surrogate", "entropy"]
        names += ["rnd"] if self.rnd is not None else []
        names += ["symmetry"] if self.symmetry is not None else []
        means = self._fast_means() if choose(self).update else self._plain_means(len(names))
        if self.normalizer_update == "after_update":
            self._update_normalization(self.storage.observations.flatten(0, 1))
        self.storage.clear()
        networks: dict[str, nn.Module] = {"actor": self._raw_actor, "critic": self._raw_critic}
        if self.rnd is not None:
            networks["rnd predictor"] = self.rnd
        return self._checked(names, means, networks)

    def _mini_batch_size(self) -> int:
        """Return how many samples of this rank a mini-batch has, mirror images not counted."""
        storage = self.storage
        if any(model.is_recurrent for model in self.models()):
            return storage.num_envs // self.num_mini_batches * storage.num_transitions_per_env
        return storage.num_envs * storage.num_transitions_per_env // self.num_mini_batches

    def _plain_means(self, number: int) -> torch.Tensor:
        """Take all optimizer steps; return the means of the ``number`` losses."""
        sums = torch.zeros(number, device=self.device)
        num_updates = 0
        for batch in self._mini_batches():
            sums += self._update_once(batch)
            num_updates += 1
        return sums / num_updates

    def _fast_means(self) -> torch.Tensor:
        """Do what ``_plain_means`` does, with passes written by hand or, on a GPU, with a recording."""
        if self._fast_update is None or not self._fast_update.fits():
            if torch.device(self.device).type == "cpu":
                from sim_rl_plugin.algorithms.fast.update import PerceptronUpdate  # imports numba

                self._fast_update = PerceptronUpdate(self)
            else:
                from sim_rl_plugin.algorithms.fast.recorded import RecordedUpdate

                self._fast_update = RecordedUpdate(self)
        return self._fast_update.run()

    def _mini_batches(self) -> Iterator[MiniBatch]:
        """Yield the mini-batches of all epochs."""
        if overrides(self.storage, RolloutStorage, "mini_batch_generator", "recurrent_mini_batch_generator"):
            return from_generator(
                self.storage,
                (self.actor, self.critic),
                self.symmetry,
                num_mini_batches=self.num_mini_batches,
                num_epochs=self.num_learning_epochs,
                normalize_advantages=self.normalize_advantage_per_mini_batch,
                over_all_ranks=self._normalizes_over_all_ranks,
            )
        batches = MiniBatches(
            self.storage,
            self._raw_actor,
            self._raw_critic,
            self.rnd,
            self.symmetry,
            num_mini_batches=self.num_mini_batches,
            normalize_advantages=self.normalize_advantage_per_mini_batch,
            over_all_ranks=self._normalizes_over_all_ranks,
            prepare=self.actor is self._raw_actor,
        )
        return batches.epochs(self.num_learning_epochs)

    def _update_normalization(self, obs: TensorDict) -> None:
        self.actor.update_normalization(obs)
        self.critic.update_normalization(obs)
        if self.rnd is not None:
            self.rnd.update_normalization(obs)

    def _update_once(self, batch: MiniBatch) -> torch.Tensor:
        """Take one step of the optimizers; return the losses in the order in which ``update`` names them."""
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.use_mixed_precision):
            loss, terms = self._loss(batch)
            rnd_loss = None
            if self.rnd is not None:
                rnd_loss = self._rnd_loss(self.rnd, batch)
                terms.append(rnd_loss)
            if self.symmetry is not None:
                symmetry_loss = self.symmetry.compute_loss(self.actor, batch.samples, batch.num_originals)
                if self.symmetry.use_mirror_loss:
                    loss = loss + self.symmetry.mirror_loss_coeff * symmetry_loss
                terms.append(symmetry_loss)
        self.optimizer.zero_grad()
        loss.backward()
        if self.rnd is not None and rnd_loss is not None:
            self.rnd.optimizer.zero_grad()
            rnd_loss.backward()
        if self.is_multi_gpu:
            self._average_with_kl()
        nn.utils.clip_grad_norm_(self._raw_actor.parameters(), self.max_grad_norm)
        nn.utils.clip_grad_norm_(self._raw_critic.parameters(), self.max_grad_norm)
        self.optimizer.step()
        if self.rnd is not None:
            self.rnd.optimizer.step()
        return torch.stack([term.detach().float() for term in terms])

    def _rnd_loss(self, rnd: RandomNetworkDistillation, batch: MiniBatch) -> torch.Tensor:
        if batch.rnd_state is not None:
            return rnd.loss_of_state(batch.rnd_state)
        assert batch.samples.observations is not None
        return rnd.compute_loss(batch.samples.observations[: batch.num_originals])

    def _loss(self, batch: MiniBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return PPO's loss and its three terms, after adapting the learning rate to the batch."""
        samples = batch.samples
        assert samples.actions is not None and samples.advantages is not None and samples.returns is not None
        assert samples.values is not None and samples.old_actions_log_prob is not None
        batch.actor.describe_distribution(self.actor)
        values = batch.critic.values(self.critic)
        new_params, entropy = self.actor.output_distribution_params, self.actor.output_entropy
        if self.symmetry is not None:
            # Mirror images have no old distribution of their own, and no say in the entropy.
            new_params = tuple(param[: batch.num_originals] for param in new_params)
            entropy = entropy[: batch.num_originals]
        if self.schedule == "adaptive" and self.desired_kl is not None:
            assert samples.old_distribution_params is not None
            self._adapt_learning_rate(samples.old_distribution_params, new_params, self.desired_kl)

        log_prob = self.actor.get_output_log_prob(samples.actions)
        surrogate = surrogate_loss(
            log_prob, samples.old_actions_log_prob.squeeze(-1), samples.advantages.squeeze(-1), self.clip_param
        )
        value = value_loss(
            values, samples.values, samples.returns, self.clip_param if self.use_clipped_value_loss else None
        )
        mean_entropy = entropy.mean()
        loss = surrogate + self.value_loss_coef * value - self.entropy_coef * mean_entropy
        return loss, [value, surrogate, mean_entropy]

    def _adapt_learning_rate(
        self, old_params: tuple[torch.Tensor, ...], new_params: tuple[torch.Tensor, ...], desired_kl: float
    ) -> None:
        """Steer the learning rate by the KL divergence between the rollout's policy and the current one."""
        with torch.no_grad():
            kl_mean = self.actor.get_kl_divergence(old_params, new_params).float().mean()
            if self.is_multi_gpu:
                self._kl_mean = kl_mean  # goes with the gradients
                return
            self._learning_rate.copy_(adapted_learning_rate(self._learning_rate, kl_mean, desired_kl))
        publish_learning_rate(self.optimizer, self._learning_rate)

    def _average_with_kl(self) -> None:
        """Average gradients and KL divergence over all ranks, and adapt the learning rate, the same on each."""
        kl_mean, self._kl_mean = self._kl_mean, None
        self._average_with(kl_mean)
        if kl_mean is not None and self.desired_kl is not None:
            self._learning_rate.copy_(adapted_learning_rate(self._learning_rate, kl_mean, self.desired_kl))
            publish_learning_rate(self.optimizer, self._learning_rate)

    # Models

    def train_mode(self) -> None:
        """Let models learn: normalisers update, dropout drops."""
        self.actor.train()
        self.critic.train()
        if self.rnd is not None:
            self.rnd.train()

    def eval_mode(self) -> None:
        """Stop models from learning."""
        self.actor.eval()
        self.critic.eval()
        if self.rnd is not None:
            self.rnd.eval()

    def compile(self, mode: str | None = None) -> None:
        """Compile actor and critic with ``torch.compile``.

        Args:
            mode: ``default`` or ``max-autotune-no-cudagraphs``; None compiles nothing.

        Raises:
            ValueError: The mode is another one.
        """
        self.actor = compile_model(self._raw_actor, mode)
        self.critic = compile_model(self._raw_critic, mode)

    def save(self) -> dict[str, Any]:
        """Return the state of models and optimizers under rsl_rl's keys."""
        saved = {
            "actor_state_dict": self._raw_actor.state_dict(),
            "critic_state_dict": self._raw_critic.state_dict(),
            "optimizer_state_dict": portable_state_dict(self.optimizer, self._parameters()),
        }
        if self.rnd is not None:
            saved["rnd_state_dict"] = self.rnd.state_dict()
            saved["rnd_optimizer_state_dict"] = portable_state_dict(self.rnd.optimizer)
        return saved

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, bool] | None, strict: bool) -> bool:
        """Load what ``save`` returned, or what rsl_rl's did.

        Args:
            loaded_dict: The saved state. That of a distillation holds a student, which becomes the actor.
            load_cfg: What to load: ``actor``, ``critic``, ``optimizer``, ``iteration``, ``rnd``; absent
                means no. None loads everything, and of a distillation the student alone.
            strict: Whether a model's parameter names must match exactly.

        Returns:
            Whether the iteration counter shall be loaded too.

        Raises:
            ValueError: A part is missing from the saved state.
            RuntimeError: Parameter names or shapes differ.
        """
        if "student_state_dict" in loaded_dict and "actor_state_dict" not in loaded_dict:
            loaded_dict = {**loaded_dict, "actor_state_dict": loaded_dict["student_state_dict"]}
            load_cfg = {"actor": True} if load_cfg is None else load_cfg
        if load_cfg is None:
            load_cfg = {"actor": True, "critic": True, "optimizer": True, "iteration": True, "rnd": True}
        wanted = ["actor", "critic", "optimizer"] + (["rnd", "rnd_optimizer"] if self.rnd is not None else [])
        for part in wanted:
            if load_cfg.get(part.removesuffix("_optimizer")) and f"{part}_state_dict" not in loaded_dict:
                raise UserError(f"the checkpoint has no {part}_state_dict; it holds {', '.join(loaded_dict)}")
        if load_cfg.get("actor"):
            self._raw_actor.load_state_dict(loaded_dict["actor_state_dict"], strict=strict)
        if load_cfg.get("critic"):
            self._raw_critic.load_state_dict(loaded_dict["critic_state_dict"], strict=strict)
        if load_cfg.get("optimizer"):
            load_portable_state_dict(self.optimizer, loaded_dict["optimizer_state_dict"], self._learning_rate)
        if load_cfg.get("rnd") and self.rnd is not None:
            self.rnd.load_state_dict(loaded_dict["rnd_state_dict"], strict=strict)
            load_portable_state_dict(self.rnd.optimizer, loaded_dict["rnd_optimizer_state_dict"])
        return load_cfg.get("iteration", False)

    def start_from(self, checkpoints: list[dict[str, Any]]) -> None:
        """Take over the actor of another training (of a distillation, its student), and a critic.

        The critic is that of the second checkpoint, or else of the first if it holds one. A distillation
        holds none; the critic that its teacher was trained with is close to right for the student, while
        a fresh one would spoil the policy before it knows better.

        Raises:
            ValueError: There are more than two checkpoints, or one does not hold what is taken from it.
            RuntimeError: Parameter names or shapes differ.
        """
        if len(checkpoints) > 2:
            raise UserError(
                "init_from: PPO starts from one checkpoint, or from an actor's and a critic's, "
                f"found {len(checkpoints)}"
            )
        self.load(checkpoints[0], {"actor": True}, strict=True)
        if len(checkpoints) == 2 or "critic_state_dict" in checkpoints[0]:
            self.load(checkpoints[-1], {"critic": True}, strict=True)

    def training_state(self) -> dict[str, Any]:
        """Return what else a resumed training depends on: memories of episodes in progress, RND's counters."""
        return {
            "memories": [memory_of(model) for model in (self._raw_actor, self._raw_critic)],
            "rnd": None if self.rnd is None else self.rnd.training_state(),
        }

    def load_training_state(self, state: dict[str, Any], same_episodes: bool) -> None:
        """Continue from ``training_state``.

        Args:
            state: What it returned.
            same_episodes: Whether the simulation continues the episodes that were in progress, so that
                the models' memories still belong to them.
        """
        if same_episodes:
            for model, memory in zip((self._raw_actor, self._raw_critic), state["memories"], strict=True):
                restore_memory(model, memory, self.device)
        if self.rnd is not None and state["rnd"] is not None:
            self.rnd.load_training_state(state["rnd"], self.storage.num_envs)

    def get_policy(self) -> MLPModel:
        """Return the actor, not its compiled front: it is exported, moved and run with other batch sizes."""
        return self._raw_actor

    @classmethod
    def check_settings(cls, settings: dict[str, Any], path: str) -> None:
        """Check the settings of the extensions, see ``check_arguments``."""
        if settings.get("rnd_cfg") is not None:
            check_rnd_cfg(settings["rnd_cfg"], f"{path}.rnd_cfg")
        if settings.get("symmetry_cfg") is not None:
            check_symmetry_cfg(settings["symmetry_cfg"], f"{path}.symmetry_cfg")

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
        sets = ["actor", "critic"]
        algorithm_cfg = cfg.get("algorithm")
        if isinstance(algorithm_cfg, dict) and algorithm_cfg.get("rnd_cfg") is not None:
            sets.append("rnd_state")
        parts = Construction(obs, env, cfg, device, {"actor": env.num_actions, "critic": 1}, sets)
        resolve_rnd_config(parts.arguments, obs, parts.obs_groups, env)
        resolve_symmetry_config(parts.arguments, env)
        actor = parts.build_model("actor")
        shared = {}
        if parts.arguments.pop("share_cnn_encoders", None):
            for section in ("actor", "critic"):
                if not parts.is_model(section, CNNModel):
                    raise UserError(f"algorithm.share_cnn_encoders: the {section} is no CNNModel; set it to null")
            shared = {"cnns": actor.cnns}
        critic = parts.build_model("critic", **shared)
        storage = RolloutStorage("rl", env.num_envs, cfg["num_steps_per_env"], obs, [env.num_actions], device)
        algorithm = parts.algorithm_class(
            actor, critic, storage, device=device, **parts.arguments, multi_gpu_cfg=cfg.get("multi_gpu")
        )
        algorithm.fast = cfg.get("fast", True)
        if cfg.get("torch_compile_mode") is not None:
            algorithm.compile(cfg["torch_compile_mode"])
        return algorithm

    # Distributed training

    def broadcast_parameters(self) -> None:
        """Give every rank the models of rank 0."""
        models: list[nn.Module] = [self._raw_actor, self._raw_critic]
        if self.rnd is not None:
            models.append(self.rnd)
        distributed.broadcast(value for model in models for value in model.state_dict().values())

    def reduce_parameters(self) -> None:
        """Average the gradients of all ranks; call it between the backward pass and the optimizer's step."""
        parameters = list(dict.fromkeys(self._parameters()))
        if self.rnd is not None:
            parameters += self.rnd.parameters()
        self._average_gradients(parameters)

    def _parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters in the optimizer's order; what actor and critic share comes twice."""
        return chain(self._raw_actor.parameters(), self._raw_critic.parameters())


_RANGES: dict[str, tuple[float, float]] = {
    "num_learning_epochs": (1, float("inf")),
    "num_mini_batches": (1, float("inf")),
    "clip_param": (0.0, float("inf")),
    "gamma": (0.0, 1.0),
    "lam": (0.0, 1.0),
    "learning_rate": (0.0, float("inf")),
    "max_grad_norm": (0.0, float("inf")),
    "reward_scale": (0.0, float("inf")),
}


def _check_ranges(arguments: dict[str, Any]) -> None:
    """Raise for constructor arguments that make no sense, or that this version cannot serve."""
    # A model of somebody else's need not have the attribute.
    if getattr(arguments["actor"], "distribution", True) is None:
        raise UserError(
            "actor.distribution_cfg is missing: PPO samples its actions, from GaussianDistribution or another"
        )
    for name, (low, high) in _RANGES.items():
        if not low <= arguments[name] <= high:
            expected = f"between {low:g} and {high:g}" if high < float("inf") else f"of {low:g} or more"
            raise UserError(f"algorithm.{name}: expected a number {expected}, found {arguments[name]}")
    for name, choices in (("schedule", ("adaptive", "fixed")), ("normalizer_update", ("after_update", "each_step"))):
        if arguments[name] not in choices:
            raise UserError(f"algorithm.{name}: expected {' or '.join(map(repr, choices))}, found {arguments[name]!r}")
    if arguments["symmetry_cfg"] is not None and (arguments["actor"].is_recurrent or arguments["critic"].is_recurrent):
        raise UserError("algorithm.symmetry_cfg: mirror images need models without a memory; set it to null")
