"""Code written against rsl_rl 5.5.1 runs here: its own methods and parts do, in ours, and leave the same numbers.

The strictest sub-class that one can think of takes a method of the reference itself.
"""

import copy
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict

pytest.importorskip("rsl_rl", reason="`make parity` installs rsl-rl-lib beside us")
import rsl_rl.algorithms
import rsl_rl.extensions
import rsl_rl.models
import rsl_rl.modules
import rsl_rl.runners
import rsl_rl.storage
from parity.distillation_rows import DISTILLATION_ROWS
from parity.harness import (
    Comparison,
    Row,
    build,
    build_pair,
    compare,
    flat_parameters,
    keep_from_raising_by_rounding,
    make_rollout,
    models_of,
    relative,
)  # fmt: skip
from parity.ppo_rows import ROWS
from parity.scripted_env import ScriptedEnv

import sim_rl_plugin.algorithms
import sim_rl_plugin.runners
from sim_rl_plugin.algorithms import PPO, Distillation
from sim_rl_plugin.extensions import RandomNetworkDistillation
from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.storage import RolloutStorage

ALL_ROWS = {name: row for name, row in {**ROWS, **DISTILLATION_ROWS}.items() if row.family != "compiled"}
PPO_ROWS = {
    name: ROWS[name]
    for name in (
        "MLP, defaults", "Beta", "GRU", "LSTM, 2 layers", "CNN, flat and image groups", "RND, both normalised",
        "RND with GRU", "symmetry, both", "mixed precision",
    )
}  # fmt: skip
STUDENT_ROWS = {
    name: DISTILLATION_ROWS[name] for name in ("MLP student", "GRU student", "LSTM student, gradient length 16")
}


@pytest.fixture(autouse=True)
def _no_spurious_raise_with_our_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do to our models what all comparisons do to the reference's: its update may run on them here."""
    keep_from_raising_by_rounding(MLPModel, monkeypatch)


def classes(row: Row) -> tuple[Any, Any]:
    name = row.cfg["algorithm"]["class_name"]
    return getattr(sim_rl_plugin.algorithms, name), getattr(rsl_rl.algorithms, name)


def with_class(row: Row, algorithm_class: Any) -> Row:
    """Return a row whose algorithm is a sub-class."""
    cfg = copy.deepcopy(row.cfg)
    cfg["algorithm"]["class_name"] = algorithm_class
    return dataclasses.replace(row, cfg=cfg)


def assert_same(ours: Any, theirs: Any, what: str) -> None:
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs), what
        for our_part, their_part in zip(ours, theirs, strict=True):
            assert_same(our_part, their_part, what)
    elif isinstance(theirs, TensorDict):
        for name, value in theirs.items():
            assert_same(ours[name], value, f"{what}.{name}")
    elif isinstance(theirs, torch.Tensor):
        assert relative(ours, theirs) <= 1e-5, what
    else:
        assert ours is None, what


# After every method


def assert_same_state(ours: Any, theirs: Any) -> None:
    """Compare all that a caller can look at between two methods."""
    for name, value in vars(theirs.transition).items():
        assert_same(getattr(ours.transition, name), value, f"transition.{name}")
    steps = theirs.storage.step
    assert ours.storage.step == steps
    for name, value in vars(theirs.storage).items():
        our_value = getattr(ours.storage, name)
        if isinstance(value, torch.Tensor):
            assert our_value.dtype == value.dtype and our_value.shape == value.shape, name
            if name not in ("returns", "advantages"):
                assert_same(our_value[:steps], value[:steps], f"storage.{name}")
        elif isinstance(value, (tuple, list)) and value and isinstance(value[0], torch.Tensor):
            assert_same([part[:steps] for part in our_value], [part[:steps] for part in value], f"storage.{name}")
        elif isinstance(value, TensorDict):
            assert_same(our_value[:steps], value[:steps], f"storage.{name}")
    for name, model in models_of(theirs).items():
        if name == "rnd":
            assert models_of(ours)[name].update_counter == model.update_counter
            assert models_of(ours)[name].weight == pytest.approx(getattr(model, "weight", model.initial_weight))
        else:
            assert_same(models_of(ours)[name].get_hidden_state(), model.get_hidden_state(), f"memory of the {name}")


@torch.inference_mode()  # as both runners do; the reference's memories would else stay in a graph
def play_side_by_side(pair: tuple[Any, Any], rollout: Any) -> None:
    """Play a rollout on both sides, and compare the state after every method."""
    for step, dones_n in enumerate(rollout.dones_tn):
        returned = []
        for algorithm in pair:
            torch.manual_seed(step)
            returned.append(algorithm.act(rollout.observations[step]))
        assert_same(*returned, "what act returned")
        assert_same_state(*pair)
        for algorithm in pair:
            rewards_n, extras = rollout.rewards_tn[step].clone(), {"time_outs": rollout.time_outs_tn[step].clone()}
            algorithm.process_env_step(rollout.observations[step + 1], rewards_n, dones_n.clone(), extras)
            assert torch.equal(rewards_n, rollout.rewards_tn[step]), "the caller's rewards were changed"
        assert_same_state(*pair)
        assert_same(*(getattr(algorithm, "intrinsic_rewards", None) for algorithm in pair), "intrinsic rewards")
    assert [algorithm.compute_returns(rollout.observations[-1]) for algorithm in pair] == [None, None]


@pytest.mark.parametrize("row", [*PPO_ROWS.values(), *STUDENT_ROWS.values()], ids=[*PPO_ROWS, *STUDENT_ROWS])
def test_state_after_every_method(row: Row):
    pair = build_pair(*classes(row), row)
    assert_same_state(*pair)
    play_side_by_side(pair, make_rollout(row, seed=0))
    assert_same_state(*pair)
    for name in ("returns", "advantages"):
        if hasattr(pair[1].storage, name):
            assert_same(*(getattr(algorithm.storage, name) for algorithm in pair), name)
    losses = []
    for algorithm in pair:
        torch.manual_seed(0)
        losses.append(algorithm.update())
    assert list(losses[0]) == list(losses[1])
    assert all(type(value) is float for value in losses[0].values())
    assert_same_state(*pair)


@pytest.mark.parametrize("row", ALL_ROWS.values(), ids=ALL_ROWS)
def test_equal_seeds_give_equal_weights(row: Row):
    ours, theirs = (build(algorithm_class, row, seed=3) for algorithm_class in classes(row))
    assert models_of(ours).keys() == models_of(theirs).keys()
    for name, model in models_of(theirs).items():
        our_state = models_of(ours)[name].state_dict()
        assert list(our_state) == list(model.state_dict())
        for key, value in model.state_dict().items():
            assert torch.equal(our_state[key], value), f"{name}.{key}"


@pytest.mark.parametrize("row", [*PPO_ROWS.values(), *STUDENT_ROWS.values()], ids=[*PPO_ROWS, *STUDENT_ROWS])
def test_public_attributes(row: Row):
    ours, theirs = build_pair(*classes(row), row)
    pairs = [(ours, theirs), (ours.storage, theirs.storage), (ours.transition, theirs.transition)]
    pairs += [(models_of(ours)[name], model) for name, model in models_of(theirs).items()]
    pairs += [
        (our_model.distribution, model.distribution) for our_model, model in pairs[3:] if hasattr(model, "distribution")
    ]
    if getattr(theirs, "symmetry", None):
        pairs.append((ours.symmetry, theirs.symmetry))
    for our_object, their_object in pairs:
        for name, value in vars(their_object or {}).items() if their_object is not None else ():
            if name.startswith("_") and not name.startswith("_raw"):
                continue
            assert hasattr(our_object, name), f"{type(our_object).__name__} has no {name}"
            if isinstance(value, (bool, int, float, str)) or value is None:
                assert getattr(our_object, name) == value, f"{type(our_object).__name__}.{name}"


# Methods of the reference in sub-classes of ours

PPO_METHODS = ["act", "process_env_step", "compute_returns", "update"]
STUDENT_METHODS = ["act", "process_env_step", "update"]


def borrowed(our_class: Any, their_class: Any, methods: list[str]) -> Any:
    """Return a sub-class of ours with methods of theirs."""
    return type("Borrowed", (our_class,), {name: vars(their_class)[name] for name in methods})


@pytest.mark.parametrize("methods", [[name] for name in PPO_METHODS] + [PPO_METHODS], ids="-".join)
@pytest.mark.parametrize("row", PPO_ROWS.values(), ids=PPO_ROWS)
def test_ppo_with_methods_of_the_reference(row: Row, methods: list[str]):
    ours, theirs = build_pair(PPO, rsl_rl.algorithms.PPO, row)
    borrowed_class = borrowed(PPO, rsl_rl.algorithms.PPO, methods)
    ours = build(borrowed_class, with_class(row, borrowed_class))
    assert type(ours) is borrowed_class
    compare(ours, theirs, row, deferred=True)


@pytest.mark.parametrize("methods", [[name] for name in STUDENT_METHODS] + [STUDENT_METHODS], ids="-".join)
@pytest.mark.parametrize("row", STUDENT_ROWS.values(), ids=STUDENT_ROWS)
def test_distillation_with_methods_of_the_reference(row: Row, methods: list[str]):
    _, theirs = build_pair(Distillation, rsl_rl.algorithms.Distillation, row)
    borrowed_class = borrowed(Distillation, rsl_rl.algorithms.Distillation, methods)
    compare(build(borrowed_class, with_class(row, borrowed_class)), theirs, row)


@pytest.mark.parametrize("name", ["MLP, defaults", "GRU", "RND, both normalised", "MLP student"])
def test_runner_with_the_loop_of_the_reference(name: str, tmp_path: Path):
    row = ALL_ROWS[name]
    runner_name = "DistillationRunner" if row.family == "distillation" else "OnPolicyRunner"
    their_class = getattr(rsl_rl.runners, runner_name)
    loop = rsl_rl.runners.OnPolicyRunner.learn
    our_class = type("Borrowed", (getattr(sim_rl_plugin.runners, runner_name),), {"learn": loop})
    runners = []
    for runner_class in (our_class, their_class):
        torch.manual_seed(0)
        cfg = {**copy.deepcopy(row.cfg), "save_interval": 1}
        runner = runner_class(ScriptedEnv(row), cfg, log_dir=str(tmp_path / runner_class.__name__), device="cpu")
        runner.alg.teacher_loaded = True
        start = flat_parameters(runner.alg)
        torch.manual_seed(1)
        runner.learn(1)
        runners.append(runner)
    Comparison(row).check_end(runners[0].alg, runners[1].alg, start)
    assert (tmp_path / "Borrowed" / "model_0.pt").exists()


# Parts of the reference in ours, and the other way round


def their_storage(row: Row, kind: str) -> Any:
    torch.manual_seed(0)
    obs = make_rollout(row, seed=0).observations[0]
    shape = (kind, row.num_envs, row.cfg["num_steps_per_env"], obs, [5])
    return rsl_rl.storage.RolloutStorage(*shape)


@pytest.mark.parametrize(
    "name", ["MLP, defaults", "GRU", "advantages per mini-batch", "symmetry, both", "RND with GRU"]
)
def test_ppo_with_the_storage_of_the_reference(name: str):
    ours, theirs = build_pair(PPO, rsl_rl.algorithms.PPO, ROWS[name])
    ours.storage = their_storage(ROWS[name], "rl")
    compare(ours, theirs, ROWS[name], deferred=True)


@pytest.mark.parametrize("name", ["MLP, defaults", "GRU", "LSTM, 2 layers", "RND with GRU"])
def test_the_reference_with_our_storage(name: str):
    ours, theirs = build_pair(PPO, rsl_rl.algorithms.PPO, ROWS[name])
    theirs.storage = build(PPO, ROWS[name]).storage
    compare(ours, theirs, ROWS[name])


@pytest.mark.parametrize("row", STUDENT_ROWS.values(), ids=STUDENT_ROWS)
def test_distillation_with_the_storage_of_the_reference(row: Row):
    ours, theirs = build_pair(Distillation, rsl_rl.algorithms.Distillation, row)
    ours.storage, theirs.storage = their_storage(row, "distillation"), ours.storage
    compare(ours, theirs, row)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("MLP, defaults", "mini_batch_generator"),
        ("GRU", "recurrent_mini_batch_generator"),
        ("MLP student", "generator"),
        ("MLP, defaults", "add_transition"),
    ],
)
def test_what_a_storage_overrides_is_used(name: str, method: str):
    row, calls = ALL_ROWS[name], []

    def overriding(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return getattr(RolloutStorage, method)(self, *args, **kwargs)

    ours, theirs = build_pair(*classes(row), row)
    ours.storage.__class__ = type("Storage", (RolloutStorage,), {method: overriding})
    compare(ours, theirs, row, deferred=row.family != "distillation")
    assert calls


def foreign_models(row: Row, package: Any, parts: Any) -> Row:
    """Return a row whose models, and their distributions, are classes of a package."""
    cfg = copy.deepcopy(row.cfg)
    for section in ("actor", "critic", "student", "teacher"):
        if section in cfg:
            cfg[section]["class_name"] = getattr(package, cfg[section]["class_name"])
            if "distribution_cfg" in cfg[section]:
                distribution = cfg[section]["distribution_cfg"]
                distribution["class_name"] = getattr(parts, distribution["class_name"])
    return dataclasses.replace(row, cfg=cfg)


WITH_MODELS = [
    "MLP, defaults", "heteroscedastic", "Beta", "GRU", "LSTM, 2 layers", "GRU actor, MLP critic",
    "CNN, two image groups", "CNN, batch normalisation, SGD", "symmetry, both", "RND with GRU",
    "MLP student", "GRU student",
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_MODELS)
def test_our_algorithm_with_models_of_the_reference(name: str):
    row = ALL_ROWS[name]
    our_class, their_class = classes(row)
    _, theirs = build_pair(our_class, their_class, row)
    ours = build(our_class, foreign_models(row, rsl_rl.models, rsl_rl.modules))
    compare(ours, theirs, row, deferred=row.also_deferred)


@pytest.mark.parametrize("name", WITH_MODELS)
def test_the_reference_with_our_models(name: str):
    row = ALL_ROWS[name]
    our_class, their_class = classes(row)
    ours = build(our_class, row)
    mixed = build(their_class, foreign_models(row, sim_rl_plugin.models, sim_rl_plugin.modules))
    compare(ours, mixed, row)


@pytest.mark.parametrize("name", ["heteroscedastic, log", "Beta", "Gaussian, log"])
def test_our_models_with_distributions_of_the_reference(name: str):
    row = ROWS[name]
    _, theirs = build_pair(PPO, rsl_rl.algorithms.PPO, row)
    cfg = copy.deepcopy(row.cfg)
    distribution = cfg["actor"]["distribution_cfg"]
    distribution["class_name"] = getattr(rsl_rl.modules, distribution["class_name"])
    compare(build(PPO, dataclasses.replace(row, cfg=cfg)), theirs, row, deferred=True)


@pytest.mark.parametrize("name", ["RND, linear schedule", "RND with GRU", "symmetry with RND"])
def test_ppo_with_extensions_of_the_reference(name: str):
    ours, theirs = build_pair(PPO, rsl_rl.algorithms.PPO, ROWS[name])
    ours.rnd = copy.deepcopy(theirs.rnd)
    if theirs.symmetry is not None:
        settings = ("env", "data_augmentation_func", "use_data_augmentation", "use_mirror_loss", "mirror_loss_coeff")
        ours.symmetry = rsl_rl.extensions.Symmetry(**{name: getattr(theirs.symmetry, name) for name in settings})
    compare(ours, theirs, ROWS[name], deferred=True)


def test_what_an_extension_overrides_is_used():
    calls = []

    class Counting(RandomNetworkDistillation):
        def compute_loss(self, obs: TensorDict) -> torch.Tensor:
            calls.append(obs.batch_size)
            return super().compute_loss(obs)

    row = ROWS["RND, both normalised"]
    ours, theirs = build_pair(PPO, rsl_rl.algorithms.PPO, row)
    ours.rnd.__class__ = Counting
    compare(ours, theirs, row)
    assert len(calls) == 3 * 3 * 4


def test_a_loss_that_is_no_mean_is_taken_as_it_is():
    row = DISTILLATION_ROWS["MLP student"]
    pair = build_pair(Distillation, rsl_rl.algorithms.Distillation, row)
    for algorithm in pair:
        algorithm.loss_fn = lambda actions, labels: (actions - labels).abs().amax()
    compare(*pair, row)


def test_the_policy_of_compiled_models_is_the_model():
    ours, theirs = build_pair(PPO, rsl_rl.algorithms.PPO, ROWS["MLP, defaults"])
    for algorithm in (ours, theirs):
        algorithm.compile("default")
        assert algorithm.get_policy() is algorithm._raw_actor
        assert algorithm.actor is not algorithm._raw_actor


# Names and signatures

SUB_PACKAGES = ("algorithms", "env", "extensions", "models", "modules", "runners", "storage", "utils")
PUBLIC = [(package, name) for package in SUB_PACKAGES for name in importlib.import_module(f"rsl_rl.{package}").__all__]
"""Everything that the reference exports."""

NOT_IN_THE_DOCUMENTED_SIGNATURE = {"use_mixed_precision", "grad_reduce_bucket_mb"}
"""Parameters of the reference's algorithms that the documented API lacks: keyword-only here."""


@pytest.mark.parametrize("package", SUB_PACKAGES)
def test_everything_that_is_exported_there_is_exported_here(package: str):
    ours, theirs = (importlib.import_module(f"{root}.{package}").__all__ for root in ("sim_rl_plugin", "rsl_rl"))
    assert set(theirs) <= set(ours)


def check_signature(ours: Callable, theirs: Callable, what: str) -> None:
    """Check that every call of theirs is a call of ours with the same meaning."""
    our_parameters, their_parameters = (dict(inspect.signature(function).parameters) for function in (ours, theirs))
    wanted = [parameter for name, parameter in their_parameters.items() if name not in NOT_IN_THE_DOCUMENTED_SIGNATURE]
    positional = [parameter for parameter in our_parameters.values() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert [parameter.name for parameter in positional] == [parameter.name for parameter in wanted], what
    for name, parameter in their_parameters.items():
        own = our_parameters[name]
        # A default where the reference has none takes more calls, not fewer.
        assert own.default == parameter.default or parameter.default is parameter.empty, f"{what}: {name}"
        expected = own.KEYWORD_ONLY if name in NOT_IN_THE_DOCUMENTED_SIGNATURE else parameter.kind
        assert own.kind is expected, f"{what}: {name}"
    for name in our_parameters.keys() - their_parameters.keys():
        assert our_parameters[name].default is not inspect.Parameter.empty, f"{what}: {name} must have a default"


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=[f"{package}.{name}" for package, name in PUBLIC])
def test_signatures(package: str, name: str):
    ours, theirs = (getattr(importlib.import_module(f"{root}.{package}"), name) for root in ("sim_rl_plugin", "rsl_rl"))
    if inspect.isfunction(theirs):
        check_signature(ours, theirs, name)
    if not inspect.isclass(theirs):
        return
    for method, value in inspect.getmembers(theirs):
        owner = next((cls for cls in theirs.__mro__ if method in vars(cls)), object)
        if not owner.__module__.startswith("rsl_rl") or (method.startswith("_") and method != "__init__"):
            continue
        assert hasattr(ours, method), f"{name} has no {method}"
        if inspect.isfunction(value):
            check_signature(getattr(ours, method), value, f"{name}.{method}")
        elif isinstance(value, property):
            assert isinstance(inspect.getattr_static(ours, method), property), f"{name}.{method}"
