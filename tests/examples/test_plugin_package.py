"""The example package, installed as a user would: it is found, checked, trained, and resumed."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sim_rl(tmp_path_factory):
    """Return a function that runs ``sim-rl`` with the example package installed."""
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(site), str(ROOT / "examples" / "plugin")], check=True)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sim_rl_plugin", *arguments]
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, cwd=site, capture_output=True, text=True, check=False
        )

    return run


def test_it_is_listed_with_what_it_adds(sim_rl):
    listed = sim_rl("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    text = json.dumps(json.loads(listed.stdout))
    for name in ("sim-rl-example", "AnnealedPPO", "torch-pendulum", "best", "torque-curriculum"):
        assert name in text


def test_its_simulator_keeps_the_contract(sim_rl):
    checked = sim_rl("check-env", "--sim", "torch-pendulum", "--task", "Swingup")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_trains_its_algorithm_on_its_simulator(sim_rl, tmp_path):
    run = tmp_path / "run"
    arguments = [
        "--sim",
        "torch-pendulum",
        "--task",
        "Swingup",
        "--run-dir",
        str(run),
        "--no-video",
        "--num-envs",
        "64",
    ]
    trained = sim_rl("train", *arguments, "--num-envs", "64", "--eval-episodes", "2", "--max-iterations", "12")
    assert trained.returncode == 0, trained.stderr
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # From 0.01 to 0 in 80 updates: after 10 of them 0.01 * (1 - 10 / 80) = 0.00875.
    assert float(rows[10]["Loss/entropy_coef"]) == pytest.approx(0.00875)
    assert "in iteration" in (run / "best.txt").read_text()

    resumed = sim_rl("train", "--resume", str(run), "--no-video", "--eval-episodes", "0", "--max-iterations", "14")
    assert resumed.returncode == 0, resumed.stderr
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[13]["Loss/entropy_coef"]) == pytest.approx(0.01 * (1 - 13 / 80))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.final_entropy=0.1", "did you mean 'algorithm.final_entropy_coef'"),
        ("algorithm.clip_parm=0.1", "did you mean 'algorithm.clip_param'"),
        ("algorithm.annealing_updates=many", "algorithm.annealing_updates: expected"),
        ("env.max_torqe=1", "did you mean 'env.max_torque'"),
    ],
)
def test_typos_in_its_settings_are_one_message(sim_rl, override: str, message: str):
    result = sim_rl("train", "--sim", "torch-pendulum", "--task", "Swingup", override)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
