"""``sim-rl checkpoint``, ``--best`` and ``--trust``, on a run that is there, and evaluation while training."""

import csv
import json
import os
import shutil
from pathlib import Path

import fake_lab
import numpy as np
import pytest
import torch

from sim_rl_plugin import checkpoint
from sim_rl_plugin.checkpoint_manifest import read_manifest

OLD = Path(__file__).parents[1] / "data" / "old_checkpoints"


@pytest.fixture
def lab(install, sim_rl, tmp_path, monkeypatch):
    """``sim-rl`` with the simulator ``lab``, in an empty folder."""
    install("lab")
    monkeypatch.chdir(tmp_path)
    fake_lab.opened.clear()
    return sim_rl


def train(lab, folder: str, *more: object):
    return lab(
        "train", "--sim", "lab", "--task", "Reach", "--run-dir", folder, "--no-video", "--eval-episodes", 0, *more
    )


@pytest.fixture
def run(lab) -> Path:
    result = train(lab, "run", "evaluation.every=2", "evaluation.episodes=3", "save_interval=1")
    assert result.exit_code == 0, result.output
    return Path("run")


def test_training_opens_environments_for_evaluation_once_and_logs_it(lab, run):
    assert [env.num_envs for env in fake_lab.opened] == [4, 3]
    with (run / "metrics.csv").open() as file:
        found = [row.get("Eval/mean_return", "") != "" for row in csv.DictReader(file)]
    assert found == [False, True, False]
    assert (run / "model_best.pt").is_file()


def test_a_training_is_the_same_with_and_without_evaluation(lab, run):
    assert train(lab, "plain", "save_interval=1").exit_code == 0
    for name in ("model_1.pt", "model_2.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (run, Path("plain")))
        for model in ("actor_state_dict", "critic_state_dict"):
            assert all(torch.equal(one[model][key], other[model][key]) for key in one[model])
        assert torch.equal(one["sim_rl"]["random"]["torch"], other["sim_rl"]["random"]["torch"])


def test_a_run_folder_is_listed(lab, run):
    result = lab("checkpoint", "show", run)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines[1:]] == ["model_0.pt", "model_1.pt", "model_2.pt", "model_best.pt"]
    assert all(line[-1] == "ok" for line in lines[1:])
    report = json.loads(lab("checkpoint", "show", run, "--json").stdout)
    assert [row["iteration"] for row in report] == [0, 1, 2, 1]
    assert report[3]["mean_return"] == report[1]["mean_return"] is not None
    (run / "model_1.pt").write_bytes((run / "model_1.pt").read_bytes()[:-9])
    result = lab("checkpoint", "show", run)
    assert result.exit_code == 0
    assert "damaged" in result.stdout.splitlines()[2]


def test_a_file_is_shown_with_its_manifest(lab, run):
    result = lab("checkpoint", "show", run / "model_best.pt")
    assert result.exit_code == 0, result.output
    report = json.loads(lab("checkpoint", "show", run / "model_best.pt", "--json").stdout)
    for part in ("Reach on lab", "policy (3 float32)", report["sha256"], "3 episodes", f"torch {torch.__version__}"):
        assert part in result.stdout
    assert report["config"]["task"] == "Reach"
    assert report["layout"]["num_actions"] == 2


def test_a_file_without_a_manifest_is_shown(lab):
    result = lab("checkpoint", "show", OLD / "2.3.3" / "ppo_log.pt")
    assert result.exit_code == 0, result.output
    assert "from before rsl_rl 4.0" in result.stderr
    assert "none: the file has no manifest" in result.stdout
    assert "actor (" in result.stdout


def test_verify_names_what_is_damaged_and_returns_1(lab, run):
    result = lab("checkpoint", "verify", run)
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["ok", f"run/{name}"] for name in ("model_0.pt", "model_1.pt", "model_2.pt", "model_best.pt")
    ]
    content = bytearray((run / "model_1.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (run / "model_1.pt").write_bytes(content)
    result = lab("checkpoint", "verify", run)
    assert result.exit_code == 1
    assert "bad  run/model_1.pt: the checkpoint run/model_1.pt is damaged" in result.stdout
    assert lab("checkpoint", "verify", run / "model_1.pt").exit_code == 1
    assert lab("checkpoint", "verify", run / "model_2.pt").exit_code == 0


def test_nothing_to_verify_is_an_error(lab):
    Path("empty").mkdir()
    for command in ("show", "verify"):
        result = lab("checkpoint", command, "empty")
        assert result.exit_code == 2
        assert "no checkpoint (model_<iteration>.pt) in empty" in result.stderr
    result = lab("checkpoint", "show", "nowhere.pt")
    assert (result.exit_code, result.stderr) == (2, "error: no checkpoint at nowhere.pt\n")
    assert lab("checkpoint", "verify", "nowhere.pt").exit_code == 1


def test_convert_to_what_rsl_rl_writes(lab, run):
    result = lab("checkpoint", "convert", run / "model_2.pt", "theirs.pt", "--to", "rsl_rl")
    assert result.exit_code == 0, result.output
    ours, theirs = torch.load(run / "model_2.pt", weights_only=True), torch.load("theirs.pt", weights_only=True)
    assert set(theirs) == {"actor_state_dict", "critic_state_dict", "optimizer_state_dict", "iter", "infos"}
    assert theirs["iter"] == ours["iter"] == 2
    assert torch.equal(theirs["actor_state_dict"]["mlp.0.weight"], ours["actor_state_dict"]["mlp.0.weight"])
    assert read_manifest(Path("theirs.pt")) is None


def test_convert_from_an_older_rsl_rl_and_never_over_a_file(lab):
    result = lab("checkpoint", "convert", OLD / "2.3.3" / "ppo_log.pt", "new.pt")
    assert result.exit_code == 0, result.output
    assert "from before rsl_rl 4.0" in result.stderr
    manifest = read_manifest(Path("new.pt"))
    assert manifest is not None and set(manifest["models"]) == {"actor", "critic"}
    before = Path("new.pt").read_bytes()
    result = lab("checkpoint", "convert", OLD / "2.3.3" / "ppo_log.pt", "new.pt")
    assert result.exit_code == 2
    assert "new.pt exists: choose another name" in result.stderr
    assert Path("new.pt").read_bytes() == before


class Note:
    """What somebody kept in ``infos``: an object of a class."""

    def __reduce__(self):
        return (os.mkdir, (os.path.abspath("ran"),))


@pytest.fixture
def unsafe(run) -> Path:
    contents = torch.load(run / "model_2.pt", weights_only=True)
    contents["infos"] = {"score": np.float64(1.5)}
    torch.save(contents, run / "model_2.pt")
    return run


def test_what_could_run_code_needs_trust_in_every_command(lab, unsafe, monkeypatch):
    file = unsafe / "model_2.pt"
    for arguments in (
        ("eval", file, "--episodes", 1),
        ("play", file, "--steps", 2, "--video", "v.gif"),
        ("train", "--resume", file, "--max-iterations", 4, "--no-video", "--eval-episodes", 0),
        ("checkpoint", "convert", file, "safe.pt"),
    ):
        refused = lab(*arguments)
        assert refused.exit_code == 2
        assert "holds numpy" in refused.stderr and "--trust" in refused.stderr
        monkeypatch.setattr(checkpoint, "_told_of_trust", set())
        result = lab(*arguments, "--trust")
        assert result.exit_code == 0, result.output
        assert result.stderr.count("trusted, and its code is run") == 1
    # NumPy's numbers are plain data once they are loaded.
    assert torch.load("safe.pt", weights_only=True)["infos"] == {"score": 1.5}


def test_a_folder_is_searched_for_what_is_safe_first_and_trust_takes_the_last(lab, unsafe):
    result = lab("eval", unsafe, "--episodes", 1)
    assert "warning: skipped: the checkpoint run/model_2.pt holds numpy" in result.stderr
    assert "run/model_1.pt" in result.stdout
    result = lab("eval", unsafe, "--episodes", 1, "--trust")
    assert "run/model_2.pt" in result.stdout


def test_convert_leaves_out_what_is_no_plain_data(lab, run):
    contents = torch.load(run / "model_2.pt", weights_only=True)
    torch.save({**contents, "infos": Note()}, "bomb.pt")
    assert lab("checkpoint", "convert", "bomb.pt", "safe.pt").exit_code == 2
    assert not Path("ran").exists()
    torch.save({**contents, "infos": np.dtype("float32")}, "object.pt")
    result = lab("checkpoint", "convert", "object.pt", "safe.pt", "--trust")
    assert result.exit_code == 0, result.output
    assert "left out: infos, which is more than tensors and plain data" in result.stdout
    assert "infos" not in torch.load("safe.pt", weights_only=True)


def test_trust_goes_with_resume(lab):
    result = lab("train", "--sim", "lab", "--task", "Reach", "--trust")
    assert result.exit_code == 2
    assert "--trust goes with --resume" in result.stderr


def test_best_is_taken_where_it_is_asked_for(lab, run):
    shutil.copy(run / "model_0.pt", run / "model_best.pt")
    assert "run/model_best.pt" in lab("eval", run, "--episodes", 1, "--best").output
    assert "run/model_2.pt" in lab("eval", run, "--episodes", 1).output
    assert lab("play", run, "--best", "--steps", 2, "--video", "v.gif").exit_code == 0
    (run / "model_best.pt").unlink()
    result = lab("eval", run, "--best")
    assert result.exit_code == 2
    assert "no model_best.pt in run" in result.stderr


def test_a_training_that_has_reached_its_return_is_complete(lab):
    more = ("evaluation.every=1", "evaluation.episodes=2", "evaluation.stop_at_return=-1e6", "--max-iterations", 9)
    result = train(lab, "run", *more)
    assert result.exit_code == 0, result.output
    assert "reached after 1 iterations" in result.output
    again = lab("train", "--resume", "run")
    assert again.exit_code == 2
    assert "has reached a return of" in again.stderr and "evaluation.stop_at_return" in again.stderr
    latest = train(lab, "run", *more, "--resume-latest")
    assert (latest.exit_code, latest.stdout) == (0, "complete: run has reached its return\n")
    on = lab("train", "--resume", "run", "evaluation.stop_at_return=null", "--no-video", "--eval-episodes", 0)
    assert on.exit_code == 0, on.output
    assert (Path("run") / "model_8.pt").is_file()


def test_a_training_on_a_plateau_is_complete(lab):
    more = ("evaluation.every=1", "evaluation.episodes=2", "evaluation.patience=2", "evaluation.min_improvement=1e6")
    result = train(lab, "run", *more, "--max-iterations", 9)
    assert result.exit_code == 0, result.output
    assert "no better evaluation any more, after 3 iterations" in result.output
    again = lab("train", "--resume", "run")
    assert again.exit_code == 2
    assert "has had 2 evaluations without improvement already: say a larger evaluation.patience" in again.stderr
    latest = train(lab, "run", *more, "--max-iterations", 9, "--resume-latest")
    assert (latest.exit_code, latest.stdout) == (0, "complete: run has stopped improving\n")
    on = lab("train", "--resume", "run", "evaluation.patience=4", "--no-video", "--eval-episodes", 0)
    assert on.exit_code == 0 and "after 5 iterations" in on.output, on.output


def test_a_simulator_with_one_environment_per_process_is_refused(lab, monkeypatch):
    monkeypatch.setattr(fake_lab.PointEnv, "one_per_process", True)
    for more in ((), ("clip_actions=1.0",)):
        result = train(lab, "run", "evaluation.every=1", *more)
        assert result.exit_code == 2
        assert "evaluation.every: lab simulates one environment per process" in result.stderr
        assert not Path("run").exists()


def test_a_disk_that_is_full_ends_the_training_with_one_line(lab, monkeypatch):
    assert train(lab, "run", "--max-iterations", 1).exit_code == 0
    before = (Path("run") / "model_0.pt").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = lab("train", "--resume", "run", "--max-iterations", 3, "--no-video")
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == 1
    assert "No space left on device" in result.stderr
    assert (Path("run") / "model_0.pt").read_bytes() == before
    assert {path.name for path in Path("run").glob("*.pt*")} == {"model_0.pt"}
    assert not list(Path("run").glob(".unfinished*"))
