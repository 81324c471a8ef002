"""Every setting of a training run, with its type, its default and what it does."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from sim_rl_plugin.config.nan_quarantine import QuarantineSettings
from sim_rl_plugin.config.signature import check_value, shorten, unknown_key
from sim_rl_plugin.errors import UserError

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
LoggerSetting = str | dict[str, Any]

MODEL_SECTIONS = ("actor", "critic", "student", "teacher")
"""Sections that describe a model. An algorithm has those that its constructor takes."""

SECTIONS = ("algorithm", *MODEL_SECTIONS)
"""Sections whose keys are the constructor parameters of the class that they name."""


@dataclasses.dataclass(frozen=True)
class KeepCheckpoints:
    """Which checkpoints stay in the run folder once a newer one is complete: section ``keep_checkpoints``.

    The newest, the best, and the one that the training was resumed from always stay.

    Attributes:
        last: How many of the newest ones; None for all.
        every: Iterations whose multiples are kept as well, however old; None for none.
        best: Whether the best policy of the evaluations while training is kept, as ``model_best.pt``.
    """

    last: int | None = None
    every: int | None = None
    best: bool = True

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check what the types do not say.

        Raises:
            UserError: A number is below 1, or ``every`` has no effect.
        """
        for key in ("last", "every"):
            if settings.get(key) is not None and settings[key] < 1:
                raise UserError(f"{path}.{key}: expected 1 or more, or null, found {settings[key]}")
        if settings.get("every") is not None and settings.get("last") is None:
            raise UserError(f"{path}.every: has no effect while {path}.last is null, which keeps every checkpoint")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation while training, in environments of its own: section ``evaluation``.

    Attributes:
        every: Iterations between two evaluations; 0 for none.
        episodes: Episodes of each, in as many environments, with the deterministic policy.
        stop_at_return: Mean return with which the training is complete; None for never.
        patience: Evaluations in a row without improvement after which the training is complete; None for never.
        min_improvement: By how much a mean return must surpass the best before it to count as improvement there.
    """

    every: int = 0
    episodes: int = 10
    stop_at_return: float | None = None
    patience: int | None = None
    min_improvement: float = 0.0

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check what the types do not say.

        Raises:
            UserError: A number is too small, or a return is waited for that is never measured.
        """
        for key, least in (("every", 0), ("episodes", 1)):
            if settings.get(key, least) < least:
                raise UserError(f"{path}.{key}: expected {least} or more, found {settings[key]}")
        patience, least_gain = settings.get("patience"), settings.get("min_improvement", 0.0)
        if patience is not None and patience < 1:
            raise UserError(f"{path}.patience: expected 1 or more, or null, found {patience}")
        if not (math.isfinite(least_gain) and least_gain >= 0.0):
            raise UserError(f"{path}.min_improvement: expected a number of 0 or more, found {least_gain}")
        if least_gain and patience is None:
            raise UserError(f"{path}.min_improvement: has no effect while {path}.patience is null")
        if patience is not None and not settings.get("every", 0):
            raise UserError(f"{path}.patience: nothing is evaluated while training: set {path}.every")
        target = settings.get("stop_at_return")
        if target is not None and not math.isfinite(target):
            raise UserError(f"{path}.stop_at_return: expected a number that is finite, or null, found {target}")
        if target is not None and not settings.get("every", 0):
            raise UserError(f"{path}.stop_at_return: nothing is evaluated while training: set {path}.every")


def _default_actor() -> dict[str, Any]:
    return {"class_name": "MLPModel", "distribution_cfg": {"class_name": "GaussianDistribution"}}


def _default_logger() -> str | dict[str, Any] | list[LoggerSetting]:
    return ["tensorboard", "csv"]


class RunConfig(BaseModel):
    """The settings of one run: frozen, and without a key that nobody reads.

    ``to_dict`` has the shape of rsl_rl's training dict, with the simulator's part beside it. The
    keys of ``algorithm`` and of the models are the constructor parameters of their classes.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    simulator: str = Field(default="mujoco", min_length=1)
    """Name of the simulator's adapter; `sim-rl list` shows them."""

    task: str = Field(min_length=1)
    """Name of the task within the simulator."""

    num_envs: int = Field(default=256, gt=0)
    """Number of environments that are stepped together."""

    device: str = Field(default="auto", min_length=1)
    """Device of learner and environments: `cpu`, `cuda:0`, or `auto`, which is CUDA where there is some."""

    seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of torch, NumPy, Python and the environments."""

    env: dict[str, Any] = Field(default_factory=dict)
    """Options of the simulator's adapter, its own keyword parameters."""

    class_name: str = Field(default="OnPolicyRunner", min_length=1)
    """Class of the runner."""

    max_iterations: int = Field(default=500, gt=0)
    """Iterations (collect, then update) after which the training is complete."""

    num_steps_per_env: int = Field(default=32, gt=0)
    """Control steps that each environment takes per iteration."""

    save_interval: int = Field(default=50, gt=0)
    """Iterations between two checkpoints."""

    keep_checkpoints: dict[str, Any] = Field(default_factory=lambda: dataclasses.asdict(KeepCheckpoints()))
    """Checkpoints that stay once a newer one is written: the `last` so many (null for all), of the older ones those
    at multiples of `every` iterations, and the `best` by evaluation."""

    evaluation: dict[str, Any] = Field(default_factory=lambda: dataclasses.asdict(EvaluationSettings()))
    """Evaluation while training: `every` so many iterations (0 for never), `episodes` of the deterministic policy,
    the mean return to `stop_at_return`, and the `patience`: evaluations without a gain of more than `min_improvement`
    after which the training ends."""

    obs_groups: dict[str, list[str]] = Field(default_factory=dict)
    """Observation groups that each observation set (`actor`, `critic`) is made of. For a set that is
    missing, the group of the same name is taken, or else the group `policy`."""

    clip_actions: Number | None = Field(default=None, gt=0)
    """Limit to which actions are clipped on both sides before the environment gets them; null for none."""

    experiment_name: str | None = None
    """Folder of the run within the runs folder; null for the task's name."""

    run_name: str = ""
    """Added to the run folder's time stamp."""

    logger: LoggerSetting | list[LoggerSetting] = Field(default_factory=_default_logger)
    """Log writer, or list of them: names, or mappings with `class_name` and the writer's parameters."""

    console: bool = True
    """Whether the progress of the training is shown on the terminal."""

    check_for_nan: bool = True
    """Whether NaN and infinity in rollouts and updates are looked for; `nan_quarantine` says what happens then."""

    nan_quarantine: dict[str, Any] = Field(default_factory=lambda: dataclasses.asdict(QuarantineSettings()))
    """What happens to them: `max_share`, `max_failures`, `max_dumps`, `max_dump_mb`, `keep_state`
    (docs/reliability.md)."""

    torch_compile_mode: Literal["default", "max-autotune-no-cudagraphs"] | None = None
    """Mode of `torch.compile` for the models' forward passes; null compiles nothing."""

    fast: bool = True
    """Whether passes written by hand may stand in for autograd's where they give the same numbers."""

    keep_freed_memory: bool = True
    """Whether glibc's allocator keeps freed memory instead of faulting it in again; nothing elsewhere."""

    hang_timeout_s: Number | None = Field(default=600.0, gt=0)
    """Seconds without a step after which a rank of a distributed training counts as hanging: it is named, and all
    ranks end (docs/distributed.md); null waits for ever."""

    torch_num_threads: int | None = Field(default=None, gt=0)
    """Threads of torch's operations on the CPU; null leaves torch's choice, which is every core."""

    float32_matmul_precision: Literal["highest", "high", "medium"] | None = None
    """How exact torch's float32 products are on a GPU: `high` takes TF32; null leaves torch's choice, `highest`."""

    init_at_random_ep_len: bool = True
    """Whether the first episodes start at random times, so that not all environments end together."""

    algorithm: dict[str, Any] = Field(default_factory=lambda: {"class_name": "PPO"})
    """The algorithm's class and parameters."""

    actor: dict[str, Any] | None = Field(default_factory=_default_actor)
    """The actor model's class and parameters; null where the algorithm has no actor."""

    critic: dict[str, Any] | None = Field(default_factory=lambda: {"class_name": "MLPModel"})
    """The critic model's class and parameters; null where the algorithm has no critic."""

    student: dict[str, Any] | None = None
    """The student model's class and parameters, for Distillation; the task's actor unless set."""

    teacher: dict[str, Any] | None = None
    """The teacher model's class and parameters, for Distillation; the task's actor unless set."""

    init_from: str | list[str] | None = None
    """Run folder or checkpoint whose models the training starts from: a policy for PPO (of a list of two, the
    critic comes from the second), the teacher for Distillation (also a policy exported as TorchScript or ONNX;
    a list for several teachers)."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a new dict of plain YAML types, which the caller may change."""
        return copy.deepcopy(dict(self))

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> RunConfig:
        """Return the settings as a ``RunConfig``.

        Args:
            settings: Plain settings; not modified.

        Raises:
            UserError: A key is unknown or missing, or a value has the wrong type or is out of range.
        """
        for key in settings:
            if key not in cls.model_fields:
                raise unknown_setting(key, settings)
        try:
            return cls(**copy.deepcopy(settings))
        except ValidationError as error:
            raise _explain(error, settings) from error


def unknown_setting(key: str, settings: dict[str, Any]) -> UserError:
    """Return the error for an unknown top-level key, which may be the key of a section."""
    for section in SECTIONS:
        inside = settings.get(section)
        if isinstance(inside, dict) and key in inside:
            return UserError(f"unknown key {key!r}: did you mean '{section}.{key}'?")
    return unknown_key("", key, list(RunConfig.model_fields))


@functools.cache
def schema_defaults() -> RunConfig:
    """Return the lowest layer of every config: the defaults of this module, with an empty task."""
    return RunConfig(task="-")


def _explain(error: ValidationError, settings: dict[str, Any]) -> UserError:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return UserError(f"{key} is missing: {RunConfig.model_fields[key].description}")
    field = RunConfig.model_fields[key]
    try:
        check_value(field.annotation, settings[key], key)
    except UserError as wrong_type:
        return wrong_type
    message = first["msg"].replace("Input should", "it should").replace("String should", "it should")
    return UserError(f"{key}: {message}, found {shorten(settings[key])}")
