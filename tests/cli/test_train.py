"""From a task's name to a run folder, and back."""

import csv
import random
import time
from pathlib import Path

import fake_lab
import numpy as np
import pytest
import torch

from sim_rl_plugin.config import load_config
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.run_folder import new_run_folder


@pytest.fixture
def lab(install, sim_rl, tmp_path, monkeypatch):
    """``sim-rl`` with the simulator ``lab``, in an empty folder."""
    install("lab")
    monkeypatch.chdir(tmp_path)
    fake_lab.opened.clear()
    return sim_rl


def iterations(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["iteration"]) for row in csv.DictReader(file)]


def test_one_command_leaves_everything_in_a_run_folder(lab):
    result = lab("train", "--sim", "lab", "--task", "Reach", "--seed", 4, "run_name=first", "algorithm.gamma=0.9")
    assert result.exit_code == 0, result.output
    (folder,) = Path("runs/Reach").iterdir()
    assert folder.name.endswith("_first")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "model_2.pt", "learning_curve.png"}
    assert {"video.mp4", "video.gif"} & names
    config = read_mapping(folder / "config.yaml")
    assert (config["seed"], config["algorithm"]["gamma"], config["simulator"]) == (4, 0.9, "lab")
    assert iterations(folder) == [0, 1, 2]
    for part in ("model_2.pt", "learning_curve.png", "video.", "evaluation", "10 episodes"):
        assert part in result.output
    assert str(folder / "model_2.pt") in result.output


def test_the_same_seed_gives_the_same_policy_and_another_does_not(lab):
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        folder = Path(f"run{number}")
        result = lab("train", "--sim", "lab", "--task", "Reach", "--seed", seed, "--run-dir", folder, "--no-video")
        assert result.exit_code == 0, result.output
        weights.append(torch.load(folder / "model_2.pt")["actor_state_dict"]["mlp.0.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_resumed_run_goes_on_in_its_folder_and_ends_like_one_that_never_stopped(lab):
    common = ("train", "--sim", "lab", "--task", "Reach", "--no-video", "--eval-episodes", 0)
    assert lab(*common, "--run-dir", "whole", "--max-iterations", 5).exit_code == 0
    assert lab(*common, "--run-dir", "parts", "--max-iterations", 2).exit_code == 0
    result = lab("train", "--resume", "parts", "--max-iterations", 5, "--no-video", "--eval-episodes", 0)
    assert result.exit_code == 0, result.output
    assert iterations(Path("parts")) == [0, 1, 2, 3, 4]
    assert read_mapping(Path("parts/config.yaml"))["max_iterations"] == 5
    whole, parts = (torch.load(f"{name}/model_4.pt") for name in ("whole", "parts"))
    for key, value in whole["actor_state_dict"].items():
        assert torch.equal(value, parts["actor_state_dict"][key]), key


def test_a_run_that_is_complete_says_how_to_go_on(lab):
    lab("train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", "--no-video", "--eval-episodes", 0)
    result = lab("train", "--resume", "run")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: run has done 3 of 3 iterations already: say --max-iterations with a larger number to go on\n"
    )


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(lab):
    # The rollouts are 8 steps long: the twelfth step lies in the second iteration.
    arguments = ("train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", "--max-iterations", 9)
    result = lab(*arguments, "env.interrupt_after=12")
    assert result.exit_code == 130
    assert "after 2 of 9 iterations" in result.output
    assert "sim-rl train --resume run" in result.output
    result = lab("train", "--resume", "run", "--max-iterations", 4, "env.interrupt_after=null", "--no-video")
    assert result.exit_code == 0, result.output
    assert iterations(Path("run")) == [0, 1, 2, 3]


def test_a_folder_that_holds_a_run_is_not_overwritten(lab):
    arguments = ("train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", "--no-video", "--eval-episodes", 0)
    assert lab(*arguments).exit_code == 0
    result = lab(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: run holds a run already: continue it with --resume run")


def test_what_cannot_be_drawn_or_filmed_is_said_in_one_line_and_nothing_is_lost(lab):
    result = lab(
        "train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", "env.frames=false", "logger=tensorboard"
    )
    assert result.exit_code == 0, result.output
    assert "none: the environment cannot render" in result.output
    assert "train with 'csv' among the log writers" in result.output
    assert "evaluation" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sim", "lab", "--task", "Reech"], "unknown task 'Reech': did you mean 'Reach'?"),
        (["--sim", "lab"], "no task is given: say --task NAME"),
        (["--sim", "laab", "--task", "Reach"], "unknown simulator 'laab': did you mean 'lab'?"),
        (
            ["--sim", "absent", "--task", "X"],
            "the simulator 'absent' needs absent_sim, not installed: pip install \"sim-rl-plugin[absent]\"",
        ),
        (
            ["--sim", "lab", "--task", "Reach", "algorithm.clip_parm=0.1"],
            "unknown key 'algorithm.clip_parm': did you mean 'algorithm.clip_param'?",
        ),
        (
            ["--sim", "lab", "--task", "Reach", "algorithm.gamma=abc"],
            "algorithm.gamma: expected a number, found 'abc'",
        ),
        (["--sim", "lab", "--task", "Reach", "env.frame=1"], "unknown key 'env.frame': did you mean 'env.frames'?"),
        (["--sim", "lab", "--task", "Reach", "env.frames=1"], "env.frames: expected true or false, found 1"),
        (["--sim", "lab", "--task", "Reach", "--device", "gpu"], "device: expected cpu, cuda:<index> or auto"),
        (["--sim", "lab", "--task", "Reach", "--config", "no.yaml"], "no.yaml: there is no such file"),
        (["--resume", "nowhere"], "no run folder or checkpoint at nowhere"),
        (["--sim", "lab", "--task", "Reach", "logger=tensorbord"], "logger.class_name: unknown class 'tensorbord'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(lab, arguments, message):
    result = lab("train", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_a_checkpoint_that_is_damaged_or_of_another_robot_is_one_line(lab):
    lab("train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", "--no-video", "--eval-episodes", 0)
    for arguments in (
        ["eval", "run", "--task", "Crawl"],
        ["train", "--resume", "run", "task=Crawl", "max_iterations=9"],
    ):
        result = lab(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: the policy belongs to another robot")
        assert result.stderr.count("\n") == 1
    checkpoint = Path("run/model_2.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    for arguments in (["eval", checkpoint], ["train", "--resume", checkpoint]):
        result = lab(*arguments)
        assert result.exit_code == 2
        assert "model_2.pt is damaged" in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_damaged_last_checkpoint_is_skipped_with_a_warning(lab):
    common = ("--no-video", "--eval-episodes", 0, "save_interval=1")
    assert lab("train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", *common).exit_code == 0
    checkpoint = Path("run/model_2.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    result = lab("eval", "run", "--episodes", 1)
    assert result.exit_code == 0
    assert "model_1.pt" in result.output
    assert result.stderr.startswith("warning: skipped: the checkpoint run/model_2.pt is damaged")


def test_options_that_do_not_go_together(lab):
    result = lab("train", "--resume", "run", "--run-dir", "other")
    assert result.exit_code == 2
    assert "--run-dir does not go with --resume" in result.stderr


def test_two_runs_of_one_second_get_two_folders(tmp_path, monkeypatch, install):
    install("lab")
    monkeypatch.setattr(time, "strftime", lambda form: "2026-01-02_03-04-05")
    config = load_config("lab", "ns/Reach-v1", overrides=["run_name='a b/c'"])
    folders = [new_run_folder(tmp_path, config) for _ in range(3)]
    names = [str(folder.relative_to(tmp_path)) for folder in folders]
    stem = "ns_Reach-v1/2026-01-02_03-04-05_a_b_c"
    assert names == [stem, f"{stem}_2", f"{stem}_3"]


def test_actions_are_clipped_where_the_settings_say_so(lab):
    lab(
        "train", "--sim", "lab", "--task", "Reach", "--run-dir", "run", "--no-video", "clip_actions=0.1",
        "--eval-episodes", 2,
    )  # fmt: skip
    training, evaluation = fake_lab.opened
    assert training.largest_action == pytest.approx(0.1)
    assert evaluation.largest_action <= 0.1 + 1e-6
    assert (training.num_envs, evaluation.num_envs) == (4, 2)


def test_the_settings_choose_torchs_threads_and_every_seed(install):
    from sim_rl_plugin.simulation import prepare_process

    install("lab")
    before = torch.get_num_threads()
    try:
        draws = []
        for _ in range(2):
            prepare_process(load_config("lab", "Reach", overrides=["seed=5", "torch_num_threads=1"]))
            draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
        assert draws[0] == draws[1]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_settings_choose_the_precision_of_products(install):
    from sim_rl_plugin.simulation import prepare_process

    install("lab")
    before = torch.get_float32_matmul_precision()
    try:
        prepare_process(load_config("lab", "Reach", overrides=["float32_matmul_precision=high"]))
        assert torch.get_float32_matmul_precision() == "high"
        prepare_process(load_config("lab", "Reach"))
        assert torch.get_float32_matmul_precision() == "high", "null leaves what is set"
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_environment_that_a_plugin_recognises_is_wrapped(install):
    from sim_rl_plugin import plugins
    from sim_rl_plugin.hooks import Entry, hookimpl
    from sim_rl_plugin.simulation import open_env

    class Foreign:
        @hookimpl
        def sim_rl_adapters(self):
            return [Entry("foreign", "fake_lab:open_foreign")]

        @hookimpl
        def sim_rl_wrap_env(self, env):
            return fake_lab.PointEnv("Reach", 2, 0, None, False) if env == "a foreign env" else None

    install()
    plugins.get_manager().register(Foreign(), "foreign")
    with open_env(load_config("foreign", "X"), device="cpu") as env:
        assert isinstance(env, fake_lab.PointEnv)


def test_a_process_of_its_own_ends_with_status_2_and_no_traceback(install, python):
    install("lab")
    code = (
        "from sim_rl_plugin.cli.main import main; main(['train', '--sim', 'labb', '--task', 'x'], prog_name='sim-rl')"
    )
    result = python(code)
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown simulator 'labb': did you mean 'lab'?")
    assert result.stderr.count("\n") == 1
