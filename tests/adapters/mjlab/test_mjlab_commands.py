"""mjlab's own commands, unmodified, with our runner; and ours on mjlab's tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

pytest.importorskip("mjlab")

from mjlab.utils.gpu import select_gpus

pytestmark = pytest.mark.slow

TASK = "Mjlab-Cartpole-Balance-SimRl"
SCRIPTS = Path(sys.executable).parent
LIMIT_S = 1800


def run(arguments: list[str], folder: Path, ended_by: Callable[[], bool] | None = None) -> str:
    """Run a command, with Ctrl-C once ``ended_by`` says so, and return what it printed."""
    environment = {**os.environ, "MJLAB_WARP_QUIET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    log = folder / "output.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(SCRIPTS / arguments[0]), *arguments[1:]],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + LIMIT_S
        try:
            while ended_by is not None and process.poll() is None and time.monotonic() < end and not ended_by():
                time.sleep(0.5)
            if ended_by is not None and process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(max(60.0, end - time.monotonic()))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    text = log.read_text()
    assert process.returncode == 0, text[-3000:]
    return text


needs_registration = pytest.mark.skipif(
    not any(point.value == "sim_rl_mjlab.backend" for point in entry_points().select(group="mjlab.tasks")),
    reason="sim-rl-plugin is not installed, so mjlab finds no entry point of ours",
)


@needs_registration
def test_mjlabs_train_and_play_run_our_runner(tmp_path: Path) -> None:
    shared = ["--gpu-ids", "None", "--agent.logger", "tensorboard", "--env.scene.num-envs", "64"]
    text = run(["train", TASK, *shared, "--agent.max-iterations", "3"], tmp_path)
    assert "Training with: device=cpu" in text
    (folder,) = (tmp_path / "logs" / "rsl_rl" / "cartpole_sim_rl").iterdir()
    assert {file.name for file in folder.glob("model_*.pt")} == {"model_0.pt", "model_2.pt"}
    assert list(folder.glob("events.out.tfevents.*"))
    checkpoint = torch.load(folder / "model_2.pt", weights_only=True)
    # Only our runner writes this part. 3 iterations of 32 steps.
    assert checkpoint["sim_rl"]["completed_iterations"] == 3
    assert checkpoint["infos"]["env_state"]["common_step_counter"] == 96

    resumed = ["--agent.resume", "True", "--agent.max-iterations", "1"]
    run(["train", TASK, *shared, *resumed, "--agent.run-name", "again"], tmp_path)
    (again,) = (tmp_path / "logs" / "rsl_rl" / "cartpole_sim_rl").glob("*_again")
    counter = torch.load(again / "model_2.pt", weights_only=True)["infos"]["env_state"]["common_step_counter"]
    assert counter == 96 + 32

    video = folder / "videos" / "play" / "rl-video-step-0.mp4"
    play = ["play", TASK, "--checkpoint-file", str(folder / "model_2.pt"), "--num-envs", "2", "--device", "cpu"]
    film = ["--viewer", "viser", "--video", "True", "--video-length", "10"]
    # The viewer runs until Ctrl-C.
    text = run([*play, *film], tmp_path, ended_by=lambda: video.is_file() and video.stat().st_size > 0)
    assert "Loading checkpoint: model_2.pt" in text
    assert "Shutting down viewer" in text


@needs_registration
def test_mjlab_lists_our_tasks_and_importing_it_costs_nothing() -> None:
    code = (
        "import sys, mjlab\n"
        "before = {'mjlab.tasks', 'mjlab.envs', 'torch', 'rsl_rl', 'sim_rl_plugin'} & set(sys.modules)\n"
        "import mjlab.tasks\n"
        "from mjlab.tasks.registry import list_tasks\n"
        f"assert {TASK!r} in list_tasks() and 'Mjlab-Velocity-Rough-Unitree-G1-SimRl' in list_tasks()\n"
        "ours = sorted(name for name in sys.modules if name.startswith(('sim_rl_plugin', 'sim_rl_mjlab')))\n"
        "print('FOUND', sorted(before), ours)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FOUND [] ['sim_rl_mjlab', 'sim_rl_mjlab.backend', 'sim_rl_mjlab.settings']" in result.stdout


def test_sim_rl_trains_a_task_with_its_defaults(tmp_path: Path) -> None:
    command = ["sim-rl", "train", "--sim", "mjlab", "--task", "Mjlab-Cartpole-Balance"]
    options = [
        "--max-iterations",
        "2",
        "--run-dir",
        "run",
        "--eval-episodes",
        "2",
        "env.task_options.episode_length_s=1",
    ]
    # The adapter never asks for a GPU that is not there.
    text = run([*command, *options, "num_envs=8", "env.task_options.episode_length_s=1"], tmp_path)
    assert "evaluation" in text and "none" not in text.split("evaluation")[1]
    assert (tmp_path / "run" / "model_1.pt").is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_mjlabs_default_gpu_is_the_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # Why docs/simulators.md says --gpu-ids None: theirs, and not ours to change.
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(IndexError):
        select_gpus([0])
    assert select_gpus(None) == (None, 0)
