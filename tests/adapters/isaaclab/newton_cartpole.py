"""Isaac Lab 3's own cart-pole tasks with a robot that lies beside this file, instead of one on its server."""

from pathlib import Path
from typing import Any

import gymnasium
from isaaclab.envs.mdp import UniformVelocityCommandCfg
from isaaclab.utils import configclass
from isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg import CartpoleDirectPPORunnerCfg
from isaaclab_tasks.core.cartpole.cartpole_direct_env_cfg import CartpoleEnvCfg
from isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg import CartpoleEnvCfg as CartpoleManagerEnvCfg

_ROBOT = str(Path(__file__).with_suffix(".usda"))


def _with_own_robot(cfg: Any) -> None:
    cfg.scene.num_envs = 64
    cfg.scene.ground = None
    robot = cfg.scene.cartpole if hasattr(cfg.scene, "cartpole") else cfg.scene.robot
    robot.spawn.usd_path = _ROBOT


@configclass
class Direct(CartpoleEnvCfg):
    """The ``DirectRLEnv``, with short episodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _with_own_robot(self)
        self.episode_length_s = 0.5


@configclass
class Manager(CartpoleManagerEnvCfg):
    """The ``ManagerBasedRLEnv``, with short episodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _with_own_robot(self)
        self.episode_length_s = 0.5


@configclass
class Commands:
    """A velocity that a cart cannot follow; drawn anew in every third step."""

    twist = UniformVelocityCommandCfg(
        asset_name="robot",
        resampling_time_range=(0.05, 0.05),
        ranges=UniformVelocityCommandCfg.Ranges(lin_vel_x=(-1.0, 2.0), lin_vel_y=(0.0, 1.0), ang_vel_z=(-3.0, 3.0)),
    )


@configclass
class Commanded(Manager):
    """The ``ManagerBasedRLEnv`` with a command manager."""

    commands: Commands = Commands()


@configclass
class Agent(CartpoleDirectPPORunnerCfg):
    """Isaac Lab's own settings, for fewer iterations."""

    max_iterations = 3


for _name, _env, _cfg in (
    ("Direct", "isaaclab_tasks.core.cartpole.cartpole_direct_env:CartpoleEnv", Direct),
    ("Manager", "isaaclab.envs:ManagerBasedRLEnv", Manager),
    ("Commanded", "isaaclab.envs:ManagerBasedRLEnv", Commanded),
):
    gymnasium.register(
        id=f"Newton-Cartpole-{_name}",
        entry_point=_env,
        disable_env_checker=True,
        kwargs={"env_cfg_entry_point": _cfg, "rsl_rl_cfg_entry_point": Agent},
    )
