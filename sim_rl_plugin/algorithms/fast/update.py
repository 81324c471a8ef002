"""PPO's update with passes by hand, for perceptrons with a Gaussian policy.

The losses are those of ``losses.py`` and their derivatives. A mini-batch is visited in chunks that stay in cache:
its losses are means, so chunks are independent of each other, and gradients and sums add up.

Legend of shapes: ``r`` rows of a chunk, ``b`` rows of a mini-batch, ``a`` actions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from sim_rl_plugin import distributed
from sim_rl_plugin.algorithms.fast.flat import FlatAdam, FlatParameters
from sim_rl_plugin.algorithms.fast.perceptron import Perceptron, chunk_rows
from sim_rl_plugin.algorithms.losses import adapted_learning_rate
from sim_rl_plugin.algorithms.mini_batches import MiniBatch
from sim_rl_plugin.algorithms.optimizer import publish_learning_rate
from sim_rl_plugin.modules.distribution import HALF_LOG_TWO_PI, GaussianDistribution

if TYPE_CHECKING:
    from sim_rl_plugin.algorithms.ppo import PPO


class PerceptronUpdate:
    """The optimizer steps of one algorithm; buffers are kept from update to update."""

    def __init__(self, algorithm: PPO) -> None:
        """Allocate the buffers, and make the parameters views of flat ones."""
        self._algorithm = algorithm
        actor, critic = algorithm._raw_actor, algorithm._raw_critic
        assert type(actor.distribution) is GaussianDistribution
        self._distribution = actor.distribution
        self._made_for = (actor.distribution, algorithm.optimizer, algorithm.use_mixed_precision)
        self._flats = [FlatParameters(p for p in model.parameters() if p.requires_grad) for model in (actor, critic)]
        self._adam = FlatAdam(algorithm.optimizer, self._flats)  # type: ignore[arg-type]
        self._rows = chunk_rows(actor.mlp, critic.mlp)
        self.dtype = torch.bfloat16 if algorithm.use_mixed_precision else torch.float32
        self._actor = Perceptron(actor.mlp, self._rows, self.dtype)
        self._critic = Perceptron(critic.mlp, self._rows, self.dtype)
        num_actions = self._distribution.output_dim
        self._terms = torch.empty(5, self._rows, num_actions)
        self._scalars = torch.empty(5, self._rows)
        self._std_sums = torch.empty(num_actions)
        self._shift_sums = torch.empty(num_actions)
        self._sums = torch.zeros(3)

    def fits(self) -> bool:
        """Return whether the algorithm still has the parts that the buffers were made for."""
        algorithm = self._algorithm
        now = (algorithm._raw_actor.distribution, algorithm.optimizer, algorithm.use_mixed_precision)
        trained = [p for model in (algorithm._raw_actor, algorithm._raw_critic) for p in model.parameters() if p.requires_grad]
        return now == self._made_for and [*map(id, trained)] == [id(p) for flat in self._flats for p in flat.parameters]

    @torch.no_grad()
    def run(self, batches: Iterable[MiniBatch]) -> torch.Tensor:
        """Take a step for each mini-batch; return the means of value loss, surrogate loss and entropy."""
        for flat in self._flats:
            flat.adopt()
        steps_flat = self._adam.begin()
        sums = torch.zeros(3)
        number = 0
        for batch in batches:
            sums += self._step(batch, steps_flat)
            number += 1
        if steps_flat:
            self._adam.end()
        return sums / number

    def _step(self, batch: MiniBatch, steps_flat: bool) -> torch.Tensor:
        algorithm = self._algorithm
        samples = batch.samples
        assert samples.actions is not None
        number = samples.actions.shape[0]
        self._actor.refresh()
        self._critic.refresh()
        std_a, std_slope_a = self._std()
        for flat in self._flats:
            flat.grad.zero_()
        for sums in (self._std_sums, self._shift_sums, self._sums):
            sums.zero_()
        for start in range(0, number, self._rows):
            self._visit(batch, slice(start, min(start + self._rows, number)), number, std_a)
        if algorithm.schedule == "adaptive" and algorithm.desired_kl is not None:
            self._adapt_learning_rate(batch, number, std_a, algorithm.desired_kl)
        entropy = (0.5 + HALF_LOG_TWO_PI + std_a.log()).sum()
        self._add_std_gradient(std_a, std_slope_a)
        if algorithm.is_multi_gpu:
            algorithm.reduce_parameters()
        for flat in self._flats:
            flat.clip_grad_norm_(algorithm.max_grad_norm)
        if steps_flat:
            self._adam.step()
        else:
            algorithm.optimizer.step()
        return torch.stack((self._sums[0] / number, self._sums[1] / number, entropy))

    def _std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the standard deviation ``(a,)`` and its derivative by the parameter."""
        distribution = self._distribution
        if distribution.std_type == "scalar":
            raw, (low, high) = distribution.std_param.detach(), distribution.std_range
            return raw.clamp(low, high), ((raw >= low) & (raw <= high)).float()
        raw, (low, high) = distribution.log_std_param.detach(), distribution.log_std_range
        std_a = raw.clamp(low, high).exp()
        return std_a, std_a * ((raw >= low) & (raw <= high))

    def _visit(self, batch: MiniBatch, rows: slice, number: int, std_a: torch.Tensor) -> None:
        """Go forward and back with one chunk of a mini-batch of ``number`` rows."""
        inputs = [part.value[rows] for part in (batch.actor, batch.critic)]
        mean_ra = self._actor.forward(inputs[0])
        values_r = self._critic.forward(inputs[1]).squeeze(-1)
        self._actor.backward(inputs[0], self._policy_gradient(batch, rows, number, mean_ra, std_a))
        self._critic.backward(inputs[1], self._value_gradient(batch, rows, number, values_r))

    def _policy_gradient(
        self, batch: MiniBatch, rows: slice, number: int, mean_ra: torch.Tensor, std_a: torch.Tensor
    ) -> torch.Tensor:
        """Return the gradient of the surrogate loss by the mean ``(r, a)``, and add to the sums."""
        samples, clip = batch.samples, self._algorithm.clip_param
        assert samples.actions is not None and samples.advantages is not None
        assert samples.old_actions_log_prob is not None and samples.old_distribution_params is not None
        num_rows = mean_ra.shape[0]
        noise_ra, squares_ra, shift_ra = self._terms[:3, :num_rows]
        ratio_r, gain_r, clipped_r = self._scalars[:3, :num_rows]
        advantages_r = samples.advantages[rows, 0]

        torch.sub(samples.old_distribution_params[0][rows], mean_ra, out=shift_ra)
        self._shift_sums += torch.mul(shift_ra, shift_ra, out=shift_ra).sum(0)
        torch.sub(samples.actions[rows], mean_ra, out=noise_ra).div_(std_a)
        torch.mul(noise_ra, noise_ra, out=squares_ra)
        normaliser = (std_a.log() + HALF_LOG_TWO_PI).sum()
        torch.sum(squares_ra, -1, out=ratio_r)
        ratio_r.mul_(-0.5).sub_(normaliser).sub_(samples.old_actions_log_prob[rows, 0]).exp_()
        torch.mul(ratio_r, advantages_r, out=gain_r)
        torch.clamp(ratio_r, 1.0 - clip, 1.0 + clip, out=clipped_r).mul_(advantages_r)
        self._sums[1] -= torch.minimum(gain_r, clipped_r).sum()
        # By the log-density: -advantage * ratio where the clipped term is not the smaller one, as it stands still.
        gain_r.mul_(gain_r <= clipped_r).mul_(-1.0 / number)
        self._std_sums.addmv_(squares_ra.t(), gain_r)
        self._sums[2] += gain_r.sum()
        noise_ra.mul_(gain_r.unsqueeze(-1)).div_(std_a)
        return noise_ra.to(self.dtype)

    def _value_gradient(self, batch: MiniBatch, rows: slice, number: int, values_r: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the value loss by the values ``(r, 1)``, and add to the sums."""
        samples, algorithm = batch.samples, self._algorithm
        assert samples.values is not None and samples.returns is not None
        num_rows = values_r.shape[0]
        returns_r, old_r = samples.returns[rows, 0], samples.values[rows, 0]
        error_r = torch.sub(values_r, returns_r, out=self._scalars[0, :num_rows])
        loss_r = torch.mul(error_r, error_r, out=self._scalars[1, :num_rows])
        if algorithm.use_clipped_value_loss:
            clip = algorithm.clip_param
            moved_r = torch.sub(values_r, old_r, out=self._scalars[2, :num_rows])
            inside_r = moved_r.abs() <= clip
            clipped_error_r = moved_r.clamp_(-clip, clip).add_(old_r).sub_(returns_r)
            clipped_loss_r = torch.mul(clipped_error_r, clipped_error_r, out=self._scalars[3, :num_rows])
            # Where the clipped loss is the larger one, it has a gradient only within the clip range.
            error_r = torch.where(clipped_loss_r > loss_r, clipped_error_r.mul_(inside_r), error_r)
            loss_r = torch.maximum(loss_r, clipped_loss_r, out=loss_r)
        self._sums[0] += loss_r.sum()
        return error_r.mul_(2.0 * algorithm.value_loss_coef / number).unsqueeze(-1).to(self.dtype)

    def _add_std_gradient(self, std_a: torch.Tensor, std_slope_a: torch.Tensor) -> None:
        """Add the gradients of surrogate and entropy by the parameter of the standard deviation."""
        distribution = self._distribution
        parameter = distribution.std_param if distribution.std_type == "scalar" else distribution.log_std_param
        if parameter.grad is not None:
            by_std_a = (self._std_sums - self._sums[2] - self._algorithm.entropy_coef) / std_a
            parameter.grad.add_(by_std_a.mul_(std_slope_a))

    def _adapt_learning_rate(self, batch: MiniBatch, number: int, std_a: torch.Tensor, desired_kl: float) -> None:
        """Steer the learning rate by the mean KL divergence, as ``PPO`` does."""
        algorithm = self._algorithm
        assert batch.samples.old_distribution_params is not None
        old_std_ba = batch.samples.old_distribution_params[1]
        variance_ratio_ba = (old_std_ba / std_a).square_()
        spread = (variance_ratio_ba - 1.0 - variance_ratio_ba.log()).sum()
        shift = (self._shift_sums / std_a.square()).sum()
        kl_mean = (spread + shift) * (0.5 / number)
        if algorithm.is_multi_gpu:
            distributed.all_reduce_mean(kl_mean)
        rate = algorithm._learning_rate
        rate.copy_(adapted_learning_rate(rate, kl_mean, desired_kl))
        publish_learning_rate(algorithm.optimizer, rate)
