"""Train the quadrotor: the environment is handed over as it is."""

from planar_quadrotor import PlanarQuadrotor

from sim_rl_plugin.runners import OnPolicyRunner

TRAIN_CFG = {
    "num_steps_per_env": 24,
    "algorithm": {"class_name": "PPO", "entropy_coef": 0.0},
    "actor": {
        "class_name": "MLPModel",
        "hidden_dims": [64, 64],
        "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.6},
    },
    "critic": {"class_name": "MLPModel", "hidden_dims": [64, 64]},
}


def main(num_iterations: int = 100, num_envs: int = 512, log_dir: str | None = "runs/planar_quadrotor"):
    """Train, and return the runner."""
    runner = OnPolicyRunner(PlanarQuadrotor(num_envs), TRAIN_CFG, log_dir=log_dir)
    runner.learn(num_iterations, init_at_random_ep_len=True)
    return runner


if __name__ == "__main__":
    main()
