"""Small training dicts that tests share."""


def ppo_cfg(**algorithm) -> dict:
    """Return a small rsl_rl-style training dict for ``PointEnv``, with changes to its algorithm."""
    model = {"class_name": "MLPModel", "hidden_dims": [32, 32], "activation": "elu", "obs_normalization": True}
    return {
        "seed": 1,
        "num_steps_per_env": 16,
        "max_iterations": 10,
        "save_interval": 5,
        "obs_groups": {"actor": ["policy"], "critic": ["policy", "critic"]},
        "logger": ["csv"],
        "console": False,
        "algorithm": {"class_name": "PPO", **algorithm},
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.5}},
        "critic": dict(model),
    }
