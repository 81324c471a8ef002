"""The NaN quarantine: a training goes on without what went wrong, and stops when nothing else is left."""

import copy
import csv
import logging
import math

import pytest
import torch
from faulty_point import INF, NAN, FaultyPoint
from small_configs import GRU, distillation_cfg, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.algorithms import PPO, Distillation
from sim_rl_plugin.config import load_config
from sim_rl_plugin.config.nan_quarantine import QuarantineSettings
from sim_rl_plugin.env.clip_actions import ClipActions
from sim_rl_plugin.env.terms import Term
from sim_rl_plugin.evaluation import evaluate
from sim_rl_plugin.replay import read_dump, replay_fault
from sim_rl_plugin.runners import DistillationRunner, OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

STEPS = 8
RND = {
    "weight": 0.1, "num_outputs": 4, "predictor_hidden_dims": [8], "target_hidden_dims": [8],
    "state_normalization": True, "reward_normalization": True,
}  # fmt: skip


def small_cfg(kind: str, **quarantine) -> dict:
    """Return a training dict of 8 steps and few updates, for each kind of training."""
    if kind == "gru":
        cfg = ppo_cfg_with(GRU)
    elif kind == "distillation":
        cfg = distillation_cfg()
    elif kind == "gru distillation":
        cfg = distillation_cfg(GRU, GRU, normalizer_update="each_step")
    else:
        cfg = ppo_cfg(num_learning_epochs=1, num_mini_batches=2)
        cfg["num_steps_per_env"] = STEPS
    if kind in ("rnd", "each step"):
        cfg["algorithm"] |= {"normalizer_update": "each_step"}
    if kind == "rnd":
        cfg["algorithm"] |= {"rnd_cfg": RND}
        cfg["obs_groups"]["rnd_state"] = ["critic"]
    return {**cfg, "nan_quarantine": quarantine}


KINDS = ["mlp", "gru", "each step", "rnd", "distillation", "gru distillation"]


def runner_of(env: PointEnv, cfg: dict, folder=None) -> OnPolicyRunner:
    torch.manual_seed(3)
    if cfg["algorithm"]["class_name"] == "Distillation":
        runner = DistillationRunner(env, cfg, folder)
        runner.alg.teacher_loaded = True  # its first parameters will do
        return runner
    return OnPolicyRunner(env, cfg, folder)


def weights(runner: OnPolicyRunner) -> torch.Tensor:
    models = [*runner.alg.models(), *([runner.alg.rnd] if getattr(runner.alg, "rnd", None) else [])]
    return torch.cat([value.double().reshape(-1) for model in models for value in model.state_dict().values()])


def rows(folder) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


# Nothing wrong


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_fault_nothing_changes(kind: str):
    def trained(check_for_nan: bool) -> torch.Tensor:
        runner = runner_of(PointEnv(max_episode_length=11), {**small_cfg(kind), "check_for_nan": check_for_nan})
        runner.learn(4, init_at_random_ep_len=True)
        return weights(runner)

    assert torch.equal(trained(True), trained(False))


def test_without_a_fault_nothing_is_logged_or_written(tmp_path):
    runner_of(PointEnv(), small_cfg("mlp"), str(tmp_path)).learn(2)
    assert not any("Quarantine" in tag for tag in rows(tmp_path)[-1])
    assert not (tmp_path / "quarantine").exists()


# One environment


@pytest.mark.parametrize("iteration", [0, 50])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["policy", "critic", "rewards", "final", "state"])
def test_one_environment_is_left_out_and_the_training_goes_on(tmp_path, caplog, part, kind, iteration):
    call = iteration * STEPS + 3
    value = INF if part in ("rewards", "critic") else NAN
    env = FaultyPoint(part, [5], {call}, value, max_episode_length=11)
    runner = runner_of(env, small_cfg(kind), str(tmp_path))
    runner.learn(iteration + 3)
    # A distillation has no use for final observations, which are looked at all the same.
    assert runner.completed_iterations == iteration + 3
    assert torch.isfinite(weights(runner)).all()
    assert all(bool(value.isfinite().all()) for value in env.get_observations().values())
    table = rows(tmp_path)
    told = [(float(row["Quarantine/environments"]), float(row["Quarantine/steps"])) for row in table[iteration:]]
    assert told == [(1.0, float(STEPS)), (0.0, 0.0), (0.0, 0.0)]
    assert all(math.isfinite(float(value)) for row in table[-3:] for value in row.values() if value)
    assert len([record for record in caplog.records if "NaN or infinity" in record.message]) == 1
    name = {"state": "observation group 'policy'", "final": "final observation group 'critic'"}.get(part, part)
    assert name in caplog.text
    assert "environment 5 after 3 steps" in caplog.text


@pytest.mark.parametrize("kind", ["mlp", "gru", "rnd", "distillation"])
def test_where_environments_cannot_be_reset_they_time_out_and_stay_out_of_that_rollout(tmp_path, kind: str):
    env = FaultyPoint("state", [5], {STEPS + 3}, can_reset=False, max_episode_length=100)
    runner = runner_of(ClipActions(env, 1.0), small_cfg(kind), str(tmp_path))
    runner.learn(2)
    assert env.position[5].isnan().all()
    assert int(env.episode_length_buf[5]) == 100
    runner.learn(1)
    assert env.position.isfinite().all()
    assert int(env.episode_length_buf[5]) == STEPS - 1  # its first step ended the broken episode
    runner.learn(1)
    left_out = [float(row["Quarantine/steps"] or 0) for row in rows(tmp_path)]
    assert left_out == [0, STEPS, STEPS, 0]
    assert torch.isfinite(weights(runner)).all()


def test_episodes_of_the_environment_are_not_counted(tmp_path):
    env = FaultyPoint("state", [0], {STEPS + 3}, num_envs=4, max_episode_length=STEPS + 1, terminate_at=None)
    runner = runner_of(env, small_cfg("mlp"), str(tmp_path))
    runner.learn(4)
    # Four environments of episodes of 9 steps, 32 steps: three episodes each, but for environment 0, which lost its
    # first and began anew after 16 steps: one.
    assert list(runner.logger.lenbuffer) == [STEPS + 1.0] * 10
    assert all(math.isfinite(episode) for episode in runner.logger.rewbuffer)


@pytest.mark.parametrize("can_reset", [True, False])
def test_a_timed_out_episode_of_the_fallback_is_not_counted_either(can_reset: bool):
    options = {"num_envs": 4, "max_episode_length": 20, "terminate_at": None, "can_reset": can_reset}
    runner = runner_of(FaultyPoint("state", [0], {3}, **options), small_cfg("mlp"))
    runner.learn(4)
    # Environment 0 starts anew after 8 steps, or in the ninth: 24 or 23 steps are left, one episode of 20.
    assert list(runner.logger.lenbuffer) == [20.0] * 4


# The batch


def rolled_out(cfg: dict, env: PointEnv) -> PPO | Distillation:
    """Return an algorithm with a complete rollout, and what it saw last."""
    torch.manual_seed(0)
    algorithm_class = {"PPO": PPO, "Distillation": Distillation}[cfg["algorithm"]["class_name"]]
    algorithm = algorithm_class.construct_algorithm(env.get_observations(), env, copy.deepcopy(cfg), "cpu")
    algorithm.train_mode()
    return algorithm


def state_of(algorithm) -> torch.Tensor:
    return torch.cat([value.double().reshape(-1) for net in algorithm.models() for value in net.state_dict().values()])


@pytest.mark.parametrize("kind", ["mlp", "gru", "distillation", "gru distillation"])
def test_the_update_is_that_of_a_batch_without_the_environment(kind: str):
    """Six environments of which number 2 is NaN throughout, and the five others alone, played with the same actions.

    The five are what a batch of six without number 2 is: the same samples, advantages normalised over them,
    statistics of them, mini-batches of the same size drawn by the same permutation.
    """
    others = torch.tensor([0, 1, 3, 4, 5])
    cfg = small_cfg(kind)
    cfg["algorithm"] |= {"normalizer_update": "after_update"}
    env = PointEnv(num_envs=6, max_episode_length=5)
    whole = rolled_out(cfg, env)
    few = rolled_out(cfg, PointEnv(num_envs=5))
    few.num_updates = getattr(whole, "num_updates", 0)
    assert torch.equal(state_of(whole), state_of(few))
    whole.begin_rollout()
    few.begin_rollout()
    obs = env.get_observations()
    for _ in range(STEPS):
        obs["policy"][2] = torch.nan
        played = whole.act(obs)
        few_obs = obs[others]
        few.act(few_obs)
        for name, value in vars(whole.transition).items():
            if isinstance(value, torch.Tensor):
                setattr(few.transition, name, value[others])
        params = whole.transition.distribution_params
        few.transition.distribution_params = None if params is None else tuple(part[others] for part in params)
        obs, rewards, dones, extras = env.step(played.nan_to_num())
        rewards[2] = torch.nan
        whole.process_env_step(obs, rewards, dones, extras)
        few_extras = {"time_outs": extras["time_outs"][others]}
        if "final_obs" in extras:
            few_extras["final_obs"] = extras["final_obs"][others]
        few.process_env_step(obs[others], rewards[others], dones[others], few_extras)
    torch.manual_seed(1)
    with whole.restricted_to(others):
        whole.compute_returns(obs[others])
        losses = whole.update()
    torch.manual_seed(1)
    few.compute_returns(obs[others])
    expected = few.update()
    assert losses == pytest.approx(expected, rel=1e-6)
    # Matrix products of five and of six rows round differently in the rollout's memories and values.
    assert torch.allclose(state_of(whole), state_of(few), rtol=0.0, atol=0.0 if kind == "mlp" else 1e-6)
    assert whole.storage.num_envs == 6
    for model in whole.models():
        memory = model.get_hidden_state()
        assert memory is None or memory.shape[1] == 6


def test_what_steps_of_old_episodes_were_left_out_stay_left_out():
    """``skipped`` steps and time-outs belong to the environments that are left."""
    cfg, env = small_cfg("mlp"), PointEnv(num_envs=3, max_episode_length=4, terminate_at=None)
    algorithm = rolled_out(cfg, env)
    algorithm.begin_rollout()
    obs = env.get_observations()
    for step in range(STEPS):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        extras["skipped"] = torch.tensor([False, False, step == 5])
        algorithm.process_env_step(obs, rewards, dones, extras)
    kept = torch.tensor([0, 2])
    with algorithm.restricted_to(kept):
        algorithm.compute_returns(obs[kept])
        storage = algorithm.storage
        assert storage.returns[5, 1] == storage.values[5, 1]
        assert storage.returns[5, 0] != storage.values[5, 0]
        # The time-outs of the fourth and the eighth step have added gamma times a value.
        assert (storage.rewards[3] != algorithm.storage.values[3]).all()


# Many environments, and updates that go wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iteration", [0, 50])
def test_too_many_environments_drop_the_iteration(tmp_path, caplog, kind: str, iteration: int):
    env = FaultyPoint("state", list(range(8)), {iteration * STEPS + 3}, max_episode_length=11)
    runner = runner_of(env, small_cfg(kind), str(tmp_path))
    if iteration:
        runner.learn(iteration)
    before = weights(runner)
    runner.learn(1)
    assert torch.equal(weights(runner), before)
    assert "100% of the environments" in caplog.text
    runner.learn(1)
    assert torch.isfinite(weights(runner)).all()
    assert not torch.equal(weights(runner), before)
    assert [float(row["Quarantine/dropped"]) for row in rows(tmp_path)[-2:]] == [1.0, 0.0]


@pytest.mark.parametrize("can_reset", [True, False])
def test_after_repeated_failure_the_training_stops_with_the_last_good_state(tmp_path, can_reset: bool):
    env = FaultyPoint("state", list(range(8)), range(STEPS + 1, 1000), can_reset=can_reset)
    runner = runner_of(env, small_cfg("mlp", max_failures=2), str(tmp_path))
    runner.learn(1)
    good = weights(runner)
    with pytest.raises(ValueError, match=r"3 iterations in a row.*observation group 'policy'") as raised:
        runner.learn(20)
    saved = tmp_path / f"model_{runner.current_learning_iteration}.pt"
    assert str(saved) in str(raised.value)
    fresh = runner_of(PointEnv(), small_cfg("mlp"))
    fresh.load(str(saved))
    assert torch.equal(weights(fresh), good)


def test_an_environment_that_no_reset_heals_stops_the_training(tmp_path):
    env = FaultyPoint("state", [5], {STEPS + 3}, heals=False)
    runner = runner_of(env, small_cfg("mlp", max_failures=2), str(tmp_path))
    with pytest.raises(ValueError, match=r"3 iterations in a row.*environment 5 .*a reset did not help"):
        runner.learn(20)
    # One that went wrong, and two in which it stayed so; the others were learnt from.
    assert runner.completed_iterations == 4
    assert float(rows(tmp_path)[-1]["Quarantine/dropped"]) == 0.0


def test_the_count_of_failures_begins_anew_after_a_good_iteration():
    calls = {call for iteration in (0, 1, 3, 4) for call in range(iteration * STEPS + 1, (iteration + 1) * STEPS + 1)}
    env = FaultyPoint("rewards", list(range(8)), calls)
    runner = runner_of(env, small_cfg("mlp", max_failures=2))
    runner.learn(6)
    assert runner.completed_iterations == 6


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("kind", ["mlp", "gru", "rnd", "distillation", "gru distillation"])
@pytest.mark.parametrize("iteration", [0, 3])
def test_an_update_that_goes_wrong_is_undone(tmp_path, caplog, kind: str, optimizer: str, iteration: int):
    cfg = small_cfg(kind)
    cfg["algorithm"] |= {"optimizer": optimizer}
    runner = runner_of(PointEnv(), cfg, str(tmp_path))
    if iteration:
        runner.learn(iteration)
    before = everything(runner)
    step = runner.alg.optimizer.step

    def spoilt(*args, **kwargs):
        for parameter in runner.alg.get_policy().parameters():
            if parameter.grad is not None:
                parameter.grad[0] = torch.nan
        return step(*args, **kwargs)

    runner.alg.optimizer.step = spoilt
    runner.learn(1)
    assert same(everything(runner), before)
    assert "NaN or infinite" in caplog.text
    runner.alg.optimizer.step = step
    runner.learn(2)
    assert torch.isfinite(weights(runner)).all()
    assert not torch.equal(weights(runner), before["weights"])
    assert [float(row["Quarantine/dropped"]) for row in rows(tmp_path)[-3:]] == [1.0, 0.0, 0.0]


def everything(runner) -> dict:
    """Return a copy of what an undone update must leave as it was."""
    state = runner.alg.save()
    state["weights"] = weights(runner)
    state["learning_rate"] = runner.alg.learning_rate
    if getattr(runner.alg, "rnd", None) is not None:
        state["counters"] = runner.alg.rnd.training_state()
    return copy.deepcopy(state)


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_an_update_called_by_itself_raises_as_ever():
    cfg, env = small_cfg("mlp"), PointEnv()
    algorithm = rolled_out(cfg, env)
    obs = env.get_observations()
    for _ in range(STEPS):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards * torch.nan, dones, extras)
    algorithm.compute_returns(obs)
    with pytest.raises(ValueError, match=r"the update made .*actor.* NaN or infinite"):
        algorithm.update()


def test_observations_too_large_for_the_statistics_are_noticed(caplog):
    """1e25 is a number, but its square is none in float32: normalised by it, every observation would be zero."""
    env = FaultyPoint("policy", [5], {3}, value=1e25)
    runner = runner_of(env, small_cfg("mlp"))
    runner.learn(1)
    assert torch.isfinite(weights(runner)).all()
    assert "actor, critic NaN or infinite" in caplog.text


def test_a_sum_that_overflows_is_no_fault(caplog):
    env = FaultyPoint("rewards", list(range(8)), {3}, value=2e38)
    runner = runner_of(env, {**small_cfg("distillation")})
    runner.learn(2)
    assert "NaN or infinity" not in caplog.text
    assert runner.completed_iterations == 2


# Learning


@pytest.mark.parametrize("can_reset", [True, False])
def test_a_training_with_faults_reaches_the_same_reward(can_reset: bool):
    """One environment of 32 breaks every 50 steps or so; standing still earns 0.34 a step, the origin 0.94."""

    def reward(env: PointEnv) -> float:
        cfg = ppo_cfg(learning_rate=3e-3, entropy_coef=0.0)
        runner = runner_of(env, cfg)
        runner.learn(25, init_at_random_ep_len=True)
        policy = runner.get_inference_policy()
        return evaluate(policy, PointEnv(num_envs=32, max_episode_length=16, seed=7), 32).mean / 16

    options = {"num_envs": 32, "max_episode_length": 16}
    faulty = reward(FaultyPoint("state", [4], range(7, 400, 50), can_reset=can_reset, **options))
    healthy = reward(PointEnv(**options))
    assert healthy > 0.6
    assert faulty > 0.95 * healthy


# Settings, resume


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_shar": 0.5}, "did you mean 'nan_quarantine.max_share'"),
        ({"max_share": 1.5}, "nan_quarantine.max_share: expected a number between 0 and 1, found 1.5"),
        ({"max_failures": -1}, "nan_quarantine.max_failures: expected a number of 0 or more"),
        ({"max_failures": 2.5}, "nan_quarantine.max_failures: expected an integer"),
        ({"keep_state": "yes"}, "nan_quarantine.keep_state: expected true or false or null"),
        ("on", "nan_quarantine: expected a mapping"),
    ],
)
def test_wrong_settings_are_one_message(settings, message: str):
    with pytest.raises(ValueError, match=message):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "nan_quarantine": settings})
    if isinstance(settings, dict):
        key, value = next(iter(settings.items()))
        with pytest.raises(ValueError, match=message):
            load_config(task="Hopper", options={"nan_quarantine": {key: value}})


def test_settings_come_from_a_config():
    config = load_config(task="Hopper", overrides=["nan_quarantine.max_share=0.5"])
    assert QuarantineSettings(**config.nan_quarantine) == QuarantineSettings(max_share=0.5)


def test_a_run_killed_while_an_environment_recovers_continues_bit_for_bit(tmp_path):
    def runner(folder=None) -> OnPolicyRunner:
        env = FaultyPoint("state", [5], {3}, can_reset=False, max_episode_length=30)
        return runner_of(env, {**small_cfg("gru"), "save_interval": 1}, folder)

    straight = runner(str(tmp_path))
    straight.learn(4)
    resumed = runner()
    resumed.env.call = STEPS
    resumed.resume(str(tmp_path / "model_0.pt"))
    resumed.learn(3)
    assert torch.equal(weights(resumed), weights(straight))


# Dumps


def test_the_dump_replays_the_fault(tmp_path):
    env = FaultyPoint("state", [2, 5], {STEPS + 4}, max_episode_length=11)
    runner_of(env, small_cfg("mlp"), str(tmp_path)).learn(3)
    (file,) = (tmp_path / "quarantine").iterdir()
    assert file.name == "iteration_1.pt"
    contents = read_dump(file)
    assert (contents["iteration"], contents["num_faults"], contents["num_envs"]) == (1, 2, 8)
    fault = contents["faults"][0]
    assert (fault["env"], fault["steps"], fault["part"]) == (2, 4, "observation group 'policy'")
    # After step 12 in all: the twelfth call gave NaN, the eleventh is the last finite one.
    assert torch.equal(fault["last_finite"]["observation"]["policy"], env.given[11]["policy"][2])
    assert fault["observations"]["policy"].shape == (5, 2)
    assert fault["last_finite"]["reward"] == pytest.approx(float(fault["rewards"][2]))

    again = FaultyPoint("state", [2, 5], {4}, max_episode_length=11, seed=9)
    replayed = replay_fault(again, file)
    assert [(part.env, part.came_back, part.first_difference) for part in replayed] == [
        (2, True, None),
        (5, True, None),
    ]
    healthy = replay_fault(PointEnv(max_episode_length=11, seed=9), file)
    assert [(part.came_back, part.first_difference) for part in healthy] == [(False, 4), (False, 4)]
    with pytest.raises(ValueError, match="num_envs: the dump is of 8 environments, this one has 4"):
        replay_fault(PointEnv(num_envs=4), file)


def test_dumps_are_limited_in_number_and_size(tmp_path):
    env = FaultyPoint("rewards", [1], range(1, 1000, STEPS))
    runner_of(env, small_cfg("mlp", max_dumps=2, max_dump_mb=0.0), str(tmp_path)).learn(4)
    files = sorted((tmp_path / "quarantine").iterdir())
    assert [file.name for file in files] == ["iteration_0.pt", "iteration_1.pt"]
    contents = read_dump(files[0])
    assert contents["state"] is None
    assert "observations" not in contents["faults"][0]
    with pytest.raises(ValueError, match=r"nan_quarantine\.keep_state"):
        replay_fault(PointEnv(), files[0])


def test_a_dump_that_cannot_be_written_does_not_end_the_training(tmp_path, caplog):
    (tmp_path / "quarantine").write_text("in the way")
    runner = runner_of(FaultyPoint("rewards", [1], {3}), small_cfg("mlp"), str(tmp_path))
    runner.learn(2)
    assert "cannot be written" in caplog.text
    assert runner.completed_iterations == 2


def test_what_is_no_dump_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="no dump at"):
        read_dump(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as a dump"):
        read_dump(tmp_path / "text.pt")
    torch.save({"actor_state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is no dump"):
        read_dump(tmp_path / "checkpoint.pt")


def test_the_first_bad_term_is_named(caplog):
    env = FaultyPoint("critic", [3], {2}, num_actions=3)
    env.observation_terms = {"critic": [Term("height", (1, 2)), Term("clock", (2,))]}
    step = env.step

    def later(actions):
        obs, rewards, dones, extras = step(actions)
        if env.call == 2:
            obs["critic"][3] = torch.tensor([0.0, 0.0, NAN, 0.0])
        return obs, rewards, dones, extras

    env.step = later
    runner_of(env, small_cfg("mlp")).learn(1)
    assert "observation group 'critic' (clock) of environment 3 after 2 steps" in caplog.text


def test_only_the_first_warnings_are_all_written(caplog):
    caplog.set_level(logging.WARNING)
    env = FaultyPoint("rewards", [1], range(1, 1000, STEPS))
    runner_of(env, small_cfg("mlp")).learn(17)
    told = [record.message for record in caplog.records if "NaN or infinity" in record.message]
    # The first five, the eighth and the sixteenth.
    assert [message.partition(":")[0] for message in told] == [f"iteration {n}" for n in (0, 1, 2, 3, 4, 7, 15)]
