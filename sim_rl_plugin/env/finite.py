"""Finding NaN and infinity in what an environment returns."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError


def check_nan(obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor) -> None:
    """Raise if one step holds a NaN or an infinity; waits for the device.

    Raises:
        ValueError: Names the part and the environments.
    """
    for name, tensor in _parts(obs, rewards, dones):
        bad = ~torch.isfinite(tensor).reshape(tensor.shape[0], -1).all(dim=1)
        if bad.any():
            environments = bad.nonzero().squeeze(-1).tolist()
            shown = ", ".join(map(str, environments[:8])) + (", ..." if len(environments) > 8 else "")
            raise UserError(f"the environment returned NaN or infinity in {name}, environments {shown}")


class FiniteWatch:
    """Notices NaN and infinity over many steps without waiting for the device.

    A sum is not finite as soon as one of its terms is not, so one running sum per part is enough.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor) -> None:
        """Look at one step."""
        for name, tensor in _parts(obs, rewards, dones):
            self._add(name, tensor)

    def add_observations(self, obs: TensorDict, what: str) -> None:
        """Look at further observations, called ``what`` in messages."""
        for key, tensor in obs.items():
            if tensor.dtype.is_floating_point:
                self._add(f"{what} {key!r}", tensor)

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        total = tensor.sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total

    def check(self) -> None:
        """Raise if any step since the last call held a NaN or an infinity; waits for the device.

        Raises:
            ValueError: Names the parts.
        """
        sums, self._sums = self._sums, {}
        if not sums:
            return
        finite = torch.isfinite(torch.stack(list(sums.values()))).tolist()
        bad = [name for name, is_finite in zip(sums, finite, strict=True) if not is_finite]
        if bad:
            raise UserError(
                f"the environment returned NaN or infinity in {', '.join(bad)} during the last rollout; "
                "the policy was not updated with it"
            )


def _parts(obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return the floating-point parts of a step under the names that messages use."""
    parts = [(f"observation group {key!r}", value) for key, value in obs.items()]
    parts += [("rewards", rewards), ("dones", dones)]
    return [(name, tensor) for name, tensor in parts if tensor.dtype.is_floating_point]
