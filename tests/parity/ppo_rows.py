"""The training dicts of PPO that are compared with rsl_rl."""

from __future__ import annotations

from typing import Any

import torch
from parity.harness import NUM_ACTIONS, Row
from tensordict import TensorDict

FEED_FORWARD: dict[str, Any] = {
    "class_name": "MLPModel",
    "hidden_dims": [32, 16],
    "activation": "elu",
    "obs_normalization": True,
}
GRU = {**FEED_FORWARD, "class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 12, "rnn_num_layers": 1}
LSTM = {**GRU, "rnn_type": "lstm"}
CNN = {
    **FEED_FORWARD,
    "class_name": "CNNModel",
    "cnn_cfg": {"output_channels": [4, 6], "kernel_size": [3, 3], "stride": [2, 1], "activation": "elu"},
}
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.8}
HETEROSCEDASTIC = {"class_name": "HeteroscedasticGaussianDistribution", "init_std": 0.8}
BETA = {"class_name": "BetaDistribution", "action_range": [-2.0, 2.0]}

BFLOAT16 = {"losses": 1e-3, "KL": 0.1, "later rollouts": 1e-2, "parameters": 5e-2}
BFLOAT16_REASON = "a difference in float32's last bit flips a rounding to bfloat16, which keeps 8 bits"


def training_dict(
    algorithm: dict[str, Any] | None = None,
    actor: dict[str, Any] | None = None,
    critic: dict[str, Any] | None = None,
    groups: dict[str, list[str]] | None = None,
    distribution: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "num_steps_per_env": 16,
        "obs_groups": groups or {"actor": ["policy"], "critic": ["policy", "privileged"]},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 3, **(algorithm or {})},
        "actor": {**(actor or FEED_FORWARD), "distribution_cfg": distribution or GAUSSIAN},
        "critic": dict(critic or FEED_FORWARD),
        "multi_gpu": None,
        **more,
    }


def mirrored(env: Any, obs: TensorDict | None, actions: torch.Tensor | None) -> tuple[Any, Any]:
    """Return a batch with one mirror image: every other entry changes its sign."""
    if obs is not None:
        groups = {name: torch.cat((value, value * _signs(value.shape[-1]))) for name, value in obs.items()}
        obs = TensorDict(groups, batch_size=[2 * obs.batch_size[0]])
    if actions is not None:
        actions = torch.cat((actions, actions * _signs(NUM_ACTIONS)))
    return obs, actions


def mirrored_twice(env: Any, obs: TensorDict | None, actions: torch.Tensor | None) -> tuple[Any, Any]:
    """Return a batch with three mirror images."""
    obs, actions = mirrored(env, obs, actions)
    if obs is not None:
        groups = {name: torch.cat((value, value.flip(-1))) for name, value in obs.items()}
        obs = TensorDict(groups, batch_size=[2 * obs.batch_size[0]])
    return obs, None if actions is None else torch.cat((actions, actions.flip(-1)))


def _signs(size: int) -> torch.Tensor:
    return 1.0 - 2.0 * (torch.arange(size) % 2)


def step_shared_once(theirs: Any) -> None:
    """Rebuild the reference's optimizer with every parameter once; what it has learned so far stays."""
    before = theirs.optimizer
    group = before.param_groups[0]
    theirs.optimizer = type(before)(list(dict.fromkeys(group["params"])), lr=group["lr"])
    theirs.optimizer.state.update(before.state)


def _mlp_rows() -> list[Row]:
    rows = {
        "MLP, defaults": {},
        "fixed schedule": {"schedule": "fixed"},
        "no desired KL": {"desired_kl": None},
        "plain value loss": {"use_clipped_value_loss": False},
        "advantages per mini-batch": {"normalize_advantage_per_mini_batch": True},
        "AdamW": {"optimizer": "adamw"},
        "SGD": {"optimizer": "sgd", "learning_rate": 1e-2},
        "RMSprop": {"optimizer": "rmsprop"},
        "uneven mini-batches": {"num_mini_batches": 7},
        "one mini-batch": {"num_mini_batches": 1},
        "other weights": {
            "gamma": 0.9, "lam": 0.8, "clip_param": 0.1, "entropy_coef": 0.05, "value_loss_coef": 0.5,
            "max_grad_norm": 0.1, "desired_kl": 0.02,
        },
    }  # fmt: skip
    found = [Row(name, "MLP", training_dict(algorithm)) for name, algorithm in rows.items()]
    plain = {**FEED_FORWARD, "obs_normalization": False, "activation": "tanh", "hidden_dims": [16]}
    found.append(Row("no observation normalisation", "MLP", training_dict(actor=plain, critic=plain)))
    mixed = training_dict({"use_mixed_precision": True})
    found.append(Row("mixed precision", "MLP", mixed, tolerances=BFLOAT16, reason=BFLOAT16_REASON))
    return found


def _distribution_rows() -> list[Row]:
    kinds = {
        "Gaussian, log": {**GAUSSIAN, "std_type": "log"},
        "Gaussian, constant": {**GAUSSIAN, "learn_std": False},
        "Gaussian, narrow range": {**GAUSSIAN, "std_range": [0.7, 0.79]},
        "heteroscedastic": HETEROSCEDASTIC,
        "heteroscedastic, log": {**HETEROSCEDASTIC, "std_type": "log"},
        "Beta": BETA,
    }
    return [Row(name, "distributions", training_dict(distribution=kind)) for name, kind in kinds.items()]


def _recurrent_rows() -> list[Row]:
    both = [
        ("GRU", GRU, GRU, {}),
        ("GRU, 2 layers", {**GRU, "rnn_num_layers": 2}, {**GRU, "rnn_num_layers": 2}, {}),
        ("LSTM", LSTM, LSTM, {}),
        ("LSTM, 2 layers", {**LSTM, "rnn_num_layers": 2}, {**LSTM, "rnn_num_layers": 2}, {}),
        ("GRU actor, LSTM critic", GRU, LSTM, {}),
        ("GRU actor, MLP critic", GRU, FEED_FORWARD, {}),
        ("MLP actor, LSTM critic", FEED_FORWARD, LSTM, {}),
        ("GRU, uneven mini-batches", GRU, GRU, {"num_mini_batches": 5}),
        ("LSTM, advantages per mini-batch", LSTM, LSTM, {"normalize_advantage_per_mini_batch": True}),
        ("GRU, plain value loss, fixed", GRU, GRU, {"use_clipped_value_loss": False, "schedule": "fixed"}),
    ]
    found = [Row(name, "recurrent", training_dict(more, actor, critic)) for name, actor, critic, more in both]
    plain = {**GRU, "obs_normalization": False}
    found.append(Row("GRU, no normalisation", "recurrent", training_dict(actor=plain, critic=plain)))
    wide = training_dict(actor=GRU, critic=GRU, distribution=HETEROSCEDASTIC)
    found.append(Row("GRU, heteroscedastic", "recurrent", wide))
    mixed = training_dict({"use_mixed_precision": True}, GRU, GRU)
    found.append(Row("GRU, mixed precision", "recurrent", mixed, tolerances=BFLOAT16, reason=BFLOAT16_REASON))
    return found


def _cnn_rows() -> list[Row]:
    one = {"actor": ["camera"], "critic": ["camera"]}
    two = {"actor": ["camera", "depth"], "critic": ["depth", "camera"]}
    mixed = {"actor": ["policy", "camera"], "critic": ["camera", "policy", "privileged"]}
    basic = CNN["cnn_cfg"]

    def row(name: str, groups: dict[str, list[str]], cnn_cfg: dict[str, Any], **more: Any) -> Row:
        # rsl_rl cannot normalise where there is nothing flat to normalise.
        flat = any(group in ("policy", "privileged") for group in groups["actor"])
        model = {**CNN, "cnn_cfg": cnn_cfg, "obs_normalization": flat}
        cfg = training_dict({"num_learning_epochs": 2, **more.pop("algorithm", {})}, model, model, groups)
        return Row(name, "CNN", cfg, **more)

    per_group = {
        "camera": {"output_channels": [4], "kernel_size": 3, "padding": "zeros"},
        "depth": {"output_channels": [3, 5], "kernel_size": [3, 2], "dilation": [2, 1]},
    }
    shared = {
        "algorithm": {"share_cnn_encoders": True},
        "adjust_reference": step_shared_once,
        "reason": "shared encoders are stepped once here, twice in rsl_rl: its optimizer was rebuilt with each "
        "parameter once",
    }
    return [
        row("CNN, one image group", one, basic),
        row("CNN, two image groups", two, basic),
        row("CNN, flat and image groups", mixed, basic),
        row("CNN, settings per group", two, per_group),
        row("CNN, batch normalisation, SGD", mixed, {**basic, "norm": "batch"}, algorithm={"optimizer": "sgd"}),
        row(
            "CNN, batch normalisation, Adam",
            mixed,
            {**basic, "norm": "batch"},
            tolerances={"parameters": 5e-2, "statistics": 5e-2},
            reason="a bias in front of a batch normalisation has no effect, so its gradient is rounding alone, which "
            "Adam scales up to whole steps",
        ),
        row("CNN, layer normalisation", mixed, {**basic, "norm": ["layer", "none"]}),
        row("CNN, max pooling, reflected", one, {**basic, "max_pool": [True, False], "padding": "reflect"}),
        row("CNN, global average, circular", one, {**basic, "global_pool": "avg", "padding": "circular"}),
        row("CNN, global maximum, replicated", one, {**basic, "global_pool": "max", "padding": "replicate"}),
        row(
            "CNN, shared encoders", {"actor": ["policy", "camera"], "critic": ["privileged", "camera"]}, basic, **shared
        ),
    ]


def rnd_cfg(**more: Any) -> dict[str, Any]:
    networks = {"num_outputs": 3, "predictor_hidden_dims": [16], "target_hidden_dims": [16], "learning_rate": 1e-2}
    return {**networks, "weight": 25.0, **more}


def _rnd_rows() -> list[Row]:
    groups = {"actor": ["policy"], "critic": ["policy", "privileged"], "rnd_state": ["state", "policy"]}
    both = {"state_normalization": True, "reward_normalization": True}
    step = {"mode": "step", "final_step": 20, "final_value": 0.1}
    linear = {"mode": "linear", "initial_step": 10, "final_step": 40, "final_value": 0.05}
    kinds = {
        "RND": {},
        "RND, states normalised": {"state_normalization": True},
        "RND, rewards normalised": {"reward_normalization": True},
        "RND, both normalised": both,
        "RND, constant schedule": {**both, "weight_schedule": {"mode": "constant"}},
        "RND, step schedule": {**both, "weight_schedule": step},
        "RND, linear schedule": {**both, "weight_schedule": linear},
    }
    rows = [
        Row(name, "RND", training_dict({"rnd_cfg": rnd_cfg(**kind)}, groups=groups)) for name, kind in kinds.items()
    ]
    recurrent = training_dict({"rnd_cfg": rnd_cfg(**both)}, GRU, GRU, groups)
    rows.append(Row("RND with GRU", "RND", recurrent))
    return rows


def _symmetry_rows() -> list[Row]:
    uses = {
        "symmetry, augmentation": {"use_data_augmentation": True},
        "symmetry, mirror loss": {"use_mirror_loss": True, "mirror_loss_coeff": 0.5},
        "symmetry, both": {"use_data_augmentation": True, "use_mirror_loss": True, "mirror_loss_coeff": 0.5},
        "symmetry, logged only": {},
    }
    rows = []
    for name, use in uses.items():
        cfg = {"data_augmentation_func": mirrored, **use}
        rows.append(Row(name, "symmetry", training_dict({"symmetry_cfg": cfg}, distribution=HETEROSCEDASTIC)))
    several = {"data_augmentation_func": mirrored_twice, **uses["symmetry, both"]}
    rows.append(Row("symmetry, three images", "symmetry", training_dict({"symmetry_cfg": several})))
    groups = {"actor": ["policy"], "critic": ["privileged"], "rnd_state": ["state"]}
    with_rnd = {"symmetry_cfg": {"data_augmentation_func": mirrored, **uses["symmetry, both"]}, "rnd_cfg": rnd_cfg()}
    per_batch = {**with_rnd, "normalize_advantage_per_mini_batch": True}
    rows.append(Row("symmetry with RND", "symmetry", training_dict(per_batch, groups=groups)))
    return rows


COMPILED = Row(
    "MLP, compiled", "compiled", training_dict(torch_compile_mode="default"), updates=2, also_deferred=False,
    reference_changes={"torch_compile_mode": None},
    reason="ours compiled, rsl_rl's not; random numbers as in eager mode (`fallback_random` of torch's compiler)",
)  # fmt: skip
ROWS = {
    row.name: row
    for rows in (
        _mlp_rows(), _distribution_rows(), _recurrent_rows(), _cnn_rows(), _rnd_rows(), _symmetry_rows(), [COMPILED],
    )
    for row in rows
}  # fmt: skip
