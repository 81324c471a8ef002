"""Everything that the next steps of an mjlab environment depend on, out of its objects and back into them.

mjlab has no snapshot of its own. Its state lies in the physics (MuJoCo's integration state and the
randomised model fields) and in attributes of managers, terms, entities, sensors and buffers, a user's
own classes among them. The latter are found by walking from the managers through attributes, dicts
and lists, and are named by their path (``command_manager/_terms/twist/time_left``).

Plain numbers are kept only where they differ from what they were when the environment was built: a
curriculum changes weights and ranges in configurations, and what it did not touch stays as the user
has set it for the resumed training.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sim_rl_plugin.errors import UserError

_ROOTS = (
    "event_manager",
    "command_manager",
    "action_manager",
    "observation_manager",
    "termination_manager",
    "reward_manager",
    "curriculum_manager",
    "metrics_manager",
)
_SCENE_ROOTS = ("entities", "sensors", "terrain")
_COUNTERS = ("common_step_counter", "_sim_step_counter")

# MuJoCo's integration state, and what users and controllers add to it. The rest follows by `forward`.
_PHYSICS = (
    "time",
    "qpos",
    "qvel",
    "act",
    "history",
    "qacc_warmstart",
    "ctrl",
    "qfrc_applied",
    "xfrc_applied",
    "eq_active",
    "mocap_pos",
    "mocap_quat",
    "userdata",
    "tree_asleep",
)

# What these packages define is no state, or is the physics' own.
_FOREIGN = ("mujoco", "mujoco_warp", "warp", "torch", "numpy", "viser", "trimesh", "threading", "logging")
_FOREIGN_MODULES = ("mjlab.sim", "mjlab.viewer", "mjlab.envs.manager_based_rl_env")

# A tensor that has neither a row per environment nor is small is data that the task was given: a
# terrain, a motion to track.
_SMALL = 4096

_Number = (bool, int, float)


@dataclass(frozen=True)
class _Place:
    """Where a value stands: an attribute of an object, or an item of a dict, list or tuple."""

    owner: Any
    key: Any

    def read(self) -> Any:
        if isinstance(self.owner, (dict, list, tuple)):
            return self.owner[self.key]
        return getattr(self.owner, self.key)

    def write(self, value: Any) -> None:
        if isinstance(self.owner, (dict, list)):
            self.owner[self.key] = value
        else:
            object.__setattr__(self.owner, self.key, value)


class SimulationState:
    """Saves and restores one ``ManagerBasedRlEnv``."""

    def __init__(self, env: Any) -> None:
        """Note the environment's plain numbers; to be called when it is new.

        Args:
            env: The environment itself, not a wrapper.
        """
        self._env = env
        self._initial_numbers = self._walk()[1]
        self._initial_numbers = {path: (place, place.read()) for path, (place, _) in self._initial_numbers.items()}

    def save(self) -> dict[str, Any]:
        """Return counters, physics, randomised model fields, tensors and numbers, copied to the host."""
        env = self._env
        tensors, numbers = self._walk()
        return {
            "counters": {name: getattr(env, name) for name in _COUNTERS if hasattr(env, name)},
            "episode_length": env.episode_length_buf.cpu().clone(),
            "physics": {name: values.cpu().clone() for name, values in self._physics().items()},
            "model": {name: values.cpu().clone() for name, values in self._model_fields().items()},
            "tensors": {path: place.read().detach().cpu().clone() for path, place in tensors.items()},
            "numbers": {
                path: _as_plain(value)
                for path, (_, value) in numbers.items()
                if path not in self._initial_numbers or not _equal(value, self._initial_numbers[path][1])
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put back what ``save`` returned.

        Raises:
            UserError: A tensor has another shape here.
        """
        env = self._env
        for name, value in state["counters"].items():
            setattr(env, name, value)
        _copy_into(env.episode_length_buf, state["episode_length"], "episode lengths")
        for name, values in self._model_fields().items():
            if name in state["model"]:
                _copy_into(values, state["model"][name], f"model field {name}")
        self._load_physics(state["physics"])
        self._load_attributes(state["tensors"], state["numbers"])
        env.sim.forward()
        # Again: `forward` solves for the accelerations from which the next step starts.
        self._load_physics(state["physics"])
        env.sim.sense()

    def _load_physics(self, saved: dict[str, torch.Tensor]) -> None:
        for name, values in self._physics().items():
            if name in saved:
                _copy_into(values, saved[name], f"simulation field {name}")

    def _load_attributes(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        places, current = self._walk()
        for path, place in places.items():
            if path not in tensors:
                continue
            values = place.read()
            if values.shape == tensors[path].shape or isinstance(place.owner, tuple):
                _copy_into(values, tensors[path], path)
            else:
                place.write(tensors[path].to(values.device, copy=True))
        for path, (place, value) in current.items():
            if path in numbers:
                wanted = numbers[path]
                place.write(tuple(wanted) if isinstance(value, tuple) else wanted)
            elif path in self._initial_numbers and not _equal(value, self._initial_numbers[path][1]):
                place.write(self._initial_numbers[path][1])

    def _physics(self) -> dict[str, torch.Tensor]:
        return dict(_present(self._env.sim.data, _PHYSICS))

    def _model_fields(self) -> dict[str, torch.Tensor]:
        return dict(_present(self._env.sim.model, sorted(self._env.sim.expanded_fields)))

    def _walk(self) -> tuple[dict[str, _Place], dict[str, tuple[_Place, Any]]]:
        """Return the places of the tensors, and of the numbers with their values, by path."""
        env = self._env
        roots = [(name, getattr(env, name, None)) for name in _ROOTS]
        roots += [(f"scene/{name}", getattr(env.scene, name, None)) for name in _SCENE_ROOTS]
        walk = _Walk(env.num_envs)
        for name, root in roots:
            walk.into(name, root)
        return walk.tensors, walk.numbers


class _Walk:
    """Goes through the objects below some roots, through each once."""

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._seen: dict[int, Any] = {}  # the objects stay alive, so that their ids stay theirs
        self.tensors: dict[str, _Place] = {}
        self.numbers: dict[str, tuple[_Place, Any]] = {}

    def into(self, path: str, owner: Any) -> None:
        """Visit what an object, dict or list holds."""
        if owner is None or id(owner) in self._seen:
            return
        self._seen[id(owner)] = owner
        for key, value in _items(owner):
            self._visit(f"{path}/{key}", _Place(owner, key), value)

    def _visit(self, path: str, place: _Place, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            is_state = (value.ndim > 0 and value.shape[0] == self._num_envs) or value.numel() <= _SMALL
            # An expanded tensor has several elements in one place; it is a view of something else.
            if id(value) not in self._seen and is_state and 0 not in value.stride():
                self._seen[id(value)] = value
                self.tensors[path] = place
        elif _is_number(value):
            if not isinstance(place.owner, tuple):
                self.numbers[path] = (place, value)
        elif isinstance(value, (dict, list, tuple)) or _is_of_interest(value):
            self.into(path, value)


def _items(owner: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(owner, dict):
        yield from list(owner.items())
    elif isinstance(owner, (list, tuple)):
        yield from enumerate(owner)
    else:
        yield from list(vars(owner).items())


def _is_of_interest(value: Any) -> bool:
    """Say whether an object may hold state: one with attributes, of mjlab's or of a user's class."""
    if isinstance(value, (type, types.FunctionType, types.MethodType, types.ModuleType, str)):
        return False
    module = type(value).__module__
    if module.partition(".")[0] in (*_FOREIGN, "builtins") or module.startswith(_FOREIGN_MODULES):
        return False
    return hasattr(value, "__dict__")


def _is_number(value: Any) -> bool:
    if isinstance(value, _Number):
        return True
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, _Number) for item in value)


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))


def _as_plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _present(bridge: Any, names: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield those fields of mjlab's view of the simulation that exist here and hold something."""
    for name in names:
        try:
            values = getattr(bridge, name)[:]
        except (AttributeError, TypeError, IndexError):
            continue
        if isinstance(values, torch.Tensor) and values.numel():
            yield name, values


def _copy_into(values: torch.Tensor, saved: torch.Tensor, what: str) -> None:
    if values.shape != saved.shape:
        raise UserError(
            f"the simulation state holds {what} of shape {tuple(saved.shape)}, this simulation has "
            f"{tuple(values.shape)}"
        )
    # What was created in a rollout can only be written to in its mode.
    with torch.inference_mode():
        values.copy_(saved)
