"""Runners side by side, and checkpoints both ways: train there and continue here, train here and continue there."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("rsl_rl", reason="`make parity` installs rsl-rl-lib beside us")
from parity.distillation_rows import DISTILLATION_ROWS
from parity.harness import Comparison, DifferenceError, Row, build, compare, flat_parameters, models_of
from parity.ppo_rows import ROWS
from parity.report import CHECKPOINT_ROWS
from parity.scripted_env import ScriptedEnv
from rsl_rl.algorithms import PPO as ReferencePPO
from rsl_rl.algorithms import Distillation as ReferenceDistillation
from rsl_rl.runners import DistillationRunner as ReferenceDistillationRunner
from rsl_rl.runners import OnPolicyRunner as ReferenceOnPolicyRunner

from sim_rl_plugin.algorithms import PPO, Distillation
from sim_rl_plugin.runners import DistillationRunner, OnPolicyRunner

CHOSEN = {name: {**ROWS, **DISTILLATION_ROWS}[name] for name in CHECKPOINT_ROWS}


def make_runner(row: Row, side: str) -> Any:
    """Return our or their runner, with weights that come out of the seed."""
    is_distillation = row.cfg["algorithm"]["class_name"] == "Distillation"
    if side == "ours":
        runner_class: Any = DistillationRunner if is_distillation else OnPolicyRunner
    else:
        runner_class = ReferenceDistillationRunner if is_distillation else ReferenceOnPolicyRunner
    torch.manual_seed(0)
    runner = runner_class(ScriptedEnv(row), copy.deepcopy(row.cfg), device="cpu")
    if is_distillation:
        runner.alg.teacher_loaded = True
    _reseed_after_updates(runner.alg)
    return runner


def _reseed_after_updates(algorithm: Any) -> None:
    update = algorithm.update

    def reseeded() -> dict[str, float]:
        losses = update()
        torch.manual_seed(7)
        return losses

    algorithm.update = reseeded


@pytest.mark.parametrize("row", CHOSEN.values(), ids=CHOSEN)
def test_runners_train_alike(row: Row, record: Callable):
    ours, theirs = make_runner(row, "ours"), make_runner(row, "theirs")
    if row.adjust_reference is not None:
        row.adjust_reference(theirs.alg)
    start = flat_parameters(theirs.alg)
    assert torch.equal(flat_parameters(ours.alg), start)
    comparison = Comparison(row)
    for runner in (ours, theirs):
        torch.manual_seed(1)
        runner.learn(3)
    assert ours.current_learning_iteration == theirs.current_learning_iteration == 2
    rate = theirs.alg.learning_rate
    comparison.check("learning rate", abs(ours.alg.learning_rate - rate) / rate)
    comparison.check_end(ours.alg, theirs.alg, start)
    record(f"runner: {row.name}", comparison.differences)


def continued(row: Row, trained: str, path: str, load_cfg: dict[str, bool] | None = None) -> dict[str, float]:
    """Train on one side, load on both, and compare how both continue."""
    first = make_runner(row, trained)
    torch.manual_seed(1)
    first.learn(2)
    first.save(path, infos={"note": 1})
    runners = {side: make_runner(row, side) for side in ("ours", "theirs")}
    for side, runner in runners.items():
        assert runner.load(path, load_cfg if side == "ours" else None) == {"note": 1}
        assert torch.equal(flat_parameters(runner.alg), flat_parameters(first.alg))
        runner.alg.train_mode()
    if load_cfg is None:
        iterations = {runner.current_learning_iteration for runner in (first, *runners.values())}
        assert iterations == {1}
    if row.adjust_reference is not None:
        row.adjust_reference(runners["theirs"].alg)
    assert runners["theirs"].alg.learning_rate == pytest.approx(first.alg.learning_rate, rel=1e-7)
    return compare(runners["ours"].alg, runners["theirs"].alg, row)


@pytest.mark.parametrize("row", CHOSEN.values(), ids=CHOSEN)
def test_train_there_continue_here(row: Row, tmp_path: Path, record: Callable):
    record(f"from rsl_rl: {row.name}", continued(row, "theirs", str(tmp_path / "model.pt")))


@pytest.mark.parametrize("row", CHOSEN.values(), ids=CHOSEN)
def test_train_here_continue_there(row: Row, tmp_path: Path, record: Callable):
    record(f"to rsl_rl: {row.name}", continued(row, "ours", str(tmp_path / "model.pt")))


@pytest.mark.parametrize("row", CHOSEN.values(), ids=CHOSEN)
@pytest.mark.parametrize("trained", ["ours", "theirs"])
def test_an_optimizer_that_starts_afresh_is_noticed(row: Row, trained: str, tmp_path: Path, record_breakage: Callable):
    everything = dict.fromkeys(("actor", "critic", "student", "teacher", "rnd", "iteration"), True)
    with pytest.raises(DifferenceError):
        continued(row, trained, str(tmp_path / "model.pt"), everything)
    direction = "from" if trained == "theirs" else "to"
    record_breakage(f"{direction} rsl_rl: {row.name}", "optimizer state lost")


@pytest.mark.parametrize("trained_class", [PPO, ReferencePPO], ids=["trained here", "trained there"])
def test_the_actor_of_a_ppo_training_becomes_the_teacher(trained_class: Any):
    saved = build(trained_class, ROWS["GRU"]).save()
    row = DISTILLATION_ROWS["MLP student, GRU teacher"]
    cfg = copy.deepcopy(row.cfg)
    cfg["obs_groups"] = {"student": ["policy", "privileged"], "teacher": ["policy"]}
    cfg["teacher"] = copy.deepcopy(ROWS["GRU"].cfg["actor"])
    row = Row("teacher", "distillation", cfg)
    ours, theirs = build(Distillation, row), build(ReferenceDistillation, row)
    theirs.student.load_state_dict(ours.student.state_dict())
    for algorithm in (ours, theirs):
        assert algorithm.load(copy.deepcopy(saved), None, True) is False
        assert algorithm.teacher_loaded
    for name, value in theirs.teacher.state_dict().items():
        assert torch.equal(ours.teacher.state_dict()[name], value), name
    compare(ours, theirs, row)


@pytest.mark.parametrize("row", CHOSEN.values(), ids=CHOSEN)
def test_saved_states_have_the_same_keys(row: Row):
    ours, theirs = (make_runner(row, side).alg for side in ("ours", "theirs"))
    our_state, their_state = ours.save(), theirs.save()
    assert list(our_state) == list(their_state)
    for name, model in models_of(theirs).items():
        assert list(models_of(ours)[name].state_dict()) == list(model.state_dict())
    groups = [state["optimizer_state_dict"]["param_groups"] for state in (our_state, their_state)]
    assert groups[0][0].keys() == groups[1][0].keys()
