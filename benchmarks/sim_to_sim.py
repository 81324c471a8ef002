"""Is a policy that was trained on our MuJoCo adapter as good in Gymnasium, as an ONNX file?

Each task is trained with the defaults of `sim-rl train`, exported as ONNX through the gate, and evaluated over whole
episodes: the checkpoint and the file on our adapter, the file in Gymnasium's own environment, and, to see a gap that
is there, the file on our adapter with half as much gravity again. The exit status is 1 if the returns of the file on
our adapter and in Gymnasium differ by more than three standard errors, or if the gravity goes unnoticed.

    python benchmarks/sim_to_sim.py HalfCheetah Ant
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ASSETS = Path(__file__).parents[1] / "adapters" / "sim_rl_mujoco" / "assets"
MODELS = {"HalfCheetah": "half_cheetah.xml", "Ant": "ant.xml"}
MOST_ERRORS = 3.0
GRAVITY_FACTOR = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(MODELS), help=f"Some of {', '.join(MODELS)}.")
    parser.add_argument("--iterations", type=int, help="Iterations of each training; by default the task's own.")
    parser.add_argument("--episodes", type=int, default=50, help="Episodes of each evaluation.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="sim_to_sim", help="Of the results file.")
    arguments = parser.parse_args()

    from circumstances import write_results

    tasks = {task: compare(task, arguments) for task in arguments.tasks}
    write_results(arguments.name, {"episodes": arguments.episodes, "seed": arguments.seed, "tasks": tasks})
    sys.exit(0 if all(task["passed"] for task in tasks.values()) else 1)


def compare(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, export, evaluate everywhere, and return the numbers."""
    from circumstances import RESULTS

    from sim_rl_plugin.config import load_config
    from sim_rl_plugin.sim_to_sim.gap import as_markdown, gap_between
    from sim_rl_plugin.training import train_to_the_end

    given = {"seed": arguments.seed} | ({"max_iterations": arguments.iterations} if arguments.iterations else {})
    config = load_config("mujoco", task, None, ["console=false"], given)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        train_to_the_end(config, "cpu", lambda: run)
        file, agreement = export(run, Path(folder) / "policy.onnx")
        checkpoint = behaviour(run, {}, arguments.episodes)
        ours = behaviour(file, {}, arguments.episodes)
        theirs = behaviour(file, {"simulator": "gymnasium"}, arguments.episodes)
        options = {"task_options": {"xml_file": str(with_gravity(task, Path(folder)))}}
        heavier = behaviour(file, {"env": options}, arguments.episodes)
    gap, known_gap = gap_between(ours, theirs), gap_between(ours, heavier)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.name}_{task}.md").write_text(
        as_markdown(gap).rstrip() + "\n\n" + as_markdown(known_gap).replace("\n## ", "\n### ").rstrip() + "\n"
    )
    result = {
        "iterations": config.max_iterations,
        "gate": agreement,
        "returns": {
            name: {"mean": round(side.episodes.mean, 2), "std": round(side.episodes.std, 2)}
            for name, side in (
                ("checkpoint, sim-rl mujoco", checkpoint),
                ("ONNX, sim-rl mujoco", ours),
                ("ONNX, Gymnasium", theirs),
                (f"ONNX, sim-rl mujoco, {GRAVITY_FACTOR:g} times the gravity", heavier),
            )
        },
        "gymnasium": summary(gap),
        "more_gravity": summary(known_gap),
    }
    result["passed"] = gap["return_gap_errors"] < MOST_ERRORS and result["more_gravity"]["quantities_that_drift"] > 0
    print(task, result)
    return result


def summary(gap: dict[str, Any]) -> dict[str, Any]:
    drifting = [entry for entry in gap["quantities"] if entry["drifts_at_step"] is not None]
    first = min(drifting, key=lambda entry: entry["drifts_at_step"], default=None)
    return {
        "return_gap_errors": round(gap["return_gap_errors"], 2),
        "quantities": len(gap["quantities"]),
        "quantities_that_drift": len(drifting),
        "first_to_drift": None if first is None else [first["name"], first["drifts_at_step"]],
        "largest_gap_std": round(max(entry["gap"] for entry in gap["quantities"]), 3),
    }


def export(run: Path, file: Path) -> tuple[Path, str]:
    from click.testing import CliRunner

    from sim_rl_plugin.cli.export import export as command

    result = CliRunner().invoke(command, [str(run), "--output", str(file), "--dynamic-batch"], catch_exceptions=False)
    return file, result.output.splitlines()[-1]


def behaviour(path: Path, changes: dict[str, Any], episodes: int) -> Any:
    """Evaluate a run or a file, in another simulator or with other options of the adapter."""
    from sim_rl_plugin.cli.reuse import config_of_run
    from sim_rl_plugin.policy_source import find_policy
    from sim_rl_plugin.sim_to_sim.statistics import behaviour_of
    from sim_rl_plugin.simulation import open_env, prepare_process

    source = find_policy(path)
    config = config_of_run(source, {"seed": 1000, **changes})
    prepare_process(config)
    with open_env(config, device="cpu", num_envs=episodes) as env:
        policy = source.load(config, env, "cpu")
        place = f"{config.task} on {config.simulator}" + (" with more gravity" if "env" in changes else "")
        return behaviour_of(policy, env, episodes, place, source.read_groups(config))


def with_gravity(task: str, folder: Path) -> Path:
    """Write the task's model with more gravity."""
    # In the text: MuJoCo's own writer leaves out what its compiler was told about masses.
    tree = ElementTree.parse(ASSETS / MODELS[task])
    option = tree.getroot().find("option")
    assert option is not None
    option.set("gravity", f"0 0 {-9.81 * GRAVITY_FACTOR}")
    path = folder / MODELS[task]
    tree.write(path)
    return path


if __name__ == "__main__":
    main()
