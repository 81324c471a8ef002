"""What each number of a MuJoCo model's positions and velocities is about."""

from __future__ import annotations

from typing import Any

# By mjtJoint: free, ball, slide, hinge.
_POSITION = (("x", "y", "z", "qw", "qx", "qy", "qz"), ("qw", "qx", "qy", "qz"), ("",), ("",))
_VELOCITY = (("vx", "vy", "vz", "wx", "wy", "wz"), ("wx", "wy", "wz"), ("",), ("",))


def position_elements(model: Any) -> tuple[str, ...]:
    """Return a name for each number of ``qpos``: a joint's, or with a coordinate, such as ``root.x``."""
    return _elements(model, _POSITION)


def velocity_elements(model: Any) -> tuple[str, ...]:
    """Return a name for each number of ``qvel``."""
    return _elements(model, _VELOCITY)


def actuator_elements(model: Any) -> tuple[str, ...]:
    """Return a name for each number of ``ctrl``; one that has none in the model gets its number."""
    return tuple(model.actuator(i).name or f"actuator_{i}" for i in range(model.nu))


def _elements(model: Any, coordinates: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    names = []
    for i in range(model.njnt):
        joint = model.joint(i).name or f"joint_{i}"
        names += [f"{joint}.{part}" if part else joint for part in coordinates[int(model.jnt_type[i])]]
    return tuple(names)
