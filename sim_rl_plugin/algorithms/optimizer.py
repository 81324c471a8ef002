"""Optimizers whose learning rate is a tensor, so that a rule on the device can change it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch

from sim_rl_plugin.config.signature import check_value, shorten
from sim_rl_plugin.errors import UserError, unknown_name

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}
# One kernel for all parameters, which reads the learning rate where it lies.
_FUSED = {torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD}

# What a parameter group holds; its learning rate may be a tensor and is checked where it is read.
_KINDS: dict[type, Any] = {float: float, int: float, tuple: tuple[float, ...]}

# How a step is computed, not what: those of the optimizer at hand stay.
_EXECUTION_KEYS = {"capturable", "differentiable", "foreach", "fused"}

# Keys of parameter groups that older releases of torch do not write.
_NEWER_KEYS = {"decoupled_weight_decay", "param_names"}


def resolve_optimizer(optimizer_name: str) -> type[torch.optim.Optimizer]:
    """Return the optimizer class called ``adam``, ``adamw``, ``sgd`` or ``rmsprop``, in any case.

    Raises:
        ValueError: There is no such optimizer.
    """
    try:
        return _OPTIMIZERS[optimizer_name.lower()]
    except KeyError:
        raise unknown_name("algorithm.optimizer", optimizer_name, _OPTIMIZERS) from None


def build_optimizer(
    name: str, parameters: Iterable[torch.nn.Parameter], learning_rate: torch.Tensor
) -> torch.optim.Optimizer:
    """Build an optimizer that follows ``learning_rate``, a scalar tensor, where its kernel can.

    A parameter that two models share is taken once. (rsl_rl takes it twice, and so steps it twice.)
    """
    optimizer_class = resolve_optimizer(name)
    parameters = list(dict.fromkeys(parameters))
    if optimizer_class in _FUSED:
        return optimizer_class(parameters, lr=learning_rate, fused=True)  # type: ignore[call-arg]
    return optimizer_class(parameters, lr=learning_rate.item())  # type: ignore[call-arg]


def publish_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: torch.Tensor) -> None:
    """Make every parameter group use ``learning_rate`` in its next step."""
    value: torch.Tensor | float = learning_rate if type(optimizer) in _FUSED else learning_rate.item()
    for group in optimizer.param_groups:
        group["lr"] = value


def portable_state_dict(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter] | None = None
) -> dict[str, Any]:
    """Return a state dict that a default-built optimizer of the same class, such as rsl_rl's, loads.

    Args:
        optimizer: One group of parameters.
        parameters: Its parameters as rsl_rl would list them, with repetitions of those that are shared.
    """
    state = optimizer.state_dict()
    groups = [dict(group, lr=float(group["lr"])) for group in state["param_groups"]]
    for group in groups:
        if "fused" in group:
            group["fused"] = None
    if parameters is not None:
        index_of = {parameter: index for index, parameter in enumerate(optimizer.param_groups[0]["params"])}
        groups[0]["params"] = [index_of[parameter] for parameter in parameters]
    return {"state": state["state"], "param_groups": groups}


def load_portable_state_dict(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], learning_rate: torch.Tensor | None = None
) -> None:
    """Load a state dict that ours or rsl_rl's optimizer saved.

    Args:
        optimizer: One group of parameters.
        state: What was saved.
        learning_rate: Scalar tensor that the optimizer follows; gets the saved rate. None for an
            optimizer with a number.

    Raises:
        ValueError: The state belongs to other parameters.
    """
    _check_state(optimizer, state)
    groups = copy.deepcopy(state["param_groups"])
    for group, own in zip(groups, optimizer.param_groups, strict=False):
        group["params"] = list(dict.fromkeys(group["params"]))  # shared ones are listed twice
        missing = sorted(own.keys() - group.keys() - _NEWER_KEYS)
        if missing:
            raise UserError(
                f"the checkpoint's optimizer is not algorithm.optimizer ({type(optimizer).__name__}): "
                f"its state has no {', '.join(missing)}"
            )
        for key in _NEWER_KEYS & own.keys():
            group.setdefault(key, own[key])
        for key in group.keys() - own.keys():
            del group[key]  # of another release of torch
        group.update({key: own[key] for key in _EXECUTION_KEYS & own.keys()})
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    if learning_rate is not None:
        learning_rate.fill_(float(groups[0]["lr"]))
        publish_learning_rate(optimizer, learning_rate)


def _check_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Refuse what torch would take now and stumble over, or compute nonsense with, in the next step."""
    where = "optimizer_state_dict"
    check_value(list[dict[str, Any]], state.get("param_groups"), f"{where}.param_groups")
    check_value(dict[int, dict[str, Any]], state.get("state"), f"{where}.state")
    known: set[str] = set().union(*state["state"].values())
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=False):
        check_value(list[int], group.get("params"), f"{where}.param_groups.params")
        for key in group.keys() & own.keys() - _EXECUTION_KEYS - {"params"}:
            check_value(_KINDS.get(type(own[key]), Any), group[key], f"{where}.param_groups.{key}")
            if isinstance(own[key], bool) and group[key] is not own[key]:
                raise UserError(f"{where}.param_groups.{key} is {shorten(group[key])}: the checkpoint's optimizer is "
                                f"not algorithm.optimizer ({type(optimizer).__name__})")  # fmt: skip
        # Where their numbers differ, torch says so.
        for index, parameter in zip(dict.fromkeys(group["params"]), own["params"], strict=False):
            entry = state["state"].get(index, {})
            if entry and entry.keys() != known:
                names = [", ".join(sorted(map(str, keys))) for keys in (known, entry)]
                raise UserError(f"{where}.state.{index}: expected {names[0]}, found {names[1]}")
            for key, value in entry.items():
                if not _is_statistic(key, value, parameter):
                    raise UserError(f"{where}.state.{index}.{key}: expected a tensor like the parameter, of the shape "
                                    f"{tuple(parameter.shape)}, found {_described(value)}")  # fmt: skip


def _is_statistic(key: str, value: Any, parameter: torch.Tensor) -> bool:
    """Return whether this can be what an optimizer remembers of a parameter: a count of steps, or a moment."""
    if key == "step":
        return isinstance(value, (int, float)) or getattr(value, "ndim", 1) == 0
    if value is None and key == "momentum_buffer":
        return True  # SGD without momentum
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.is_floating_point()


def _described(value: Any) -> str:
    return f"shape {tuple(value.shape)} of {value.dtype}" if isinstance(value, torch.Tensor) else shorten(value)
