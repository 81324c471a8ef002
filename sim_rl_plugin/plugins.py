"""The plugin manager: who is plugged in, what they hand over, and what went wrong.

Our own plugin comes first, then the entry points of the group ``sim_rl_plugin``, by name. pluggy
asks the plugin that was registered last first, so a third party's answer to a ``firstresult`` hook
wins over ours. A third-party plugin that fails, at whatever point, is recorded in ``failures``
and shown by ``sim-rl plugins``; it is never the end of a command or of a training.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

import pluggy

from sim_rl_plugin import __version__, hooks
from sim_rl_plugin.errors import UserError, nearest

BUILTIN = "builtin"
"""Name of the plugin that holds our own algorithms, models, runners, writers and commands."""

ALLOW_LIST = "SIM_RL_PLUGINS"
"""Environment variable with the entry-point names to load, comma separated; empty for none."""

DISTRIBUTION = "sim-rl-plugin"

_log = logging.getLogger("sim_rl_plugin")


@dataclass(frozen=True)
class PluginInfo:
    """A plugin that is loaded.

    Attributes:
        name: Its entry-point name, or ``"builtin"``.
        distribution: The distribution that it came with, empty if unknown.
        version: That distribution's version, empty if unknown.
        module: The module (or object) that holds its hooks.
    """

    name: str
    distribution: str
    version: str
    module: str


@dataclass(frozen=True)
class PluginFailure:
    """Something that a plugin did wrong.

    Attributes:
        plugin: The plugin's name.
        where: What was being done: ``"import"``, ``"registration"``, or the hook's name.
        message: What happened, one line.
    """

    plugin: str
    where: str
    message: str


@dataclass(frozen=True)
class OwnedEntry:
    """An entry and the name of the plugin that handed it over."""

    owner: str
    entry: hooks.Entry


class PluginManager:
    """Registers plugins and calls their hooks one by one, so that one failure stays one failure.

    Attributes:
        plugins: The plugins that are registered, in order.
        failures: What went wrong so far, without repetitions.
        skipped: Entry-point names that the allow-list left out.
    """

    def __init__(self) -> None:
        self.plugins: list[PluginInfo] = []
        self.failures: list[PluginFailure] = []
        self.skipped: list[str] = []
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        self._entries: dict[str, tuple[OwnedEntry, ...]] = {}

    def register(self, plugin: object, name: str, distribution: str = "", version: str = "") -> bool:
        """Register a module or object with hooks.

        Args:
            plugin: The module or object.
            name: What to call it in messages; unique.
            distribution: The distribution that it came with.
            version: That distribution's version.

        Returns:
            Whether it was registered. If not, ``failures`` says why.

        Raises:
            pluggy.PluginValidationError: Our own plugin does not fit our own hook specifications.
        """
        try:
            self._manager.register(plugin, name)
            self._refuse_wrappers(plugin)
        except Exception as error:
            # pluggy stops half-way: the hooks that it took before the bad one must go again.
            if self._manager.get_plugin(name) is plugin:
                self._manager.unregister(plugin)
            if name == BUILTIN:
                raise
            self._fail(name, "registration", error)
            return False
        self._report_unknown_hooks(plugin, name)
        module = getattr(plugin, "__name__", None) or type(plugin).__qualname__
        self.plugins.append(PluginInfo(name, distribution, version, module))
        self._entries.clear()
        return True

    def unregister(self, name: str) -> None:
        """Take a plugin out again; its name may be unknown."""
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        self.plugins = [info for info in self.plugins if info.name != name]
        self._entries.clear()

    def load_entry_points(self, allowed: Iterable[str] | None = None) -> None:
        """Import and register the plugins of the entry-point group.

        Args:
            allowed: The entry-point names to load; None for all.
        """
        names = None if allowed is None else set(allowed)
        found = _entry_points()
        for point in found:
            if names is not None and point.name not in names:
                self.skipped.append(point.name)
                continue
            if self._manager.has_plugin(point.name):
                self._fail(point.name, "registration", f"the name is taken; {point.value} was left out")
                continue
            self._load(point)
        for name in sorted((names or set()) - {point.name for point in found}):
            guess = nearest(name, [point.name for point in found])
            tail = f"did you mean {guess!r}?" if guess else f"installed are: {', '.join(_names(found)) or 'none'}"
            message = f"{ALLOW_LIST} names {name!r}, and no such plugin is installed: {tail}"
            self._record(PluginFailure(name, ALLOW_LIST, message))
            _log.warning(message)

    def entries(self, hook: str) -> tuple[OwnedEntry, ...]:
        """Return what the plugins hand over for one of the hooks that return entries.

        Args:
            hook: The hook's name, such as ``"sim_rl_algorithms"``.

        Returns:
            The entries with their owners, our own first. What is no ``Entry`` is left out and
            recorded in ``failures``.
        """
        if hook not in self._entries:
            collected = []
            for impl in self._implementations(hook, ours_first=True):
                try:
                    handed_over: list[object] = list(cast(Iterable[object], impl.function()))
                except Exception as error:
                    self._fail(impl.plugin_name, hook, error)
                    continue
                for entry in handed_over:
                    fault = _fault(entry)
                    if fault:
                        self._fail(impl.plugin_name, hook, fault)
                    else:
                        collected.append(OwnedEntry(impl.plugin_name, cast(hooks.Entry, entry)))
            self._entries[hook] = tuple(collected)
        return self._entries[hook]

    def first(self, hook: str, **arguments: Any) -> Any:
        """Return the first answer to a ``firstresult`` hook that is not None, or None.

        Raises:
            UserError: A plugin has something to say to the user; every other exception of a third
                party counts as no answer.
        """
        for impl in self._implementations(hook):
            try:
                answer = impl.function(*(arguments[name] for name in impl.argnames))
            except UserError:
                raise
            except Exception as error:
                self._fail(impl.plugin_name, hook, error, warn=True)
                continue
            if answer is not None:
                return answer
        return None

    def fire(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin about an event, such as ``sim_rl_iteration_end``.

        A third party's exception is logged once per plugin and hook, and forgotten.
        """
        for impl in self._implementations(hook):
            try:
                impl.function(*(arguments[name] for name in impl.argnames))
            except Exception as error:
                self._fail(impl.plugin_name, hook, error, warn=True)

    def _implementations(self, hook: str, ours_first: bool = False) -> Iterator[pluggy.HookImpl]:
        # pluggy keeps them in registration order and calls them from the end.
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        return iter(implementations if ours_first else implementations[::-1])

    def _load(self, point: metadata.EntryPoint) -> None:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            self._fail(point.name, "import", error)
            return
        distribution = point.dist
        name, version = (distribution.name, distribution.version) if distribution else ("", "")
        self.register(plugin, point.name, name, version)

    def _refuse_wrappers(self, plugin: object) -> None:
        for caller in self._manager.get_hookcallers(plugin) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin and (impl.wrapper or impl.hookwrapper):
                    raise TypeError(f"{caller.name} is a hook wrapper, and a plugin's hooks are called one by one")

    def _report_unknown_hooks(self, plugin: object, name: str) -> None:
        known = [attribute for attribute in vars(hooks) if attribute.startswith("sim_rl_")]
        for caller in self._manager.get_hookcallers(plugin) or ():
            optional = any(impl.optionalhook for impl in caller.get_hookimpls() if impl.plugin is plugin)
            if caller.name in known or optional:
                continue
            guess = nearest(caller.name, known)
            tail = f": did you mean {guess!r}?" if guess else ""
            self._fail(name, "registration", f"there is no hook {caller.name!r}{tail}")

    def _fail(self, plugin: str, where: str, problem: BaseException | str, warn: bool = False) -> None:
        if plugin == BUILTIN and isinstance(problem, BaseException):
            raise problem
        failure = PluginFailure(plugin, where, problem if isinstance(problem, str) else _one_line(problem))
        # A hook that raises in every iteration is one failure, whatever its message says each time.
        known = any((old.plugin, old.where) == (plugin, where) for old in self.failures)
        if warn and not known:
            _log.warning("plugin %r failed in %s and is ignored there: %s", plugin, where, failure.message)
        if not (warn and known):
            self._record(failure)

    def _record(self, failure: PluginFailure) -> None:
        if failure not in self.failures:
            self.failures.append(failure)


def _entry_points() -> list[metadata.EntryPoint]:
    """Return the group's entry points by name, each once even if its distribution is found twice."""
    points = {(point.name, point.value): point for point in metadata.entry_points(group=hooks.PROJECT)}
    return [points[key] for key in sorted(points)]


def _names(points: Iterable[metadata.EntryPoint]) -> list[str]:
    return sorted({point.name for point in points})


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _fault(entry: object) -> str:
    """Return what is wrong with something handed over as an entry, or nothing."""
    if not isinstance(entry, hooks.Entry):
        return f"expected an Entry, found {entry!r}"
    if not isinstance(entry.name, str) or not entry.name:
        return f"an entry's name must be a string that is not empty, found {entry.name!r}"
    module, _, attribute = entry.target.partition(":") if isinstance(entry.target, str) else ("", "", "")
    if not module or not attribute:
        return f"target of {entry.name!r}: expected 'module:attribute', found {entry.target!r}"
    if isinstance(entry.requires, str) or not _are_texts(entry.requires):
        return f"requires of {entry.name!r}: expected a tuple of import names, found {entry.requires!r}"
    for key in ("summary", "extra", "tasks"):
        if not isinstance(getattr(entry, key), str):
            return f"{key} of {entry.name!r}: expected a string, found {getattr(entry, key)!r}"
    environ: object = entry.environ
    if not isinstance(environ, Mapping) or not _are_texts([*environ, *environ.values()]):
        return f"environ of {entry.name!r}: expected names and values as strings, found {environ!r}"
    return ""


def _are_texts(values: object) -> bool:
    return isinstance(values, Collection) and all(isinstance(value, str) and "\0" not in value for value in values)


_current: PluginManager | None = None


def get_manager() -> PluginManager:
    """Return the process's plugin manager; the first call finds and registers the plugins."""
    global _current
    if _current is None:
        manager = PluginManager()
        builtin = importlib.import_module("sim_rl_plugin.builtin")
        manager.register(builtin, BUILTIN, DISTRIBUTION, __version__)
        allowed = os.environ.get(ALLOW_LIST)
        if allowed is not None:
            manager.load_entry_points(name for part in allowed.split(",") if (name := part.strip()))
        else:
            manager.load_entry_points()
        _current = manager
    return _current


def reset_manager() -> None:
    """Forget the plugin manager, so that the next ``get_manager`` looks again; meant for tests."""
    global _current
    _current = None
