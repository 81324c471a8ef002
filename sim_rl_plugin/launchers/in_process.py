"""The launcher that starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim_rl_plugin.launchers.request import LaunchRequest


def launch(request: LaunchRequest) -> int:
    """Run in this process, the only one."""
    return request.run()
