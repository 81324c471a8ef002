"""Settings against constructor signatures."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from sim_rl_plugin.config.signature import check_arguments, describe, parameters_of
from sim_rl_plugin.errors import UserError

if TYPE_CHECKING:
    from nowhere import Unknown


class Base:
    def __init__(self, storage, gamma: float = 0.99, epochs: int = 5, schedule: Literal["fixed", "adaptive"] = "fixed"):
        pass


class Child(Base):
    def __init__(self, *args: Any, symmetry: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class Sink(Base):
    def __init__(self, storage, own: int = 1, **unused: Any) -> None:
        super().__init__(storage)


class Module(torch.nn.Module):
    def __init__(self, obs, sizes: tuple[int, ...] | list[int] = (1,), std_range: tuple[float, float] = (0.0, 1.0)):
        super().__init__()


class ForwardingModule(torch.nn.Module):
    def __init__(self, size: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Many:
    def __init__(
        self,
        anything=None,
        unresolvable: Unknown | None = None,
        optional: float | None = None,
        name: str = "",
        flags: Sequence[bool] = (),
        table: dict[str, float] | None = None,
        function: Callable[[int], int] | None = None,
        tensor: torch.Tensor | None = None,
    ):
        pass


class Distribution:
    def __init__(self, output_dim: int, init_std: float = 1.0):
        pass


class Model:
    def __init__(self, obs, distribution_cfg: dict | None = None):
        pass


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    module = types.ModuleType("some_classes")
    module.Distribution = Distribution
    monkeypatch.setitem(sys.modules, "some_classes", module)


def check(target, provided=("storage", "obs"), **kwargs):
    check_arguments(target, kwargs, "algorithm", provided=provided)


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        (Base, {"gamma": 1, "epochs": 3, "schedule": "adaptive"}),
        (Child, {"gamma": 0.9, "symmetry": True}),
        (Sink, {"own": 3, "whatever": "x"}),
        (Module, {"sizes": [64, 64], "std_range": [0, 1e6]}),
        (Module, {"sizes": (64, 64)}),
        (ForwardingModule, {"size": 3}),
        (Many, {"anything": object(), "unresolvable": 3, "optional": None, "flags": [True]}),
        (Many, {"optional": 2, "table": {"a": 1}, "function": len, "tensor": torch.zeros(1)}),
        (lambda gamma=1: None, {"gamma": "anything"}),
    ],
)
def test_what_fits_passes(target, kwargs):
    check(target, **kwargs)


@pytest.mark.parametrize(
    ("target", "kwargs", "message"),
    [
        (Base, {"gama": 1}, "unknown key 'algorithm.gama': did you mean 'algorithm.gamma'?"),
        (Base, {"zzzz": 1}, "unknown key 'algorithm.zzzz': expected one of epochs, gamma, schedule"),
        (Base, {"gamma": "abc"}, "algorithm.gamma: expected a number, found 'abc'"),
        (Base, {"gamma": "0.9"}, "algorithm.gamma: expected a number, found '0.9'"),
        (Base, {"gamma": True}, "algorithm.gamma: expected a number, found True"),
        (Base, {"epochs": True}, "algorithm.epochs: expected an integer, found True"),
        (Base, {"epochs": 2.5}, "algorithm.epochs: expected an integer, found 2.5"),
        (Base, {"schedule": "x"}, "algorithm.schedule: expected one of 'fixed', 'adaptive', found 'x'"),
        (Base, {"storage": 1}, "algorithm.storage is filled in by the framework and cannot be set"),
        (Child, {"epoch": 1}, "unknown key 'algorithm.epoch': did you mean 'algorithm.epochs'?"),
        (Child, {"gamma": None}, "algorithm.gamma: expected a number, found None"),
        (Sink, {"own": "x"}, "algorithm.own: expected an integer, found 'x'"),
        (Module, {"sizes": [64, "x"]}, "algorithm.sizes: expected a list of integers, found [64, 'x']"),
        (Module, {"sizes": 64}, "algorithm.sizes: expected a list of integers, found 64"),
        (Module, {"std_range": [1]}, "algorithm.std_range: expected a list of 2 numbers, found [1]"),
        (ForwardingModule, {"sise": 3}, "unknown key 'algorithm.sise': did you mean 'algorithm.size'?"),
        (Many, {"optional": "x"}, "algorithm.optional: expected a number or null, found 'x'"),
        (Many, {"name": 3}, "algorithm.name: expected a string, found 3"),
        (Many, {"flags": [1]}, "algorithm.flags: expected a list of booleans, found [1]"),
        (Many, {"table": 3}, "algorithm.table: expected a mapping or null, found 3"),
    ],
)
def test_what_does_not_fit_is_named(target, kwargs, message):
    with pytest.raises(UserError) as caught:
        check(target, **kwargs)
    assert str(caught.value) == message


def test_a_missing_parameter_is_named():
    with pytest.raises(UserError, match=r"^algorithm\.storage is missing: Base needs a value"):
        check_arguments(Base, {}, "algorithm")


def test_a_nested_class_is_checked_with_its_path():
    cfg = {"class_name": "some_classes:Distribution", "init_std": 0.5}
    check(Model, distribution_cfg=cfg)
    with pytest.raises(UserError, match=r"^unknown key 'algorithm\.distribution_cfg\.init_sdt': did you mean"):
        check(Model, distribution_cfg={**cfg, "init_sdt": 1})
    with pytest.raises(UserError, match=r"^algorithm\.distribution_cfg\.init_std: expected a number, found 'x'"):
        check(Model, distribution_cfg={**cfg, "init_std": "x"})
    with pytest.raises(UserError, match=r"^algorithm\.distribution_cfg\.class_name: unknown|no module"):
        check(Model, distribution_cfg={"class_name": "no_such_module_here:X"})


def test_parameters_of_a_child_hold_those_of_its_base():
    parameters = parameters_of(Child)
    assert set(parameters.annotations) == {"symmetry", "storage", "gamma", "epochs", "schedule"}
    assert parameters.required == {"storage"}
    assert not parameters.accepts_any


def test_types_in_words():
    assert describe(list[int] | None) == "a list of integers or null"
    assert describe(dict[str, int]) == "a mapping"
    assert describe(tuple[int, str]) == "a list of 2 values"
    assert describe(str | list[str]) == "a string or a list of strings"
