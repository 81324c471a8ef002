"""k ranks of n environments learn what one process of k * n does, but for float rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from one_and_many import CASES
from rank_processes import environ, run_ranks

PROGRAM = str(Path(__file__).parents[1] / "one_and_many.py")


def without_own_means(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.startswith(("Step/", "Episode/"))}


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def trained(request, tmp_path_factory):
    """Train every case in one process and in many; return both, and the number of ranks."""
    ranks, folder = request.param, tmp_path_factory.mktemp("trained")
    result = subprocess.run(
        [sys.executable, PROGRAM, str(ranks), str(folder / "one.pt")], env=environ(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    results = run_ranks(ranks, [PROGRAM, str(ranks), str(folder / "{rank}.pt")])
    assert [status for status, *_ in results] == [0] * ranks, results
    load = [torch.load(folder / f"{name}.pt", weights_only=False) for name in ("one", *range(ranks))]
    return load[0], load[1:]


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_statistics_are_those_of_one_process(trained, case: str):
    one, many = trained[0][case], [rank[case] for rank in trained[1]]
    for rank in many:
        for part, state in one["models"].items():
            for name, value in state.items():
                found = rank["models"][part][name]
                assert torch.allclose(found, value, rtol=1e-4, atol=2e-5), f"{part}.{name}: {found} and {value}"
                # Among themselves the ranks agree to the last bit.
                assert torch.equal(found, many[0]["models"][part][name]), f"{part}.{name}"
    assert one["fast"] == many[0]["fast"]


@pytest.mark.parametrize("case", CASES)
def test_the_learning_rate_and_what_is_logged_are_those_of_one_process(trained, case: str):
    one, first = trained[0][case], trained[1][0][case]
    assert all(rank[case]["rates"] == first["rates"] for rank in trained[1])
    assert first["rates"] == pytest.approx(one["rates"], rel=1e-6)
    for found, expected in zip(first["logged"], one["logged"], strict=True):
        if "unequal" in case:
            # The environment forms means itself, and a rank's counts once, however many environments it has.
            found, expected = (without_own_means(metrics) for metrics in (found, expected))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert "Train/mean_reward" in one["logged"][-1]
    assert "Step/distance" in one["logged"][-1]


def test_the_rate_moves_and_something_is_learnt(trained):
    """Or the comparison would be between two trainings in which nothing happens."""
    assert len(set(trained[0]["mlp"]["rates"])) > 1
    assert "update on" in trained[0]["mlp"]["fast"]
    assert "update off" in trained[0]["mlp, plain path"]["fast"]
