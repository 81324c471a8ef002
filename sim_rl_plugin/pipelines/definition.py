"""What a pipeline is: ordered stages, each a normal training, with declared inputs.

A plugin hands over an ``Entry`` whose target is a ``Pipeline`` (hook ``sim_rl_pipelines``)::

    CURRICULUM = Pipeline((
        Stage("flat", settings={"env": {"terrain": "flat"}}),
        Stage("rough", inputs=("flat",), settings={"env": {"terrain": "rough"}}),
    ))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sim_rl_plugin.errors import UserError, unknown_name

if TYPE_CHECKING:
    from sim_rl_plugin.config import RunConfig

FILE_KEYS = ("pipeline", "stages", "evaluation", "common")
"""Top-level keys of a pipeline file beside its stages' sections."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")

Derive = Callable[[Mapping[str, "RunConfig"]], Mapping[str, Any]]
"""Resolved settings of the earlier stages to settings of this one."""


@dataclass(frozen=True)
class Stage:
    """One training of a pipeline.

    Attributes:
        name: What its section, its run folder and its row in the results are called: lower-case
            letters, digits and underscores.
        summary: One line for ``sim-rl pipeline show``.
        inputs: Earlier stages from whose final checkpoints this one starts, in this order
            (``RunConfig.init_from``).
        settings: What makes this stage what it is: run settings that replace, key by top-level key,
            the common ones, and on which the file's section for the stage lies. Either a mapping, or
            a function that gets the resolved settings of the earlier stages by name and returns one.
        optional: Whether a file may leave it out. An input of a stage that runs must run, too.
        continues: The input whose policy this stage trains on, if it is the same policy: its learning
            curve is drawn behind that one's.
        same_budget_as: Earlier stages. Unless the file says otherwise, ``max_iterations`` is such that
            this stage takes as many control steps as those of them that run take together, rounded up.
    """

    name: str
    summary: str = ""
    inputs: tuple[str, ...] = ()
    settings: Mapping[str, Any] | Derive = field(default_factory=dict)
    optional: bool = False
    continues: str = ""
    same_budget_as: tuple[str, ...] = ()

    def derive(self, earlier: Mapping[str, RunConfig]) -> dict[str, Any]:
        """Return this stage's own settings, given those of the stages before it.

        Raises:
            UserError: What it needs to know of an earlier stage is missing there.
        """
        return dict(self.settings(earlier) if callable(self.settings) else self.settings)


@dataclass(frozen=True)
class Pipeline:
    """Stages in the order in which they run.

    Attributes:
        stages: At least one; a stage refers only to stages before it.
        reference: The stage with whose return the others' are compared; empty for the first one.

    Raises:
        UserError: A stage's name is unusable or stands twice, or refers to no earlier stage.
    """

    stages: tuple[Stage, ...]
    reference: str = ""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("a pipeline has at least one stage")
        earlier: list[str] = []
        for stage in self.stages:
            self._check(stage, earlier)
            earlier.append(stage.name)
        if self.reference and self.reference not in earlier:
            raise unknown_name("stage in reference:", self.reference, earlier)
        if not self.reference:
            # Frozen is for the callers.
            object.__setattr__(self, "reference", earlier[0])

    @property
    def names(self) -> list[str]:
        """The stages' names, in order."""
        return [stage.name for stage in self.stages]

    @staticmethod
    def _check(stage: Stage, earlier: list[str]) -> None:
        if not _NAME.fullmatch(stage.name) or stage.name in FILE_KEYS:
            raise UserError(
                f"a stage cannot be called {stage.name!r}: expected lower-case letters, digits and underscores, "
                f"and none of {', '.join(FILE_KEYS)}"
            )
        if stage.name in earlier:
            raise UserError(f"two stages are called {stage.name!r}")
        for what in ("inputs", "same_budget_as"):
            names = getattr(stage, what)
            if isinstance(names, str):
                raise UserError(f"{stage.name}.{what}: expected a tuple of names, found {names!r}")
            for name in names:
                if name not in earlier:
                    raise UserError(f"{stage.name}.{what}: there is no stage {name!r} before it")
        if stage.continues and stage.continues not in stage.inputs:
            raise UserError(f"{stage.name}.continues: expected one of its inputs, found {stage.continues!r}")
