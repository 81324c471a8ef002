"""The settings that a sweep searches, and which values they may take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sim_rl_plugin.config.signature import check_arguments, shorten
from sim_rl_plugin.errors import UserError

FILLED_IN = {"seed": "seeds", "max_iterations": "budget.iterations", "device": "--device"}
"""Settings of a run that the sweep fills in, and where to say them instead."""

_NUMBERS = ("float", "log", "int", "log_int")


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched: an entry of ``parameters`` in a sweep file.

    Attributes:
        distribution: ``float`` and ``int`` are uniform, ``log`` and ``log_int`` uniform in the logarithm;
            ``categorical`` has choices in no order.
        low: Smallest value of a number.
        high: Largest value of a number, included.
        step: Distance between values of ``float`` and ``int``; None for any float and every integer.
        choices: Values of ``categorical``, anything that YAML can write.
    """

    distribution: Literal["float", "log", "int", "log_int", "categorical"]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: list[Any] | None = None

    @property
    def is_integer(self) -> bool:
        """Whether its values are integers."""
        return self.distribution in ("int", "log_int")

    @property
    def is_logarithmic(self) -> bool:
        """Whether its logarithm is what is uniform."""
        return self.distribution in ("log", "log_int")

    @property
    def samples(self) -> list[Any]:
        """Values that stand for all of them: the ends of a range, or every choice."""
        if self.choices is not None:
            return list(self.choices)
        assert self.low is not None and self.high is not None
        return [int(self.low), int(self.high)] if self.is_integer else [float(self.low), float(self.high)]

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check what the types do not say.

        Raises:
            UserError: A bound is missing, out of place, or in the wrong order.
        """
        kind = settings["distribution"]
        foreign = ("low", "high", "step") if kind == "categorical" else ("choices",)
        if kind in ("log", "log_int"):
            foreign = (*foreign, "step")
        for key in foreign:
            if settings.get(key) is not None:
                raise UserError(f"{path}.{key}: the distribution {kind!r} has no {key}")
        if kind == "categorical":
            _check_choices(settings.get("choices"), path)
        else:
            _check_range(settings, path)


def _check_choices(choices: list[Any] | None, path: str) -> None:
    if not choices:
        raise UserError(f"{path}.choices: expected a list of at least one value, found {shorten(choices)}")
    texts = [json.dumps(choice) for choice in choices]
    for index, text in enumerate(texts):
        if text in texts[:index]:
            raise UserError(f"{path}.choices: {shorten(choices[index])} stands there twice")


def _check_range(settings: Mapping[str, Any], path: str) -> None:
    kind = settings["distribution"]
    for key in ("low", "high"):
        if settings.get(key) is None:
            raise UserError(f"{path}.{key} is missing: the distribution {kind!r} needs low and high")
    for key in ("low", "high", "step"):
        value = settings.get(key)
        if kind in ("int", "log_int") and value is not None and not isinstance(value, int):
            raise UserError(f"{path}.{key}: expected an integer for the distribution {kind!r}, found {value!r}")
    low, high, step = settings["low"], settings["high"], settings.get("step")
    if not low < high:
        raise UserError(f"{path}.high: expected more than low ({low}), found {high}")
    if kind in ("log", "log_int") and low <= 0:
        raise UserError(f"{path}.low: expected a number greater than 0 for the distribution {kind!r}, found {low}")
    if step is None:
        return
    if not 0 < step <= high - low:
        raise UserError(f"{path}.step: expected more than 0 and at most high - low ({high - low}), found {step}")
    count = (high - low) / step
    if abs(count - round(count)) > 1e-8:
        raise UserError(f"{path}.step: expected a whole number of steps between {low} and {high}, found {step}")


def read_parameters(section: Any) -> dict[str, Parameter]:
    """Return the parameters of a sweep file by their keys.

    Args:
        section: The file's ``parameters``: override keys (``algorithm.learning_rate``) to distributions.

    Raises:
        UserError: There is none, or one is described wrongly.
    """
    if not isinstance(section, dict) or not section:
        raise UserError(
            f"parameters: expected settings with their distributions, as algorithm.learning_rate, "
            f"found {shorten(section)}"
        )
    parameters = {}
    for key, found in section.items():
        path = f"parameters.{key}"
        if key in FILLED_IN:
            raise UserError(f"{path} is filled in by the sweep: say {FILLED_IN[key]}")
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected a mapping with 'distribution', found {shorten(found)}")
        check_arguments(Parameter, found, path)
        parameters[key] = Parameter(**found)
    return parameters
