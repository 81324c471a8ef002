"""How the ranks of a distributed training end together: those left would wait for the others for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sim_rl_plugin import distributed
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.ranks import Place
from sim_rl_plugin.runners.stop_signal import StopSignal
from sim_rl_plugin.watchdog import watched

_PATIENCE_S = 3.0


class Agreement:
    """What the ranks tell each other when an iteration ends; for a single process, what it knows itself."""

    def __init__(self, place: Place, device: str, hang_timeout_s: float | None) -> None:
        """Note whom to ask.

        Args:
            place: That of this rank.
            device: Where the questions travel.
            hang_timeout_s: How long a rank may stand still; None for ever.
        """
        self._place = place
        self._is_distributed = place.is_distributed
        self._device = device
        self._hang_timeout_s = hang_timeout_s
        self._failure: UserError | None = None

    @contextmanager
    def stop_signal(self) -> Iterator[StopSignal]:
        """Note signals that ask this rank to stop, and watch over all ranks meanwhile."""
        patience_s = _PATIENCE_S if self._is_distributed else 0.0
        with StopSignal(patience_s) as stop, watched(self._place, self._hang_timeout_s):
            yield stop

    def any(self, *flags: bool) -> list[bool]:
        """Return which flags are true on any rank."""
        return distributed.any_rank_each(list(flags), self._device) if self._is_distributed else list(flags)

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Keep what cannot be written for ``raise_together``; a single process raises it at once.

        Raises:
            UserError: In a single process.
        """
        try:
            yield
        except UserError as error:
            if not self._is_distributed:
                raise
            self._failure = error

    def raise_together(self, failure: UserError | None, ask: bool) -> None:
        """Raise a failure on every rank, if there is one on any.

        Args:
            failure: This rank's; what was noted comes first.
            ask: Whether the others may have one, the same on all ranks.

        Raises:
            UserError: This rank's own, or that of the first rank which has one.
        """
        failure, self._failure = self._failure or failure, None
        if self._is_distributed and ask:
            messages = distributed.of_all_ranks(None if failure is None else str(failure))
            message = next((text for text in messages if text is not None), None)
            failure = failure or (None if message is None else UserError(message))
        if failure is not None:
            raise failure
