"""Settings: typed, strict, frozen, and checked against the constructors that will get them."""

from sim_rl_plugin.config.loading import (
    check_classes,
    check_env_options,
    check_train_cfg,
    dump_config,
    known_env_options,
    load_config,
    on_task_settings,
    with_layer,
    with_overrides,
)
from sim_rl_plugin.config.schema import RunConfig
from sim_rl_plugin.config.signature import check_arguments

__all__ = [
    "RunConfig",
    "check_arguments",
    "check_classes",
    "check_env_options",
    "check_train_cfg",
    "dump_config",
    "known_env_options",
    "load_config",
    "on_task_settings",
    "with_layer",
    "with_overrides",
]
