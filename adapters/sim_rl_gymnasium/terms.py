"""The terms of Gymnasium's MuJoCo tasks, which say how their observation is composed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
from gymnasium import spaces

from sim_rl_plugin.env import Term
from sim_rl_plugin.env.mujoco_elements import actuator_elements, position_elements, velocity_elements

# Fields of mjData, and what our MuJoCo adapter calls the parts of an observation that are made of them.
_NAMES = {
    "qpos": "position",
    "qvel": "velocity",
    "cinert": "inertia",
    "cvel": "body_velocity",
    "qfrc_actuator": "actuator_force",
    "cfrc_ext": "contact_force",
}


def terms_of(env: Any) -> tuple[dict[str, tuple[Term, ...]], tuple[Term, ...]]:
    """Return observation terms by group, and action terms; empty where the task does not tell.

    Args:
        env: One environment, without wrappers that change its observation.
    """
    base = env.unwrapped
    model = getattr(base, "model", None)
    if not isinstance(model, mujoco.MjModel):
        return {}, ()
    names = actuator_elements(model)
    actions = (Term("actuators", (len(names),), names),) if env.action_space.shape == (len(names),) else ()
    structure = getattr(base, "observation_structure", None)
    if not isinstance(structure, Mapping) or not isinstance(env.observation_space, spaces.Box):
        return {}, actions
    elements = {"qpos": position_elements(model), "qvel": velocity_elements(model)}
    sizes = {field: int(size) for field, size in structure.items() if not field.startswith("skipped") and size}
    if env.observation_space.shape != (sum(sizes.values()),):
        return {}, actions
    terms = tuple(
        # What is skipped comes first: how far the robot has come.
        Term(_NAMES.get(field, field), (size,), elements[field][-size:] if field in elements else ())
        for field, size in sizes.items()
    )
    return {"policy": terms}, actions
