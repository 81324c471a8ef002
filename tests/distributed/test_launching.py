"""``sim-rl train`` in several processes: started, killed, hanging, stopped, on several machines."""

import os
import signal
import time
from pathlib import Path

import pytest
from launched import Launch, children, is_alive
from rank_processes import free_port

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes as on Linux")


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path)


def wait_for(condition, what: str, at_most_s: float = 240.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


def test_environments_and_seeds_are_divided_and_the_first_rank_writes(launch: Launch):
    assert launch.run("--nproc-per-node", "4", "--seed", "5") == 0, launch.text()
    assert launch.is_complete()
    # 6 environments for 4 ranks. Seeds are those of each one's first environment, counted from 5.
    assert [launch.opened(rank) for rank in range(4)] == [[[2, 5]], [[2, 7]], [[1, 9]], [[1, 10]]]
    assert launch.text().count("run folder:") == launch.text().count("learning curve") == 1


def test_a_killed_rank_is_replaced_from_the_last_checkpoint(launch: Launch):
    assert launch.run("--nproc-per-node", "2", faults="kill:1:11,kill:0:2") == 0, launch.text()
    assert launch.is_complete()
    assert launch.text().count("SIGKILL") == 2
    # The first one dies in the second step of all, before there is a checkpoint; then the second, in iteration 2.
    assert "restart 1 goes on from the beginning" in launch.text()
    assert "restart 2 goes on from" in launch.text()
    seeds = [seed for _, seed in launch.opened(1)]
    assert len(set(seeds)) == 2, "a start from a checkpoint draws other random numbers than the first one"


def test_after_the_last_restart_one_line_says_which_rank_failed(launch: Launch):
    arguments = ("--nproc-per-node", "2", "--max-restarts", "0")
    assert launch.run(*arguments, faults="kill:1:11") == 2
    assert "error: rank 1 was ended by SIGKILL, and --max-restarts is 0: continue the training" in launch.text()
    assert launch.run(*arguments, "--resume-latest") == 0, launch.text()
    assert launch.is_complete()


def test_a_rank_that_hangs_is_named_with_the_place_of_every_rank(launch: Launch):
    assert launch.run("--nproc-per-node", "3", "hang_timeout_s=4.0", faults="hang:1:7") == 0, launch.text()
    assert launch.is_complete()
    text = launch.text()
    assert text.count("error: rank 1 hangs: no step for") == 1
    assert "rank 1: iteration 1, step 2 of the rollout" in text
    assert "fault_points.py" in text
    for rank in (0, 2):
        assert f"rank {rank}: iteration 1, " in text
    assert "(waits for the others)" in text


def test_what_one_simulator_refuses_ends_all_without_a_restart(launch: Launch):
    assert launch.run("--nproc-per-node", "2", faults="refuse:1:0") == 2
    assert launch.text().count("error: rank 1: this simulator has no licence") == 1
    assert "restart" not in launch.text()
    assert not launch.run_dir.exists()


def test_a_checkpoint_that_cannot_be_written_ends_all_with_one_message(launch: Launch):
    assert launch.run("--nproc-per-node", "2", faults="block:0:5") == 2
    lines = [line for line in launch.text().splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "model_1.pt" in lines[0]
    assert "restart" not in launch.text()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_to_the_launcher_stops_all_ranks_with_a_checkpoint(launch: Launch, number: int, status: int):
    launch.iterations = 500
    process = launch.start("--nproc-per-node", "2", STEP_S="0.02")
    wait_for(lambda: (launch.run_dir / "model_1.pt").exists(), launch.text())
    ranks = children(process.pid)
    os.kill(process.pid, number)
    assert process.wait(timeout=240) == status, launch.text()
    # The last one may still be taken down by the system.
    wait_for(lambda: not [rank for rank in ranks if is_alive(rank)], "the end of all ranks", 20.0)
    done = len(launch.rows())
    assert f"after {done} of 500 iterations" in launch.text()
    assert (launch.run_dir / f"model_{done - 1}.pt").exists()
    launch.iterations = done + 2
    assert launch.run("--nproc-per-node", "2", "--resume-latest") == 0, launch.text()
    assert launch.is_complete()


def test_two_machines_train_and_one_of_them_goes_and_comes_back(launch: Launch):
    """Two launchers that meet on the loopback stand for two machines."""
    launch.iterations = 5000
    together = (
        "--nnodes", "1:2", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "two", "--local-addr",
        "127.0.0.1", "--resume-latest", "--rdzv-conf", "last_call_timeout=2,keep_alive_interval=1",
    )  # fmt: skip
    first = launch.start(*together, name="first", STEP_S="0.02")
    time.sleep(3.0)  # so that the first one is the host of the rendezvous
    machines = [first, launch.start(*together, name="second", STEP_S="0.02")]
    try:
        # Both are there: each has half of the environments.
        wait_for(lambda: starts(launch).count(3) >= 2 and launch.rows(), "both machines")
        machines[1].send_signal(signal.SIGTERM)
        assert machines[1].wait(timeout=240) == 143, launch.text("second")
        # The first one goes on by itself, with all environments.
        wait_for(lambda: 6 in starts(launch), "the first machine alone")
        alone_from = len(launch.rows())
        wait_for(lambda: len(launch.rows()) > alone_from + 2, "iterations of the first machine alone")
        before = starts(launch).count(3)
        machines.append(launch.start(*together, name="back", STEP_S="0.02"))
        wait_for(lambda: starts(launch).count(3) >= before + 2, "the machine that comes back")
        together_from = len(launch.rows())
        wait_for(lambda: len(launch.rows()) > together_from + 2, "iterations of both machines again")
        for machine in (machines[2], first):
            machine.send_signal(signal.SIGTERM)
        assert [machine.wait(timeout=240) for machine in machines] == [143, 143, 143], launch.text("first")
    finally:
        for machine in machines:
            machine.kill()
    launch.iterations = len(launch.rows()) + 2
    assert launch.run("--nproc-per-node", "2", "--resume-latest") == 0, launch.text()
    assert launch.is_complete()


def starts(launch: Launch) -> list[int]:
    """Return how many environments every rank has opened, over all starts."""
    ranks = [rank for rank in range(2) if (launch.folder / f"opened_by_{rank}").exists()]
    return [number for rank in ranks for number, _ in launch.opened(rank)]
