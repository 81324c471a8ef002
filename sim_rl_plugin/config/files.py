"""The settings in ``configs/``, and how one layer of settings lies on another."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.errors import UserError

BASE = "base"
"""Key of a config file that names another one, relative to ``configs/``, on which it lies."""


def configs_folder() -> Path:
    """Return the folder with the tuned settings: the checkout's, or else the installed package's."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "configs").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "configs"
    return package / "configs"


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Return a new mapping in which ``upper`` lies on ``lower``, mappings within mappings too.

    Where ``upper`` names another ``class_name``, the mapping's lower keys are dropped: they are
    arguments of the other class.
    """
    if "class_name" in upper and "class_name" in lower and upper["class_name"] != lower["class_name"]:
        return copy.deepcopy(upper)
    merged = dict(lower)
    for key, value in upper.items():
        below = lower.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return copy.deepcopy(merged)


def merge_layers(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """As ``merge``, for whole configs, whose own ``class_name`` is the runner's and owns no other key."""
    if "class_name" not in upper:
        return merge(lower, upper)
    return merge({**lower, "class_name": upper["class_name"]}, upper)


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of a config file, laid on those of the file that its ``base`` names.

    Raises:
        UserError: A file cannot be read, or the bases go in a circle.
    """
    return _read_chain(path, ())


def _read_chain(path: Path, above: tuple[str, ...]) -> dict[str, Any]:
    place = os.path.realpath(path)
    if place in above:
        raise UserError(f"{path}: the 'base' of this file leads back to itself")
    settings = read_mapping(path)
    base = settings.pop(BASE, None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise UserError(f"{path}: base: expected the name of a file in configs/, found {base!r}")
    below = configs_folder() / base
    if not below.is_file():
        raise UserError(f"{path}: base: there is no {base!r} in {configs_folder()}")
    return merge_layers(_read_chain(below, (*above, place)), settings)


def task_settings(simulator: str, task: str) -> dict[str, Any] | None:
    """Return the settings that ``configs/`` holds for a task.

    They are ``<simulator>/_default.yaml`` and on it ``<simulator>/<task>.yaml``. Where the latter does
    not exist, the version at a task's end (``-v5``) is ignored.

    Returns:
        The settings, or None if the simulator has no folder.
    """
    folder = configs_folder() / simulator
    if not _is_plain(simulator) or not folder.is_dir():
        return None
    settings: dict[str, Any] = {}
    if (folder / "_default.yaml").is_file():
        settings = read_config(folder / "_default.yaml")
    path = task_file(simulator, task)
    return settings if path is None else merge_layers(settings, read_config(path))


def task_file(simulator: str, task: str) -> Path | None:
    """Return the file in ``configs/`` that is about this very task, if there is one."""
    for name in dict.fromkeys([task, re.sub(r"-v\d+$", "", task)]):
        path = configs_folder() / simulator / f"{name}.yaml"
        if _is_plain(simulator) and _is_plain(name) and path.is_file():
            return path
    return None


def _is_plain(name: str) -> bool:
    # A task such as "ALE/Pong-v5" or "../x" names no file of ours.
    return bool(name) and not re.search(r"[/\\]", name) and not name.startswith((".", "_"))
