"""The environment of one's own: it keeps the contract, the script trains it, and so does the command."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sim_rl_plugin.env import VecEnv, as_vec_env
from sim_rl_plugin.evaluation import evaluate
from sim_rl_plugin.testing import VecEnvContract

FOLDER = Path(__file__).parents[2] / "examples" / "custom_env"


@pytest.fixture(autouse=True)
def _folder_on_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("planar_quadrotor", "train"):
        sys.modules.pop(name, None)


class TestPlanarQuadrotor(VecEnvContract):
    def make_env(self) -> VecEnv:
        from planar_quadrotor import PlanarQuadrotor

        return as_vec_env(PlanarQuadrotor(num_envs=8))


def test_the_script_trains_a_policy_that_hovers():
    import train
    from planar_quadrotor import PlanarQuadrotor

    policy = train.main(num_iterations=50, num_envs=128, log_dir=None).get_inference_policy()
    # Rewards are at most 1 in each of 150 steps. Without a policy it drifts away and earns next to nothing.
    idle = evaluate(lambda obs: torch.zeros(32, 2), as_vec_env(PlanarQuadrotor(32, seed=5)), 32)
    trained = evaluate(policy, as_vec_env(PlanarQuadrotor(32, seed=5)), 32)
    assert idle.mean < 15.0
    assert trained.mean > 75.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sim_rl_plugin", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)


def test_the_command_checks_trains_resumes_and_evaluates_it(tmp_path: Path):
    simulator = "planar_quadrotor:PlanarQuadrotor"
    checked = run("check-env", "--sim", simulator)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    folder = str(tmp_path / "run")
    options = ["--num-envs", "32", "--no-video", "--eval-episodes", "2"]
    trained = run("train", "--sim", simulator, "--run-dir", folder, "--max-iterations", "2", *options)
    assert trained.returncode == 0, trained.stderr
    assert "2 episodes" in trained.stdout
    resumed = run("train", "--resume", folder, "--max-iterations", "3", "--no-video", "--eval-episodes", "0")
    assert resumed.returncode == 0, resumed.stderr
    evaluated = run("eval", folder, "--episodes", "3")
    assert evaluated.returncode == 0, evaluated.stderr
    assert (tmp_path / "run" / "model_2.pt").is_file()


@pytest.mark.parametrize(
    ("simulator", "override", "message"),
    [
        ("planar_quadroto:PlanarQuadrotor", "seed=1", "No module named 'planar_quadroto'"),
        ("planar_quadrotor:Quadrotor", "seed=1", "has no attribute 'Quadrotor'"),
        ("planar_quadrotor:STEP_S", "seed=1", "is no function or class"),
        ("planar_quadrotor:PlanarQuadrotor", "env.gravity=1.6", "unknown key 'env.gravity'"),
        ("planar_quadrotor:PlanarQuadrotor", "env.seed=1", "env.seed is filled in by the framework"),
    ],
)
def test_mistakes_are_one_message(simulator: str, override: str, message: str):
    result = run("train", "--sim", simulator, override)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
