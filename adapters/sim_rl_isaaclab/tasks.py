"""Names of Isaac Lab's tasks, read from its source text.

Importing ``isaaclab_tasks`` needs a running Isaac Sim up to version 2.3, and takes seconds since then. Every
task is registered by a literal call of ``gym.register``, so that the text tells names and kinds of settings.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from sim_rl_plugin.errors import UserError, unknown_name

OWN_SETTINGS = "sim_rl_cfg_entry_point"
"""Keyword of ``gym.register`` under which a task may keep settings in the shape of our config files."""

RSL_RL_SETTINGS = "rsl_rl_cfg_entry_point"
"""Keyword under which Isaac Lab's tasks keep those for rsl_rl."""


def task_names() -> list[str]:
    """Return the tasks that bring settings for us or for rsl_rl, sorted.

    A task without any can be opened too, and so can one of another package, as ``package:Name-v0``.
    """
    return sorted(name for name, keys in registrations().items() if any(map(_is_for_us, keys)))


def check_task(task: str) -> None:
    """Refuse a name that cannot be right before the simulator is started for it.

    Raises:
        UserError: Isaac Lab has no such task; one of another package is taken on trust.
    """
    known = registrations()
    if ":" not in task and known and task not in known and not _is_mentioned(task):
        raise unknown_name(
            "task",
            task,
            known,
            "(one of a package of your own is written 'package:Name'; `sim-rl list` shows Isaac Lab's)",
        )


def settings_key(registered: list[str] | set[str], task: str, wanted: str | None) -> str | None:
    """Return the keyword of ``gym.register`` that holds the settings to train with.

    Args:
        registered: The keywords of the task.
        task: Its name, for messages.
        wanted: The user's choice (``env.agent``), or None for our own kind, or else rsl_rl's.

    Returns:
        The keyword; None for a task that has none.

    Raises:
        UserError: The task has no such settings.
    """
    ours = sorted(filter(_is_for_us, registered))
    if wanted is not None:
        if wanted not in ours:
            raise unknown_name(f"env.agent of {task}:", wanted, ours)
        return wanted
    for key in (OWN_SETTINGS, RSL_RL_SETTINGS):
        if key in ours:
            return key
    return ours[0] if ours else None


def _is_for_us(key: str) -> bool:
    return key.endswith("_cfg_entry_point") and key.startswith(("sim_rl", "rsl_rl"))


@functools.cache
def registrations() -> dict[str, frozenset[str]]:
    """Return every task of the package ``isaaclab_tasks`` with the keywords of its registration.

    Raises:
        UserError: Isaac Lab is installed without its tasks.
    """
    found: dict[str, frozenset[str]] = {}
    for file in sorted(_tasks_folder().rglob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if "register(" in text:
            found.update(_registered_in(text))
    return found


def _is_mentioned(task: str) -> bool:
    """Return whether the name stands in the source text at all: older names are registered in other ways."""
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in _tasks_folder().rglob("*.py"))
    return any(f'"{task}"' in text for text in texts)


def _registered_in(text: str) -> Iterator[tuple[str, frozenset[str]]]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return  # written for another Python; importing it would say so
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", getattr(call.func, "id", "")) != "register":
            continue
        arguments = {keyword.arg: keyword.value for keyword in call.keywords}
        name = arguments.get("id", call.args[0] if call.args else None)
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            settings = arguments.get("kwargs")
            keys = settings.keys if isinstance(settings, ast.Dict) else []
            yield name.value, frozenset(str(key.value) for key in keys if isinstance(key, ast.Constant))


def _tasks_folder() -> Path:
    """Return the folder of the package ``isaaclab_tasks``, without importing anything."""
    for name, below in (("isaaclab_tasks", ""), ("isaaclab", "source/isaaclab_tasks/isaaclab_tasks")):
        spec = importlib.util.find_spec(name)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            folder = Path(location) / below
            if folder.is_dir():
                return folder
    raise UserError(
        "Isaac Lab's package isaaclab_tasks is not installed beside isaaclab: install Isaac Lab as its documentation "
        "says (`./isaaclab.sh --install` in a checkout)"
    )
