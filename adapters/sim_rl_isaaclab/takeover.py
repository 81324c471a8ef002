"""Lets Isaac Lab's own commands run our learner, without a change to them.

Isaac Lab 3::

    isaaclab train --rl_library rsl_rl --task T --external_callback sim_rl_isaaclab.takeover.external_callback

Isaac Lab 2, whose scripts import rsl_rl themselves::

    ./isaaclab.sh -p -m sim_rl_isaaclab.takeover scripts/reinforcement_learning/rsl_rl/train.py --task T
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sim_rl_plugin.errors import UserError

_THEIRS = "rsl_rl.runners"
_NAMES = ("OnPolicyRunner", "DistillationRunner")
_CALLBACK_FLAG = "--external_callback"


def use_sim_rl() -> None:
    """Put our runners where Isaac Lab takes rsl_rl's from, in modules imported already and later."""
    if not any(isinstance(finder, _RunnersFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RunnersFinder())
    for name in (_THEIRS, "isaaclab_rl.rsl_rl.utils"):
        if name in sys.modules:
            _replace_runners(sys.modules[name])


def external_callback() -> list[str]:
    """Isaac Lab 3's hook for packages of tasks: returns the arguments that it leaves to Hydra."""
    use_sim_rl()
    rest: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument == _CALLBACK_FLAG:
            next(arguments, None)
        elif not argument.startswith(f"{_CALLBACK_FLAG}="):
            rest.append(argument)
    return rest


def main(arguments: Sequence[str]) -> None:
    """Run one of Isaac Lab's scripts, with its own arguments, as if it were called by itself.

    Raises:
        UserError: There is no script.
    """
    if not arguments or not Path(arguments[0]).is_file():
        raise UserError(
            "expected a script of Isaac Lab and its arguments, such as "
            f"scripts/reinforcement_learning/rsl_rl/train.py --task T, found {' '.join(arguments) or 'nothing'}"
        )
    use_sim_rl()
    script = str(Path(arguments[0]).resolve())
    sys.argv = [script, *arguments[1:]]
    # As python does: scripts import their neighbours.
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


def _replace_runners(module: ModuleType) -> None:
    # Only now: importing torch before the simulator is started is the scripts' own choice.
    from sim_rl_isaaclab import runners

    for name in _NAMES:
        if hasattr(module, name):
            setattr(module, name, getattr(runners, name))


class _RunnersFinder(importlib.abc.MetaPathFinder):
    """Replaces the runners right after ``rsl_rl.runners`` was imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != _THEIRS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _RunnersLoader(spec.loader)
        return spec


class _RunnersLoader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _replace_runners(module)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
