"""PPO against rsl_rl 5.5.1: same weights, same rollout, same permutation, number by number.

Runs where rsl-rl-lib is installed (``make parity`` builds such an environment) and is skipped
elsewhere; rsl_rl is never needed at run time.
"""

import dataclasses
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("rsl_rl", reason="`make parity` installs rsl-rl-lib beside us")
from parity.breakages import EVERY_PPO_ROW, PPO_BREAKAGES, Breakage, pairs
from parity.harness import DifferenceError, Row, build, build_pair, compare, flat_parameters, make_rollout, play, update
from parity.ppo_rows import COMPILED, ROWS
from rsl_rl.algorithms import PPO as ReferencePPO

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.algorithms.fast.selection import choose

EAGER = {name: row for name, row in ROWS.items() if row is not COMPILED}
FAST_GRU = (
    "GRU",
    "GRU actor, MLP critic",
    "GRU, uneven mini-batches",
    "GRU, plain value loss, fixed",
    "GRU, no normalisation",
)
FAST = {
    name: row for name, row in EAGER.items() if row.family == "MLP" or name.startswith("Gaussian") or name in FAST_GRU
}


@pytest.mark.parametrize("deferred", [False, True], ids=["step by step", "deferred"])
@pytest.mark.parametrize("row", EAGER.values(), ids=EAGER)
def test_same_numbers(row: Row, deferred: bool, record: Callable):
    record(row.name, compare(*build_pair(PPO, ReferencePPO, row), row, deferred))


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("row", FAST.values(), ids=FAST)
def test_same_numbers_by_the_fast_paths(row: Row, num_threads: int, record: Callable, monkeypatch: pytest.MonkeyPatch):
    # These rollouts are too small to be shared among threads otherwise.
    monkeypatch.setattr("sim_rl_plugin.algorithms.fast.threads._FEWEST_OPERATIONS", 1)
    if row.cfg["algorithm"].get("use_mixed_precision"):
        # Sums over rows are kept in float32 here, in bfloat16 there.
        row = dataclasses.replace(row, tolerances={**row.tolerances, "gradient": 1e-2})
    ours, theirs = build_pair(PPO, ReferencePPO, row)
    assert choose(ours).update and (choose(ours).rollout or row.family == "recurrent")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        record(row.name, compare(ours, theirs, row, deferred=True, fast=True))
    finally:
        torch.set_num_threads(before)


def test_every_row_that_can_take_the_fast_paths_is_compared():
    assert {name for name, row in EAGER.items() if choose(build(PPO, row)).update} == FAST.keys()


def test_compiled_models_give_the_same_numbers(
    record: Callable, record_breakage: Callable, monkeypatch: pytest.MonkeyPatch
):
    # Compiled code draws its noise in another way unless it is told not to.
    monkeypatch.setattr("torch._inductor.config.fallback_random", True)
    record(COMPILED.name, compare(*build_pair(PPO, ReferencePPO, COMPILED), COMPILED))
    for breakage in EVERY_PPO_ROW:
        ours, theirs = build_pair(PPO, ReferencePPO, COMPILED)
        breakage.apply(ours, monkeypatch)
        with pytest.raises(DifferenceError):
            compare(ours, theirs, COMPILED)
        record_breakage(COMPILED.name, breakage.name)


@pytest.mark.parametrize(("row", "breakage"), pairs(EAGER, PPO_BREAKAGES))
def test_broken_mathematics_is_noticed(
    row: Row, breakage: Breakage, monkeypatch: pytest.MonkeyPatch, record_breakage: Callable
):
    ours, theirs = build_pair(PPO, ReferencePPO, row)
    breakage.apply(ours, monkeypatch)
    with pytest.raises(DifferenceError):
        compare(ours, theirs, row)
    record_breakage(row.name, breakage.name)


def test_a_rollout_that_broke_off_changes_nothing():
    row = ROWS["MLP, defaults"]
    ours, theirs = build_pair(PPO, ReferencePPO, row)
    rollout = make_rollout(row, seed=50)
    ours.begin_rollout()
    ours.act(rollout.observations[0])
    compare(ours, theirs, row, deferred=True)


def test_the_reference_steps_shared_encoders_twice():
    """What the row with shared encoders corrects in the reference."""
    row = ROWS["CNN, shared encoders"]
    moved = {}
    for name in ("as it is", "once"):
        theirs = build(ReferencePPO, row)
        if name == "once":
            row.adjust_reference(theirs)
        theirs.num_learning_epochs = theirs.num_mini_batches = 1
        theirs.schedule = "fixed"
        before = torch.cat([p.detach().clone().flatten() for p in theirs.actor.cnns.parameters()])
        play(theirs, make_rollout(row, seed=0), seed=0)
        update(theirs, seed=0)
        after = torch.cat([p.detach().flatten() for p in theirs.actor.cnns.parameters()])
        moved[name] = (after - before).norm() / flat_parameters(theirs).norm()
    assert moved["as it is"] > 1.5 * moved["once"]


def test_one_environment_per_mini_batch(monkeypatch: pytest.MonkeyPatch):
    """The reference's ``squeeze`` takes the environments away, too, when a recurrent mini-batch has just one."""
    row = dataclasses.replace(ROWS["GRU"], num_envs=4, updates=1)
    ours, theirs = build_pair(PPO, ReferencePPO, row)
    ours.num_mini_batches = theirs.num_mini_batches = row.num_envs
    with pytest.raises(DifferenceError):
        compare(ours, theirs, row)

    squeeze = torch.squeeze
    monkeypatch.setattr(torch, "squeeze", lambda tensor, *dim: squeeze(tensor, *(dim or (-1,))))
    ours, theirs = build_pair(PPO, ReferencePPO, row)
    ours.num_mini_batches = theirs.num_mini_batches = row.num_envs
    compare(ours, theirs, row)


def test_an_emptied_memory_starts_from_nothing():
    """The reference's storage keeps what the first step of the rollout before started from."""
    row = ROWS["GRU"]
    ours, theirs = build_pair(PPO, ReferencePPO, row)
    starts = []
    for algorithm in (ours, theirs):
        for seed in range(2):
            play(algorithm, make_rollout(row, seed), seed)
            starts.append(algorithm.storage.saved_hidden_state_a[0][0].clone())
            update(algorithm, seed)
        algorithm.actor.reset()
        algorithm.critic.reset()
        play(algorithm, make_rollout(row, seed=2), seed=2)
        starts.append(algorithm.storage.saved_hidden_state_a[0][0].clone())
    assert not starts[2].any()
    assert starts[5].any() and torch.equal(starts[5], starts[4])
