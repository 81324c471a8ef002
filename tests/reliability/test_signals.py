"""Signals end a training after its iteration, with a checkpoint, a status, and the handlers of before."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import point_lab
import pytest
from pipeline_runs import in_a_process, iterations
from small_configs import ppo_cfg

from sim_rl_plugin import plugins
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.runners.stop_signal import EXIT_STATUS, StopSignal, leave, leaving_at_once, status_of
from sim_rl_plugin.testing import PointEnv

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75}
RAISES = {"SIGINT": KeyboardInterrupt, "SIGTERM": SystemExit, "SIGUSR1": SystemExit}


def signalled(name: str, *steps: int) -> PointEnv:
    """Return an environment that sends a signal to its process in these of its steps, counted from 1."""
    env = PointEnv()
    step, calls = env.step, 0

    def counted(actions):
        nonlocal calls
        calls += 1
        if calls in steps:
            os.kill(os.getpid(), getattr(signal, name))
        return step(actions)

    env.step = counted
    return env


@pytest.mark.parametrize("name", list(STATUS))
def test_a_signal_ends_the_training_after_its_iteration_with_a_checkpoint(tmp_path, name):
    before = {number: signal.getsignal(number) for number in EXIT_STATUS}
    runner = OnPolicyRunner(signalled(name, 20), ppo_cfg(), str(tmp_path))
    with pytest.raises(RAISES[name]) as caught:
        runner.learn(10)
    assert status_of(caught.value) == STATUS[name]
    assert runner.interrupted
    assert runner.completed_iterations == 2  # of 16 steps each
    assert (tmp_path / "model_1.pt").is_file()
    assert {number: signal.getsignal(number) for number in EXIT_STATUS} == before


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGTERM")])
def test_a_second_signal_ends_it_at_once(tmp_path, first, second):
    env = signalled(first, 20)
    inner, calls = env.step, 0

    def again(actions):
        nonlocal calls
        calls += 1
        if calls == 22:
            os.kill(os.getpid(), getattr(signal, second))
        return inner(actions)

    env.step = again
    runner = OnPolicyRunner(env, ppo_cfg(), str(tmp_path))
    with pytest.raises(RAISES[second]) as caught:
        runner.learn(10)
    assert status_of(caught.value) == STATUS[second]
    assert not runner.interrupted
    assert runner.completed_iterations == 1
    assert not (tmp_path / "model_1.pt").exists()


def test_a_second_signal_while_the_checkpoint_is_written_is_no_stop_with_a_checkpoint(tmp_path, monkeypatch):
    runner = OnPolicyRunner(signalled("SIGTERM", 20), ppo_cfg(), str(tmp_path))
    save = runner.save

    def interrupted(path, infos=None):
        if path.endswith("model_1.pt"):
            os.kill(os.getpid(), signal.SIGTERM)
        save(path, infos)

    monkeypatch.setattr(runner, "save", interrupted)
    with pytest.raises(SystemExit):
        runner.learn(10)
    assert not runner.interrupted


def test_ctrl_c_that_a_shell_made_a_background_job_ignore_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_before_and_after_the_iterations_a_signal_leaves_at_once_with_its_status():
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as caught, leaving_at_once():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert caught.value.code == 75
    assert signal.getsignal(signal.SIGUSR1) is before


def test_somebody_elses_exit_is_not_taken_for_a_signals():
    for code in (None, 0, 1, "no license"):
        assert status_of(SystemExit(code)) is None
    with pytest.raises(KeyboardInterrupt):
        leave(signal.SIGINT)


RANK = """
import os, signal, sys
import torch
from small_configs import ppo_cfg
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

rank, env, calls = int(os.environ["RANK"]), PointEnv(seed=int(os.environ["RANK"])), 0
step = env.step

def counted(actions):
    global calls
    calls += 1
    if calls == 20 and rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(actions)

env.step = counted
runner = OnPolicyRunner(env, ppo_cfg(), sys.argv[1])
try:
    runner.learn(10)
except SystemExit as error:
    print("stopped", runner.completed_iterations, error.code)
torch.distributed.barrier()  # the checkpoint is the first one's to write
resumed = OnPolicyRunner(PointEnv(seed=10 + rank), ppo_cfg(), sys.argv[1])
before = resumed.env.position.clone()
resumed.resume(sys.argv[1] + "/model_1.pt")
print("resumed", resumed.completed_iterations, bool((resumed.env.position == before).all()))
"""


def test_all_processes_of_a_training_stop_as_soon_as_one_is_signalled(tmp_path):
    """And each resumes with episodes of its own: the checkpoint holds those of the first process."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join(str(folder) for folder in (root, root / "adapters", root / "tests"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environ = {**os.environ, "PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path)],
            env={**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        output, errors = process.communicate(timeout=300)
        assert output.splitlines() == ["stopped 2 143", "resumed 2 True"], errors
        assert "episodes start afresh" in errors


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIM_RL_PLUGINS", "")
    plugins.reset_manager()
    plugins.get_manager().register(point_lab, "point_lab")
    yield
    plugins.reset_manager()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_the_command_returns_the_signals_status_and_says_how_to_go_on(lab, name):
    arguments = ("train", "--sim", "points", "--task", "Go", "--run-dir", "run", "--no-video", "--eval-episodes", 0)
    stopped = in_a_process(*arguments, at="run:1", signal=name)
    assert stopped.returncode == STATUS[name], stopped.stderr
    assert "after 2 of 3 iterations" in stopped.stdout
    assert "sim-rl train --resume run" in stopped.stdout
    assert iterations(Path("run")) == [0, 1]
