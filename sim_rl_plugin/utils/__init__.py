"""The helper names that code written against rsl_rl imports; each lives in the room it belongs to."""

from sim_rl_plugin.algorithms.optimizer import resolve_optimizer
from sim_rl_plugin.distributed import reduce_gradients_in_buckets
from sim_rl_plugin.env.finite import check_nan
from sim_rl_plugin.logging.log_writer import LogWriter
from sim_rl_plugin.logging.neptune import NeptuneLogWriter
from sim_rl_plugin.logging.wandb import WandbLogWriter
from sim_rl_plugin.models.compilation import compile_model
from sim_rl_plugin.models.observation_sets import resolve_obs_groups
from sim_rl_plugin.modules.activation import resolve_nn_activation
from sim_rl_plugin.modules.mlp import get_param
from sim_rl_plugin.modules.trajectories import split_and_pad_trajectories, unpad_trajectories
from sim_rl_plugin.registry import resolve_callable, resolve_class

__all__ = [
    "LogWriter",
    "NeptuneLogWriter",
    "WandbLogWriter",
    "check_nan",
    "compile_model",
    "get_param",
    "reduce_gradients_in_buckets",
    "resolve_callable",
    "resolve_class",
    "resolve_nn_activation",
    "resolve_obs_groups",
    "resolve_optimizer",
    "split_and_pad_trajectories",
    "unpad_trajectories",
]
