"""Lets Isaac Lab 2's real configuration classes, registry and wrapper be imported without Isaac Sim.

``ISAACLAB_PATH`` names the folder that holds them: ``isaaclab/source`` of an unpacked wheel or of a checkout of
version 2, or the folder with the package ``isaaclab`` of version 3, which needs no stubs.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# torchvision too: it only scales pictures in one task's environment, and fits few builds of torch.
STUBS = {2: ("carb", "omni", "isaacsim", "usdrt", "torchvision"), 3: ("torchvision",)}


def folder() -> Path | None:
    """Return the folder that the environment names, or None."""
    path = os.environ.get("ISAACLAB_PATH")
    return Path(path) if path else None


def generation() -> int:
    """Return 2 or 3, by the layout; 0 without Isaac Lab."""
    root = folder()
    if root is None:
        return 0
    return 2 if (root / "isaaclab" / "isaaclab").is_dir() else 3


def make_importable() -> None:
    """Put the packages on the path, and for version 2 the stubs in place of Isaac Sim."""
    root = folder()
    assert root is not None
    paths = [str(root)] if generation() == 3 else [str(path) for path in sorted(root.glob("isaaclab*"))]
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    sys.path[:0] = [path for path in paths if path not in sys.path]


class _AnyAttribute(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Nothing


class _Nothing(metaclass=_AnyAttribute):
    """Can be called, subscripted, subclassed and iterated, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _Nothing()

    def __iter__(self) -> Any:
        return iter(())


class _Settings(_Nothing):
    def get(self, *args: Any) -> str:
        return ""


class _Module(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if (self.__name__, name) == ("carb.settings", "get_settings"):
            return _Settings
        if (self.__name__, name) == ("carb", "settings"):
            return importlib.import_module("carb.settings")
        value = _AnyAttribute(name, (_Nothing,), {"__module__": self.__name__})
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in STUBS[generation()] or (generation() == 2 and name == "pxr.PhysxSchema"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
