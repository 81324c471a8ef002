"""The training dicts of Distillation that are compared with rsl_rl."""

from __future__ import annotations

from typing import Any

from parity.harness import Row
from parity.ppo_rows import CNN, FEED_FORWARD, GAUSSIAN, GRU, LSTM

TEACHER = {**FEED_FORWARD, "obs_normalization": False}

MIXED_PRECISION: dict[str, Any] = {
    "tolerances": {"gradient": 1e-2, "losses": 1e-3, "later rollouts": 1e-2, "parameters": 5e-2},
    "reason": "all steps of a gradient are one pass here, whose sums are rounded to bfloat16 once and not step by step",
}


def distillation_dict(
    algorithm: dict[str, Any] | None = None,
    student: dict[str, Any] | None = None,
    teacher: dict[str, Any] | None = None,
    groups: dict[str, list[str]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    settings = {"class_name": "Distillation", "gradient_length": 4, "learning_rate": 3e-3, **(algorithm or {})}
    return {
        "num_steps_per_env": 16,
        "obs_groups": groups or {"student": ["policy"], "teacher": ["policy", "privileged"]},
        "algorithm": settings,
        # A distribution whose deviation gets no gradient would be a parameter that does not move.
        "student": {**(student or FEED_FORWARD), "distribution_cfg": {**GAUSSIAN, "learn_std": False}},
        "teacher": {**(teacher or TEACHER), "distribution_cfg": GAUSSIAN},
        "multi_gpu": None,
        **more,
    }


def _rows() -> list[Row]:
    kinds: dict[str, tuple[dict[str, Any], Any, Any]] = {
        "MLP student": ({}, FEED_FORWARD, TEACHER),
        "MLP student, Huber": ({"loss_type": "huber"}, FEED_FORWARD, TEACHER),
        "MLP student, 3 epochs": ({"num_learning_epochs": 3}, FEED_FORWARD, TEACHER),
        "MLP student, gradient norm": ({"max_grad_norm": 0.05}, FEED_FORWARD, TEACHER),
        "MLP student, not normalised": ({}, TEACHER, FEED_FORWARD),
        "MLP student, SGD": ({"optimizer": "sgd", "learning_rate": 0.1}, FEED_FORWARD, TEACHER),
        "gradient length 5 of 16": ({"gradient_length": 5}, FEED_FORWARD, TEACHER),
        "gradient length 24, 3 epochs": ({"gradient_length": 24, "num_learning_epochs": 3}, FEED_FORWARD, TEACHER),
        "GRU student": ({}, GRU, TEACHER),
        "GRU student, Huber": ({"loss_type": "huber"}, GRU, TEACHER),
        "GRU student, 2 layers, 2 epochs": ({"num_learning_epochs": 2}, {**GRU, "rnn_num_layers": 2}, TEACHER),
        "GRU student, gradient length 5": ({"gradient_length": 5, "max_grad_norm": 0.5}, GRU, TEACHER),
        "GRU student, gradient length 24": ({"gradient_length": 24, "num_learning_epochs": 3}, GRU, TEACHER),
        "LSTM student": ({}, LSTM, TEACHER),
        "LSTM student, gradient length 16": ({"gradient_length": 16, "num_learning_epochs": 2}, LSTM, TEACHER),
        "MLP student, GRU teacher": ({}, FEED_FORWARD, {**GRU, "obs_normalization": False}),
        "GRU student, LSTM teacher": ({}, GRU, {**LSTM, "rnn_num_layers": 2}),
        "MLP student, mixed precision": ({"use_mixed_precision": True}, FEED_FORWARD, TEACHER),
        "GRU student, mixed precision": ({"use_mixed_precision": True}, GRU, TEACHER),
    }
    rows = []
    for name, kind in kinds.items():
        more = MIXED_PRECISION if name == "MLP student, mixed precision" else {}
        rows.append(Row(name, "distillation", distillation_dict(*kind), also_deferred=False, **more))
    images = {"student": ["policy", "camera"], "teacher": ["privileged"]}
    cnn = distillation_dict({}, CNN, TEACHER, images)
    rows.append(Row("CNN student", "distillation", cnn, also_deferred=False))
    return rows


DISTILLATION_ROWS = {row.name: row for row in _rows()}
