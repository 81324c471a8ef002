"""sim-rl as mjlab's training backend: what mjlab's entry-point group ``mjlab.tasks`` loads.

Every task whose runner is mjlab's own is offered a second time, under ``<task>-SimRl``, with our
runner. ``import mjlab`` loads this module, and mjlab fills its registry only later, when its ``train``
or ``play`` want it. So this module waits for that and costs nothing before: it imports neither mjlab nor
torch, and our runner is imported when one is made.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from sim_rl_mjlab.settings import SUFFIX

_GROUP = "mjlab.tasks"
_PACKAGE = "mjlab.tasks"
_EXPERIMENT_SUFFIX = "_sim_rl"


class Runner:
    """Stands in mjlab's registry for ``MjlabRunner``, and makes one when called."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a ``MjlabRunner``."""
        from sim_rl_mjlab.runner import MjlabRunner

        return MjlabRunner(*args, **kwargs)


def register_tasks() -> list[str]:
    """Offer each of mjlab's tasks with our runner, unless that was done before.

    Tasks whose runner class comes from somewhere else are left out: it may do what ours does not.

    Returns:
        The new ids.
    """
    from mjlab.tasks import registry

    known = set(registry.list_tasks())
    new = []
    for task in sorted(known):
        runner_cls = registry.load_runner_cls(task)
        is_theirs = runner_cls is None or runner_cls.__module__.partition(".")[0] == "mjlab"
        if task.endswith(SUFFIX) or task + SUFFIX in known or not is_theirs:
            continue
        rl_cfg = registry.load_rl_cfg(task)
        # A run folder of their own, since mjlab's --agent.resume takes the last run of an experiment.
        rl_cfg.experiment_name += _EXPERIMENT_SUFFIX
        registry.register_mjlab_task(
            task + SUFFIX, registry.load_env_cfg(task), registry.load_env_cfg(task, play=True), rl_cfg, Runner
        )
        new.append(task + SUFFIX)
    return new


def _load_other_task_packages() -> None:
    """Load the other packages of the group, so that their tasks are offered too; a second load is free."""
    for entry_point in entry_points().select(group=_GROUP):
        if entry_point.value.partition(":")[0] != __name__:
            # mjlab reports what fails when it is that package's turn.
            with contextlib.suppress(Exception):
                entry_point.load()


class _AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Calls ``register_tasks`` once ``mjlab.tasks`` has been imported, and is gone."""

    def __init__(self) -> None:
        self._loader: Any = None

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the package's own specification with this loader in between."""
        if fullname != _PACKAGE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave that to the package's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the package, which fills the registry, and then add ours."""
        # Resources and tracebacks shall find the package's own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        register_tasks()


def _is_imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _install() -> None:
    _load_other_task_packages()
    if _is_imported(_PACKAGE):
        register_tasks()
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


_install()
