"""``sim-rl export``: from a run folder to a checked file."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_configs import CNN, ppo_cfg_with

from sim_rl_plugin.config.yaml_text import dump
from sim_rl_plugin.onnx_policy import OnnxPolicy

BRIEF = ("--no-video", "--eval-episodes", 0, "--max-iterations", 1)
RECURRENT = (
    "actor.class_name=RNNModel",
    "actor.rnn_hidden_dim=8",
    "actor.distribution_cfg.class_name=GaussianDistribution",
)
MODELS = {"mlp": (), "gru": (*RECURRENT, "actor.rnn_type=gru"), "lstm": (*RECURRENT, "actor.rnn_type=lstm")}
DISTILLATION = ("class_name=DistillationRunner", "algorithm.class_name=Distillation", "algorithm.gradient_length=4")
EXAMPLE = Path(__file__).parents[2] / "examples" / "robot"


@pytest.fixture
def run_of(install, sim_rl, tmp_path, monkeypatch):
    """A function that trains briefly and returns the run folder."""
    install("lab")
    monkeypatch.chdir(tmp_path)

    def train(name: str, *overrides: str) -> Path:
        result = sim_rl("train", "--sim", "lab", "--task", "Reach", "--run-dir", name, *BRIEF, *overrides)
        assert result.exit_code == 0, result.output
        return Path(name)

    return train


@pytest.mark.parametrize(("to", "file"), [("onnx", "policy.onnx"), ("torchscript", "policy.pt"), ("pt2", "policy.pt2")])
@pytest.mark.parametrize("model", MODELS)
def test_a_run_becomes_a_checked_file(run_of, sim_rl, model: str, to: str, file: str):
    run = run_of("run", *MODELS[model])
    (run / "config.yaml").unlink()  # the checkpoint carries its own
    result = sim_rl("export", run, "--to", to, "--steps", 20)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == f"{to}: {run / file}"
    # Four environments see 20 steps, twice. Of episodes of 6 steps, four begin; in the middle two policies forget.
    assert "over 160 steps with 36 resets" in result.stdout
    assert not list(run.glob(".unfinished*"))


def test_a_run_that_sees_images_becomes_a_checked_file(sim_rl, tmp_path):
    settings = ppo_cfg_with(CNN)
    (tmp_path / "cnn.yaml").write_text(dump({**settings, "num_envs": 4}))
    train = ("train", "--sim", "small_configs:CameraEnv", "--task", "Look", "--config", tmp_path / "cnn.yaml")
    result = sim_rl(*train, "--run-dir", tmp_path / "run", *BRIEF)
    assert result.exit_code == 0, result.output
    for to in ("onnx", "torchscript", "pt2"):
        result = sim_rl("export", tmp_path / "run", "--to", to, "--steps", 20)
        assert result.exit_code == 0, result.output
        assert "checked: differs by" in result.stdout
    assert [entry["name"] for entry in OnnxPolicy(tmp_path / "run" / "policy.onnx").metadata["inputs"]] == [
        "obs",
        "camera",
        "depth",
    ]


def test_a_students_file_says_where_it_is_from(run_of, sim_rl):
    run_of("teacher")
    student = run_of("student", *DISTILLATION, "init_from=teacher", "clip_actions=2.0")
    shutil.rmtree("teacher")
    result = sim_rl("export", student, "--output", "out/student.onnx", "--dynamic-batch")
    assert result.exit_code == 0, result.output
    about = OnnxPolicy("out/student.onnx").metadata
    digest = hashlib.sha256((student / "model_0.pt").read_bytes()).hexdigest()
    assert about["checkpoint"] == {"file": "model_0.pt", "sha256": digest}
    assert (about["simulator"], about["task"], about["iteration"]) == ("lab", "Reach", 0)
    assert (about["control_step_s"], about["actions"]["clip"]) == (0.1, 2.0)
    assert OnnxPolicy("out/student.onnx").rate_hz == 10.0


def test_what_is_wrong_is_one_line(run_of, sim_rl):
    run = run_of("run")
    for arguments, message in (
        (["nowhere"], "no run folder or checkpoint at nowhere"),
        ([run, "--output", "policy.pt"], "--output: the name of a file for onnx ends with .onnx, found 'policy.pt'"),
        ([run, "--to", "torchscript", "--dynamic-batch"], "any number at once takes onnx or pt2"),
        ([run, "--task", "Crawl"], "the policy belongs to another robot"),
    ):
        result = sim_rl("export", *arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_the_example_drives_a_robot_without_torch(sim_rl, tmp_path):
    train = ("train", "--task", "HalfCheetah", "--num-envs", 4, "--run-dir", tmp_path / "run", "console=false")
    assert sim_rl(*train, *BRIEF, "env.max_episode_steps=50").exit_code == 0
    assert sim_rl("export", tmp_path / "run", "--steps", 20).exit_code == 0
    code = f"""
import sys
sys.modules["torch"] = None  # importing it is an error
sys.path.insert(0, {str(EXAMPLE)!r})
from control_loop import main
print(main({str(tmp_path / "run" / "policy.onnx")!r}, steps=50, in_real_time=False))
"""
    environ = {"PYTHONPATH": str(EXAMPLE.parents[1]), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    said, distance_m = result.stdout.splitlines()
    assert said.startswith("50 steps at 20 Hz") and abs(json.loads(distance_m)) < 50
