"""What each rank takes for its own: environments, seeds, devices, cores, and where the ranks meet."""

import os

import pytest
import torch

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.launchers import LaunchRequest, choose_launcher
from sim_rl_plugin.launchers.environment import describes_several, first_host, torchruns_variables
from sim_rl_plugin.ranks import Place, device_of, pin_device, usable_cores
from sim_rl_plugin.watchdog import Progress, Report

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_CPUS_PER_TASK", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_environments_are_divided_without_a_gap():
    shares = [Place(rank, rank, 4).share_of(10) for rank in range(4)]
    assert shares == [slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 10)]
    with pytest.raises(UserError, match="num_envs: 3 environments are too few for 4 processes"):
        Place(0, 0, 4).share_of(3)


def test_seeds_do_not_overlap_where_simulators_count_up():
    seeds = {Place(rank, rank, 4).seed(5, 10) + env for rank in range(4) for env in range(2)}
    assert len(seeds) == 8
    assert Place(0, 0, 4).seed(5, 10) == Place().seed(5, 10, completed=7) == 5
    assert Place(0, 0, 4).seed(5, 10, completed=7) != 5
    assert Place(1, 1, 2).seed(2**63 - 1, 10) < 2**63


def test_the_place_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert Place.here() == Place()
    for variable, value in (("WORLD_SIZE", "8"), ("RANK", "5"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(variable, value)
    assert Place.here() == Place(5, 1, 8, 4)
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(UserError, match="RANK: expected a number below WORLD_SIZE=8, found '8'"):
        Place.here()
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UserError, match="RANK: a launcher sets it to a number, found 'first'"):
        Place.here()


def test_a_rank_sees_its_own_gpu_only():
    environ = {"CUDA_VISIBLE_DEVICES": "4,6,7", "LOCAL_RANK": "1"}
    pin_device(environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": "6", "LOCAL_RANK": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    pin_device(environ)  # once more changes nothing
    assert environ["CUDA_VISIBLE_DEVICES"] == "6"
    few = {"CUDA_VISIBLE_DEVICES": "4,6", "LOCAL_RANK": "2"}
    pin_device(few)
    assert few["CUDA_VISIBLE_DEVICES"] == "4,6"


def test_the_device_is_that_of_the_local_rank(monkeypatch: pytest.MonkeyPatch):
    assert device_of("cpu", Place(1, 1, 2)) == "cpu"
    assert device_of("cuda:0", Place()) == "cuda:0"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:0", Place(3, 1, 4)) == "cuda:1"
    with pytest.raises(UserError, match="local rank 2 has no GPU of its own, torch finds 2"):
        device_of("cuda:0", Place(2, 2, 4))


def test_cores_are_divided_among_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    assert usable_cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert usable_cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "50")
    assert usable_cores() == 1
    # SLURM has bound the task to its own cores already, or tells how many are meant for it.
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert usable_cores() == 6


def test_slurms_variables_are_torchruns():
    step = {
        "SLURM_STEP_NUM_TASKS": "32", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "8(x4)",
        "SLURM_STEP_NODELIST": "gpu[03-06],cpu1", "SLURM_JOB_ID": "123456",
    }  # fmt: skip
    assert torchruns_variables(step) == {
        "WORLD_SIZE": "32", "RANK": "9", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "32856",
    }  # fmt: skip
    assert describes_several(step)
    # In a batch script, outside of a step, there is one process whatever the number of tasks.
    assert not describes_several({"SLURM_NTASKS": "32", "SLURM_PROCID": "0"})
    assert torchruns_variables({**step, "WORLD_SIZE": "2", "RANK": "0"}) == {}
    mpi = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert torchruns_variables(mpi)["RANK"] == "3"


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("node1", "node1"), ("node1,node2", "node1"), ("gpu[03-07,12]", "gpu03"), ("n[1,4]-ib,m2", "n1-ib")],
)
def test_the_first_host_of_a_list(hosts: str, first: str):
    assert first_host(hosts) == first


def test_the_launcher_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch):
    def chosen(simulator: str = "mujoco", name: str = "auto", **request) -> str:
        return choose_launcher(LaunchRequest("m:f", {}, **request), name, simulator).__module__.rpartition(".")[2]

    assert chosen() == "in_process"
    assert chosen(nproc_per_node=2) == chosen(max_restarts=1) == chosen(nnodes=(1, 2)) == "elastic"
    assert chosen("isaaclab") == "in_process"
    assert chosen("isaaclab", nproc_per_node=2) == "launcher"
    assert chosen(name="environment") == "environment"
    with pytest.raises(UserError, match="unknown launcher 'torchrum': did you mean 'torchrun'"):
        chosen(name="torchrum")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert chosen() == "environment"
    assert chosen("isaaclab") == "launcher"
    with pytest.raises(UserError, match="a launcher has started several already"):
        chosen(nproc_per_node=2)


def reports(*ranks: tuple[int, bool]) -> dict[int, Report]:
    return {rank: Report(f"step {number}", waits, number) for rank, (number, waits) in enumerate(ranks)}


def test_who_does_not_move_and_does_not_wait_is_to_blame():
    progress = Progress(timeout_s=10.0)
    assert progress.verdict(reports((5, False), (5, False)), 0.0) is None
    # Rank 0 waits for rank 1 from second 1 on.
    assert progress.verdict(reports((6, True), (5, False)), 1.0) is None
    assert progress.verdict(reports((6, True), (5, False)), 9.9) is None
    verdict = progress.verdict(reports((6, True), (5, False)), 11.5)
    assert verdict is not None
    assert verdict.splitlines() == [
        "rank 1 hangs: no step for 12 s",
        "  rank 0: step 6 (waits for the others)",
        "  rank 1: step 5",
    ]


def test_of_ranks_that_all_wait_the_one_that_is_behind_is_to_blame():
    progress = Progress(timeout_s=10.0)
    waiting = reports((8, True), (6, True), (8, True))
    assert progress.verdict(waiting, 0.0) is None
    verdict = progress.verdict(waiting, 20.0)
    assert verdict is not None
    assert verdict.startswith("rank 1 hangs")


def test_a_rank_that_is_done_does_not_hang():
    progress = Progress(timeout_s=10.0)
    done = {0: Report("done", False, 5, is_done=True), 1: Report("step 9", False, 9)}
    progress.verdict(done, 0.0)
    done[1] = Report("step 10", False, 10)
    assert progress.verdict(done, 9.0) is None
    done[1] = Report("step 11", False, 11)
    assert progress.verdict(done, 18.0) is None
