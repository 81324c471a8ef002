"""Evaluation while training: it measures, keeps the best policy, and leaves no trace in the training."""

import copy
import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_configs import GRU, distillation_cfg, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.checkpoint import load_checkpoint
from sim_rl_plugin.checkpoint_manifest import read_manifest
from sim_rl_plugin.evaluation import RepeatedEvaluation, evaluate, seed_everything
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


class GlobalChanceEnv(PointEnv):
    """A ``PointEnv`` that draws from the generators of torch, numpy and Python in every step, as mjlab does."""

    def step(self, actions):
        noise = torch.randn(()) + np.random.randn() + random.gauss(0.0, 1.0)
        return super().step(actions + 0.1 * noise.float())


class ForgetfulEnv(PointEnv):
    """A ``PointEnv`` that cannot restore its state."""

    def state_dict(self):
        return None


def runner_of(cfg: dict, folder: Path | None = None, env_class: type = PointEnv, **evaluation) -> OnPolicyRunner:
    cfg = copy.deepcopy(cfg)
    if evaluation:
        cfg["evaluation"] = evaluation
    seed_everything(0)
    runner = OnPolicyRunner(env_class(), cfg, None if folder is None else str(folder))
    if evaluation:
        runner.evaluate_in(env_class(num_envs=evaluation.get("episodes", 10), seed=9))
    return runner


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def everything(runner: OnPolicyRunner) -> list[torch.Tensor]:
    """Return parameters, statistics and moments, and the next random numbers of each generator."""
    saved = runner.alg.save()
    moments = [value for state in saved["optimizer_state_dict"]["state"].values() for value in state.values()]
    models = [value for model in ("actor", "critic") for value in saved[f"{model}_state_dict"].values()]
    chance = [torch.rand(3), torch.tensor(np.random.rand(3)), torch.tensor([random.random()])]
    return models + moments + chance


TIMES = ("Perf/collection_time", "Perf/learning_time", "Perf/total_fps", "Perf/total_time_s")


@pytest.mark.parametrize("env_class", [PointEnv, GlobalChanceEnv, ForgetfulEnv])
@pytest.mark.parametrize("cfg", [ppo_cfg(), ppo_cfg_with(GRU)], ids=["MLP", "GRU"])
def test_a_training_is_the_same_bit_for_bit_with_and_without(tmp_path, cfg, env_class):
    runners = [
        runner_of(cfg, tmp_path / "without", env_class),
        runner_of(cfg, tmp_path / "with", env_class, every=2, episodes=3),
    ]
    results = []
    for runner in runners:
        seed_everything(1)
        runner.learn(5, init_at_random_ep_len=True)
        results.append(everything(runner))
    for without, with_evaluation in zip(*results, strict=True):
        assert torch.equal(without, with_evaluation)
    for without, with_evaluation in zip(rows(tmp_path / "without"), rows(tmp_path / "with"), strict=True):
        for tag in without.keys() - set(TIMES):
            assert without[tag] == with_evaluation[tag], tag


def test_what_is_measured_is_what_evaluate_finds(tmp_path):
    runner = runner_of(ppo_cfg(), tmp_path, every=2, episodes=6)
    runner.learn(5)
    table = rows(tmp_path)
    assert [row["Eval/mean_return"] != "" for row in table] == [False, True, False, True, False]
    contents = load_checkpoint(tmp_path / "model_best.pt")
    again = OnPolicyRunner(PointEnv(), ppo_cfg())
    again.load(str(tmp_path / "model_best.pt"))
    result = evaluate(again.get_inference_policy(), PointEnv(num_envs=6, seed=9), 6)
    evaluation = contents["sim_rl"]["evaluation"]
    assert evaluation["mean_return"] == result.mean
    row = table[evaluation["iteration"]]
    assert float(row["Eval/mean_return"]) == pytest.approx(result.mean)
    assert float(row["Eval/std_return"]) == pytest.approx(result.std)
    assert float(row["Eval/mean_episode_length"]) == result.mean_length
    assert float(row["Perf/evaluation_time"]) > 0.0


def test_two_evaluations_of_one_policy_meet_the_same_episodes():
    policy = OnPolicyRunner(PointEnv(), ppo_cfg()).get_inference_policy()
    for env_class in (PointEnv, GlobalChanceEnv):
        measure = RepeatedEvaluation(env_class(num_envs=4), 6, seed=3)
        assert measure(policy) == measure(policy)


def test_without_a_state_an_episode_in_progress_does_not_count():
    policy = OnPolicyRunner(PointEnv(), ppo_cfg()).get_inference_policy()
    env = ForgetfulEnv(num_envs=2, max_episode_length=8, terminate_at=None)
    measure = RepeatedEvaluation(env, 3, seed=3)
    assert measure(policy).lengths == (8, 8, 8)
    # One environment of two has had one episode and is in its second, the other in its third.
    env.episode_length_buf = torch.tensor([5, 2])
    assert measure(policy).lengths == (8, 8, 8)


def best_of(folder: Path) -> dict:
    manifest = read_manifest(folder / "model_best.pt")
    assert manifest is not None
    return manifest["evaluation"]


def scripted(runner: OnPolicyRunner, returns: list[float]) -> None:
    """Let evaluations find these mean returns, one after the other."""
    left = iter(returns)

    class Result:
        def __init__(self):
            self.mean, self.std, self.mean_length, self.returns = next(left), 0.0, 1.0, (0.0,)

    runner._evaluations._evaluate = lambda policy: Result()


def test_the_best_policy_is_kept_and_not_the_last(tmp_path):
    runner = runner_of(ppo_cfg(), tmp_path, every=1, episodes=2)
    scripted(runner, [1.0, 3.0, 2.0, 3.0])
    runner.learn(4)
    assert best_of(tmp_path) == {
        "iteration": 1, "episodes": 1, "mean_return": 3.0, "std_return": 0.0, "mean_episode_length": 1.0,
    }  # fmt: skip
    assert load_checkpoint(tmp_path / "model_best.pt")["sim_rl"]["completed_iterations"] == 2
    assert (read_manifest(tmp_path / "model_0.pt") or {})["evaluation"]["mean_return"] == 1.0


def test_the_best_is_not_kept_where_the_dict_says_so(tmp_path):
    runner = runner_of({**ppo_cfg(), "keep_checkpoints": {"best": False}}, tmp_path, every=1, episodes=2)
    runner.learn(2)
    assert not (tmp_path / "model_best.pt").exists()


def test_a_resumed_training_must_surpass_the_best_so_far(tmp_path):
    first = runner_of(ppo_cfg(), tmp_path, every=1, episodes=2)
    scripted(first, [1.0, 5.0, 2.0])
    first.learn(3)
    resumed = runner_of(ppo_cfg(), tmp_path, every=1, episodes=2)
    resumed.resume(str(tmp_path / "model_2.pt"))
    scripted(resumed, [4.0, 6.0, 5.5])
    resumed.learn(1)
    assert best_of(tmp_path)["mean_return"] == 5.0
    resumed.resume(str(tmp_path / "model_3.pt"))
    resumed.learn(2)
    assert (best_of(tmp_path)["mean_return"], best_of(tmp_path)["iteration"]) == (6.0, 4)


def test_a_damaged_best_is_told_and_the_next_evaluation_writes_one(tmp_path):
    first = runner_of(ppo_cfg(), tmp_path, every=1, episodes=2)
    scripted(first, [5.0])
    first.learn(1)
    content = (tmp_path / "model_best.pt").read_bytes()
    (tmp_path / "model_best.pt").write_bytes(content[:-1] + b"?")
    resumed = runner_of(ppo_cfg(), tmp_path, every=1, episodes=2)
    resumed.resume(str(tmp_path / "model_0.pt"))
    scripted(resumed, [4.0])
    with pytest.warns(UserWarning, match=r"the best policy so far is lost: the checkpoint .*model_best.pt is damaged"):
        resumed.learn(1)
    assert best_of(tmp_path)["mean_return"] == 4.0


def test_a_run_in_another_folder_begins_its_own_search(tmp_path):
    first = runner_of(ppo_cfg(), tmp_path / "first", every=1, episodes=2)
    scripted(first, [5.0])
    first.learn(1)
    second = runner_of(ppo_cfg(), tmp_path / "second", every=1, episodes=2)
    second.resume(str(tmp_path / "first" / "model_0.pt"))
    scripted(second, [4.0])
    second.learn(1)
    assert best_of(tmp_path / "second")["mean_return"] == 4.0


def test_a_training_ends_when_its_return_is_reached(tmp_path):
    runner = runner_of(ppo_cfg(), tmp_path, every=1, episodes=2, stop_at_return=4)
    scripted(runner, [1.0, 4.5, 9.0])
    runner.learn(10)
    assert runner.reached_return == 4.5
    assert runner.completed_iterations == 2
    assert load_checkpoint(tmp_path / "model_1.pt")["sim_rl"]["reached_return"] == 4.5
    assert best_of(tmp_path)["iteration"] == 1


def test_an_evaluation_that_fails_does_not_end_the_training(tmp_path):
    class EndlessEnv(PointEnv):
        def step(self, actions):
            obs, rewards, dones, extras = super().step(actions)
            return obs, rewards, torch.zeros_like(dones), extras

    runner = runner_of(ppo_cfg(), tmp_path, every=2, episodes=2)
    runner.evaluate_in(EndlessEnv(num_envs=2))
    with pytest.warns(UserWarning, match="iteration 1 was not evaluated: .* episodes do not end within"):
        runner.learn(2)
    assert runner.completed_iterations == 2
    assert runner.alg.actor.training
    assert "Eval/mean_return" not in rows(tmp_path)[-1]


def test_a_student_is_evaluated_too(tmp_path):
    teacher = OnPolicyRunner(PointEnv(), ppo_cfg(), str(tmp_path / "teacher"))
    teacher.learn(1)
    cfg = {**distillation_cfg(), "init_from": str(tmp_path / "teacher")}
    cfg["obs_groups"] = {"student": ["policy"], "teacher": ["policy"]}
    runner_of(cfg, tmp_path / "student", every=1, episodes=2).learn(2)
    assert best_of(tmp_path / "student")["episodes"] == 2


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"every": -1}, r"evaluation.every: expected 0 or more, found -1"),
        ({"every": 5, "episodes": 0}, r"evaluation.episodes: expected 1 or more, found 0"),
        ({"evry": 5}, r"unknown key 'evaluation.evry': did you mean 'evaluation.every'\?"),
        ({"stop_at_return": 5.0}, r"evaluation.stop_at_return: nothing is evaluated while training"),
        ({"every": 5, "stop_at_return": float("nan")}, r"evaluation.stop_at_return: expected a number that is finite"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(evaluation: dict, message: str):
    with pytest.raises(ValueError, match=message):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "evaluation": evaluation})


def test_evaluations_need_environments_of_their_own():
    runner = OnPolicyRunner(PointEnv(), {**ppo_cfg(), "evaluation": {"every": 5}})
    with pytest.raises(ValueError, match=r"evaluation.every: there are no environments .*: call runner.evaluate_in"):
        runner.learn(1)


def test_a_training_ends_on_a_plateau(tmp_path):
    runner = runner_of(ppo_cfg(), tmp_path, every=2, episodes=2, patience=3, min_improvement=0.5)
    # 1.4 and 1.5 are no improvement on 1 by more than 0.5, 1.6 is; 2.0, 1.9 and 2.1 are none on that.
    scripted(runner, [1.0, 1.4, 1.5, 1.6, 2.0, 1.9, 2.1, 9.0])
    runner.learn(99)
    assert (runner.on_plateau, runner.reached_return) == (True, None)
    assert runner.completed_iterations == 14
    # The best is the best, by however little.
    assert best_of(tmp_path)["mean_return"] == 2.1
    assert load_checkpoint(tmp_path / "model_13.pt")["sim_rl"]["evaluations"]["waited"] == 3


def test_without_patience_nothing_ends(tmp_path):
    runner = runner_of(ppo_cfg(), tmp_path, every=1, episodes=2)
    scripted(runner, [1.0] * 6)
    runner.learn(6)
    assert not runner.on_plateau and runner.completed_iterations == 6


def test_the_wait_for_an_improvement_goes_on_where_it_was_cut_off(tmp_path):
    returns = [1.0, 0.5, 0.7, 3.0, 2.0, 2.5, 2.9, 2.9, 2.9]
    for stop in range(1, 8):
        folder = tmp_path / str(stop)
        runner = runner_of(ppo_cfg(), folder, every=1, episodes=2, patience=4)
        scripted(runner, returns)
        runner.learn(stop)
        resumed = runner_of(ppo_cfg(), folder, every=1, episodes=2, patience=4)
        resumed.resume(str(folder / f"model_{stop - 1}.pt"))
        scripted(resumed, returns[stop:])
        resumed.learn(99)
        # 3.0 in the fourth evaluation, and four more.
        assert (resumed.on_plateau, resumed.completed_iterations) == (True, 8)
        assert best_of(folder)["iteration"] == 3


def test_evaluations_best_and_plateau_are_those_of_an_uninterrupted_training(tmp_path):
    def run(folder: Path, cuts: list[int]) -> OnPolicyRunner:
        runner = None
        for number, end in enumerate(cuts):
            runner = runner_of(ppo_cfg(), folder, every=2, episodes=3, patience=3, min_improvement=0.02)
            if number:
                runner.resume(str(folder / f"model_{cuts[number - 1] - 1}.pt"))
            runner.learn(end - runner.completed_iterations, init_at_random_ep_len=True)
        assert runner is not None
        return runner

    whole, parts = run(tmp_path / "whole", [40]), run(tmp_path / "parts", [3, 8, 13, 40])
    assert whole.on_plateau and whole.completed_iterations == parts.completed_iterations > 13
    for before, after in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert {tag: before[tag] for tag in before if tag not in (*TIMES, "Perf/evaluation_time")} == {
            tag: after[tag] for tag in after if tag not in (*TIMES, "Perf/evaluation_time")
        }
    assert best_of(tmp_path / "whole") == best_of(tmp_path / "parts")
    best = [load_checkpoint(tmp_path / name / "model_best.pt")["actor_state_dict"] for name in ("whole", "parts")]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"patience": 5}, r"evaluation.patience: nothing is evaluated while training: set evaluation.every"),
        ({"every": 5, "patience": 0}, r"evaluation.patience: expected 1 or more, or null, found 0"),
        ({"every": 5, "patience": 2, "min_improvement": -1.0}, r"min_improvement: expected a number of 0 or more"),
        ({"every": 5, "min_improvement": 1.0}, r"min_improvement: has no effect while evaluation.patience is null"),
    ],
)  # fmt: skip
def test_wrong_patience_is_named(evaluation: dict, message: str):
    with pytest.raises(ValueError, match=message):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "evaluation": evaluation})
