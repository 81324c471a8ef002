"""PPO's update with passes by hand, for perceptrons with a Gaussian policy.

The losses are those of ``losses.py`` and their derivatives. A mini-batch is visited in chunks that stay in cache:
its losses are means, so chunks are independent of each other, and gradients and sums add up.

Legend of shapes: ``r`` rows of a chunk, ``b`` rows of a mini-batch, ``a`` actions.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sim_rl_plugin.algorithms.fast import kernels
from sim_rl_plugin.algorithms.fast.cuts import Chunk, Cut, cut_samples, cut_sequences
from sim_rl_plugin.algorithms.fast.flat import FlatAdam, FlatParameters
from sim_rl_plugin.algorithms.fast.perceptron import Perceptron, Sizes
from sim_rl_plugin.algorithms.fast.sequences import GatedPerceptron, gated_sizes
from sim_rl_plugin.algorithms.fast.threads import one_thread_per_operation, run_together
from sim_rl_plugin.algorithms.losses import adapted_rate
from sim_rl_plugin.modules.distribution import HALF_LOG_TWO_PI, GaussianDistribution

if TYPE_CHECKING:
    from sim_rl_plugin.algorithms.ppo import PPO


class PerceptronUpdate:
    """The optimizer steps of one algorithm; buffers are kept from update to update."""

    def __init__(self, algorithm: PPO) -> None:
        """Make the parameters views of flat buffers."""
        self._algorithm = algorithm
        models = (algorithm._raw_actor, algorithm._raw_critic)
        assert type(models[0].distribution) is GaussianDistribution
        self._distribution = models[0].distribution
        self._parts = self._parts_now()
        sizes = [gated_sizes(model) if model.is_recurrent else Sizes.of(model) for model in models]
        self._sizes = Sizes(max(size.widest for size in sizes), sum(size.weights for size in sizes))
        # The perceptron's parameters first, in the order of its layers.
        self._flats = [
            FlatParameters([*model.mlp.parameters(), *(p for p in model.parameters() if p.requires_grad)])
            for model in models
        ]
        self._adam = FlatAdam(algorithm.optimizer, self._flats)
        self._dtype = torch.bfloat16 if algorithm.use_mixed_precision else torch.float32
        self._workers: list[_Worker] = []
        self._rate = algorithm.learning_rate
        self._any_mean = torch.zeros(1, self._distribution.output_dim)

    def fits(self) -> bool:
        """Return whether the algorithm still has the parts that the buffers were made for."""
        return self._parts == self._parts_now()

    def _parts_now(self) -> list[Any]:
        algorithm = self._algorithm
        trained = [id(p) for p in algorithm._parameters() if p.requires_grad]
        return [algorithm.optimizer, algorithm._raw_actor.distribution, algorithm.use_mixed_precision, trained]

    def run(self) -> torch.Tensor:
        """Take all steps of the optimizer; return the means of value loss, surrogate loss and entropy."""
        for flat in self._flats:
            flat.adopt()
        steps_flat = self._adam.begin()
        self._rate = self._algorithm.learning_rate
        sums, number = np.zeros(3), 0
        with torch.no_grad(), one_thread_per_operation() as num_threads:
            cuts = self._cut(num_threads)
            for _ in range(self._algorithm.num_learning_epochs):
                for cut in cuts:
                    sums += self._step(cut, steps_flat)
                    number += 1
        if steps_flat:
            self._adam.end()
        return torch.from_numpy(sums / number).float()

    def _cut(self, num_threads: int) -> list[Cut]:
        """Return the mini-batches, which are the same in every epoch."""
        algorithm = self._algorithm
        models = (algorithm._raw_actor, algorithm._raw_critic)
        if any(model.is_recurrent for model in models):
            cuts = cut_sequences(
                algorithm.storage,
                models,
                self._sizes,
                num_mini_batches=algorithm.num_mini_batches,
                normalize_advantages=algorithm.normalize_advantage_per_mini_batch,
                over_all_ranks=algorithm._normalizes_over_all_ranks,
                num_threads=num_threads,
            )
        else:
            batches = itertools.islice(algorithm._mini_batches(), algorithm.num_mini_batches)
            cuts = cut_samples(batches, self._sizes, self._dtype, num_threads)
        most, num_workers = max(cut.most for cut in cuts), max(len(cut.shares) for cut in cuts)
        if len(self._workers) < num_workers or self._workers[0].num_rows < most:
            # The first one's gradients are the models' own.
            self._workers = [
                _Worker(algorithm, self._flats, most, self._dtype, index > 0) for index in range(num_workers)
            ]
        return cuts

    def _step(self, batch: Cut, steps_flat: bool) -> np.ndarray:
        """Take one step of the optimizer; return the losses."""
        algorithm = self._algorithm
        std_a, std_slope_a = self._std()
        workers = self._workers[: len(batch.shares)]
        run_together(
            [
                functools.partial(worker.visit, share, std_a, batch.number)
                for worker, share in zip(workers, batch.shares, strict=True)
            ]
        )
        for other in workers[1:]:
            workers[0].add(other)
        sums = workers[0]
        if self._std_parameter.requires_grad:
            # Of the surrogate and of the entropy bonus.
            by_std_a = (sums.std_gradient_a - algorithm.entropy_coef / std_a) * std_slope_a
            self._std_parameter.grad.numpy()[:] = by_std_a
        kl_mean = sums.sums[2] / batch.number
        if algorithm.is_multi_gpu:
            averaged = torch.tensor([kl_mean], dtype=torch.float32)
            algorithm._average_with(averaged)
            kl_mean = averaged.item()
        if algorithm.schedule == "adaptive" and algorithm.desired_kl is not None:
            self._rate = adapted_rate(self._rate, kl_mean, algorithm.desired_kl)
            algorithm.learning_rate = self._rate
        for flat in self._flats:
            flat.clip_grad_norm_(algorithm.max_grad_norm)
        if steps_flat:
            self._adam.step()
        else:
            algorithm.optimizer.step()
        for flat in self._flats:
            flat.refresh_casts()
        return np.array([*(sums.sums[:2] / batch.number), np.sum(0.5 + HALF_LOG_TWO_PI + np.log(std_a))])

    @property
    def _std_parameter(self) -> Any:
        distribution = self._distribution
        return distribution.std_param if distribution.std_type == "scalar" else distribution.log_std_param

    def _std(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the standard deviation ``(a,)`` and its derivative by the parameter."""
        distribution = self._distribution
        raw_a = self._std_parameter.detach().numpy()
        low, high = distribution.std_range if distribution.std_type == "scalar" else distribution.log_std_range
        std_a = raw_a.clip(np.float32(low), np.float32(high))
        inside_a = (std_a == raw_a).astype(np.float32)
        if distribution.std_type == "log":
            std_a = np.exp(std_a)
            inside_a *= std_a
        # As a pass would leave it, for whoever asks for the deviation.
        distribution._mean_ba, distribution._std_ba = self._any_mean, torch.from_numpy(std_a)
        return std_a, inside_a


class _Worker:
    """What one thread needs for its share of a mini-batch, and what it leaves: losses, gradients, sums."""

    def __init__(
        self, algorithm: PPO, flats: list[FlatParameters], num_rows: int, dtype: torch.dtype, own_gradients: bool
    ) -> None:
        """Allocate the buffers; without ``own_gradients`` the models' are used."""
        self._algorithm = algorithm
        self.num_rows, self._dtype = num_rows, dtype
        models = (algorithm._raw_actor, algorithm._raw_critic)
        self._perceptrons: list[Perceptron | GatedPerceptron] = [
            GatedPerceptron(model, num_rows) if model.is_recurrent else Perceptron(model.mlp, num_rows, dtype)
            for model in models
        ]
        for perceptron, flat in zip(self._perceptrons, flats, strict=True):
            perceptron.take(flat.parameters_as(dtype))
        self.gradients = [flat.new_gradient() if own_gradients else flat.grad for flat in flats]
        self._views = [flat.views(gradient) for flat, gradient in zip(flats, self.gradients, strict=True)]
        self._last_biases = [views[2 * perceptron.num_layers - 1].numpy()
                             for perceptron, views in zip(self._perceptrons, self._views, strict=True)]  # fmt: skip
        num_actions = models[0].distribution.output_dim  # type: ignore[union-attr]
        self._output_gradients = [torch.empty(num_rows, num_actions), torch.empty(num_rows, 1)]
        self.sums = np.zeros(3)
        """Value loss, surrogate loss and KL divergence."""
        self.std_gradient_a = np.zeros(num_actions, np.float32)

    def visit(self, chunks: list[Chunk], std_a: np.ndarray, number: int) -> None:
        """Go forward and back with some chunks of a mini-batch of ``number`` rows."""
        with torch.inference_mode():  # modes of torch belong to a thread
            for gradient in self.gradients:
                gradient.zero_()
            for sums in (self.sums, self.std_gradient_a):
                sums.fill(0.0)
            for perceptron in self._perceptrons:
                perceptron.begin_backward()
            for chunk in chunks:
                self._visit_actor(chunk, std_a, number)
                self._visit_critic(chunk, number)
            for perceptron, views in zip(self._perceptrons, self._views, strict=True):
                perceptron.end_backward(views)

    def add(self, other: _Worker) -> None:
        """Add what another worker leaves."""
        for own, others in zip(self.gradients, other.gradients, strict=True):
            own.add_(others)
        self.sums += other.sums
        self.std_gradient_a += other.std_gradient_a

    def _visit_actor(self, chunk: Chunk, std_a: np.ndarray, number: int) -> None:
        mean_ra = self._perceptrons[0].forward(chunk.actor_input).float()
        gradient_ra = self._output_gradient(0, len(mean_ra))
        self.sums[1] += kernels.policy_gradient(
            mean_ra.numpy(), chunk.actions_ra, chunk.old_log_prob_r, chunk.advantages_r, std_a,
            float(self._algorithm.clip_param), 1.0 / number, gradient_ra.numpy(), self.std_gradient_a,
        )  # fmt: skip
        self.sums[2] += kernels.kl_divergence(chunk.old_mean_ra, chunk.old_std_ra, mean_ra.numpy(), std_a)
        self._backward(0, chunk.actor_input, gradient_ra)

    def _visit_critic(self, chunk: Chunk, number: int) -> None:
        algorithm = self._algorithm
        values = self._perceptrons[1].forward(chunk.critic_input).float()
        gradient = self._output_gradient(1, len(values))
        self.sums[0] += kernels.value_gradient(
            values.numpy(), chunk.old_values_r, chunk.returns_r,
            float(algorithm.clip_param) if algorithm.use_clipped_value_loss else math.inf,
            algorithm.value_loss_coef / number, gradient.numpy(),
        )  # fmt: skip
        self._backward(1, chunk.critic_input, gradient)

    def _output_gradient(self, index: int, number: int) -> torch.Tensor:
        """Return where the gradient of a model's output shall be written, in float32."""
        if self._dtype == torch.float32:
            return self._perceptrons[index].last_rows(number).gradient
        return self._output_gradients[index][:number]

    def _backward(self, index: int, inputs: Any, gradient: torch.Tensor) -> None:
        perceptron: Any = self._perceptrons[index]
        kernels.add_column_sums(gradient.numpy(), self._last_biases[index])
        if self._dtype != torch.float32:
            perceptron.last_rows(len(gradient)).gradient.copy_(gradient)
        perceptron.backward(inputs, self._views[index])
