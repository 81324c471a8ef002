"""What a sweep file says, checked before anything is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sim_rl_plugin.config import RunConfig, check_env_options, on_task_settings
from sim_rl_plugin.config.files import merge_layers, read_config
from sim_rl_plugin.config.overrides import parse_overrides
from sim_rl_plugin.config.signature import check_arguments, check_value, shorten, unknown_key
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.plotting import DEFAULT_METRIC
from sim_rl_plugin.sweeps.parameters import FILLED_IN, Parameter, read_parameters


@dataclass(frozen=True)
class Objective:
    """What makes a trial good: section ``objective``.

    Attributes:
        metric: Tag of a metric, as in ``metrics.csv``.
        direction: Whether more of it is better.
        mean_over: The trial's value is the mean of this many last values of the metric, over all seeds.
    """

    metric: str = DEFAULT_METRIC
    direction: Literal["maximize", "minimize"] = "maximize"
    mean_over: int = 1

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check what the types do not say.

        Raises:
            UserError: ``mean_over`` is too small.
        """
        _check_at_least_one(settings, ("mean_over",), path)


@dataclass(frozen=True)
class Budget:
    """When the sweep is complete: section ``budget``.

    Attributes:
        trials: Trials in all, failed ones included; None for no limit.
        iterations: Iterations of a trial that is not pruned, for each seed.
        total_iterations: Iterations of all trials after which no new one starts; None for no limit.
    """

    iterations: int
    trials: int | None = None
    total_iterations: int | None = None

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check what the types do not say.

        Raises:
            UserError: A number is below 1, or nothing ends the sweep.
        """
        _check_at_least_one(settings, ("trials", "iterations", "total_iterations"), path)
        if settings.get("trials") is None and settings.get("total_iterations") is None:
            raise UserError(f"{path}.trials is missing: say how many trials, or how many total_iterations")


def _check_at_least_one(settings: Mapping[str, Any], keys: Iterable[str], path: str) -> None:
    for key in keys:
        if settings.get(key) is not None and settings[key] < 1:
            raise UserError(f"{path}.{key}: expected 1 or more, found {settings[key]}")


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read.

    Attributes:
        train: Settings that all trials share, in the shape of a config file, ``config`` beneath ``train``.
        parameters: What is searched, by override key.
        objective: What makes a trial good.
        budget: When the sweep is complete.
        seeds: Each trial is trained once with each of them.
        sampler: Class of ``optuna.samplers`` and its parameters.
        pruner: Class of ``optuna.pruners`` and its parameters.
        max_failures: Trials that may fail one after the other before the sweep stops; None for any number.
    """

    train: dict[str, Any]
    parameters: dict[str, Parameter]
    objective: Objective
    budget: Budget
    seeds: list[int] = field(default_factory=lambda: [1])
    sampler: dict[str, Any] = field(default_factory=lambda: {"class_name": "TPESampler"})
    pruner: dict[str, Any] = field(default_factory=lambda: {"class_name": "MedianPruner"})
    max_failures: int | None = 5

    def to_dict(self) -> dict[str, Any]:
        """Return the sweep as plain data that a sweep file could hold."""
        return dataclasses.asdict(self)

    def run_folder(self, number: int, seed: int) -> Path:
        """Return where a trial of a number is trained with a seed, relative to the sweep's folder."""
        return Path("trials") / f"trial_{number:04d}_seed_{seed}"

    def layer_of(self, values: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the settings of a training with these values, in the shape of a config file.

        Args:
            values: A value for every parameter.
            seed: Seed of the training.
        """
        searched = parse_overrides(override(key, value) for key, value in values.items())
        run = {"seed": seed, "max_iterations": self.budget.iterations}
        return merge_layers(merge_layers(self.train, searched), run)

    def config_of(self, values: Mapping[str, Any], seed: int, run_name: str = "") -> RunConfig:
        """Return the checked settings of a training with these values.

        Raises:
            UserError: They do not go together.
        """
        layer = self.layer_of(values, seed)
        return on_task_settings({**layer, "run_name": run_name} if run_name else layer)


def override(key: str, value: Any) -> str:
    """Return a value as the override that ``sim-rl train`` takes, such as ``actor.hidden_dims=[64, 64]``."""
    return f"{key}={json.dumps(value)}"


def load_sweep(file: Path, overrides: Iterable[str] = ()) -> Sweep:
    """Read and check a sweep file.

    Args:
        file: The YAML file.
        overrides: ``KEY=VALUE`` texts that lie on it, such as ``budget.trials=32`` or ``train.num_envs=64``.

    Raises:
        UserError: The file cannot be read, or a key or a setting is unknown or wrong.
    """
    contents = read_mapping(file)
    for key, value in parse_overrides(overrides).items():
        both = isinstance(contents.get(key), dict) and isinstance(value, dict)
        contents[key] = merge_layers(contents[key], value) if both else value
    contents["train"] = _train_layer(contents, file)
    contents.pop("config", None)
    _check_keys(contents)
    for key in {"sampler", "pruner"} & contents.keys():
        if isinstance(contents[key], str):
            contents[key] = {"class_name": contents[key]}
        check_value(dict[str, Any], contents[key], key)
    parameters = read_parameters(contents.get("parameters"))
    sections: dict[str, Any] = {}
    for key, owner in (("objective", Objective), ("budget", Budget)):
        section = contents.get(key) or {}
        check_value(dict[str, Any], section, key)
        check_arguments(owner, section, key)
        sections[key] = owner(**section)
    others = {key: value for key, value in contents.items() if key not in ("parameters", *sections)}
    sweep = Sweep(parameters=parameters, **sections, **others)
    _check_values(sweep)
    _check_trainings(sweep)
    return sweep


def _train_layer(contents: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return what all trials share: the config file that is named, if any, and ``train`` on top."""
    train = contents.get("train") or {}
    check_value(dict[str, Any], train, "train")
    if contents.get("config") is not None:
        check_value(str, contents["config"], "config")
        train = merge_layers(read_config(file.parent / contents["config"]), train)
    return train


def _check_keys(contents: dict[str, Any]) -> None:
    names = [each.name for each in dataclasses.fields(Sweep)]
    for key in contents:
        if key in names:
            continue
        if key in RunConfig.model_fields:
            raise UserError(f"unknown key {key!r}: did you mean 'train.{key}'?")
        raise unknown_key("", key, [*names, "config"])


def _check_values(sweep: Sweep) -> None:
    check_value(list[int], sweep.seeds, "seeds")
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds) or min(sweep.seeds) < 0:
        raise UserError(f"seeds: expected different numbers, 0 or more, found {shorten(sweep.seeds)}")
    check_value(int | None, sweep.max_failures, "max_failures")
    if sweep.max_failures is not None and sweep.max_failures < 1:
        raise UserError(f"max_failures: expected 1 or more, or null, found {sweep.max_failures}")
    if sweep.train.get("task") is None:
        raise UserError("train.task is missing: name the task (`sim-rl list` shows them)")
    for key, instead in FILLED_IN.items():
        if key in sweep.train:
            raise UserError(f"train.{key} is filled in by the sweep: say {instead}")


def _check_trainings(sweep: Sweep) -> None:
    """Check the settings of trials at the ends of every range and with every choice, one at a time."""
    first = {key: parameter.samples[0] for key, parameter in sweep.parameters.items()}
    config = _checked(sweep, first)
    for key, parameter in sweep.parameters.items():
        for value in parameter.samples[1:]:
            _checked(sweep, {**first, key: value})
    every = config.evaluation.get("every", 0)
    if sweep.objective.metric.startswith("Eval/") and not 0 < every <= sweep.budget.iterations:
        raise UserError(
            f"objective.metric: {sweep.objective.metric!r} is measured by evaluations while training: set "
            f"train.evaluation.every to 1 up to {sweep.budget.iterations}, found {every}"
        )


def _checked(sweep: Sweep, values: Mapping[str, Any]) -> RunConfig:
    try:
        config = sweep.config_of(values, sweep.seeds[0])
        check_env_options(config.simulator, config.env)
    except UserError as error:
        texts = ", ".join(override(key, value) for key, value in values.items())
        raise UserError(f"a trial with {texts}: {error}") from error
    return config
