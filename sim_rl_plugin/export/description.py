"""What an exported policy says about itself: plain data, the same in every format.

A description holds::

    {
        "format": 1,
        "inputs": [{"name": "obs", "groups": ["policy"], "shape": [1, 17], "dtype": "float32"}, ...],
        "memory": {"h_in": "h_out"},
        "observations": {"policy": {"shape": [17], "dtype": "float32", "terms": [...]}},
        "actions": {"size": 6, "clip": null, "terms": [{"name": "joint_pos", "shape": [6], "scale": 0.25, ...}]},
        "control_step_s": 0.02,
        "policy": {"class_name": "RNNModel", "distribution": "GaussianDistribution"},
        "simulator": "mujoco", "task": "Ant", "env": {}, "iteration": 499,
        "checkpoint": {"file": "model_499.pt", "sha256": "..."},
        "versions": {"torch": "2.13.0", ...},
    }

``inputs`` are in the order of the file, each of whose flat groups stand one behind the other. ``memory`` maps the
inputs that hold a memory to the outputs that give the next one; TorchScript keeps its memory itself. ``terms`` are
those of ``sim_rl_plugin.layout``, missing where the simulator does not tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sim_rl_plugin.checkpoint import plain_settings
from sim_rl_plugin.checkpoint_manifest import versions
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.registry import packages_of_simulator
from sim_rl_plugin.video import known_step_time_s

FORMAT = 1


def describe(policy: Any, env: Any, layout: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a policy.

    Args:
        policy: The model.
        env: The environment that it was trained in, or one like it.
        layout: What the environment gives and takes, see ``describe_layout``.
        settings: The training's.

    Raises:
        UserError: The model has no exportable form, or reads a group that the layout does not have.
    """
    if not hasattr(policy, "as_onnx") or not hasattr(policy, "as_jit"):
        raise UserError(f"a {type(policy).__name__} cannot be exported: expected a model with as_onnx and as_jit")
    inputs, memory = _inputs(policy, layout)
    groups = [group for entry in inputs for group in entry["groups"]]
    actions = {"size": layout["num_actions"], "clip": settings.get("clip_actions")}
    if "actions" in layout:
        actions["terms"] = layout["actions"]
    distribution = getattr(policy, "distribution", None)
    return {
        "format": FORMAT,
        "inputs": inputs,
        "memory": memory,
        "observations": {group: layout["observations"][group] for group in groups},
        "actions": actions,
        "control_step_s": known_step_time_s(env),
        "policy": {
            "class_name": type(policy).__name__,
            "distribution": None if distribution is None else type(distribution).__name__,
        },
        "simulator": settings.get("simulator"),
        "task": settings.get("task"),
        "env": plain_settings(settings.get("env") or {}),
        "checkpoint": None,
        "versions": versions(packages_of_simulator(settings.get("simulator"), env)),
    }


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Return name and sha256 of a checkpoint's file, the digest that ``sha256sum`` gives."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"file": path.name, "sha256": digest.hexdigest()}


def _inputs(policy: Any, layout: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return what an exported file takes, and which of its inputs and outputs are memories."""
    form = policy.as_onnx()
    flat = list(policy.obs_groups)
    inputs: list[dict[str, Any]] = []
    memory: dict[str, str] = {}
    for name, example in zip(form.input_names, form.get_dummy_inputs(), strict=True):
        if name.endswith("_in"):
            memory[name] = f"{name.removesuffix('_in')}_out"
            continue
        groups = flat if flat and not inputs else [name]
        missing = [group for group in groups if group not in layout["observations"]]
        if missing:
            known = ", ".join(layout["observations"])
            raise UserError(f"the policy reads the observation group {missing[0]!r}, and the environment has {known}")
        dtype = "uint8" if example.dtype == torch.uint8 else "float32"
        inputs.append({"name": name, "groups": groups, "shape": list(example.shape), "dtype": dtype})
    return inputs, memory
