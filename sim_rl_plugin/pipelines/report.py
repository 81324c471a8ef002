"""What a pipeline ends with: a table, a plot, and the numbers behind them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EvaluationResult
from sim_rl_plugin.pipelines.plan import Plan
from sim_rl_plugin.plotting import DEFAULT_METRIC, Curve, draw_curves, new_figure, read_curve, save_figure
from sim_rl_plugin.run_folder import METRICS_FILE
from sim_rl_plugin.whole_file import write_text_whole

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"
PLOT_FILE = "results.png"


@dataclass(frozen=True)
class StageResult:
    """A trained stage, and how good its policy is.

    Attributes:
        name: The stage's name.
        folder: Its run folder.
        continues: The stage whose policy it trained on, or nothing.
        iterations: Iterations of its training.
        control_steps: Control steps of its own training, of all environments.
        training_time_s: Time that they took.
        evaluation: The episodes of its final policy.
    """

    name: str
    folder: Path
    continues: str
    iterations: int
    control_steps: int
    training_time_s: float
    evaluation: EvaluationResult


def percent_of_reference(result: StageResult, results: Sequence[StageResult], reference: str) -> float | None:
    """Return a stage's mean return in percent of the reference's; None where that one's is not positive."""
    base = next(other.evaluation.mean for other in results if other.name == reference)
    return 100.0 * (result.evaluation.mean / base) if base > 0.0 else None


def table_of(results: Sequence[StageResult], reference: str) -> list[list[str]]:
    """Return the results as rows of texts, the first one the heading."""
    heading = ["stage", "return", "std", "min", "max", "length", f"% of {reference}", "control steps", "training time"]
    rows = [heading]
    for result in results:
        evaluation, percent = result.evaluation, percent_of_reference(result, results, reference)
        values = (evaluation.mean, evaluation.std, min(evaluation.returns), max(evaluation.returns))
        rows.append(
            [
                result.name,
                *(f"{value:.1f}" for value in values),
                f"{evaluation.mean_length:.1f}",
                "-" if percent is None else f"{percent:.1f}",
                f"{result.control_steps:,}",
                _duration(result.training_time_s),
            ]
        )
    return rows


def write_report(plan: Plan, results: Sequence[StageResult], root: Path) -> list[Path]:
    """Write the numbers, the table and the plot into the pipeline's folder.

    ``results.json`` holds nothing that differs between two runs which trained and evaluated the same,
    such as times and paths; the table has the times.

    Returns:
        The files.

    Raises:
        UserError: A file cannot be written.
    """
    reference = plan.pipeline.reference
    numbers = json.dumps(_numbers(plan, results), indent=2) + "\n"
    try:
        write_text_whole(root / RESULTS_FILE, numbers)
        write_text_whole(root / TABLE_FILE, _markdown(plan, table_of(results, reference)))
    except OSError as error:
        raise UserError(f"cannot write the results into {root}: {error.strerror}") from error
    return [root / RESULTS_FILE, root / TABLE_FILE, plot_results(plan, results, root / PLOT_FILE)]


def _numbers(plan: Plan, results: Sequence[StageResult]) -> dict[str, Any]:
    return {
        "pipeline": plan.name,
        "simulator": plan.common.simulator,
        "task": plan.common.task,
        "evaluation": {"episodes": plan.episodes, "seed": plan.evaluation_seed},
        "reference": plan.pipeline.reference,
        "stages": [
            {
                "stage": result.name,
                "iterations": result.iterations,
                "control_steps": result.control_steps,
                "percent_of_reference": percent_of_reference(result, results, plan.pipeline.reference),
                **result.evaluation.to_dict(),
            }
            for result in results
        ],
    }


def _markdown(plan: Plan, rows: list[list[str]]) -> str:
    lines = [" | ".join(row) for row in [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]]
    title = (
        f"{plan.name}: {plan.common.task} on {plan.common.simulator}, "
        f"{plan.episodes} episodes from seed {plan.evaluation_seed}"
    )
    return "\n".join([title, "", *(f"| {line} |" for line in lines)]) + "\n"


def plot_results(plan: Plan, results: Sequence[StageResult], output: Path) -> Path:
    """Draw learning curves over control steps beside bars of the evaluation.

    Returns:
        ``output``.

    Raises:
        UserError: The file cannot be written.
    """
    figure = new_figure(12, 5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    curves = learning_curves(results)
    colors = {result.name: f"C{index}" for index, result in enumerate(results)}
    if curves:
        draw_curves(left, curves, "steps", DEFAULT_METRIC, colors)
    left.set_title(f"Training: {plan.common.task} on {plan.common.simulator}")
    names = [result.name for result in results]
    right.bar(
        names,
        [result.evaluation.mean for result in results],
        yerr=[result.evaluation.std for result in results],
        color=[colors[name] for name in names],
        capsize=4,
    )
    right.set_ylabel("Return (mean and standard deviation)")
    right.set_title(f"Final policies, {plan.episodes} episodes")
    right.grid(axis="y", alpha=0.3)
    return save_figure(figure, output)


def learning_curves(results: Sequence[StageResult]) -> list[Curve]:
    """Return the stages' curves; that of a stage which trained on another's policy starts where that one's ends.

    A stage without a table of metrics has none.
    """
    curves: list[Curve] = []
    ends: dict[str, int] = {}
    for result in results:
        start = ends.get(result.continues, 0)
        ends[result.name] = start + result.control_steps
        try:
            curve = read_curve(result.folder / METRICS_FILE, result.name, "steps")
        except UserError:
            continue
        curves.append(dataclasses.replace(curve, x=curve.x + start))
    return curves


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
