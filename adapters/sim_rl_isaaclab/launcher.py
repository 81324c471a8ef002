"""The launcher of trainings in Isaac Lab in several processes, whose GPUs the simulator chooses.

Isaac Lab's ``AppLauncher`` starts each process's simulator, physics and renderer, on the GPU of its local rank
(``--distributed``). A renderer numbers GPUs in its own way, so none may be hidden from the process.
"""

from __future__ import annotations

import dataclasses
import os

from sim_rl_plugin.launchers import LaunchRequest, elastic, environment


def launch(request: LaunchRequest) -> int:
    """Run in the processes that are there, or in as many as are asked for, on a GPU each.

    Raises:
        UserError: See ``sim_rl_plugin.launchers``.
    """
    request = dataclasses.replace(request, pins_devices=False)
    start = environment if environment.describes_several(os.environ) else elastic
    return start.launch(request)
