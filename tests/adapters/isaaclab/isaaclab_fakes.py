"""Small packages on disk with the modules and functions of Isaac Lab that the adapter calls, and no more.

They fail as the real ones do: configurations of version 2 cannot be imported before the app runs.
"""

from __future__ import annotations

from pathlib import Path

_REGISTER = """
import gymnasium
for_agent = "isaaclab_tasks.agents"
gymnasium.register(id="Isaac-Point-v0", entry_point="isaaclab_tasks.env:StandInEnv", disable_env_checker=True, kwargs={
    "env_cfg_entry_point": "isaaclab_tasks.env:Cfg",
    "rsl_rl_cfg_entry_point": for_agent + ":Agent",
    "rsl_rl_other_cfg_entry_point": for_agent + ":Other",
})
gymnasium.register(id="Isaac-Bare-v0", entry_point="isaaclab_tasks.env:StandInEnv", disable_env_checker=True, kwargs={
    "env_cfg_entry_point": "isaaclab_tasks.env:Cfg",
})
gymnasium.register(id="Isaac-Ours-v0", entry_point="isaaclab_tasks.env:StandInEnv", disable_env_checker=True, kwargs={
    "env_cfg_entry_point": "isaaclab_tasks.env:Cfg",
    "rsl_rl_cfg_entry_point": for_agent + ":Agent",
    "sim_rl_cfg_entry_point": for_agent + ":Ours",
})
"""

_ENV = """
import importlib
from isaaclab_stand_in import StandInEnv as _StandInEnv, task_cfg
from isaaclab import journal

class StandInEnv(_StandInEnv):
    def __init__(self, cfg, render_mode=None, **kwargs):
        journal.add(f"env {cfg.scene.num_envs} {cfg.sim.device} seed {cfg.seed} final {cfg.compute_final_obs} "
                    f"steps {cfg.episode_steps} render {render_mode}")
        super().__init__(cfg, render_mode)

    def close(self):
        journal.add("close env")

def Cfg():
    cfg = task_cfg(COMPUTE_FINAL_OBS)
    cfg.scene.num_envs = 12
    return cfg
"""

_AGENTS = """
class _Base:
    def to_dict(self):
        return {
            "seed": 42, "device": "cuda:0", "num_steps_per_env": 4, "max_iterations": 2,
            "empirical_normalization": False,
            "obs_groups": {}, "clip_actions": 1.0, "save_interval": 50, "experiment_name": "point", "logger": "wandb",
            "resume": False, "load_run": ".*",
            "policy": {"class_name": "ActorCritic", "init_noise_std": 0.5, "actor_hidden_dims": [16],
                       "critic_hidden_dims": [16], "activation": "elu"},
            "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 1,
                          "learning_rate": self.rate},
        }

class Agent(_Base):
    rate = 0.001

class Other(_Base):
    rate = 0.002

def Ours():
    return {"num_steps_per_env": 4, "max_iterations": 3, "algorithm": {"learning_rate": 0.003}}
"""

_JOURNAL = """
import os
def add(line):
    with open(os.environ["ISAACLAB_JOURNAL"], "a") as file:
        file.write(line + "\\n")
"""

_HYDRA_COMMON = """
import gymnasium, importlib

def _load(task, key):
    module, _, name = gymnasium.registry[task].kwargs[key].partition(":")
    return getattr(importlib.import_module(module), name)()

def _apply(cfg, overrides):
    for text in overrides:
        path, _, value = text.partition("=")
        if not path.startswith("env.") or not hasattr(cfg, path[4:]):
            raise ValueError(f"no key {path}")
        setattr(cfg, path[4:], int(value))
"""

_LAUNCH_ARGUMENTS = """
def add_arguments(parser):
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--livestream", type=int, default=-1)
    parser.add_argument("--enable_cameras", action="store_true")
    parser.add_argument("--device", default="cuda:0")
"""

_APP_2 = (
    _LAUNCH_ARGUMENTS
    + """
import sys
from isaaclab import journal
running = False

class AppLauncher:
    add_app_launcher_args = staticmethod(add_arguments)

    def __init__(self, args):
        global running
        assert not running, "Isaac Sim starts once"
        assert "isaaclab_tasks" not in sys.modules, "too late"
        assert len(sys.argv) == 1, "Kit would read our arguments"
        running = True
        journal.add(f"start {args.device} headless {args.headless} cameras {args.enable_cameras} "
                    f"stream {args.livestream} distributed {args.distributed}")
        self.app = self

    def close(self):
        journal.add("close app")
"""
)

_APP_3 = (
    _LAUNCH_ARGUMENTS
    + """
import contextlib
from isaaclab import journal
add_launcher_args = add_arguments

def validate_launch(cfg, args):
    journal.add("validate")

@contextlib.contextmanager
def launch_simulation(cfg, args):
    assert cfg.scene.num_envs, "the configuration comes first"
    journal.add(f"start {args.device} headless {args.headless} cameras {args.enable_cameras} "
                f"stream {args.livestream} distributed {args.distributed}")
    yield
    journal.add("close app")
"""
)

_HYDRA_2 = (
    _HYDRA_COMMON
    + """
def replace_strings_with_env_cfg_spaces(cfg):
    return cfg

def register_task_to_hydra(task, key):
    return _load(task, "env_cfg_entry_point"), _load(task, key) if key else None
"""
)

_HYDRA_3 = (
    _HYDRA_COMMON
    + """
def resolve_task_config(task, key, overrides=None):
    cfg = _load(task, "env_cfg_entry_point")
    _apply(cfg, overrides)
    return cfg, _load(task, key) if key else None
"""
)


def write(folder: Path, generation: int) -> None:
    """Write ``isaaclab`` and ``isaaclab_tasks`` of a generation into a folder."""
    start = "from isaaclab import app\nassert app.running, 'Isaac Sim does not run'\n" if generation == 2 else ""
    final_obs = "" if generation == 2 else "compute_final_obs=False"
    env = _ENV.replace("COMPUTE_FINAL_OBS", final_obs)
    if generation == 2:
        env = env.replace(
            "    cfg.scene.num_envs = 12\n", "    cfg.scene.num_envs = 12\n    cfg.compute_final_obs = None\n"
        )
    files = {
        "isaaclab/__init__.py": "",
        "isaaclab/journal.py": _JOURNAL,
        "isaaclab/app.py": _APP_2 if generation == 2 else _APP_3,
        "isaaclab_tasks/__init__.py": start + _REGISTER,
        "isaaclab_tasks/env.py": env,
        "isaaclab_tasks/agents.py": _AGENTS,
        "isaaclab_tasks/utils/__init__.py": "",
        "isaaclab_tasks/utils/hydra.py": _HYDRA_2 if generation == 2 else _HYDRA_3,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
