"""A task's configurations: Isaac Lab's of the environment, and the training settings that go with it."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

from sim_rl_isaaclab.launch import (
    LaunchOptions,
    as_arguments,
    own_device,
    start_app,
    starts_before_configurations,
)
from sim_rl_isaaclab.tasks import check_task, settings_key
from sim_rl_plugin.config.schema import MODEL_SECTIONS
from sim_rl_plugin.errors import UserError, unknown_name

# Of a configuration for rsl_rl, what is about training. Devices, loggers and checkpoints to load are the
# business of whoever starts the training.
_TRAINING_KEYS = (
    "class_name",
    "seed",
    "num_steps_per_env",
    "max_iterations",
    "save_interval",
    "experiment_name",
    "run_name",
    "obs_groups",
    "clip_actions",
    "empirical_normalization",
    "policy",
    "actor",
    "critic",
    "student",
    "teacher",
    "algorithm",
    "init_at_random_ep_len",
    "torch_compile_mode",
    "check_for_nan",
)

_KEYS_FOR_RSL_RL_4 = ("stochastic", "init_noise_std", "noise_std_type", "state_dependent_std")

# Keys of the environment's configuration that are settings of ours.
_OURS = {"env.scene.num_envs": "num_envs", "env.sim.device": "device", "env.seed": "seed"}


def training_settings(task: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a task's own training settings in the shape of a config file.

    Args:
        task: The task's name.
        settings: The user's; ``env`` and ``device`` say how to start the simulator, if it must be.

    Returns:
        The settings with the task's number of environments; None for a task without any.

    Raises:
        UserError: There is no such task, or an option is wrong.
    """
    given = settings.get("env")
    options: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    _expect(options.get("overrides"), list, "env.overrides", "a list of texts, such as [env.sim.dt=0.01]")
    _expect(options.get("launcher"), list, "env.launcher", "a list of texts, such as [--livestream, '2']")
    check_task(task)
    prepare(
        LaunchOptions(
            device=own_device(_resolved(settings.get("device"))),
            headless=options.get("headless") is not False,
            enable_cameras=options.get("enable_cameras") is True,
            arguments=as_arguments(options.get("launcher")),
        )
    )
    env_cfg, agent_cfg = configurations(task, options.get("agent"), options.get("overrides") or ())
    if agent_cfg is None:
        return None
    found = _without_old_keys(as_dict(agent_cfg))
    layer = {key: value for key, value in found.items() if key in _TRAINING_KEYS}
    return {**layer, "num_envs": int(env_cfg.scene.num_envs)}


def _without_old_keys(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out what Isaac Lab 3 writes into every model section for rsl_rl 4, also for a model of a task's own.

    Its own scripts do so, too. For rsl_rl's models the core does it, and says what the keys become.
    """
    for section in MODEL_SECTIONS:
        model = found.get(section)
        if isinstance(model, dict) and not (model.get("stochastic") is True and not model.get("distribution_cfg")):
            found[section] = {key: value for key, value in model.items() if key not in _KEYS_FOR_RSL_RL_4}
    return found


def prepare(options: LaunchOptions) -> None:
    """Make configurations importable: up to Isaac Lab 2.3, start the simulator."""
    if starts_before_configurations():
        start_app(options)


def configurations(task: str, agent: str | None, overrides: Iterable[str] = ()) -> tuple[Any, Any]:
    """Return the configuration of a task's environment and the one to train it with, overrides applied.

    Args:
        task: The task's name, with ``package:`` before it if a package registers it.
        agent: Keyword of ``gym.register`` for the settings, None for the task's own.
        overrides: As Isaac Lab's scripts hand them to Hydra: ``env.sim.dt=0.01``, and since 3.0
            ``physics=...`` and ``presets=...``.

    Returns:
        Isaac Lab's configuration, and the agent's: an object, a dict, or None if there is none.

    Raises:
        UserError: No such task, or an override that does not fit.
    """
    texts = _checked_overrides(overrides)
    registered = _register(task)
    key = settings_key(set(registered), task, agent)
    if "env_cfg_entry_point" not in registered:
        raise UserError(f"task {task!r} is registered without env_cfg_entry_point: it is no task of Isaac Lab")
    name = task.rpartition(":")[2]
    utils = importlib.import_module("isaaclab_tasks.utils.hydra")
    try:
        if hasattr(utils, "resolve_task_config"):
            return _resolve(utils, name, key, texts)
        return _compose(utils, name, key, texts)
    except UserError:
        raise
    except Exception as error:
        if not texts:
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"env.overrides {texts} do not fit task {task!r}: {reason}") from error


def as_dict(cfg: Any) -> dict[str, Any]:
    """Return a configuration object, or a dict, as a new dict."""
    if isinstance(cfg, Mapping):
        return copy.deepcopy(dict(cfg))
    if hasattr(cfg, "to_dict"):
        return cfg.to_dict()
    return importlib.import_module("isaaclab.utils").to_dict(cfg)


def _register(task: str) -> dict[str, Any]:
    """Let Isaac Lab's tasks, and those of other packages, register themselves; return a task's keywords."""
    import gymnasium

    package, _, name = task.rpartition(":")
    importlib.import_module("isaaclab_tasks")
    with contextlib.suppress(ImportError):
        importlib.import_module("isaaclab_tasks_experimental")
    for point in importlib.metadata.entry_points(group="isaaclab.tasks"):
        point.load()
    if package:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"task {task!r}: importing {package!r} failed: {error}") from error
    if name not in gymnasium.registry:
        check_task(name)
        raise UserError(f"unknown task {task!r}: importing {package or 'isaaclab_tasks'} does not register it")
    return gymnasium.registry[name].kwargs


def _resolve(utils: Any, name: str, key: str | None, overrides: list[str]) -> tuple[Any, Any]:
    """Isaac Lab 3: presets first, then single values, by its own function."""
    env_cfg, agent_cfg = utils.resolve_task_config(name, key, overrides=overrides)
    for text in overrides:
        path = text.partition("=")[0]
        if path.startswith("env."):
            _check_path(env_cfg, path)
    return env_cfg, agent_cfg


def _check_path(cfg: Any, path: str) -> None:
    """Refuse a path that Isaac Lab 3 has made itself: it sets attributes that do not exist.

    Raises:
        UserError: Names the key and the nearest one.
    """
    for name in path.split(".")[1:]:
        fields = cfg if isinstance(cfg, Mapping) else getattr(type(cfg), "__dataclass_fields__", None)
        if fields is not None and name not in fields and not hasattr(type(cfg), name):
            raise unknown_name("key", path, [path.rpartition(name)[0] + field for field in fields], "(env.overrides)")
        cfg = cfg.get(name) if isinstance(cfg, Mapping) else getattr(cfg, name, None)


def _compose(utils: Any, name: str, key: str | None, overrides: list[str]) -> tuple[Any, Any]:
    """Isaac Lab 2: what its decorator ``hydra_task_config`` does, by Hydra's compose API.

    The decorator reads ``sys.argv``, leaves an output folder behind, and ends the process at a mistake.
    """
    env_cfg, agent_cfg = utils.register_task_to_hydra(name, key or "")
    if not overrides:
        return utils.replace_strings_with_env_cfg_spaces(env_cfg), agent_cfg
    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize(config_path=None, version_base="1.3"):
        composed = hydra.compose(config_name=name, overrides=overrides)
    plain = utils.replace_strings_with_slices(OmegaConf.to_container(composed, resolve=True))
    env_cfg.from_dict(plain["env"])
    return utils.replace_strings_with_env_cfg_spaces(env_cfg), agent_cfg


def _checked_overrides(overrides: Iterable[str]) -> list[str]:
    texts = [str(text) for text in overrides]
    for text in texts:
        path, equals, value = text.partition("=")
        name = path.strip().lstrip("+~")
        if not equals:
            raise UserError(f"env.overrides: expected KEY=VALUE, found {text!r}")
        if name in _OURS:
            raise UserError(f"env.overrides: {name} is set by {_OURS[name]}={value}")
        if name.partition(".")[0] == "agent":
            raise UserError(f"env.overrides: settings of the training stand for themselves: {name[6:]}={value}")
    return texts


def _expect(value: Any, kind: type, path: str, expected: str) -> None:
    # The adapter's signature is checked later; until then a wrong type must not do harm.
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{path}: expected {expected}, found {value!r}")


def _resolved(device: Any) -> str:
    from sim_rl_plugin.simulation import resolve_device

    return resolve_device(device if isinstance(device, str) else "auto")
