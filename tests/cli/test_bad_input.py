"""What a user can type wrong, command by command: one message on stderr, status 2, nothing written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

LAB = ("--sim", "lab", "--task", "Reach")
SHORT = ("--no-video", "--eval-episodes", 0, "--max-iterations", 1)


@pytest.fixture
def folder(install, tmp_path, monkeypatch) -> Path:
    """A folder with files of every wrong kind."""
    install("lab")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "dir").mkdir()
    (work / "file").write_text("not a checkpoint")
    (work / "list.yaml").write_text("- a\n")
    (work / "typo.yaml").write_text("algorithm: {learning_rat: 1}\n")
    (work / "latin.yaml").write_bytes("run_name: é\n".encode("latin-1"))
    (work / "loop").symlink_to("loop")
    (work / "base.yaml").write_text("base: no/such.yaml\n")
    return work


CASES = [
    # Paths
    (("train", *LAB, "--config", "missing.yaml"), "missing.yaml: there is no such file"),
    (("train", *LAB, "--config", "dir"), "dir: cannot be read: Is a directory"),
    (("train", *LAB, "--config", "loop"), "loop: cannot be read"),
    (("train", *LAB, "--config", "x" * 300), "cannot be read: File name too long"),
    (("train", *LAB, "--config", "latin.yaml"), "latin.yaml: cannot be read: it is no UTF-8 text"),
    (("train", *LAB, "--config", "list.yaml"), "list.yaml:1: expected a mapping of settings"),
    (("train", *LAB, "--config", "base.yaml"), "base.yaml: base: there is no 'no/such.yaml'"),
    (("train", *LAB, "--config", "typo.yaml"), "did you mean 'algorithm.learning_rate'?"),
    (("train", *LAB, "--run-dir", "file", *SHORT), "file"),
    (("train", *LAB, "--run-dir", "file/run", *SHORT), "cannot create the run folder file/run"),
    (("train", *LAB, "--runs-root", "file", *SHORT), "cannot create the run folder file/"),
    (("train", *LAB, "--run-dir", "x" * 300, *SHORT), "File name too long"),
    (("train", "--resume", "missing"), "no run folder or checkpoint at missing"),
    (("train", "--resume", "dir"), "no checkpoint (model_<iteration>.pt) in dir"),
    (("train", "--resume", "file"), "the checkpoint file is damaged"),
    (("train", "--resume", "loop"), "no run folder or checkpoint at loop"),
    (("train", "--resume", "x" * 300), "File name too long"),
    (("train", *LAB, "init_from=missing", *SHORT), "no run folder or checkpoint at missing"),
    (("train", *LAB, "init_from=file", *SHORT), "the checkpoint file is damaged"),
    (("eval", "missing"), "no run folder or checkpoint at missing"),
    (("eval", "file"), "the checkpoint file is damaged"),
    (("play", "dir"), "no checkpoint (model_<iteration>.pt) in dir"),
    (("play", "loop"), "no run folder or checkpoint at loop"),
    (("plot", "missing"), "no run folder at missing"),
    (("plot", "dir"), "dir has no metrics.csv"),
    (("plot", "loop"), "no run folder at loop"),
    (("pipeline", "run", "missing"), "missing: there is no such file"),
    (("pipeline", "show", "dir"), "dir: cannot be read: Is a directory"),
    (("pipeline", "run", "list.yaml"), "list.yaml:1: expected a mapping"),
    (("checkpoint", "show", "missing"), "missing"),
    (("checkpoint", "convert", "file", "new.pt"), "file"),
    (("replay", "missing"), "missing"),
    (("replay", "file"), "file"),
    # Numbers
    (("train", *LAB, "--num-envs", "0"), "'--num-envs': 0 is not in the range x>=1"),
    (("train", *LAB, "--num-envs", "many"), "'--num-envs': 'many' is not a valid integer"),
    (("train", *LAB, "--seed", "-1"), "'--seed': -1 is not in the range x>=0"),
    (("train", *LAB, "--max-iterations", "0"), "'--max-iterations': 0 is not in the range x>=1"),
    (("train", *LAB, "--eval-episodes", "-1"), "'--eval-episodes': -1 is not in the range x>=0"),
    (("train", *LAB, "num_envs=0"), "num_envs: it should be greater than 0, found 0"),
    (("train", *LAB, "seed=-1"), "seed: it should be greater than or equal to 0, found -1"),
    (("train", *LAB, "seed=1e99"), "seed: expected an integer, found 1e+99"),
    (("train", *LAB, "num_steps_per_env=2.0"), "num_steps_per_env: expected an integer, found 2.0"),
    (("train", *LAB, "clip_actions=.inf"), "clip_actions: expected a number that is finite"),
    (("train", *LAB, "algorithm.learning_rate=.nan", *SHORT), "algorithm.learning_rate"),
    (("train", *LAB, "algorithm.learning_rate=-1", *SHORT), "algorithm.learning_rate"),
    (("train", *LAB, "algorithm.num_mini_batches=0", *SHORT), "algorithm.num_mini_batches"),
    (("train", *LAB, "algorithm.num_learning_epochs=-2", *SHORT), "algorithm.num_learning_epochs"),
    (("train", *LAB, "algorithm.gamma=7", *SHORT), "algorithm.gamma"),
    (("train", *LAB, "actor.hidden_dims=[0]", *SHORT), "actor.hidden_dims"),
    (("train", *LAB, "actor.hidden_dims=[-3]", *SHORT), "actor.hidden_dims"),
    (("train", *LAB, "actor.distribution_cfg.init_std=-1", *SHORT), "init_std"),
    (("train", *LAB, "actor.activation=eluu", *SHORT), "did you mean 'elu'?"),
    (("train", *LAB, "torch_num_threads=0"), "torch_num_threads: it should be greater than 0"),
    (("train", *LAB, "seed=9223372036854775808", *SHORT), "seed: it should be less than 9223372036854775808"),
    (("eval", "file", "--episodes", "0"), "'--episodes': 0 is not in the range x>=1"),
    (("play", "file", "--steps", "0"), "'--steps': 0 is not in the range x>=1"),
    # Names
    (("train", *LAB, "--device", "gpu"), "device: expected cpu, cuda:<index> or auto, found 'gpu'"),
    (("train", *LAB, "--device", "cuda:99"), "say auto or cpu"),
    (("train", *LAB, "--device", "meta"), "device"),
    (("train", *LAB, "--device", ""), "device"),
    (("train", *LAB, "--device", "cpu:7x"), "device"),
    (("train", "--sim", "lap", "--task", "Reach"), "unknown simulator 'lap': did you mean 'lab'?"),
    (("train", "--sim", "lab", "--task", "Reech"), "unknown task 'Reech': did you mean 'Reach'?"),
    (("train", "--sim", "lab"), "no task is given"),
    (("train", "--sim", "absent", "--task", "x"), 'pip install "sim-rl-plugin[absent]"'),
    (("train", "--sim", "no_such_module:make", "--task", "x"), "no_such_module"),
    (("train", "--sim", "math:pi", "--task", "x"), "no function or class that opens environments"),
    (("train", "--sim", ":", "--task", "x"), "cannot be loaded"),
    (("train", *LAB, "algorithm.class_name=PPOO"), "unknown class 'PPOO': did you mean 'PPO'?"),
    (("train", *LAB, "class_name=OnPolicyRuner"), "did you mean 'OnPolicyRunner'?"),
    (("train", *LAB, "logger=tensorbord"), "did you mean 'tensorboard'?"),
    (("train", *LAB, "logger={class_name: csv, folder: x}"), "unknown key 'logger.folder'"),
    (("train", *LAB, "obs_groups.actor=[polcy]", *SHORT), "did you mean 'policy'?"),
    (("train", *LAB, "obs_groups.actr=[policy]"), "did you mean 'obs_groups.actor'?"),
    (("train", *LAB, "env.framez=true"), "did you mean 'env.frames'?"),
    (("train", *LAB, "env.num_envs=3"), "env.num_envs is filled in by the framework"),
    (("train", *LAB, "learning_rate=1"), "unknown key 'learning_rate'"),
    (("train", *LAB, "nonsense"), "cannot read the override 'nonsense': expected KEY=VALUE"),
    (("train", *LAB, "--resum", "x"), "No such option"),
    (("trian",), "unknown command 'trian': did you mean 'train'?"),
    (("list", "--sim", "lap"), "did you mean 'lab'?"),
    (("check-env", "--sim", "lab", "--task", "Reech"), "did you mean 'Reach'?"),
    (("check-env", *LAB, "--num-envs", "0"), "'--num-envs': 0 is not in the range x>=1"),
    (("plot", "dir", "--x", "step"), "'--x'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"), CASES, ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else value
)
def test_one_message_and_status_2(arguments, message, folder, sim_rl):
    before = _files(folder)
    result = sim_rl(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    # click's own usage errors have two lines of help in front.
    errors = [line for line in result.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(errors) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == errors[0]
    assert _files(folder) == before


def _files(folder):
    # A folder that is resumed is locked before anybody looks into it.
    return sorted(path for path in folder.rglob("*") if not path.is_dir() and path.name != ".lock")


def test_what_shows_only_with_a_rollout(folder, sim_rl):
    result = sim_rl("train", *LAB, "algorithm.num_mini_batches=33", *SHORT)
    message = "error: algorithm.num_mini_batches: 33 mini-batches of 32 samples\n"
    assert (result.exit_code, result.stderr) == (2, message)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="file modes of POSIX, which root passes over")
def test_an_unreadable_file(folder, sim_rl):
    (folder / "typo.yaml").chmod(0)
    result = sim_rl("train", *LAB, "--config", "typo.yaml")
    assert (result.exit_code, result.stderr) == (2, "error: typo.yaml: cannot be read: Permission denied\n")


def test_whatever_else_the_system_refuses_is_one_line_too(folder, sim_rl, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere/else")

    monkeypatch.setattr("sim_rl_plugin.registry.names", refuse)
    result = sim_rl("list")
    assert result.exit_code != 0
    monkeypatch.undo()
    monkeypatch.setattr("sim_rl_plugin.cli.list._describe", refuse)
    result = sim_rl("list")
    assert (result.exit_code, result.stderr) == (2, "error: somewhere/else: Permission denied\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "bomb.pt"], "loading that could run code, so it was not read"),
        (["train", "--task", "Ant", "--config", "bomb.yaml"], "python/object/apply:os.system"),
        (["train", "--task", "Ant", "algorithm.learning_rat=1"], "did you mean 'algorithm.learning_rate'?"),
    ],
)
def test_in_a_process_of_its_own(arguments, message, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, ("touch executed",)

    torch.save({"actor_state_dict": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "bomb.yaml").write_text("seed: !!python/object/apply:os.system ['touch executed']\n")
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    result = subprocess.run(
        [sys.executable, "-m", "sim_rl_plugin", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bomb.pt", "bomb.yaml"]
