"""The training loop: what it writes, that it resumes exactly, and how it ends."""

import copy
import csv
import inspect
import os
import signal

import pytest
import torch
from small_configs import ppo_cfg

from sim_rl_plugin import plugins
from sim_rl_plugin.algorithms.algorithm import Algorithm
from sim_rl_plugin.env.clip_actions import ClipActions
from sim_rl_plugin.hooks import hookimpl
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


def rows(folder) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(runner: OnPolicyRunner) -> torch.Tensor:
    models = (runner.alg.actor, runner.alg.critic)
    return torch.cat([value.double().reshape(-1) for model in models for value in model.state_dict().values()])


def test_signatures_are_rsl_rls():
    def names(method) -> list[str]:
        return [name for name in inspect.signature(method).parameters if name != "self"]

    assert names(OnPolicyRunner.__init__) == ["env", "train_cfg", "log_dir", "device"]
    assert names(OnPolicyRunner.learn) == ["num_learning_iterations", "init_at_random_ep_len"]
    assert names(OnPolicyRunner.save) == ["path", "infos"]
    assert names(OnPolicyRunner.get_inference_policy) == ["device"]
    assert names(OnPolicyRunner.export_policy_to_jit) == ["path", "filename"]
    *rsl_rls, ours = inspect.signature(OnPolicyRunner.load).parameters.values()
    assert [parameter.name for parameter in rsl_rls] == ["self", "path", "load_cfg", "strict", "map_location"]
    assert (ours.name, ours.kind, ours.default) == ("trust", ours.KEYWORD_ONLY, False)
    *rsl_rls, ours = inspect.signature(OnPolicyRunner.export_policy_to_onnx).parameters.values()
    assert [parameter.name for parameter in rsl_rls] == ["self", "path", "filename", "verbose"]
    assert (ours.name, ours.kind, ours.default) == ("dynamic_batch", ours.KEYWORD_ONLY, False)


def test_a_run_writes_metrics_and_checkpoints(tmp_path, train_cfg):
    before = copy.deepcopy(train_cfg)
    runner = OnPolicyRunner(PointEnv(), train_cfg, str(tmp_path))
    runner.learn(12, init_at_random_ep_len=True)
    assert train_cfg == before
    assert {path.name for path in tmp_path.glob("*.pt")} == {"model_0.pt", "model_5.pt", "model_10.pt", "model_11.pt"}
    table = rows(tmp_path)
    assert [int(row["iteration"]) for row in table] == list(range(12))
    assert float(table[-1]["Perf/total_steps"]) == 12 * 16 * 8
    assert {"Train/mean_reward", "Train/mean_episode_length", "Loss/value", "Loss/learning_rate"} <= table[-1].keys()
    assert runner.current_learning_iteration == 11
    assert runner.completed_iterations == 12


def test_reported_rewards_are_the_episodes_of_the_environment(tmp_path, train_cfg):
    env = PointEnv(num_envs=2, max_episode_length=8, terminate_at=None)
    returns, current, step = [], torch.zeros(2), env.step

    def recorded(actions):
        nonlocal current
        obs, rewards, dones, extras = step(actions)
        current = current + rewards
        returns.extend(current[dones.bool()].tolist())
        current = current * ~dones.bool()
        return obs, rewards, dones, extras

    env.step = recorded
    OnPolicyRunner(env, train_cfg, str(tmp_path)).learn(2)
    assert len(returns) == 8
    last = rows(tmp_path)[-1]
    assert float(last["Train/mean_reward"]) == pytest.approx(sum(returns) / len(returns), rel=1e-5)
    assert float(last["Train/mean_episode_length"]) == 8


def test_a_resumed_run_continues_bit_for_bit(tmp_path, train_cfg):
    torch.manual_seed(0)
    first = OnPolicyRunner(PointEnv(), train_cfg, str(tmp_path / "cut"))
    first.learn(6, init_at_random_ep_len=True)
    torch.manual_seed(99)
    second = OnPolicyRunner(PointEnv(seed=5), train_cfg, str(tmp_path / "cut"))
    second.resume(str(tmp_path / "cut" / "model_5.pt"))
    assert second.completed_iterations == 6
    second.learn(3, init_at_random_ep_len=True)

    torch.manual_seed(0)
    straight = OnPolicyRunner(PointEnv(), train_cfg)
    straight.learn(9, init_at_random_ep_len=True)
    assert torch.equal(weights(second), weights(straight))
    cut = [row["Train/mean_reward"] for row in rows(tmp_path / "cut")]
    assert len(cut) == 9
    assert [int(row["iteration"]) for row in rows(tmp_path / "cut")] == list(range(9))


def test_rows_after_the_checkpoint_are_written_anew(tmp_path, train_cfg):
    runner = OnPolicyRunner(PointEnv(), train_cfg, str(tmp_path))
    runner.learn(8)
    resumed = OnPolicyRunner(PointEnv(), train_cfg, str(tmp_path))
    resumed.resume(str(tmp_path / "model_5.pt"))
    resumed.learn(1)
    assert [int(row["iteration"]) for row in rows(tmp_path)] == list(range(7))
    assert float(rows(tmp_path)[-1]["Perf/total_steps"]) == 7 * 16 * 8


def test_checkpoints_do_not_depend_on_log_writers(tmp_path, train_cfg):
    OnPolicyRunner(PointEnv(), {**train_cfg, "logger": []}, str(tmp_path)).learn(1)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"model_0.pt"}


def test_load_has_rsl_rls_counters(tmp_path, train_cfg):
    runner = OnPolicyRunner(PointEnv(), train_cfg, str(tmp_path))
    runner.learn(3)
    runner.save(str(tmp_path / "here.pt"), infos={"note": "mine"})
    other = OnPolicyRunner(PointEnv(), train_cfg)
    assert other.load(str(tmp_path / "here.pt")) == {"note": "mine"}
    assert other.current_learning_iteration == 2
    assert torch.equal(weights(other), weights(runner))
    with pytest.raises(ValueError, match="another robot"):
        OnPolicyRunner(PointEnv(num_actions=3), train_cfg).load(str(tmp_path / "here.pt"))
    wide = {**train_cfg, "actor": {**train_cfg["actor"], "hidden_dims": [8]}}
    with pytest.raises(ValueError, match="does not fit the model of this config"):
        OnPolicyRunner(PointEnv(), wide).load(str(tmp_path / "here.pt"))


def test_ctrl_c_ends_after_the_iteration_with_a_checkpoint(tmp_path, train_cfg):
    env = PointEnv()
    step, calls = env.step, 0

    def interrupted(actions):
        nonlocal calls
        calls += 1
        if calls == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return step(actions)

    env.step = interrupted
    runner = OnPolicyRunner(env, train_cfg, str(tmp_path))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        runner.learn(10)
    assert runner.interrupted
    assert runner.completed_iterations == 2
    assert (tmp_path / "model_1.pt").is_file()
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("where", ["policy", "rewards", "final"])
def test_nan_stops_an_algorithm_that_cannot_leave_environments_out(tmp_path, train_cfg, monkeypatch, where: str):
    """As those of third parties, which need not derive from ours."""
    monkeypatch.delattr(Algorithm, "restricted_to")
    env = PointEnv()
    step, calls = env.step, 0

    def broken(actions):
        nonlocal calls
        calls += 1
        obs, rewards, dones, extras = step(actions)
        if calls == 20:
            extras.setdefault("final_obs", obs.clone())
            place = {"policy": obs["policy"], "rewards": rewards, "final": extras["final_obs"]["critic"]}[where]
            place[1] = torch.nan
        return obs, rewards, dones, extras

    env.step = broken
    runner = OnPolicyRunner(env, train_cfg, str(tmp_path))
    with pytest.raises(ValueError, match=f"NaN or infinity in .*{where}"):
        runner.learn(10)
    assert runner.completed_iterations == 1
    assert torch.isfinite(weights(runner)).all()


def test_a_simulator_without_state_starts_its_episodes_afresh(tmp_path, train_cfg):
    def stateless() -> PointEnv:
        env = PointEnv(max_episode_length=5, terminate_at=None)
        env.state_dict = lambda: None
        return env

    OnPolicyRunner(stateless(), train_cfg, str(tmp_path)).learn(6)  # 96 steps: episodes are 1 step old
    resumed = OnPolicyRunner(stateless(), train_cfg, str(tmp_path))
    with pytest.warns(UserWarning, match="episodes start afresh"):
        resumed.resume(str(tmp_path / "model_5.pt"))
    resumed.logger.lenbuffer.clear()
    resumed.learn(1)
    assert set(resumed.logger.lenbuffer) == {5.0}


@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_simulator_that_restores_counters_only_starts_its_episodes_afresh(tmp_path, train_cfg, limit):
    class Counting(PointEnv):
        restores_exactly = False
        steps = 0

        def step(self, actions):
            self.steps += 1
            return super().step(actions)

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    def opened():
        env = Counting(max_episode_length=5, terminate_at=None)
        return env if limit is None else ClipActions(env, limit)

    OnPolicyRunner(opened(), train_cfg, str(tmp_path)).learn(6)  # 96 steps: episodes are 1 step old
    resumed = OnPolicyRunner(opened(), train_cfg, str(tmp_path))
    with pytest.warns(UserWarning, match="restores its counters only"):
        resumed.resume(str(tmp_path / "model_5.pt"))
    assert resumed.env.steps == 96
    resumed.logger.lenbuffer.clear()
    resumed.learn(1)
    assert set(resumed.logger.lenbuffer) == {5.0}


def test_a_switch_of_older_shapes_beside_todays_sections_is_pointed_out(train_cfg, caplog):
    """rsl_rl 5.5.1 does not read it either, so the result must not change."""
    train_cfg["actor"]["obs_normalization"] = False
    runner = OnPolicyRunner(PointEnv(), {**train_cfg, "empirical_normalization": True})
    assert not runner.alg.actor.obs_normalization
    assert "empirical_normalization: has no effect beside actor and critic" in caplog.text
    caplog.clear()
    OnPolicyRunner(PointEnv(), {**train_cfg, "empirical_normalization": False, "policy": {}})
    assert not caplog.text


def test_rsl_rls_names_of_log_writers_are_known(tmp_path, train_cfg):
    for name in ("WandbLogWriter", "rsl_rl.utils.WandbLogWriter"):
        OnPolicyRunner(PointEnv(), {**train_cfg, "logger": {"class_name": name}}, str(tmp_path))
    with pytest.raises(ValueError, match="did you mean 'csv'"):
        OnPolicyRunner(PointEnv(), {**train_cfg, "logger": "cvs"}, str(tmp_path))


def test_hooks_are_told(tmp_path, train_cfg):
    told = []

    class Listener:
        @hookimpl
        def sim_rl_run_start(self, runner):
            told.append("start")

        @hookimpl
        def sim_rl_iteration_end(self, iteration, metrics):
            told.append((iteration, metrics["Perf/total_steps"]))

        @hookimpl
        def sim_rl_checkpoint_saved(self, path):
            told.append(path.name)

        @hookimpl
        def sim_rl_run_end(self, runner):
            told.append("end")

        @hookimpl
        def sim_rl_run_error(self, error):
            told.append(type(error).__name__)

    plugins.get_manager().register(Listener(), "listener")
    try:
        env = PointEnv()
        runner = OnPolicyRunner(env, train_cfg, str(tmp_path))
        runner.learn(2)
        assert told == ["start", (0, 128), "model_0.pt", (1, 256), "model_1.pt", "end"]
        told.clear()
        env.step = None
        with pytest.raises(TypeError):
            runner.learn(1)
        assert told == ["start", "TypeError"]
    finally:
        plugins.get_manager().unregister("listener")


def test_inference_policy_acts_without_noise(tmp_path, train_cfg):
    env = PointEnv()
    runner = OnPolicyRunner(env, train_cfg)
    policy = runner.get_inference_policy(device="cpu")
    assert not policy.training
    obs = env.get_observations()
    assert torch.equal(policy(obs), policy(obs))
    runner.export_policy_to_jit(str(tmp_path / "exported"))
    scripted = torch.jit.load(str(tmp_path / "exported" / "policy.pt"))
    torch.testing.assert_close(scripted(obs["policy"]), policy(obs))


def test_a_dict_without_algorithm_is_one_message():
    cfg = ppo_cfg()
    del cfg["critic"]
    with pytest.raises(ValueError, match="critic"):
        OnPolicyRunner(PointEnv(), cfg)
