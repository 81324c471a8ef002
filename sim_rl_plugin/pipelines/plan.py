"""From a pipeline file to the settings of every stage, all of them checked before anything is trained.

For each stage, schema defaults lie lowest, then the task's own settings, then the file's ``common``
section, then what the pipeline says of the stage (which replaces), then the stage's section, then the
command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict

from sim_rl_plugin.config import RunConfig, on_task_settings, with_layer
from sim_rl_plugin.config.files import configs_folder, merge_layers
from sim_rl_plugin.config.overrides import parse_overrides
from sim_rl_plugin.config.signature import check_value, unknown_key
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET
from sim_rl_plugin.pipelines.definition import FILE_KEYS, Pipeline, Stage
from sim_rl_plugin.registry import load

DEFAULT_EPISODES = 20

_EVALUATION_KEYS: dict[str, Any] = {
    "episodes": Annotated[int, Strict(), Field(gt=0)],
    "seed": Annotated[int, Strict(), Field(ge=0)],
}


@dataclass(frozen=True)
class PlannedStage:
    """A stage that shall run, and with which settings.

    Attributes:
        stage: Its definition.
        config: Its settings; ``init_from`` is empty, since only the run knows where the inputs lie.
    """

    stage: Stage
    config: RunConfig

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def steps_per_iteration(self) -> int:
        """Control steps of all environments in one iteration."""
        return self.config.num_envs * self.config.num_steps_per_env

    @property
    def control_steps(self) -> int:
        """Control steps of the whole training."""
        return self.steps_per_iteration * self.config.max_iterations


@dataclass(frozen=True)
class Plan:
    """Everything that a pipeline file and the command line say.

    Attributes:
        name: The pipeline's registered name.
        pipeline: Its definition.
        common: The common settings as a run of its own; their task is where policies are evaluated.
        stages: The stages that are on, in order.
        episodes: Number of episodes of the evaluation.
        evaluation_seed: Seed of the environments of the evaluation.
    """

    name: str
    pipeline: Pipeline
    common: RunConfig
    stages: tuple[PlannedStage, ...]
    episodes: int
    evaluation_seed: int


def find_pipeline_file(name: Path) -> Path:
    """Return a pipeline file: the one at this path, or else the one of this name that ships in ``configs/``."""
    shipped = configs_folder() / "pipelines" / f"{name}.yaml"
    return shipped if not name.exists() and name.name == str(name) and shipped.is_file() else name


def load_pipeline(name: str) -> Pipeline:
    """Return the registered pipeline of a name.

    Raises:
        UserError: The name is unknown, or what it stands for cannot be loaded or is no pipeline.
    """
    pipeline = load("pipelines", name)
    if not isinstance(pipeline, Pipeline):
        raise UserError(f"the pipeline {name!r} is no sim_rl_plugin.pipelines.Pipeline but {type(pipeline).__name__}")
    return pipeline


def load_plan(file: Path, overrides: Iterable[str] = (), options: Mapping[str, Any] | None = None) -> Plan:
    """Read and check a pipeline file.

    Args:
        file: The YAML file.
        overrides: ``KEY=VALUE`` texts, the key beginning with ``common``, ``evaluation`` or a stage's name.
        options: Settings that count for every stage (``device``, ``seed``); None is not set.

    Raises:
        UserError: The file cannot be read, or a key, a stage or a setting is unknown or wrong.
    """
    contents = _lay_sections(read_mapping(file), parse_overrides(overrides))
    name = contents.get("pipeline")
    if not isinstance(name, str):
        raise UserError(f"{file}: pipeline: expected the name of a pipeline, found {name!r}")
    pipeline = load_pipeline(name)
    _check_sections(contents, pipeline)
    on = _stages_that_are_on(contents.get("stages"), pipeline)
    line = {key: value for key, value in (options or {}).items() if value is not None}
    common = _resolve_common(merge_layers(contents.get("common") or {}, line))
    planned: dict[str, PlannedStage] = {}
    for stage in on:
        section = merge_layers(contents.get(stage.name) or {}, line)
        planned[stage.name] = _resolve_stage(stage, common, section, planned)
    episodes, seed = _evaluation(contents.get("evaluation") or {}, common)
    return Plan(name, pipeline, common, tuple(planned.values()), episodes, seed)


def _lay_sections(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    laid = dict(lower)
    for key, value in upper.items():
        both = isinstance(lower.get(key), dict) and isinstance(value, dict)
        laid[key] = merge_layers(lower[key], value) if both else value
    return laid


def _check_sections(contents: dict[str, Any], pipeline: Pipeline) -> None:
    for key, value in contents.items():
        if key not in FILE_KEYS and key not in pipeline.names:
            if key in RunConfig.model_fields:
                raise UserError(f"unknown key {key!r}: did you mean 'common.{key}'?")
            raise unknown_key("", key, [*FILE_KEYS, *pipeline.names])
        if key not in ("pipeline", "stages") and value is not None and not isinstance(value, dict):
            raise UserError(f"{key}: expected a mapping of settings, found {value!r}")


def _stages_that_are_on(names: Any, pipeline: Pipeline) -> list[Stage]:
    if names is None:
        return list(pipeline.stages)
    check_value(list[str], names, "stages")
    for name in names:
        if name not in pipeline.names:
            raise unknown_name("stage in stages:", name, pipeline.names)
    on = [stage for stage in pipeline.stages if stage.name in names]
    for stage in pipeline.stages:
        if not stage.optional and stage not in on:
            raise UserError(f"stages: {stage.name!r} is missing, which this pipeline cannot do without")
    for stage in on:
        for needed in stage.inputs:
            if needed not in names:
                raise UserError(f"stages: {needed!r} is missing, from which {stage.name!r} starts")
    return on


def _resolve_common(section: dict[str, Any]) -> RunConfig:
    if section.get("task") is None:
        raise UserError("common.task is missing: name the task (`sim-rl list` shows them)")
    if section.get("init_from") is not None:
        raise UserError("common.init_from: only a stage's own section can say what the stage starts from")
    try:
        return on_task_settings(section)
    except UserError as error:
        raise UserError(f"common: {error}") from error


def _resolve_stage(
    stage: Stage, common: RunConfig, section: dict[str, Any], earlier: Mapping[str, PlannedStage]
) -> PlannedStage:
    if stage.inputs and "init_from" in section:
        raise UserError(f"{stage.name}.init_from is filled in by the pipeline and cannot be set")
    own = stage.derive({name: planned.config for name, planned in earlier.items()})
    try:
        planned = PlannedStage(stage, with_layer({**common.to_dict(), **own}, section))
        budget = sum(earlier[name].control_steps for name in stage.same_budget_as if name in earlier)
        if budget and "max_iterations" not in section:
            # Upwards: a comparison that is not quite fair should not be so in favour of what it is made for.
            iterations = -(-budget // planned.steps_per_iteration)
            planned = PlannedStage(stage, with_layer(planned.config.to_dict(), {"max_iterations": iterations}))
    except UserError as error:
        raise UserError(f"{stage.name}: {error}") from error
    return planned


def _evaluation(section: dict[str, Any], common: RunConfig) -> tuple[int, int]:
    for key, value in section.items():
        if key not in _EVALUATION_KEYS:
            raise unknown_key("evaluation", key, list(_EVALUATION_KEYS))
        check_value(_EVALUATION_KEYS[key], value, f"evaluation.{key}")
    return section.get("episodes", DEFAULT_EPISODES), section.get("seed", common.seed + EVALUATION_SEED_OFFSET)
