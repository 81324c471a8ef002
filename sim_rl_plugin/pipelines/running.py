"""Runs the stages of a pipeline one after the other, and takes up where an earlier run was cut off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from sim_rl_plugin.config import RunConfig
from sim_rl_plugin.config.yaml_text import dump, read_mapping
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.evaluation import EvaluationResult, evaluate
from sim_rl_plugin.folder_lock import LOCK_FILE, owned_folder
from sim_rl_plugin.layout import check_layout, describe_layout
from sim_rl_plugin.pipelines.plan import Plan, PlannedStage
from sim_rl_plugin.pipelines.report import StageResult
from sim_rl_plugin.pipelines.stage_folder import (
    StageStatus,
    changed_setting,
    fingerprint,
    noted_inputs,
    stage_status,
    start_folder,
)
from sim_rl_plugin.run_folder import SavedRun, build_runner, find_run, load_policy
from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device
from sim_rl_plugin.training import train_to_the_end
from sim_rl_plugin.whole_file import remove_unfinished, write_text_whole

RECORD_FILE = "pipeline.yaml"
"""In a pipeline's folder: its name and the settings of every stage as they were last run."""

# A task's environment settings; where a stage's differ from the common ones, it is tried in both.
_ENVIRONMENT_KEYS = ("simulator", "task", "env", "clip_actions", "device", "num_envs")


def run_pipeline(
    plan: Plan, root: Path, *, redo: Collection[str] = (), say: Callable[[str], None] = print
) -> list[StageResult]:
    """Train every stage that is not complete, then evaluate all of them on the same episodes.

    Args:
        plan: The stages and their settings.
        root: The pipeline's folder; each stage has its run folder in it.
        redo: Stages to train anew, with those that start from them. Their folders are renamed.
        say: Gets lines on what is going on.

    Returns:
        One result per stage, in order.

    Raises:
        UserError: A stage does not fit the environment, was trained with other settings or from
            another input, or the folder holds something else. Nothing has been trained or moved then.
        KeyboardInterrupt: After the checkpoint of a Ctrl-C.
        SystemExit: After that of another signal, with its status.
    """
    with _owned_folder(root):
        _check_record(plan, root)
        again = _with_dependents(plan, redo)
        statuses = [
            StageStatus(planned, root / planned.name, None) if planned.name in again else stage_status(planned, root)
            for planned in plan.stages
        ]
        _refuse_changes(statuses)
        _refuse_other_inputs(statuses)
        _try_stages(plan, [status.planned for status in statuses if not status.is_complete])
        for name in again:
            _set_aside(root / name, say)
        _write_record(plan, root)
        threads = torch.get_num_threads()
        for status in statuses:
            # Where the settings leave it to torch, an earlier stage must not have decided it.
            torch.set_num_threads(threads)
            _run_stage(status, root, say)
        return [_evaluate(plan, planned, root, say) for planned in plan.stages]


def pipeline_status(plan: Plan, root: Path) -> list[StageStatus]:
    """Return how far every stage is, changing nothing."""
    return [stage_status(planned, root) for planned in plan.stages]


# The folder


@contextmanager
def _owned_folder(root: Path) -> Iterator[None]:
    """Create a pipeline's folder, and keep a second process out of it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the pipeline folder {root}: {error.strerror}") from error
    with owned_folder(root, "running the pipeline in"):
        remove_unfinished(root)
        yield


def _check_record(plan: Plan, root: Path) -> None:
    record = root / RECORD_FILE
    if not record.is_file():
        if any(path.name != LOCK_FILE for path in root.iterdir()):
            raise UserError(f"{root} holds something other than a pipeline: choose another folder with --run-dir")
        return
    name = read_mapping(record).get("pipeline")
    if name != plan.name:
        raise UserError(f"{root} holds the pipeline {name!r}, not {plan.name!r}: choose another folder with --run-dir")


def _write_record(plan: Plan, root: Path) -> None:
    settings = {planned.name: planned.config.to_dict() for planned in plan.stages}
    evaluation = {"episodes": plan.episodes, "seed": plan.evaluation_seed}
    text = dump({"pipeline": plan.name, "stages": list(settings), "evaluation": evaluation, **settings})
    write_text_whole(root / RECORD_FILE, text)


def _with_dependents(plan: Plan, redo: Collection[str]) -> list[str]:
    names = [planned.name for planned in plan.stages]
    for name in redo:
        if name not in names:
            raise unknown_name("stage in --redo:", name, names)
    again: list[str] = []
    for planned in plan.stages:
        if planned.name in redo or any(name in again for name in planned.stage.inputs):
            again.append(planned.name)
    return again


def _set_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Rename a stage's folder: what took hours to train is not deleted."""
    if not folder.exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.superseded{number}")).exists():
        number += 1
    folder.rename(aside)
    say(f"{folder.name}: the earlier training is now in {aside}")


# Checks before anything is trained


def _refuse_changes(statuses: Sequence[StageStatus]) -> None:
    changes = {status.name: change for status in statuses if (change := changed_setting(status))}
    if changes:
        name, change = next(iter(changes.items()))
        redo = " ".join(f"--redo {name}" for name in changes)
        raise UserError(
            f"{name} was trained with other settings: {change}; say {redo} to train anew, "
            "or choose another folder with --run-dir"
        )


def _refuse_other_inputs(statuses: Sequence[StageStatus]) -> None:
    by_name = {status.name: status for status in statuses}
    for status in statuses:
        if status.saved is None:
            continue
        noted = noted_inputs(status.folder)
        for name in status.planned.stage.inputs:
            saved = by_name[name].saved
            if saved is None or not by_name[name].is_complete or noted.get(name) != fingerprint(saved.checkpoint):
                raise UserError(
                    f"{status.name} was not trained from the {name} that is there now: say --redo {status.name} "
                    "to train it anew, or choose another folder with --run-dir"
                )


def _try_stages(plan: Plan, stages: Sequence[PlannedStage]) -> None:
    """Build every stage once, so that a mistake in the last one is found before the first one has trained."""
    if not stages:
        return
    prepare_process(plan.common)
    with open_env(plan.common, device=resolve_device(plan.common.device)) as evaluation_env:
        for planned in stages:
            try:
                _try_stage(planned.config, plan.common, evaluation_env)
            except UserError as error:
                raise UserError(f"{planned.name}: {error}") from error


def _try_stage(config: RunConfig, common: RunConfig, evaluation_env: VecEnv) -> None:
    device = resolve_device(config.device)
    with ExitStack() as stack:
        env = evaluation_env
        if any(getattr(config, key) != getattr(common, key) for key in _ENVIRONMENT_KEYS):
            env = stack.enter_context(open_env(config, device=device))
        try:
            check_layout(describe_layout(env), evaluation_env)
        except UserError as error:
            raise UserError(f"it cannot be evaluated in the environment of the common settings: {error}") from error
        build_runner(config, env, device)


# Running


def _run_stage(status: StageStatus, root: Path, say: Callable[[str], None]) -> None:
    if status.is_complete:
        say(f"{status.name}: {status.describe()}, skipped")
        return
    planned, saved = status.planned, status.saved
    config = planned.config.model_copy(update={"init_from": _init_from(planned, root)})
    how = f"continues after {status.describe()}" if saved else f"{config.max_iterations} iterations"

    def folder() -> Path:
        if saved is not None:
            return status.folder
        return start_folder(
            status.folder, {name: fingerprint(find_run(root / name).checkpoint) for name in planned.stage.inputs}
        )

    outcome = train_to_the_end(
        config, resolve_device(config.device), folder, saved, started=lambda path: say(f"{planned.name}: {how}, {path}")
    )
    if outcome.interrupted:
        say(f"{planned.name}: stopped after {outcome.completed} of {config.max_iterations} iterations")
        outcome.leave()


def _init_from(planned: PlannedStage, root: Path) -> str | list[str] | None:
    """Return what the stage starts from; one without inputs may name something of its own."""
    paths = [str(root / name) for name in planned.stage.inputs]
    if not paths:
        return planned.config.init_from
    return paths[0] if len(paths) == 1 else paths


def _evaluate(plan: Plan, planned: PlannedStage, root: Path, say: Callable[[str], None]) -> StageResult:
    say(f"{planned.name}: evaluating over {plan.episodes} episodes")
    run = find_run(root / planned.name)
    device = resolve_device(planned.config.device)
    return StageResult(
        name=planned.name,
        folder=run.folder,
        continues=planned.stage.continues,
        iterations=run.completed_iterations,
        control_steps=planned.control_steps,
        training_time_s=run.training_time_s,
        evaluation=_play(plan, planned, run, device),
    )


def _play(plan: Plan, planned: PlannedStage, run: SavedRun, device: str) -> EvaluationResult:
    process = plan.common.model_copy(update={"seed": plan.evaluation_seed})
    prepare_process(process)
    with open_env(plan.common, device=device, num_envs=plan.episodes, seed=plan.evaluation_seed) as env:
        policy = load_policy(run, planned.config, env, device)
        # Again: building the policy drew random numbers, more or fewer for each stage, and a simulator
        # may use the same generator.
        prepare_process(process)
        return evaluate(policy, env, plan.episodes)
