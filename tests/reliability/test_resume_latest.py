"""``sim-rl train --resume-latest``: which run it takes up, which it leaves alone, and when it starts one."""

import shutil
import time
from pathlib import Path

import point_lab
import pytest
from click.testing import CliRunner, Result
from pipeline_runs import in_a_process, iterations, owned_by_a_process

from sim_rl_plugin import plugins
from sim_rl_plugin.cli.main import main
from sim_rl_plugin.config import load_config
from sim_rl_plugin.run_folder import new_run_folder

TRAIN = ("train", "--sim", "points", "--task", "Go", "--no-video", "--eval-episodes", 0)


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIM_RL_PLUGINS", "")
    plugins.reset_manager()
    plugins.get_manager().register(point_lab, "point_lab")
    yield
    plugins.reset_manager()


def sim_rl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="sim-rl")


def trained(*arguments: object) -> Path:
    """Run a training and return its folder."""
    result = sim_rl(*TRAIN, *arguments)
    assert result.exit_code == 0, result.output
    return Path(result.output.splitlines()[0].removeprefix("run folder: "))


def test_the_same_command_starts_continues_and_finds_itself_complete():
    command = (*TRAIN, "--resume-latest", "--max-iterations", 5)
    folder = trained(*command[len(TRAIN) :], "run_name=run")
    for name in ("model_3.pt", "model_4.pt"):  # as after a kill
        (folder / name).unlink(missing_ok=True)
    result = sim_rl(*command, "run_name=run")
    assert result.exit_code == 0, result.output
    assert f"run folder: {folder}" in result.output
    assert iterations(folder) == [0, 1, 2, 3, 4]
    result = sim_rl(*command, "run_name=run")
    assert (result.exit_code, result.output) == (0, f"complete: {folder} has done all of its 5 iterations\n")
    assert list(Path("runs/Go").iterdir()) == [folder]


def test_settings_of_the_command_line_hold_for_the_run_that_is_continued():
    folder = trained("algorithm.gamma=0.9")
    result = sim_rl(*TRAIN, "--resume-latest", "--max-iterations", 4, "save_interval=1")
    assert result.exit_code == 0, result.output
    assert iterations(folder) == [0, 1, 2, 3]
    text = (folder / "config.yaml").read_text()
    assert "gamma: 0.9" in text
    assert "save_interval: 1" in text


def test_only_a_run_of_the_same_simulator_task_and_name_is_taken():
    other = trained("run_name=other")
    folder = trained("--resume-latest")
    assert folder != other
    assert trained("--resume-latest", "run_name=oth") not in (folder, other)
    named = trained("--resume-latest", "run_name=other", "--max-iterations", 4)
    assert named == other
    # Another simulator's task of the same name has the same parent folder.
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("simulator: points", "simulator: mujoco"))
    assert trained("--resume-latest", "run_name=other", "--max-iterations", 5) != other


def test_the_latest_is_taken_and_a_run_before_a_complete_one_is_not():
    first = trained("--max-iterations", 2)
    second = trained("--max-iterations", 2)
    assert trained("--resume-latest", "--max-iterations", 3) == second
    # The first one would have an iteration left, too, but somebody has trained another one since.
    result = sim_rl(*TRAIN, "--resume-latest", "--max-iterations", 3)
    assert result.output == f"complete: {second} has done all of its 3 iterations\n"
    assert iterations(first) == [0, 1]


def test_a_run_that_another_process_is_training_is_not_taken():
    first, second = trained("--max-iterations", 2), trained("--max-iterations", 2)
    with owned_by_a_process(second) as number:
        result = sim_rl(*TRAIN, "--resume-latest", "--max-iterations", 3)
        assert result.exit_code == 0, result.output
        assert f"passed over: process {number} on " in result.stderr
        assert f"run folder: {first}" in result.output
        # Now the first is complete. The job whose run is being trained has not done its work with that.
        assert trained("--resume-latest", "--max-iterations", 3) not in (first, second)
    assert iterations(second) == [0, 1]


def test_a_folder_without_a_readable_checkpoint_is_passed_over_with_a_line():
    first, second, third = (trained("--max-iterations", 2) for _ in range(3))
    for path in second.glob("model_*.pt"):
        path.write_bytes(b"cut off")
    for path in third.glob("model_*.pt"):
        path.unlink()
    result = sim_rl(*TRAIN, "--resume-latest", "--max-iterations", 3)
    assert result.exit_code == 0, result.output
    assert f"passed over: no checkpoint (model_<iteration>.pt) in {third}" in result.stderr
    assert f"passed over: no checkpoint in {second} can be read" in result.stderr
    assert iterations(first) == [0, 1, 2]


def test_with_a_folder_of_its_own():
    command = (*TRAIN, "--run-dir", "job", "--resume-latest")
    assert sim_rl(*command, "--max-iterations", 2).exit_code == 0
    assert sim_rl(*command, "--max-iterations", 4).exit_code == 0
    assert iterations(Path("job")) == [0, 1, 2, 3]
    assert sim_rl(*command).output == "complete: job has done all of its 4 iterations\n"
    with owned_by_a_process(Path("job")):
        result = sim_rl(*command, "--max-iterations", 5)
    assert result.exit_code == 2
    assert "is training in job: wait for its end, or stop it" in result.stderr
    result = sim_rl(*TRAIN[:4], "Elsewhere", "--run-dir", "job", "--resume-latest")
    assert result.exit_code == 2
    assert result.stderr == "error: --run-dir: job holds a run of the task 'Go', not 'Elsewhere'\n"


def test_a_folder_whose_run_was_killed_before_its_first_checkpoint_is_begun_again():
    killed = in_a_process(*TRAIN, "--run-dir", "job", "--resume-latest", "logger=[csv,tensorboard]", at="job:0")
    assert killed.returncode == -9
    assert not list(Path("job").glob("model_*.pt"))
    assert iterations(Path("job")) == [0]
    assert trained("--run-dir", "job", "--resume-latest", "logger=[csv,tensorboard]") == Path("job")
    assert iterations(Path("job")) == [0, 1, 2]
    assert len(list(Path("job").glob("*tfevents*"))) == 1


def test_a_run_that_is_being_trained_is_not_resumed_by_name_either():
    folder = trained("--max-iterations", 2)
    for run in (folder, folder / "model_1.pt"):
        with owned_by_a_process(folder) as number:
            result = sim_rl("train", "--resume", run, "--max-iterations", 3)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: process {number} on ")
        assert result.stderr.count("\n") == 1
    assert sim_rl("train", "--resume", folder, "--resume-latest").exit_code == 2


def test_a_kill_releases_the_run():
    killed = in_a_process(*TRAIN, "--run-dir", "job", "--max-iterations", 6, at="job:3")
    assert killed.returncode == -9
    assert trained("--run-dir", "job", "--resume-latest", "--max-iterations", 6) == Path("job")
    assert iterations(Path("job")) == [0, 1, 2, 3, 4, 5]


def test_runs_of_the_same_second_and_of_a_clock_that_was_put_back_are_told_apart(tmp_path, monkeypatch):
    config = load_config("points", "Go", overrides=["run_name=x_2"])
    times = iter(["2030-01-01_00-00-00", "2030-01-01_00-00-00", "2029-01-01_00-00-00", "2030-01-01_00-00-01"])
    monkeypatch.setattr(time, "strftime", lambda form: next(times))
    names = [new_run_folder(tmp_path, config).name for _ in range(4)]
    assert names == [
        "2030-01-01_00-00-00_x_2", "2030-01-01_00-00-00_x_2_2", "2030-01-01_00-00-00_x_2_3", "2030-01-01_00-00-01_x_2"
    ]  # fmt: skip


def test_after_a_clock_was_put_back_the_latest_run_is_still_the_one_that_began_last(monkeypatch):
    stamp = "2030-01-01_00-00-00"
    monkeypatch.setattr(time, "strftime", lambda form: stamp)
    runs = [trained("--max-iterations", 2) for _ in range(11)]
    stamp = "2020-01-01_00-00-00"
    runs.append(trained("--max-iterations", 2))
    assert [run.name[19:] for run in runs] == ["", *(f"_{number}" for number in range(2, 13))]
    assert trained("--resume-latest", "--max-iterations", 3) == runs[-1]
    shutil.rmtree(runs[-1])
    assert trained("--resume-latest", "--max-iterations", 3) == runs[-2]
