"""Decides which fast paths stand in for the plain one, and says why the others do not."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sim_rl_plugin.algorithms.algorithm import overrides
from sim_rl_plugin.models import CNNModel, MLPModel, RNNModel
from sim_rl_plugin.modules import MLP, RNN, EmpiricalNormalization, GaussianDistribution
from sim_rl_plugin.storage import RolloutStorage

if TYPE_CHECKING:
    from sim_rl_plugin.algorithms.ppo import PPO


@dataclass(frozen=True)
class FastPaths:
    """What was decided.

    Attributes:
        update: Whether the update's passes are those written by hand, or its steps are recorded on a GPU.
        rollout: Whether the rollout's are.
        reasons: Why a path is off, by its name.
    """

    update: bool
    rollout: bool
    reasons: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return one line for the start of a training."""
        states = {
            name: f"off ({self.reasons[name]})" if name in self.reasons else "on" for name in ("rollout", "update")
        }
        return f"fast paths: {', '.join(f'{name} {state}' for name, state in states.items())}"


_ACTIVATIONS = {nn.ELU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU}


def choose(algorithm: PPO) -> FastPaths:
    """Return which paths an algorithm takes as it is now."""
    if torch.device(algorithm.device).type == "cuda":
        reason = next(_against_recording(algorithm), None)
        reasons = {"rollout": f"not for {algorithm.device}"} | ({"update": reason} if reason is not None else {})
        return FastPaths(reason is None, False, reasons)
    shared = next(_against_both(algorithm), None)
    against = {
        "rollout": shared or next(_against_rollout(algorithm), None),
        "update": shared or next(_against_update(algorithm), None),
    }
    reasons = {name: reason for name, reason in against.items() if reason is not None}
    return FastPaths("update" not in reasons, "rollout" not in reasons, reasons)


def _against_both(algorithm: PPO) -> Iterator[str]:
    """Yield what speaks against passes by hand."""
    if not algorithm.fast:
        yield "switched off"
    if torch.device(algorithm.device).type != "cpu":
        yield f"not for {algorithm.device}"
    models = {"actor": algorithm._raw_actor, "critic": algorithm._raw_critic}
    if algorithm.actor is not models["actor"] or algorithm.critic is not models["critic"]:
        yield "the models are compiled"
    distribution = getattr(models["actor"], "distribution", None)
    if type(distribution) is not GaussianDistribution or _is_changed(distribution):
        yield f"the distribution is {type(distribution).__name__}, not GaussianDistribution"
    if getattr(models["critic"], "distribution", None) is not None:
        yield "the critic has a distribution"
    for name, model in models.items():
        yield from _against_model(name, model)
    yield from _against_numba()


@functools.cache
def _against_numba() -> list[str]:
    """Return why the kernels cannot be compiled; numba is imported only where nothing else speaks against it."""
    try:
        from sim_rl_plugin.algorithms.fast import kernels  # noqa: F401
    except (ImportError, RuntimeError) as error:  # numba raises the second where it finds no folder for compiled code
        return [f"numba cannot be used: {' '.join(str(error).split())}"]
    return []


def _against_model(name: str, model: Any) -> Iterator[str]:
    if type(model) is RNNModel:
        network = model.rnn.rnn
        if type(model.rnn) is not RNN or type(network) is not nn.GRU or not _is_simple(network):
            yield f"the {name}'s memory is no GRU of one layer"
            return
    elif type(model) is not MLPModel:
        yield f"the {name} is {type(model).__name__}, not MLPModel"
        return
    if type(model.mlp) is not MLP or type(model.obs_normalizer) not in (EmpiricalNormalization, nn.Identity):
        yield f"the {name} has parts of another kind"
        return
    if any(_is_changed(module) for module in model.modules()):
        yield f"the {name} has hooks or changed methods"
    layers = list(model.mlp)
    for layer in layers[0::2]:
        if type(layer) is not nn.Linear or layer.bias is None:
            yield f"the {name} has a layer {type(layer).__name__}"
    for layer in layers[1::2]:
        if type(layer) not in _ACTIVATIONS or getattr(layer, "alpha", 1.0) != 1.0:
            yield f"the {name} has the activation {type(layer).__name__}"
    parameters = [p for part in (model.mlp, getattr(model, "rnn", None)) if part is not None for p in part.parameters()]
    if any(not p.requires_grad or p.dtype != torch.float32 or p._backward_hooks for p in parameters):
        yield f"the {name} has parameters that are frozen, hooked or not float32"


def _is_simple(network: nn.GRU) -> bool:
    return network.num_layers == 1 and network.bias and not network.bidirectional


def _against_rollout(algorithm: PPO) -> Iterator[str]:
    if algorithm._raw_actor.is_recurrent or algorithm._raw_critic.is_recurrent:
        yield "models with a memory are evaluated step by step"
    if not algorithm.defers_values():
        yield "the critic is evaluated step by step"
    if _is_changed(algorithm) or _is_changed(algorithm.storage):
        yield "a method is overridden"
    if any(buffer.dtype != torch.float32 for buffer in algorithm.storage._observation_buffers.values()):
        yield "observations are not float32"


_UPDATE = (
    "update", "_mini_batches", "_update_once", "_loss", "_adapt_learning_rate", "_update_normalization",
)  # fmt: skip


def _against_update(algorithm: PPO) -> Iterator[str]:
    from sim_rl_plugin.algorithms.ppo import PPO

    if overrides(algorithm, PPO, *_UPDATE) or any(name in vars(algorithm) for name in _UPDATE):
        yield "a method of the update is overridden"
    recurrent = any(model.is_recurrent for model in (algorithm._raw_actor, algorithm._raw_critic))
    if recurrent and algorithm.use_mixed_precision:
        yield "a memory in mixed precision"
    if algorithm.rnd is not None:
        yield "random network distillation"
    if algorithm.symmetry is not None:
        yield "symmetry"
    if overrides(algorithm.storage, RolloutStorage, "mini_batch_generator", "recurrent_mini_batch_generator"):
        yield "the storage has its own mini-batches"
    actor, critic = ({id(p) for p in model.parameters()} for model in (algorithm._raw_actor, algorithm._raw_critic))
    if actor & critic:
        yield "actor and critic share parameters"
    trained = [id(p) for group in algorithm.optimizer.param_groups for p in group["params"]]
    if len(algorithm.optimizer.param_groups) != 1 or set(trained) != actor | critic:
        yield "the optimizer steps other parameters"


def _against_recording(algorithm: PPO) -> Iterator[str]:
    """Yield what speaks against a recording of the optimizer's step as a CUDA graph."""
    from sim_rl_plugin.algorithms.ppo import PPO

    if not algorithm.fast:
        yield "switched off"
    if algorithm.against_recording is not None:
        yield algorithm.against_recording
    models = {"actor": algorithm._raw_actor, "critic": algorithm._raw_critic}
    if algorithm.actor is not models["actor"] or algorithm.critic is not models["critic"]:
        yield "the models are compiled"
    for name, model in models.items():
        if type(model) not in (MLPModel, CNNModel):
            yield f"the {name} is {type(model).__name__}, not MLPModel or CNNModel"
        if any(_is_changed(module) for module in model.modules()):
            yield f"the {name} has hooks or changed methods"
    if overrides(algorithm, PPO, *_UPDATE) or any(name in vars(algorithm) for name in _UPDATE):
        yield "a method of the update is overridden"
    if algorithm.rnd is not None:
        yield "random network distillation"
    if algorithm.symmetry is not None:
        yield "symmetry"
    if algorithm.is_multi_gpu:
        yield "several processes"
    if type(algorithm.optimizer) not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
        yield f"the optimizer is {type(algorithm.optimizer).__name__}, which reads its learning rate on the host"


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_changed(instance: Any) -> bool:
    """Return whether somebody gave this one object other methods, or hooks."""
    own = vars(instance)
    return any(own.get(name) for name in _HOOKS) or any(callable(getattr(type(instance), name, None)) for name in own)
