"""Sweeps that train in processes of their own: side by side, killed, failing, stopped."""

import csv
import os
import re
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from pipeline_runs import owned_by_a_process

pytest.importorskip("optuna", reason="needs the extra 'sweep'")

from sim_rl_plugin.config import load_config
from sim_rl_plugin.config.yaml_text import dump, read_mapping
from sim_rl_plugin.folder_lock import FolderInUse
from sim_rl_plugin.run_folder import find_run
from sim_rl_plugin.sweeps import trial

ROOT = Path(__file__).parents[2]
FOLDER = Path("runs/sweeps/search")


def rows(folder: Path = FOLDER) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def in_a_process(*arguments: object, at: int, signal: str) -> subprocess.CompletedProcess[str]:
    """Run ``sim-rl`` in a process that gets a signal at this step of all trainings together."""
    path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "adapters", ROOT / "tests"))
    steps = {"SWEEP_LAB_STEPS": str(Path("steps").resolve()), "SWEEP_LAB_AT": str(at), "SWEEP_LAB_SIGNAL": signal}
    command = [sys.executable, "-m", "sim_rl_plugin", *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **steps, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )


def test_trials_side_by_side_end_in_run_folders_a_table_the_best_settings_and_a_page(sim_rl, sweep_file):
    result = sim_rl("sweep", sweep_file(seeds=[1, 2], budget={"trials": 2}), "--jobs", 2)
    assert result.exit_code == 0, result.output
    table = rows()
    assert [(row["state"], row["iterations"]) for row in table] == [("complete", "8")] * 2
    # Every step earns the bonus, which differs by more between the two trials than the policies do.
    best = max(table, key=lambda row: float(row["env.bonus"]))
    assert f"best: trial {best['trial']} with Train/mean_reward" in result.output

    for row in table:
        for seed, name in enumerate(row["folders"].split(), start=1):
            run = find_run(FOLDER / name)
            assert run.completed_iterations == 4
            assert (run.settings["seed"], run.settings["env"]["bonus"]) == (seed, float(row["env.bonus"]))
            assert (FOLDER / name / "metrics.csv").is_file()
    first = FOLDER / best["folders"].split()[0]
    config = load_config(config_file=FOLDER / "best.yaml").to_dict()
    assert {**config, "run_name": f"trial_000{best['trial']}"} == read_mapping(first / "config.yaml")

    page = (FOLDER / "report.html").read_text()
    assert f"Best: trial {best['trial']}" in page
    assert "data:image/png;base64,iVBOR" in page
    assert not re.search(r"(src|href)='(?!data:)", page)

    again = sim_rl("sweep", "search.yaml", "train.num_envs=3", "seeds=[1, 2]", "budget.trials=2")
    assert again.exit_code == 2
    assert "holds a sweep with other train, whose trials cannot be compared" in again.stderr


def test_a_sweep_that_is_killed_and_run_again_ends_like_one_that_never_was(sim_rl, sweep_file):
    sampler = {"class_name": "TPESampler", "n_startup_trials": 1}
    pruner = {"class_name": "MedianPruner", "n_startup_trials": 1, "n_warmup_steps": 1}
    file = sweep_file(sampler=sampler, pruner=pruner, budget={"trials": 2})
    whole = sim_rl("sweep", file)
    assert whole.exit_code == 0, whole.output

    # Four iterations of eight steps are one trial: this is in the fourth iteration of the first.
    killed = in_a_process("sweep", file, "--run-dir", "parts", at=28, signal="SIGKILL")
    assert killed.returncode == -9
    result = sim_rl("sweep", file, "--run-dir", "parts")
    assert result.exit_code == 0, result.output
    assert "trial 0 goes on after 3 iterations" in result.output
    assert rows(Path("parts")) == rows()
    for name in ("best.yaml", "sweep.yaml"):
        assert (Path("parts") / name).read_text() == (FOLDER / name).read_text()


def test_a_signal_stops_the_trainings_with_checkpoints_and_the_command_goes_on(sim_rl, sweep_file):
    file = sweep_file(budget={"trials": 1})
    stopped = in_a_process("sweep", file, at=10, signal="SIGTERM")
    assert stopped.returncode == 143, stopped.stderr
    assert f"continue with: sim-rl sweep {file} --jobs 1 --runs-root runs" in stopped.stdout
    assert rows()[0]["state"] == "running"
    assert find_run(FOLDER / rows()[0]["folders"]).completed_iterations < 4
    result = sim_rl("sweep", file)
    assert result.exit_code == 0, result.output
    assert [(row["state"], row["iterations"]) for row in rows()] == [("complete", "4")]


def test_trials_that_fail_are_noted_and_do_not_end_the_sweep(sim_rl, sweep_file):
    file = sweep_file(sampler="GridSampler")
    accidents = {"distribution": "categorical", "choices": ["kill", "error", ""]}
    file.write_text(dump({**read_mapping(file), "parameters": {"env.accident": accidents}}))
    result = sim_rl("sweep", file, "--jobs", 2)
    assert result.exit_code == 0, result.output
    found = {(row["env.accident"], row["state"], row["error"]) for row in rows()}
    assert found == {
        ("kill", "failed", "its process was ended by signal 9 (Killed)"),
        ("error", "failed", "the motor is hot"),
        ("", "complete", ""),
    }
    assert "RuntimeError: the motor" in "".join(path.read_text() for path in FOLDER.glob("trials/*/output.log"))


def test_a_sweep_of_which_all_trials_fail_stops(sim_rl, sweep_file):
    result = sim_rl("sweep", sweep_file(max_failures=2, objective={"metric": "Train/mean_rewrd"}))
    assert result.exit_code == 2
    assert "2 trials failed one after the other" in result.stderr
    assert "'Train/mean_rewrd' was never measured: did you mean 'Train/mean_reward'?" in result.stderr
    assert len(rows()) == 2


def test_the_budget_of_iterations_ends_the_sweep_too_and_pruned_trials_stop_early(sim_rl, sweep_file):
    # Whatever is below a hopeless threshold is pruned after the first evaluation: two iterations a trial.
    file = sweep_file(
        train={"evaluation": {"every": 2, "episodes": 2}},
        objective={"metric": "Eval/mean_return"},
        pruner={"class_name": "ThresholdPruner", "lower": 1000.0},
        budget={"trials": None, "total_iterations": 3},
    )
    result = sim_rl("sweep", file)
    assert result.exit_code == 0, result.output
    assert [(row["state"], row["iterations"]) for row in rows()] == [("pruned", "2")] * 2
    for row in rows():
        assert find_run(FOLDER / row["folders"]).completed_iterations == 2
    assert not (FOLDER / "best.yaml").exists()


def test_a_folder_of_something_else_is_refused(sim_rl, sweep_file):
    Path("other").mkdir()
    Path("other/file").write_text("")
    result = sim_rl("sweep", sweep_file(), "--run-dir", "other")
    assert result.exit_code == 2
    assert "other holds something other than a sweep" in result.stderr
    result = sim_rl("sweep", "search.yaml", "--report")
    assert result.exit_code == 2
    assert "runs/sweeps/search holds no sweep: run it first" in result.stderr


def test_the_process_of_a_sweep_that_was_killed_is_waited_for(monkeypatch):
    folder = Path("run")
    folder.mkdir()
    owner = owned_by_a_process(folder)
    owner.__enter__()
    monkeypatch.setattr(trial, "_LONGEST_WAIT_S", 0.3)
    with ExitStack() as owned, pytest.raises(FolderInUse, match="is training in run"):
        trial._own(folder, owned)
    monkeypatch.setattr(trial, "_LONGEST_WAIT_S", 60.0)
    end = threading.Timer(0.5, owner.__exit__, (None, None, None))
    end.start()
    with ExitStack() as owned:
        trial._own(folder, owned)
    end.join()
