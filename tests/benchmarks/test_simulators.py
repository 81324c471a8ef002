"""The benchmark of the defaults trains as `sim-rl train` does, and judges what came out as its page says."""

import dataclasses
import sys
from pathlib import Path

from sim_rl_plugin.config import load_config
from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, evaluate
from sim_rl_plugin.simulation import open_env
from sim_rl_plugin.training import train_to_the_end

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import simulators

SHORT = simulators.Run("mujoco", "Reacher", "", 0.0, iterations=4, evaluate_every=2, episodes=8)


def curve_of(*returns: float) -> simulators.Curve:
    return {"iterations": [10.0 * index for index in range(len(returns))], "mean_return": list(returns)}


def test_its_training_is_that_of_the_command_though_it_evaluates_on_the_way(tmp_path: Path):
    config, curve = simulators.train_ours(SHORT, seed=3)
    assert curve["iterations"] == [2, 4] and curve["env_steps"][-1] == 4 * config["num_envs"] * 32
    settings = load_config("mujoco", "Reacher", None, [], {"seed": 3, "max_iterations": 4})
    assert settings.to_dict() == config
    outcome = train_to_the_end(settings, "cpu", lambda: tmp_path)
    with open_env(settings, device="cpu", num_envs=8, seed=3 + EVALUATION_SEED_OFFSET) as env:
        result = evaluate(outcome.policy, env, 8)
    assert round(result.mean, 2) == curve["mean_return"][-1] != curve["mean_return"][0]


def test_a_training_ends_at_the_target_where_the_run_says_so():
    run = dataclasses.replace(SHORT, target=-1e6, stops_at_target=True)
    assert simulators.train_ours(run, seed=3)[1]["iterations"] == [2]


def test_a_target_holds_if_the_last_policy_of_every_seed_has_it():
    run = dataclasses.replace(SHORT, target=5.0)
    results = simulators.summary(run, {"sim-rl": [curve_of(1, 6, 5), curve_of(5, 6, 4)]})
    assert not results["holds"] and results["final"] == {"sim-rl": [5, 4]}
    assert [point["iterations"] for point in results["reached"]["sim-rl"]] == [10, 0]
    assert simulators.summary(run, {"sim-rl": [curve_of(1, 6, 5)]})["holds"]


def test_the_target_beside_a_peer_is_its_mean_final_return():
    run = dataclasses.replace(SHORT, target=None, learners=("sim-rl", "mjlab"))
    peer = [curve_of(1, 90), curve_of(1, 110)]
    results = simulators.summary(run, {"sim-rl": [curve_of(99, 97.9)], "mjlab": peer})
    assert results["target"] == 98 and not results["holds"]
    assert simulators.summary(run, {"sim-rl": [curve_of(0, 98)], "mjlab": peer})["holds"]
