"""What ``eval`` and ``play`` have in common: an earlier run's policy, here or on another simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim_rl_plugin.config import RunConfig, known_env_options, with_overrides
from sim_rl_plugin.config.schema import schema_defaults
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.policy_source import PolicySource
from sim_rl_plugin.run_folder import SavedRun


def config_of_run(run: SavedRun | PolicySource, options: dict[str, Any]) -> RunConfig:
    """Return the settings of a run, changed by command-line options.

    Where ``options`` name another simulator, the adapter options that it does not have are dropped.

    Args:
        run: The run, or an exported policy.
        options: Values of ``RunConfig`` fields; None is not set.

    Raises:
        UserError: An option does not fit.
    """
    settings = dict(run.settings)
    if settings.get("task") is None and options.get("task") is None:
        raise UserError(f"{_file_of(run)} does not say which task it was trained on: say --sim NAME and --task NAME")
    # Nothing is trained or logged: a log writer that is not installed here must not stand in the way.
    settings["logger"] = []
    trained_on = settings.get("simulator", schema_defaults().simulator)
    simulator = options.get("simulator") or trained_on
    if simulator != trained_on and isinstance(settings.get("env"), dict):
        settings["env"] = known_env_options(simulator, settings["env"])
    return with_overrides(settings, options=options)


def _file_of(run: SavedRun | PolicySource) -> Path:
    return run.path if isinstance(run, PolicySource) else run.checkpoint
