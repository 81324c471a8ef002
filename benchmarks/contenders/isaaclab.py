"""Isaac Lab 3 with Newton's physics on the CPU: its environments, its wrapper for rsl_rl, and our adapter.

The tasks are its own cart-poles with the robot file of our tests. One environment serves all contenders, since
a process has one simulation. The step of the wrapper is the same text in 2.3.2 and 3.0.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from contenders import Contender, OurHandOver, RslRlHandOver, nothing

sys.path.append(str(Path(__file__).parents[2] / "tests" / "adapters" / "isaaclab"))
import isaaclab_stubs

if isaaclab_stubs.generation() != 3:
    sys.exit("ISAACLAB_PATH names no Isaac Lab 3")
isaaclab_stubs.make_importable()

TASKS = {"newton_cartpole:Newton-Cartpole-Direct": 256, "newton_cartpole:Newton-Cartpole-Manager": 256}
PEER = "Isaac Lab's RslRlVecEnvWrapper"
PACKAGES = ("isaaclab", "newton", "mujoco-warp", "warp-lang", "torch", "tensordict", "gymnasium", "rsl-rl-lib")

# Nobody shall fall over where no episode is to end.
_UPRIGHT = {"Direct": ["env.sim.gravity=[0.0,0.0,0.0]"], "Manager": ["env.terminations.cart_out_of_bounds=null"]}


@contextmanager
def open_contenders(task: str, num_envs: int, frozen: bool) -> Iterator[dict[str, Contender]]:
    """Open the environment, wrapped in each way."""
    from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper
    from sim_rl_isaaclab.open import open_task
    from sim_rl_isaaclab.vec_env import IsaacLabVecEnv

    overrides = _UPRIGHT[task.rpartition("-")[2]]
    with open_task(task, num_envs=num_envs, device="cpu", overrides=overrides) as opened:
        env = opened.env
        base = env.unwrapped
        theirs, ours = RslRlVecEnvWrapper(env), IsaacLabVecEnv(env)
        actions = torch.zeros(num_envs, ours.num_actions)

        def contender(wrapped: Any, hand_over: Any, final_obs: bool = False) -> Contender:
            def let_end(number: int) -> None:
                base.cfg.compute_final_obs = final_obs
                base.episode_length_buf.fill_(0)
                base.episode_length_buf[:number] = base.max_episode_length - 1

            return Contender(lambda: wrapped.step(actions), let_end, hand_over)

        contenders = {
            "bare Isaac Lab": contender(env, nothing),
            PEER: contender(theirs, RslRlHandOver()),
            "ours": contender(ours, OurHandOver()),
        }
        if frozen:
            contenders["ours"].let_end(0)
            result = base.step(actions)
            base.step = lambda actions: result
        else:
            contenders["ours with final_obs"] = contender(ours, OurHandOver(), final_obs=True)
        yield contenders
