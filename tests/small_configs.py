"""Small training dicts and an environment with images that tests share."""

import copy

import torch
from tensordict import TensorDict

from sim_rl_plugin.testing import PointEnv

GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.5}
MLP = {"class_name": "MLPModel", "hidden_dims": [32, 32], "activation": "elu", "obs_normalization": True}
GRU = {"class_name": "RNNModel", "hidden_dims": [16], "rnn_type": "gru", "rnn_hidden_dim": 8, "obs_normalization": True}
CNN = {
    "class_name": "CNNModel", "hidden_dims": [16], "obs_normalization": True,
    "cnn_cfg": {"output_channels": [4, 4], "kernel_size": 3, "stride": 2},
}  # fmt: skip


def ppo_cfg(**algorithm) -> dict:
    """Return a small rsl_rl-style training dict for ``PointEnv``, with changes to its algorithm."""
    return {
        "seed": 1,
        "num_steps_per_env": 16,
        "max_iterations": 10,
        "save_interval": 5,
        "obs_groups": {"actor": ["policy"], "critic": ["policy", "critic"]},
        "logger": ["csv"],
        "console": False,
        "algorithm": {"class_name": "PPO", **algorithm},
        "actor": {**MLP, "distribution_cfg": dict(GAUSSIAN)},
        "critic": dict(MLP),
    }


def ppo_cfg_with(model: dict, **algorithm) -> dict:
    """Return ``ppo_cfg`` with another model for actor and critic, and fewer, larger updates."""
    cfg = ppo_cfg(num_learning_epochs=2, num_mini_batches=2, **algorithm)
    cfg["actor"] = {**copy.deepcopy(model), "distribution_cfg": dict(GAUSSIAN)}
    cfg["critic"] = copy.deepcopy(model)
    cfg["num_steps_per_env"] = 8
    if model["class_name"] == "CNNModel":
        cfg["obs_groups"] = {"actor": ["policy", "camera", "depth"], "critic": ["camera", "critic", "depth"]}
    return cfg


def distillation_cfg(student: dict = MLP, teacher: dict = MLP, **algorithm) -> dict:
    """Return a small training dict in which a student that sees ``policy`` imitates a teacher that sees it, too."""
    return {
        "class_name": "DistillationRunner",
        "num_steps_per_env": 8,
        "save_interval": 100,
        "obs_groups": {"student": ["policy"], "teacher": ["policy"]},
        "logger": ["csv"],
        "console": False,
        "algorithm": {"class_name": "Distillation", "gradient_length": 4, **algorithm},
        "student": {**copy.deepcopy(student), "distribution_cfg": {**GAUSSIAN, "init_std": 0.1}},
        "teacher": {**copy.deepcopy(teacher), "distribution_cfg": dict(GAUSSIAN)},
    }


class CameraEnv(PointEnv):
    """``PointEnv`` with images: ``camera``, two channels of bytes, and ``depth``, one of floats."""

    def get_observations(self) -> TensorDict:
        groups = dict(super().get_observations().items())
        position = self.position[..., None, None]
        rows = torch.linspace(0.0, 1.0, 12).view(1, 1, 12, 1)
        groups["camera"] = ((position + 2.0) * 60.0 * rows).clamp(0, 255).to(torch.uint8).expand(-1, -1, -1, 10)
        groups["depth"] = position[:, :1].expand(-1, -1, 9, 9)
        return TensorDict(groups, batch_size=[self.num_envs]).contiguous()


def mirror(env, obs, actions):
    """Reflect points at the origin: every observation and every action changes its sign."""
    if obs is not None:
        mirrored = TensorDict({key: -value for key, value in obs.items()}, batch_size=obs.batch_size)
        obs = torch.cat((obs, mirrored))
    return obs, None if actions is None else torch.cat((actions, -actions))
