"""mjlab (MuJoCo Warp) for sim-rl, and sim-rl for mjlab.

Importing this package loads neither mjlab nor torch; the public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim_rl_mjlab.open import open_task
    from sim_rl_mjlab.runner import MjlabRunner
    from sim_rl_mjlab.vec_env import MjlabVecEnv

__all__ = ["MjlabRunner", "MjlabVecEnv", "open_task"]

_HOME = {
    "MjlabRunner": "sim_rl_mjlab.runner",
    "MjlabVecEnv": "sim_rl_mjlab.vec_env",
    "open_task": "sim_rl_mjlab.open",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
