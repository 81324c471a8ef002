"""What happens between the matrix products, in one pass over memory each, compiled by numba.

Arrays are views of torch's tensors. bfloat16, which numba does not know, comes as ``uint16``, the upper half of a
float32. Every function works in place, on one thread, and without Python's lock.

Legend of shapes: ``r`` rows of a chunk, ``d`` units of a layer, ``a`` actions.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

# Sums may be reordered, or loops would not use vector registers; NaN and infinity keep their meaning.
_compiled: Any = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)
_in_order: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_inlined: Any = numba.njit(inline="always", fastmath={"reassoc", "contract", "nsz", "arcp"})

_F = np.float32
_ONE, _ZERO = np.float32(1.0), np.float32(0.0)
# Cody-Waite: ln 2 in two parts, so that subtracting a multiple of it loses nothing; then Cephes' polynomial.
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_SMALLEST = np.float32(-87.0)
_HALF = np.float32(0.5)


@_inlined
def _exp_below_zero(x: Any) -> Any:
    """Return exp(min(x, 0)) to float32 rounding."""
    x = min(max(x, _SMALLEST), _ZERO)
    n = np.floor(x * _LOG2_E + _HALF)
    f = x - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_P0 * f + _P1) * f + _P2) * f + _P3) * f + _P4) * f + _P5
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
    return (p * f * f + f + _ONE) * power.view(np.float32)


@_inlined
def _from_bfloat16(half: Any) -> Any:
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)


@_inlined
def _to_bfloat16(x: Any) -> Any:
    """Round to the nearest, ties to even. A NaN stays one."""
    bits = np.float32(x).view(np.uint32)
    rounded = np.uint32((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    return np.uint16(rounded if x == x else np.uint32(0x7FC0))


@_compiled
def elu(x_rd: Any) -> None:
    """Overwrite ``x_rd`` by its ELU."""
    x = x_rd.ravel()
    for i in range(x.size):
        below = _exp_below_zero(x[i]) - _ONE
        # This way round, so that a NaN stays a NaN.
        x[i] = below if x[i] <= _ZERO else x[i]


@_compiled
def elu_backward(gradient_rd: Any, output_rd: Any, bias_gradient_d: Any) -> None:
    """Multiply by ELU's derivative, which is output + 1 below zero, and add the columns' sums."""
    for r in range(gradient_rd.shape[0]):
        for d in range(gradient_rd.shape[1]):
            y = output_rd[r, d]
            value = gradient_rd[r, d] * (y + _ONE if y <= _ZERO else _ONE)
            gradient_rd[r, d] = value
            bias_gradient_d[d] += value


@_compiled
def elu_bfloat16(x_rd: Any, slope_rd: Any) -> None:
    """Overwrite ``x_rd`` by its ELU, and ``slope_rd`` by the derivative, which a rounded output would have lost."""
    x, slope = x_rd.ravel(), slope_rd.ravel()
    for i in range(x.size):
        value = _from_bfloat16(x[i])
        power = _exp_below_zero(value)
        slope[i] = _to_bfloat16(power)
        x[i] = _to_bfloat16(power - _ONE) if value <= _ZERO else x[i]


@_compiled
def elu_backward_bfloat16(gradient_rd: Any, slope_rd: Any, bias_gradient_d: Any) -> None:
    """Multiply by the derivative, and add the columns' sums in float32."""
    for r in range(gradient_rd.shape[0]):
        for d in range(gradient_rd.shape[1]):
            value = _from_bfloat16(gradient_rd[r, d]) * _from_bfloat16(slope_rd[r, d])
            gradient_rd[r, d] = _to_bfloat16(value)
            bias_gradient_d[d] += value


@_compiled
def policy_gradient(
    mean_ra: Any, actions_ra: Any, old_log_prob_r: Any, advantages_r: Any, std_a: Any, clip: float,
    scale: float, gradient_ra: Any, std_gradient_a: Any,
) -> float:  # fmt: skip
    """Return the sum of the clipped surrogate losses, and leave their gradients.

    Args:
        mean_ra: Means of the policy.
        actions_ra: What was done.
        old_log_prob_r: Log-densities in the rollout.
        advantages_r: Advantages.
        std_a: The policy's standard deviation.
        clip: Largest change of the probability ratio.
        scale: What every gradient is multiplied by.
        gradient_ra: Overwritten by the gradient by the mean.
        std_gradient_a: The gradient by the standard deviation is added.
    """
    num_actions = mean_ra.shape[1]
    inverse_a = _ONE / std_a
    normaliser = 0.0
    for a in range(num_actions):
        normaliser += math.log(std_a[a]) + 0.5 * math.log(2.0 * math.pi)
    low, high = 1.0 - clip, 1.0 + clip
    total = 0.0
    for r in range(mean_ra.shape[0]):
        squares: Any = _ZERO
        for a in range(num_actions):
            noise = (actions_ra[r, a] - mean_ra[r, a]) * inverse_a[a]
            gradient_ra[r, a] = noise
            squares += noise * noise
        ratio = math.exp(-0.5 * squares - normaliser - old_log_prob_r[r])
        gain = advantages_r[r] * ratio
        clipped = advantages_r[r] * min(max(ratio, low), high)
        total -= min(gain, clipped) if gain == gain else gain
        # By the log-density. Where the clipped term is the smaller one, it stands still.
        by_log_prob = _F(0.0 if clipped < gain else -gain * scale)
        for a in range(num_actions):
            noise = gradient_ra[r, a]
            gradient_ra[r, a] = by_log_prob * noise * inverse_a[a]
            std_gradient_a[a] += by_log_prob * (noise * noise - _ONE) * inverse_a[a]
    return total


@_compiled
def value_gradient(
    values_r1: Any, old_values_r: Any, returns_r: Any, clip: float, scale: float, gradient_r1: Any
) -> float:
    """Return the sum of the value losses, and leave their gradient.

    Args:
        values_r1: The critic's values, ``(r, 1)``.
        old_values_r: Values in the rollout.
        returns_r: Targets.
        clip: Largest change of a value that counts; infinity for the plain loss.
        scale: What every gradient is multiplied by.
        gradient_r1: Overwritten by the gradient.
    """
    limit, factor = _F(clip), _F(2.0 * scale)
    total = 0.0
    for r in range(values_r1.shape[0]):
        error = values_r1[r, 0] - returns_r[r]
        moved = values_r1[r, 0] - old_values_r[r]
        clipped_error = old_values_r[r] + min(max(moved, -limit), limit) - returns_r[r]
        by_value = error
        loss = error * error
        if clipped_error * clipped_error > loss:
            loss = clipped_error * clipped_error
            by_value = clipped_error if abs(moved) <= limit else _ZERO
        total += loss
        gradient_r1[r, 0] = factor * by_value
    return total


@_compiled
def add_column_sums(x_rd: Any, sums_d: Any) -> None:
    """Add the sums of the columns."""
    for r in range(x_rd.shape[0]):
        for d in range(x_rd.shape[1]):
            sums_d[d] += x_rd[r, d]


@_compiled
def clip_norm(gradient: Any, max_norm: float) -> None:
    """Scale a gradient down to a norm, as ``torch.nn.utils.clip_grad_norm_`` does."""
    squares = 0.0
    for i in range(gradient.size):
        squares += gradient[i] * gradient[i]
    coefficient = max_norm / (math.sqrt(squares) + 1e-6)
    # A norm that is NaN makes every number NaN, which the check at the end of the update finds.
    if not coefficient >= 1.0:
        for i in range(gradient.size):
            gradient[i] *= _F(coefficient)


@_in_order
def kl_divergence(old_mean_ra: Any, old_std_ra: Any, mean_ra: Any, std_a: Any) -> float:
    """Return the sum of KL(old || new) in nats.

    Computed in the order of ``GaussianDistribution.kl_divergence``: what is too small to change a float32 counts
    neither there nor here, and the learning rate depends on whether anything is left.
    """
    variance_ratio_a, logarithm_a, last_a = np.empty_like(std_a), np.empty_like(std_a), np.full_like(std_a, np.nan)
    total = 0.0
    for r in range(mean_ra.shape[0]):
        terms: Any = _ZERO
        for a in range(std_a.size):
            # The same in every row, but for rollouts that somebody put together.
            if old_std_ra[r, a] != last_a[a]:
                last_a[a] = old_std_ra[r, a]
                ratio = last_a[a] / std_a[a]
                variance_ratio_a[a] = ratio * ratio
                logarithm_a[a] = math.log(variance_ratio_a[a])
            shift = (old_mean_ra[r, a] - mean_ra[r, a]) / std_a[a]
            terms += variance_ratio_a[a] + shift * shift - _ONE - logarithm_a[a]
        total += _HALF * terms
    return total


@_inlined
def _sigmoid(x: Any) -> Any:
    power = _exp_below_zero(-abs(x))
    positive = _ONE / (_ONE + power)
    # A NaN, which the exponential does not keep, is kept by the sum.
    return (positive if x >= _ZERO else _ONE - positive) + x * _ZERO


@_inlined
def _tanh(x: Any) -> Any:
    power = _exp_below_zero(-_F(2.0) * abs(x))
    size = (_ONE - power) / (_ONE + power)
    return (size if x >= _ZERO else -size) + x * _ZERO


@_compiled
def gru_begin(before_ch: Any, last_ch: Any, starts_c: Any, saved_ch: Any) -> None:
    """Set the memory before a step: that after the last one, or where a trajectory starts, what was saved."""
    for c in range(before_ch.shape[0]):
        before_ch[c] = saved_ch[c] if starts_c[c] else last_ch[c]


@_compiled
def gru_step(gates_cg: Any, hidden_gates_cg: Any, before_ch: Any, memory_ch: Any) -> None:
    """Take a step of a GRU, with PyTorch's formulas.

    Args:
        gates_cg: What the input contributes to the reset, update and new gates; overwritten by the gates.
        hidden_gates_cg: What the memory contributes.
        before_ch: Memory before the step.
        memory_ch: Overwritten by the memory after it.
    """
    size = before_ch.shape[1]
    for c in range(before_ch.shape[0]):
        # Loops of their own, or the compiler could not tell that the gates do not overlap.
        both, hidden_both = gates_cg[c, : 2 * size], hidden_gates_cg[c, : 2 * size]
        for i in range(2 * size):
            both[i] = _sigmoid(both[i] + hidden_both[i])
        reset, update, new = gates_cg[c, :size], gates_cg[c, size : 2 * size], gates_cg[c, 2 * size :]
        hidden_new, before, memory = hidden_gates_cg[c, 2 * size :], before_ch[c], memory_ch[c]
        for i in range(size):
            new[i] = _tanh(new[i] + reset[i] * hidden_new[i])
        for i in range(size):
            memory[i] = (_ONE - update[i]) * new[i] + update[i] * before[i]


@_compiled
def gru_step_backward(
    gradient_ch: Any, carried_ch: Any, starts_c: Any, gates_cg: Any, hidden_gates_cg: Any, before_ch: Any
) -> None:
    """Undo a step of a GRU.

    Args:
        gradient_ch: Gradient of the memory after the step, from what reads it.
        carried_ch: The same from the step that follows; overwritten by the part of the gradient of the memory before
            the step that does not go through the gates.
        starts_c: Where the step that follows starts a trajectory, so that nothing is carried.
        gates_cg: The gates; overwritten by the gradient of what the input contributed.
        hidden_gates_cg: What the memory contributed; overwritten by its gradient.
        before_ch: Memory before the step.
    """
    size = before_ch.shape[1]
    for c in range(before_ch.shape[0]):
        carries = _ZERO if starts_c[c] else _ONE
        for i in range(size):
            reset, update, new = gates_cg[c, i], gates_cg[c, size + i], gates_cg[c, 2 * size + i]
            by_memory = gradient_ch[c, i] + carries * carried_ch[c, i]
            by_new = by_memory * (_ONE - update) * (_ONE - new * new)
            by_update = by_memory * (before_ch[c, i] - new) * update * (_ONE - update)
            by_reset = by_new * hidden_gates_cg[c, 2 * size + i] * reset * (_ONE - reset)
            gates_cg[c, i] = hidden_gates_cg[c, i] = by_reset
            gates_cg[c, size + i] = hidden_gates_cg[c, size + i] = by_update
            gates_cg[c, 2 * size + i] = by_new
            hidden_gates_cg[c, 2 * size + i] = by_new * reset
            carried_ch[c, i] = by_memory * update
