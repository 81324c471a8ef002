"""mjlab's training settings in our shape, and back; pure functions of plain dicts."""

from __future__ import annotations

import copy
from typing import Any

RUNNER = "MjlabRunner"
"""Name of our runner for mjlab's tasks."""

SUFFIX = "-SimRl"
"""What the ids of mjlab's tasks end with when mjlab itself trains them with our runner."""

_OPTIONAL_MODEL_KEYS = ("cnn_cfg", "distribution_cfg")
_RNN_KEYS = ("rnn_type", "rnn_hidden_dim", "rnn_num_layers")
_MODELS = ("actor", "critic", "student", "teacher")
_THEIR_SPATIAL_SOFTMAX = "mjlab.rl.spatial_softmax:SpatialSoftmaxCNNModel"

# What mjlab's scripts keep beside the settings: where they log, what they resume, what they upload.
_OF_THEIR_SCRIPTS = (
    "experiment_name",
    "load_checkpoint",
    "load_run",
    "logger",
    "resume",
    "run_name",
    "upload_model",
    "wandb_project",
    "wandb_tags",
)


def without_unset(train_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return a training dict of mjlab's without the model settings that nobody made.

    ``asdict`` of mjlab's dataclasses writes every field out: ``cnn_cfg: None`` for a perceptron, whose
    constructor has no such parameter, and the size of a recurrent network where there is none
    (``rnn_type: None``). Its own model class for cameras is exchanged for ours of the same parameters,
    because it is built on rsl_rl's base class.

    Args:
        train_cfg: The dict; not modified.
    """
    cleaned = copy.deepcopy(train_cfg)
    for section in _MODELS:
        model = cleaned.get(section)
        if not isinstance(model, dict):
            continue
        for key in _OPTIONAL_MODEL_KEYS:
            if model.get(key) is None:
                model.pop(key, None)
        if model.get("rnn_type") is None:
            for key in _RNN_KEYS:
                model.pop(key, None)
        if model.get("class_name") == _THEIR_SPATIAL_SOFTMAX:
            model["class_name"] = "SpatialSoftmaxCNNModel"
    return cleaned


def as_run_settings(rl_cfg: dict[str, Any], num_envs: int | None) -> dict[str, Any]:
    """Return the layer of settings that a task's ``rl_cfg`` means for ``sim-rl train``.

    Args:
        rl_cfg: ``asdict`` of the task's ``RslRlOnPolicyRunnerCfg``; not modified.
        num_envs: Number of environments; None leaves it open.

    Returns:
        Settings for ``sim_rl_default_config``: what the algorithm reads, without the logger (mjlab's
        default is Weights & Biases, which wants an account) and without what is for mjlab's scripts.
    """
    settings = {key: value for key, value in without_unset(rl_cfg).items() if key not in _OF_THEIR_SCRIPTS}
    if settings.get("class_name", "OnPolicyRunner") in ("OnPolicyRunner", "MjlabOnPolicyRunner"):
        settings["class_name"] = RUNNER
    if num_envs is not None:
        settings["num_envs"] = num_envs
    return settings
