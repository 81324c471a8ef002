"""Parameters, gradients and Adam's moments of a model, each in one buffer.

The model and the optimizer keep their own tensors, which become views: what reads or writes them sees no difference.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.adam import adam

from sim_rl_plugin.algorithms.fast import kernels

_ALIGNMENT = 16
"""Numbers to which the start of each parameter is rounded up, so that it begins on a cache line."""


class FlatParameters:
    """One model's trained parameters as views of one buffer, and their gradients as views of another."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Move the parameters, all float32, into one buffer."""
        self.parameters = list(dict.fromkeys(parameters))
        self._places: list[slice] = []
        size = 0
        for parameter in self.parameters:
            self._places.append(slice(size, size + parameter.numel()))
            size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        # Buffers of their own: who saves one of them shall not save all four.
        self.data, self.grad, self.exp_avg, self.exp_avg_sq = (torch.zeros(size) for _ in range(4))
        self._casts: dict[torch.dtype, torch.Tensor] = {}
        self.adopt()

    def adopt(self) -> None:
        """Take in parameters and gradients that somebody has replaced since."""
        for parameter, data, grad in zip(self.parameters, self.views(self.data), self.views(self.grad), strict=True):
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data.copy_(parameter.data)
            if parameter.grad is None or parameter.grad.data_ptr() != grad.data_ptr():
                parameter.grad = grad
        self.refresh_casts()

    def adopt_moments(self, optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
        """Take in Adam's moments of these parameters; return their step count, or None if they do not share one."""
        steps = []
        for parameter, first, second in zip(
            self.parameters, self.views(self.exp_avg), self.views(self.exp_avg_sq), strict=True
        ):
            state = optimizer.state[parameter]
            if not state:
                first.zero_()
                second.zero_()
                state.update(step=torch.tensor(0.0), exp_avg=first, exp_avg_sq=second)
            for name, view in (("exp_avg", first), ("exp_avg_sq", second)):
                if state[name].data_ptr() != view.data_ptr():
                    state[name] = view.copy_(state[name])
            steps.append(state["step"])
        same = all(torch.equal(step, steps[0]) for step in steps)
        return steps[0].clone() if same else None

    def note_steps(self, optimizer: torch.optim.Optimizer, step: torch.Tensor) -> None:
        """Write the step count into the optimizer's state."""
        for parameter in self.parameters:
            optimizer.state[parameter]["step"].copy_(step)

    def clip_grad_norm_(self, max_norm: float) -> None:
        """Scale the gradients down to a norm."""
        kernels.clip_norm(self.grad.numpy(), float(max_norm))

    def new_gradient(self) -> torch.Tensor:
        """Return another buffer for gradients."""
        return torch.zeros_like(self.grad)

    def parameters_as(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """Return the parameters in a type: themselves, or copies that ``refresh_casts`` renews."""
        if dtype != self.data.dtype:
            self._casts.setdefault(dtype, self.data.to(dtype))
        return self.views(self._casts.get(dtype, self.data))

    def refresh_casts(self) -> None:
        """Renew the copies in other types; call it after the parameters have changed."""
        for cast in self._casts.values():
            cast.copy_(self.data)

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """Return a buffer cut into the shapes of the parameters."""
        return [
            buffer[place].view_as(parameter) for place, parameter in zip(self._places, self.parameters, strict=True)
        ]


class FlatAdam:
    """Steps of an ordinary ``torch.optim.Adam`` on whole buffers; the optimizer's own state is what is stepped."""

    def __init__(self, optimizer: torch.optim.Optimizer, flats: list[FlatParameters]) -> None:
        """Note whose steps are taken."""
        self._optimizer, self._flats = optimizer, flats
        self._steps: list[torch.Tensor] | None = None

    def begin(self) -> bool:
        """Prepare for the steps of an update; return False where the optimizer must step for itself."""
        steps = [flat.adopt_moments(self._optimizer) for flat in self._flats] if _is_plain(self._optimizer) else [None]
        self._steps = [step for step in steps if step is not None]
        return len(self._steps) == len(self._flats)

    def step(self) -> None:
        """Take one step."""
        assert self._steps is not None
        group = self._optimizer.param_groups[0]
        adam(
            [flat.data for flat in self._flats],
            [flat.grad for flat in self._flats],
            [flat.exp_avg for flat in self._flats],
            [flat.exp_avg_sq for flat in self._flats],
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def end(self) -> None:
        """Leave the optimizer as if it had stepped itself."""
        assert self._steps is not None
        for flat, step in zip(self._flats, self._steps, strict=True):
            flat.note_steps(self._optimizer, step)


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether nothing but Adam's own rule happens in a step."""
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    if type(optimizer) is not torch.optim.Adam or "step" in vars(optimizer) or any(hooks):
        return False
    group = optimizer.param_groups[0]
    special = ("amsgrad", "maximize", "weight_decay", "capturable", "differentiable")
    return len(optimizer.param_groups) == 1 and not any(group[name] for name in special)
