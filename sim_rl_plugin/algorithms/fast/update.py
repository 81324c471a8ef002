"""PPO's update with passes by hand, for perceptrons with a Gaussian policy.

The losses are those of ``losses.py`` and their derivatives. A mini-batch is visited in chunks that stay in cache:
its losses are means, so chunks are independent of each other, and gradients and sums add up.

Legend of shapes: ``r`` rows of a chunk, ``b`` rows of a mini-batch, ``a`` actions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sim_rl_plugin import distributed
from sim_rl_plugin.algorithms.fast import kernels
from sim_rl_plugin.algorithms.fast.flat import FlatAdam, FlatParameters
from sim_rl_plugin.algorithms.fast.perceptron import Perceptron
from sim_rl_plugin.algorithms.fast.threads import one_thread_per_operation, run_together, shares
from sim_rl_plugin.algorithms.losses import adapted_learning_rate
from sim_rl_plugin.algorithms.mini_batches import MiniBatch
from sim_rl_plugin.algorithms.optimizer import publish_learning_rate
from sim_rl_plugin.modules.distribution import HALF_LOG_TWO_PI, GaussianDistribution

if TYPE_CHECKING:
    from sim_rl_plugin.algorithms.ppo import PPO


class _Chunk(NamedTuple):
    """Rows of a mini-batch: the models' inputs, and arrays for the losses."""

    actor_input: torch.Tensor
    critic_input: torch.Tensor
    actions_ra: Any
    old_mean_ra: Any
    old_log_prob_r: Any
    advantages_r: Any
    old_values_r: Any
    returns_r: Any


class _Prepared(NamedTuple):
    """A mini-batch, cut into each thread's chunks, and the sums over its rows that its KL divergence needs."""

    number: int
    shares: list[list[_Chunk]]
    old_variance_a: torch.Tensor
    old_log_std: torch.Tensor


class PerceptronUpdate:
    """The optimizer steps of one algorithm; buffers are kept from update to update."""

    def __init__(self, algorithm: PPO) -> None:
        """Make the parameters views of flat buffers."""
        self._algorithm = algorithm
        models = (algorithm._raw_actor, algorithm._raw_critic)
        assert type(models[0].distribution) is GaussianDistribution
        self._distribution = models[0].distribution
        self._parts = self._parts_now()
        # The perceptron's parameters first, in the order of its layers.
        self._flats = [
            FlatParameters([*model.mlp.parameters(), *(p for p in model.parameters() if p.requires_grad)])
            for model in models
        ]
        self._adam = FlatAdam(algorithm.optimizer, self._flats)
        self._dtype = torch.bfloat16 if algorithm.use_mixed_precision else torch.float32
        self._workers: list[_Worker] = []
        self._any_mean = torch.zeros(1, self._distribution.output_dim)

    def fits(self) -> bool:
        """Return whether the algorithm still has the parts that the buffers were made for."""
        return self._parts == self._parts_now()

    def _parts_now(self) -> list[Any]:
        algorithm = self._algorithm
        trained = [id(p) for p in algorithm._parameters() if p.requires_grad]
        return [algorithm.optimizer, algorithm._raw_actor.distribution, algorithm.use_mixed_precision, trained]

    def run(self, batches: Iterable[MiniBatch]) -> torch.Tensor:
        """Take a step for each mini-batch; return the means of value loss, surrogate loss and entropy."""
        for flat in self._flats:
            flat.adopt()
        steps_flat = self._adam.begin()
        sums = torch.zeros(3)
        number = 0
        prepared: dict[int, _Prepared] = {}
        with torch.no_grad(), one_thread_per_operation() as num_threads:
            for batch in batches:
                # Every epoch visits the same ones.
                if id(batch) not in prepared:
                    prepared[id(batch)] = self._prepare(batch, num_threads)
                sums += self._step(prepared[id(batch)], steps_flat)
                number += 1
        if steps_flat:
            self._adam.end()
        return sums / number

    def _prepare(self, batch: MiniBatch, num_threads: int) -> _Prepared:
        samples = batch.samples
        assert samples.actions is not None and samples.old_distribution_params is not None
        old_mean_ba, old_std_ba = samples.old_distribution_params
        inputs = [part.value.to(self._dtype) for part in (batch.actor, batch.critic)]
        arrays = [samples.actions.numpy(), old_mean_ba.numpy()]
        for column in (samples.old_actions_log_prob, samples.advantages, samples.values, samples.returns):
            assert column is not None
            arrays.append(column[:, 0].numpy())
        number = samples.actions.shape[0]
        linears = [linear for model in (self._algorithm._raw_actor, self._algorithm._raw_critic)
                   for linear in list(model.mlp)[0::2]]  # fmt: skip
        cuts = shares(
            number,
            bytes_per_row=2 * self._dtype.itemsize * max(linear.out_features for linear in linears),
            operations_per_row=sum(6 * linear.weight.numel() for linear in linears),
            num_threads=num_threads,
        )
        most = cuts[0][0].stop
        if len(self._workers) < len(cuts) or self._workers[0].num_rows < most:
            self._workers = [_Worker(self._algorithm, self._flats, most, self._dtype) for _ in cuts]
        double_ba = old_std_ba.double()
        return _Prepared(
            number,
            [[_Chunk(*(value[rows] for value in (*inputs, *arrays))) for rows in share] for share in cuts],
            double_ba.square().sum(0),
            double_ba.log().sum(),
        )

    def _step(self, batch: _Prepared, steps_flat: bool) -> torch.Tensor:
        algorithm = self._algorithm
        std_a, std_slope_a = self._std()
        parameters = [flat.views_as(self._dtype) for flat in self._flats]
        workers = self._workers[: len(batch.shares)]
        tasks = [
            functools.partial(worker.visit, share, parameters, std_a.numpy(), batch.number)
            for worker, share in zip(workers, batch.shares, strict=True)
        ]
        run_together(tasks)
        for flat, *parts in zip(self._flats, *(worker.gradients for worker in workers), strict=True):
            flat.gather(parts)
        if algorithm.schedule == "adaptive" and algorithm.desired_kl is not None:
            shift_a = sum(worker.shift_a for worker in workers)
            self._adapt_learning_rate(batch, torch.from_numpy(shift_a), std_a.double(), algorithm.desired_kl)
        self._add_std_gradient(sum(worker.std_gradient_a for worker in workers), std_a, std_slope_a)
        if algorithm.is_multi_gpu:
            algorithm.reduce_parameters()
        for flat in self._flats:
            flat.clip_grad_norm_(algorithm.max_grad_norm)
        if steps_flat:
            self._adam.step()
        else:
            algorithm.optimizer.step()
        losses = sum(worker.losses for worker in workers) / batch.number
        return torch.tensor([*losses, (0.5 + HALF_LOG_TWO_PI + std_a.log()).sum()])

    def _std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the standard deviation ``(a,)`` and its derivative by the parameter."""
        distribution = self._distribution
        # Leaves the distribution as a pass would, for whoever asks for its deviation.
        distribution.update(self._any_mean)
        std_a = distribution.std[0]
        if distribution.std_type == "scalar":
            raw, (low, high) = distribution.std_param.detach(), distribution.std_range
            return std_a, ((raw >= low) & (raw <= high)).float()
        raw, (low, high) = distribution.log_std_param.detach(), distribution.log_std_range
        return std_a, std_a * ((raw >= low) & (raw <= high))

    def _add_std_gradient(self, by_std: np.ndarray, std_a: torch.Tensor, slope_a: torch.Tensor) -> None:
        """Add the gradients of surrogate and entropy by the parameter of the standard deviation."""
        distribution = self._distribution
        parameter = distribution.std_param if distribution.std_type == "scalar" else distribution.log_std_param
        if parameter.grad is not None:
            by_std_a = torch.from_numpy(by_std) - self._algorithm.entropy_coef / std_a
            parameter.grad.add_(by_std_a.mul_(slope_a))

    def _adapt_learning_rate(
        self, batch: _Prepared, shift_a: torch.Tensor, std_a: torch.Tensor, desired_kl: float
    ) -> None:
        """Steer the learning rate by the mean KL divergence, as ``PPO`` does.

        In double precision: for an unmoved policy these sums cancel, and what rounding leaves must not look like a
        divergence.
        """
        algorithm = self._algorithm
        variance_a = std_a.square()
        ratios = ((batch.old_variance_a + shift_a) / variance_a).sum() - batch.number * len(std_a)
        logarithms = batch.number * std_a.log().sum() - batch.old_log_std
        kl_mean = (0.5 * ratios + logarithms) / batch.number
        if algorithm.is_multi_gpu:
            distributed.all_reduce_mean(kl_mean)
        rate = algorithm._learning_rate
        rate.copy_(adapted_learning_rate(rate, kl_mean, desired_kl))
        publish_learning_rate(algorithm.optimizer, rate)


class _Worker:
    """What one thread needs for its share of a mini-batch, and what it leaves: losses, gradients, sums."""

    def __init__(self, algorithm: PPO, flats: list[FlatParameters], num_rows: int, dtype: torch.dtype) -> None:
        self._algorithm = algorithm
        self.num_rows = num_rows
        self._perceptrons = [
            Perceptron(model.mlp, num_rows, dtype) for model in (algorithm._raw_actor, algorithm._raw_critic)
        ]
        self.gradients = [flat.new_gradient() for flat in flats]
        self._views = [flat.views(gradient) for flat, gradient in zip(flats, self.gradients, strict=True)]
        num_actions = algorithm._raw_actor.distribution.output_dim
        self._policy_gradient = torch.empty(num_rows, num_actions)
        self._value_gradient = torch.empty(num_rows, 1)
        self.losses = np.zeros(2)
        self.std_gradient_a = np.zeros(num_actions, np.float32)
        self.shift_a = np.zeros(num_actions, np.float64)

    def visit(self, chunks: list[_Chunk], parameters: list[list[torch.Tensor]], std_a: np.ndarray, number: int) -> None:
        """Go forward and back with some chunks of a mini-batch of ``number`` rows."""
        for gradient in self.gradients:
            gradient.zero_()
        for sums in (self.losses, self.std_gradient_a, self.shift_a):
            sums.fill(0.0)
        with torch.no_grad():
            for perceptron, tensors in zip(self._perceptrons, parameters, strict=True):
                perceptron.take(tensors)
            for chunk in chunks:
                self._visit_actor(chunk, std_a, number)
                self._visit_critic(chunk, number)

    def _visit_actor(self, chunk: _Chunk, std_a: np.ndarray, number: int) -> None:
        perceptron = self._perceptrons[0]
        mean_ra = perceptron.forward(chunk.actor_input).float()
        gradient_ra = self._policy_gradient[: len(mean_ra)]
        self.losses[1] += kernels.policy_gradient(
            mean_ra.numpy(), chunk.actions_ra, chunk.old_mean_ra, chunk.old_log_prob_r, chunk.advantages_r, std_a,
            self._algorithm.clip_param, 1.0 / number, gradient_ra.numpy(), self.std_gradient_a, self.shift_a,
        )  # fmt: skip
        self._backward(0, chunk.actor_input, gradient_ra)

    def _visit_critic(self, chunk: _Chunk, number: int) -> None:
        algorithm = self._algorithm
        values = self._perceptrons[1].forward(chunk.critic_input).float()
        gradient = self._value_gradient[: len(values)]
        self.losses[0] += kernels.value_gradient(
            values[:, 0].numpy(), chunk.old_values_r, chunk.returns_r,
            float(algorithm.clip_param) if algorithm.use_clipped_value_loss else math.inf,
            algorithm.value_loss_coef / number, gradient[:, 0].numpy(),
        )  # fmt: skip
        self._backward(1, chunk.critic_input, gradient)

    def _backward(self, index: int, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        perceptron = self._perceptrons[index]
        perceptron.backward(inputs, gradient.to(perceptron.dtype), self._views[index])
