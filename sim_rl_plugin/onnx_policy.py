"""Runs an exported policy on a robot: one file that needs onnxruntime and numpy, and neither torch nor sim-rl.

Copy it to the robot, or import it from the package. Legend of shapes: ``n`` robots, ``a`` actions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class OnnxPolicy:
    """A policy out of an ONNX file that ``sim-rl export`` wrote; it keeps its own memory and history.

    Attributes:
        metadata: What the file says about itself: ``observations`` (terms of each group), ``actions``,
            ``control_step_s``, ``versions``, ``checkpoint`` and more.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file; raises ``ValueError`` for one that holds no description of a policy."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a policy is small: handing work to other threads costs more than the work
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        entries = self._session.get_modelmeta().custom_metadata_map
        if "sim_rl" not in entries:
            raise ValueError(f"{path} has no metadata of sim-rl: export it with `sim-rl export RUN --to onnx`")
        self.metadata: dict[str, Any] = json.loads(entries["sim_rl"])
        self._memory_shapes = {
            entry.name: entry.shape for entry in self._session.get_inputs() if entry.name in self.metadata["memory"]
        }
        self.reset()

    @property
    def rate_hz(self) -> float | None:
        """How often to call the policy; None if the simulator did not tell."""
        step_s = self.metadata["control_step_s"]
        return None if step_s is None else 1.0 / step_s

    def reset(self, robots: np.ndarray | None = None) -> None:
        """Forget: all of it before an episode, or the memory of some of several robots, bool ``(n,)``."""
        if robots is not None:
            for values in self._memory.values():
                values[:, robots] = 0.0
            return
        self._memory: dict[str, np.ndarray] = {}
        self._history: dict[tuple[str, str], list[np.ndarray]] = {}

    def __call__(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return actions ``(a,)`` or ``(n, a)`` for observation groups ``(size,)`` or ``(n, size)``, as in training."""
        feeds: dict[str, np.ndarray] = {}
        is_single = False
        for entry in self.metadata["inputs"]:
            parts = [np.asarray(observations[group]) for group in entry["groups"]]
            is_single = parts[0].ndim < len(entry["shape"])
            values = np.concatenate([part[None] if is_single else part for part in parts], axis=1)
            feeds[entry["name"]] = np.ascontiguousarray(values, dtype=entry["dtype"])
        robots = len(next(iter(feeds.values())))
        for name, (layers, _, size) in self._memory_shapes.items():
            feeds[name] = self._memory.get(name, np.zeros((layers, robots, size), np.float32))
        outputs = ["actions", *self.metadata["memory"].values()]
        actions, *memory = self._session.run(outputs, feeds)
        self._memory = dict(zip(self.metadata["memory"], memory, strict=True))
        return actions[0] if is_single else actions

    def observe(self, readings: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the observation groups of one robot, made of what it measures: every term by its name.

        Readings are in the simulator's units, the elements in the order of the term's ``elements``. They are scaled
        and shifted as in training, and as many of the last ones are kept as the term has history, which begins
        with the first reading repeated.
        """
        groups: dict[str, np.ndarray] = {}
        for group, description in self.metadata["observations"].items():
            if "terms" not in description:
                raise ValueError(f"the terms of the observation group {group!r} are not known: build it yourself")
            parts = []
            for term in description["terms"]:
                length = term.get("history", 1)
                value = np.asarray(readings[term["name"]], np.float32).reshape(-1)
                if value.size * length != np.prod(term["shape"]):
                    raise ValueError(f"{term['name']}: found {value.size} values, expected shape {term['shape']}")
                value = value * np.asarray(term.get("scale", 1.0)) + np.asarray(term.get("offset", 0.0))
                kept = self._history.setdefault((group, term["name"]), [value] * length)
                kept[:] = [*kept[1:], value]
                parts += kept
            groups[group] = np.concatenate(parts).astype(np.float32)
        return groups

    def targets(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """Return what each action term commands: its part of ``(..., a)``, clipped, scaled and shifted."""
        about, targets, start = self.metadata["actions"], {}, 0
        if about["clip"] is not None:
            actions = np.clip(actions, -about["clip"], about["clip"])
        for term in about.get("terms") or [{"name": "actions", "shape": [about["size"]]}]:
            end = start + int(np.prod(term["shape"]))
            scale, offset = np.asarray(term.get("scale", 1.0)), np.asarray(term.get("offset", 0.0))
            targets[term["name"]] = (actions[..., start:end] * scale + offset).astype(np.float32)
            start = end
        return targets
