"""A checkpoint needs nothing beside it: no config, no run folder, nothing that its training started from."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sim_rl_plugin.runners import OnPolicyRunner

BRIEF = ("--no-video", "--eval-episodes", 0, "--max-iterations", 1)
DISTILLATION = ("class_name=DistillationRunner", "algorithm.class_name=Distillation", "algorithm.gradient_length=4")


@pytest.fixture
def folder(install, tmp_path, monkeypatch) -> Path:
    install("lab")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def succeeds(sim_rl):
    """A function that runs ``sim-rl`` and returns what it printed."""

    def run(*arguments: object) -> str:
        result = sim_rl(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def _train(succeeds, name: str, *overrides: str) -> Path:
    succeeds("train", "--sim", "lab", "--task", "Reach", "--run-dir", name, *BRIEF, *overrides)
    return Path(name)


def _alone(run: Path, elsewhere: Path) -> Path:
    """Move a run's checkpoint to a place where nothing else is, under another name."""
    elsewhere.mkdir()
    (checkpoint,) = run.glob("model_*.pt")
    shutil.move(checkpoint, elsewhere / "policy_of_tuesday.pt")
    shutil.rmtree(run)
    return elsewhere / "policy_of_tuesday.pt"


def _score(succeeds, run: Path) -> list[float]:
    return json.loads(succeeds("eval", run, "--episodes", 4, "--json"))["returns"]


def test_a_run_without_its_config(folder, succeeds):
    run = _train(succeeds, "run")
    before = _score(succeeds, run)
    (run / "config.yaml").unlink()
    assert _score(succeeds, run) == before
    (run / "config.yaml").write_text("task: [broken")
    assert _score(succeeds, run) == before


def test_a_checkpoint_alone(folder, succeeds):
    run = _train(succeeds, "run")
    before = _score(succeeds, run)
    alone = _alone(run, folder / "elsewhere")
    assert _score(succeeds, alone) == before
    succeeds("play", alone, "--steps", 3, "--video", "p.gif")
    assert sorted(path.name for path in (folder / "elsewhere").iterdir()) == [alone.name]


@pytest.mark.parametrize("teacher", ["run", "exported"])
def test_a_student_whose_teacher_is_gone(folder, succeeds, teacher):
    run = _train(succeeds, "teacher")
    source = run
    if teacher == "exported":
        runner = _runner_of(run)
        runner.export_policy_to_jit(str(folder), "exported.pt")
        source = folder / "exported.pt"
    student = _train(succeeds, "student", *DISTILLATION, f"init_from={source}")
    before = _score(succeeds, student)
    shutil.rmtree(run)
    source.unlink(missing_ok=True)
    assert _score(succeeds, _alone(student, folder / "elsewhere")) == before


def test_training_starts_from_a_checkpoint_alone(folder, succeeds):
    alone = _alone(_train(succeeds, "first"), folder / "elsewhere")
    second = _train(succeeds, "second", f"init_from={alone}", "algorithm.learning_rate=1e-12")
    saved = [torch.load(path, weights_only=True)["actor_state_dict"] for path in (alone, second / "model_0.pt")]
    for name, value in saved[0].items():
        assert torch.allclose(value, saved[1][name], atol=1e-6), name


def test_what_differs_is_told_before_what_a_model_lacks(folder, succeeds, sim_rl):
    run = _train(succeeds, "run")
    result = sim_rl("eval", run, "--task", "Crawl")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: the policy belongs to another robot: observation group 'policy' has size 5, the policy "
        "reads 3; the environment takes 4 actions, the policy gives 2\n"
    )


def test_a_checkpoint_of_a_script_says_what_is_missing(folder, succeeds, sim_rl):
    run = _train(succeeds, "run")
    contents = torch.load(run / "model_0.pt", weights_only=True)
    for key in ("task", "simulator"):
        del contents["sim_rl"]["config"][key]
    torch.save(contents, folder / "script.pt")
    result = sim_rl("eval", "script.pt")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: script.pt does not say which task it was trained on: say --sim NAME and --task NAME\n",
    )
    succeeds("eval", "script.pt", "--sim", "lab", "--task", "Reach", "--episodes", 1)


def _runner_of(run: Path) -> OnPolicyRunner:
    import fake_lab

    contents = torch.load(run / "model_0.pt", weights_only=True)
    with fake_lab.open_task("Reach", num_envs=2, device="cpu", seed=1, render=False) as env:
        runner = OnPolicyRunner(env, contents["sim_rl"]["config"])
        runner.load(str(run / "model_0.pt"))
    return runner
