"""From layers of settings to one checked config.

Schema defaults lie lowest, then the task's own settings (``sim_rl_default_config``: those in
``configs/``, unless a plugin brings better ones), then a config file, then the command line.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from sim_rl_plugin.config.files import merge_layers, read_config
from sim_rl_plugin.config.migrations import migrate
from sim_rl_plugin.config.nan_quarantine import QuarantineSettings
from sim_rl_plugin.config.overrides import parse_overrides
from sim_rl_plugin.config.schema import (
    MODEL_SECTIONS,
    SECTIONS,
    EvaluationSettings,
    KeepCheckpoints,
    RunConfig,
    schema_defaults,
    unknown_setting,
)
from sim_rl_plugin.config.signature import check_arguments, check_value, parameters_of, shorten, unknown_key
from sim_rl_plugin.config.yaml_text import dump
from sim_rl_plugin.errors import UserError, nearest
from sim_rl_plugin.plugins import get_manager
from sim_rl_plugin.registry import is_own_function, load, resolve_class

PROVIDED_TO_ALGORITHM = ("actor", "critic", "student", "teacher", "storage", "device", "multi_gpu_cfg")
PROVIDED_TO_MODEL = ("obs", "obs_groups", "obs_set", "output_dim", "cnns")
PROVIDED_TO_LOG_WRITER = ("log_dir",)
PROVIDED_TO_ADAPTER = ("task", "num_envs", "device", "seed", "render")

OBSERVATION_SETS = (*MODEL_SECTIONS, "rnd_state")

# rsl_rl's construct_algorithm takes this one out of the algorithm's settings before the constructor
# sees them.
CONSTRUCTION_KEYS = {"share_cnn_encoders": bool | None}

# Top-level keys that every runner reads; the others are the business of train scripts.
_RUNNERS_KEYS = (
    "num_steps_per_env",
    "save_interval",
    "keep_checkpoints",
    "evaluation",
    "obs_groups",
    "check_for_nan",
    "nan_quarantine",
    "init_from",
)

# Sections of the runner, and what holds their keys.
_RUNNERS_SECTIONS = {
    "keep_checkpoints": KeepCheckpoints,
    "evaluation": EvaluationSettings,
    "nan_quarantine": QuarantineSettings,
}

# Keys that simulators put beside rsl_rl's own, for their train scripts.
_OTHERS_KEYS = (
    "clip_observations",
    "empirical_normalization",
    "load_checkpoint",
    "load_run",
    "log_dir",
    "multi_gpu",
    "neptune_project",
    "policy",
    "resume",
    "rnd_cfg",
    "symmetry_cfg",
    "upload_model",
    "wandb_entity",
    "wandb_project",
    "wandb_tags",
)

_log = logging.getLogger("sim_rl_plugin")


def load_config(
    simulator: str | None = None,
    task: str | None = None,
    config_file: Path | None = None,
    overrides: Iterable[str] = (),
    options: dict[str, Any] | None = None,
) -> RunConfig:
    """Return the checked settings of a run.

    Args:
        simulator: The simulator's name; None takes the config file's, or else MuJoCo.
        task: The task's name; None takes the config file's.
        config_file: YAML that lies on the task's own settings.
        overrides: ``KEY=VALUE`` texts that lie on everything else.
        options: Settings with the rank of ``overrides``, from command-line options; None is not set.

    Raises:
        UserError: There is no task, a file cannot be read, or a setting is unknown or wrong.
    """
    upper = _migrated(read_config(config_file)) if config_file is not None else {}
    line = {"simulator": simulator, "task": task, **(options or {})}
    upper = merge_layers(upper, {key: value for key, value in line.items() if value is not None})
    upper = merge_layers(upper, parse_overrides(overrides))
    named = upper.get("simulator")
    if upper.get("task") is None and isinstance(named, str) and is_own_function(named):
        # It opens what it opens, and need not take a task's name.
        upper["task"] = named.rpartition(":")[2]
    if upper.get("task") is None:
        raise UserError("no task is given: say --task NAME (`sim-rl list` shows the tasks)")
    return on_task_settings(upper)


def on_task_settings(upper: dict[str, Any]) -> RunConfig:
    """Return settings that name a task, laid on the task's own and on the schema's defaults.

    Args:
        upper: Settings with ``task``; without ``simulator``, MuJoCo is meant.

    Raises:
        UserError: A setting is unknown or wrong.
    """
    defaults = schema_defaults().to_dict()
    upper = {"simulator": defaults["simulator"], **upper}
    for key in ("simulator", "task"):
        check_value(str, upper[key], key)
    return with_layer(merge_layers(defaults, _task_layer(upper)), upper)


def with_layer(settings: dict[str, Any], upper: dict[str, Any]) -> RunConfig:
    """Return complete settings with one more layer on top.

    Args:
        settings: A value for every key of ``RunConfig``; not modified.
        upper: The layer; not modified.

    Raises:
        UserError: A setting of the layer is unknown or wrong.
    """
    settings = _with_own_sections(settings, upper)
    _check_paths(settings, upper)
    config = RunConfig.parse(plain(merge_layers(settings, upper)))
    check_classes(config.to_dict())
    _check_log_writers(config)
    return config


def with_overrides(
    settings: dict[str, Any], overrides: Iterable[str] = (), options: dict[str, Any] | None = None
) -> RunConfig:
    """Return settings that were resolved before, with overrides on top.

    Args:
        settings: The settings of a run, as its checkpoint or ``config.yaml`` holds them; keys that
            a newer version has added get their defaults.
        overrides: As for ``load_config``.
        options: As for ``load_config``.
    """
    known = {key: plain(value) for key, value in settings.items() if key in RunConfig.model_fields}
    # Settings of a script, or of a version that had others.
    _warn_of_near_misses([key for key in settings if key not in known])
    upper = {key: value for key, value in (options or {}).items() if value is not None}
    return with_layer(merge_layers(schema_defaults().to_dict(), known), merge_layers(upper, parse_overrides(overrides)))


def _with_own_sections(settings: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Return settings with exactly the models that the algorithm has; a student and a teacher are like the actor."""
    algorithm = merge_layers(settings, {key: value for key, value in upper.items() if key == "algorithm"})["algorithm"]
    if not isinstance(algorithm, dict):
        return settings  # refused below, with its key path
    sections = model_sections(resolve_class(algorithm, path="algorithm")[0])
    for section in MODEL_SECTIONS:
        if section not in sections and upper.get(section) is not None:
            raise UserError(
                f"{section}: the algorithm {algorithm['class_name']} has no {section}; its models are "
                f"{', '.join(sections)}"
            )
    pattern = settings.get("actor") or schema_defaults().to_dict()["actor"]
    own = {section: settings.get(section) or copy.deepcopy(pattern) for section in sections}
    return {**settings, **dict.fromkeys(MODEL_SECTIONS), **own}


def model_sections(algorithm: Any) -> list[str]:
    """Return the sections of the models that an algorithm's constructor takes; actor and critic if it does not say."""
    parameters = parameters_of(algorithm).annotations
    return [section for section in MODEL_SECTIONS if section in parameters] or ["actor", "critic"]


def _task_layer(upper: dict[str, Any]) -> dict[str, Any]:
    about = {"adapter": upper["simulator"], "task": upper["task"], "settings": copy.deepcopy(upper)}
    answer = get_manager().first("sim_rl_default_config", **about) or {}
    where = f"the default settings of {upper['task']!r} on {upper['simulator']!r}"
    try:
        check_value(dict[str, Any], answer, "settings")
        layer = plain(_migrated(answer))
        for key in layer.keys() & {"env", "obs_groups", *SECTIONS}:
            check_value(dict[str, Any] | None, layer[key], key)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    # A simulator's own training settings carry keys for its own scripts: they are not ours to refuse.
    _warn_of_near_misses([key for key in layer if key not in RunConfig.model_fields])
    return {key: value for key, value in layer.items() if key in RunConfig.model_fields}


def _check_paths(settings: dict[str, Any], upper: dict[str, Any]) -> None:
    """Refuse upper keys that do not exist, and sections where there is a plain value."""
    for key, value in upper.items():
        if key not in RunConfig.model_fields:
            raise unknown_setting(key, settings)
        is_section = isinstance(settings[key], dict)
        if value is None and key in MODEL_SECTIONS:
            continue
        if is_section and not isinstance(value, dict):
            raise UserError(f"{key}: expected a mapping of settings, found {value!r}")
        if isinstance(value, dict) and not is_section and key != "logger":
            raise UserError(
                f"{key}.{next(iter(value), '')}: {key} is a single value ({settings[key]!r}), not a section"
            )


def check_classes(settings: dict[str, Any]) -> None:
    """Check that every class exists and that its settings fit its constructor.

    Args:
        settings: A training dict; not modified.

    Raises:
        UserError: With the key path of what is wrong.
    """
    resolve_class({"class_name": settings.get("class_name") or "OnPolicyRunner"}, path="runner")
    for section, owner in _RUNNERS_SECTIONS.items():
        check_arguments(owner, settings.get(section, {}), section)
    every, interval = settings.get("keep_checkpoints", {}).get("every"), settings.get("save_interval", 50)
    if every is not None and every % interval:
        raise UserError(f"keep_checkpoints.every: expected a multiple of save_interval ({interval}), found {every}")
    algorithm, kwargs = resolve_class(settings["algorithm"], path="algorithm")
    also = CONSTRUCTION_KEYS if hasattr(algorithm, "construct_algorithm") else None
    check_arguments(algorithm, kwargs, "algorithm", provided=PROVIDED_TO_ALGORITHM, also=also)
    for section in model_sections(algorithm):
        if settings.get(section) is not None:
            model, kwargs = resolve_class(settings[section], path=section)
            check_arguments(model, kwargs, section, provided=PROVIDED_TO_MODEL)
    _check_observation_sets(settings.get("obs_groups") or {})


def _check_observation_sets(obs_groups: dict[str, Any]) -> None:
    """Refuse a set that looks like one of ours, and warn of others, which only an algorithm of a plugin may read."""
    for name in obs_groups:
        if name in OBSERVATION_SETS:
            continue
        if nearest(str(name), OBSERVATION_SETS) is not None:
            raise unknown_key("obs_groups", str(name), OBSERVATION_SETS)
        _log.warning("obs_groups.%s: none of our algorithms reads this set; theirs are %s",
                     name, ", ".join(OBSERVATION_SETS))  # fmt: skip


def _check_log_writers(config: RunConfig) -> None:
    loggers = config.logger if isinstance(config.logger, list) else [config.logger]
    for logger in loggers:
        cfg = {"class_name": logger} if isinstance(logger, str) else logger
        writer, kwargs = resolve_class(cfg, path="logger")
        check_arguments(writer, kwargs, "logger", provided=PROVIDED_TO_LOG_WRITER)


def check_env_options(simulator: str, options: dict[str, Any]) -> Any:
    """Return a simulator's adapter, once ``options`` fit its signature.

    Raises:
        UserError: The simulator is unknown or not installed, or an option is unknown or ill-typed.
    """
    adapter = load("adapters", simulator)
    if not callable(adapter):
        raise UserError(f"simulator: {simulator!r} is no function or class that opens environments")
    check_arguments(adapter, options, "env", provided=PROVIDED_TO_ADAPTER)
    return adapter


def known_env_options(simulator: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that the simulator's adapter has.

    They are for a policy that was trained on another simulator and whose options may mean nothing here.
    """
    parameters = inspect.signature(load("adapters", simulator)).parameters
    return {key: value for key, value in options.items() if key in parameters}


def check_train_cfg(train_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return a checked deep copy of a training dict in rsl_rl's shape, that of 5.x.

    Older shapes, from 2.x on, are migrated, and a warning says what was changed.
    The settings of algorithm, actor and critic are checked strictly. A top-level key that is
    unknown is left in: train scripts keep their own settings there. If it looks like a key of ours,
    a warning says so.

    Args:
        train_cfg: The dict; not modified.

    Raises:
        UserError: A section is missing, or a setting is unknown or has the wrong type.
    """
    if not isinstance(train_cfg, dict):
        raise UserError(f"expected a training dict, found {shorten(train_cfg)}")
    for key in ("algorithm", "num_steps_per_env"):
        if key not in train_cfg:
            keys = ", ".join(map(repr, train_cfg)) or "no keys"
            raise UserError(f"{key} is missing: the training dict has {keys}")
    train_cfg = _migrated(train_cfg)
    _warn_of_near_misses([key for key in train_cfg if key not in RunConfig.model_fields])
    for key in _RUNNERS_KEYS:
        if key in train_cfg:
            check_value(RunConfig.model_fields[key].annotation, train_cfg[key], key)
    check_classes(train_cfg)
    return copy.deepcopy(train_cfg)


def _migrated(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in today's shape, and tell the user what was changed."""
    migrated, notes = migrate(settings)
    for note in notes:
        _log.warning("%s", note)
    return migrated


def _warn_of_near_misses(keys: Collection[str]) -> None:
    for key in keys:
        guess = nearest(key, RunConfig.model_fields) if key not in _OTHERS_KEYS else None
        if guess is not None:
            _log.warning("the setting %r is unknown and has no effect: did you mean %r?", key, guess)


def plain(value: Any) -> Any:
    """Return settings in YAML's types: tuples as lists, classes and functions by their qualified names."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}:{value.__qualname__}"
    return value


def dump_config(config: RunConfig) -> str:
    """Return a config as YAML that ``load_config`` reads back identically."""
    return dump(config.to_dict())
