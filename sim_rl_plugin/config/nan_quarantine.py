"""The settings of the NaN quarantine, ``nan_quarantine`` in a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim_rl_plugin.errors import UserError


@dataclass(frozen=True)
class QuarantineSettings:
    """What happens to NaN and infinity from the simulator, and in the update; see docs/reliability.md.

    Attributes:
        max_share: Largest share of the environments, 0 to 1, that may be left out of one iteration. With more,
            the iteration is dropped.
        max_failures: Iterations in a row that may be dropped, or end with an environment that its reset has not
            healed; one more ends the training. 0 ends it at the first.
        max_dumps: Dumps in the run folder; later faults are only logged.
        max_dump_mb: Largest dump in MB; what does not fit is left out of it.
        keep_state: Whether the simulation's state is kept at the start of every rollout, so that a fault can be
            replayed. None does so where the simulator gives it at next to no cost.
    """

    max_share: float = 0.25
    max_failures: int = 5
    max_dumps: int = 10
    max_dump_mb: float = 64.0
    keep_state: bool | None = None

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check ranges, see ``check_arguments``."""
        share = settings.get("max_share", 0.0)
        if not 0.0 <= share <= 1.0:
            raise UserError(f"{path}.max_share: expected a number between 0 and 1, found {share}")
        for name in ("max_failures", "max_dumps", "max_dump_mb"):
            if settings.get(name, 0) < 0:
                raise UserError(f"{path}.{name}: expected a number of 0 or more, found {settings[name]}")
