"""Checkpoints that old releases of rsl_rl wrote: same answers, same optimizer, and training goes on.

The files and what is expected of them come from the releases themselves, see ``data/old_checkpoints/make.py``.
"""

import copy
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.checkpoint import find_checkpoint, load_checkpoint, read_checkpoint
from sim_rl_plugin.checkpoint_migrations import migrate_checkpoint
from sim_rl_plugin.config.migrations import migrate
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.registry import resolve_callable

FOLDER = Path(__file__).parent / "data" / "old_checkpoints"
CASES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.glob("*/*.pt")
    if not path.name.endswith(".expected.pt")
)


class RecordedEnv(VecEnv):
    """An environment whose observations are those of a recording, over and over."""

    def __init__(self, observations: dict[str, torch.Tensor]):
        self.recorded = observations
        self.num_steps, self.num_envs = next(iter(observations.values())).shape[:2]
        self.num_actions = 2
        self.max_episode_length = 5
        self.device = torch.device("cpu")
        self.cfg = {}
        self.unwrapped = SimpleNamespace(step_dt=0.5)
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.index = 0

    def get_observations(self) -> TensorDict:
        groups = {group: values[self.index] for group, values in self.recorded.items()}
        return TensorDict(groups, batch_size=[self.num_envs])

    def step(self, actions):
        self.index = (self.index + 1) % self.num_steps
        self.episode_length_buf += 1
        dones = self.episode_length_buf >= self.max_episode_length
        self.episode_length_buf[dones] = 0
        return self.get_observations(), -actions.square().sum(-1), dones, {"time_outs": dones.clone()}


def build(case: str):
    """Return a runner built from a case's own training dict, and what is expected of it."""
    expected = torch.load(FOLDER / f"{case}.expected.pt", weights_only=True)
    cfg = {**copy.deepcopy(expected["train_cfg"]), "logger": ["csv"], "console": False}
    runner_class = resolve_callable(migrate(cfg)[0].get("class_name", "OnPolicyRunner"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of observation sets that are filled in
        return runner_class(RecordedEnv(expected["observations"]), cfg), expected


def networks(algorithm) -> tuple:
    if hasattr(algorithm, "student"):
        return algorithm.student, algorithm.teacher
    return algorithm.actor, algorithm.critic


def load(runner, case: str) -> None:
    with pytest.warns(UserWarning, match=r"the checkpoint .*: from (before )?rsl_rl 4\.") as told:
        runner.load(str(FOLDER / f"{case}.pt"))
    assert len([warning for warning in told if "rsl_rl" in str(warning.message)]) == 1


def test_every_generation_is_there():
    assert {case[0] for case in CASES} == {"2", "3", "4"}
    assert len(CASES) == 13


@pytest.mark.parametrize("case", CASES)
def test_the_networks_answer_as_they_did(case: str):
    runner, expected = build(case)
    load(runner, case)
    runner.alg.eval_mode()
    env = runner.env
    for step in range(env.num_steps):
        env.index = step
        obs = env.get_observations()
        for network, answers in zip(networks(runner.alg), (expected["first"], expected["second"]), strict=True):
            with torch.no_grad():
                torch.testing.assert_close(network(obs), answers[step], rtol=0.0, atol=1e-6)
    assert runner.current_learning_iteration == 1


@pytest.mark.parametrize("case", CASES)
def test_the_optimizers_moments_stay_with_their_parameters(case: str):
    runner, expected = build(case)
    load(runner, case)
    raw = torch.load(FOLDER / f"{case}.pt", weights_only=True)
    optimizer = runner.alg.optimizer
    own = optimizer.param_groups[0]["params"]
    placed = set()
    for index, place in enumerate(expected["parameters"]):
        key, name = place.split("/")
        state = raw["optimizer_state_dict"]["state"].get(index)
        # By value, not by name: no two parameters are equal.
        found = [i for i, parameter in enumerate(own) if torch.equal(parameter, raw[key][name])]
        if not found:
            assert "teacher" in name or "memory_t" in name, f"{name} is lost"
            assert state is None
            continue
        placed.add(found[0])
        loaded = optimizer.state[own[found[0]]]
        assert bool(loaded) == (state is not None)
        for moment in ("exp_avg", "exp_avg_sq", "step") if state else ():
            assert torch.equal(loaded[moment], state[moment]), (name, moment)
    assert placed == set(range(len(own)))
    # 2.3.2 and 2.3.3 gave PPO the learning rate of rnd_cfg, so that is what the file holds there.
    rate = 0.002 if case == "2.3.3/ppo_gru_rnd" else 0.01
    assert runner.alg.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_and_is_saved_in_todays_shape(case: str, tmp_path):
    runner, _ = build(case)
    load(runner, case)
    before = [parameter.detach().clone() for parameter in networks(runner.alg)[0].mlp.parameters()]
    runner.learn(1)
    after = networks(runner.alg)[0].mlp.parameters()
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    runner.save(str(tmp_path / "model_2.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(tmp_path / "model_2.pt")


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("rnd")])
def test_random_network_distillation_is_loaded(case: str):
    runner, _ = build(case)
    load(runner, case)
    raw = torch.load(FOLDER / f"{case}.pt", weights_only=True)
    for name, value in runner.alg.rnd.state_dict().items():
        assert torch.equal(value, raw["rnd_state_dict"][name]), name
    moments = [state["exp_avg"] for state in raw["rnd_optimizer_state_dict"]["state"].values()]
    optimizer = runner.alg.rnd.optimizer
    for parameter, moment in zip(optimizer.param_groups[0]["params"], moments, strict=True):
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moment)


def test_an_old_actor_becomes_a_teacher():
    """Isaac Lab's way from 2.3 to 3.3: train with PPO, then distil with the dict of the same release."""
    runner, _ = build("2.3.3/distillation")
    teacher, expected = build("2.3.3/ppo_normalized")
    cfg = copy.deepcopy(runner.cfg)
    cfg["teacher"]["hidden_dims"] = teacher.cfg["actor"]["hidden_dims"]
    cfg["obs_groups"] = {"student": ["policy"], "teacher": ["policy"]}
    runner = type(runner)(RecordedEnv(expected["observations"]), cfg)
    load(runner, "2.3.3/ppo_normalized")
    with torch.no_grad():
        answer = runner.alg.teacher(runner.env.get_observations())
    torch.testing.assert_close(answer, expected["first"][0], rtol=0.0, atol=1e-6)
    assert runner.alg.teacher_loaded
    assert runner.current_learning_iteration == 0


def test_resuming_tells_it_once(tmp_path):
    runner, _ = build("3.3.0/ppo_state_dependent")
    path = tmp_path / "model_1.pt"
    path.write_bytes((FOLDER / "3.3.0" / "ppo_state_dependent.pt").read_bytes())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        runner.resume(str(find_checkpoint(tmp_path)))
    assert [str(warning.message).partition("model_1.pt")[2] for warning in told] == [
        ": from before rsl_rl 4.0, became actor and critic",
        " was not written by sim-rl: the simulation starts afresh",
    ]
    assert runner.current_learning_iteration == 2


def test_what_is_not_changed():
    today = {"actor_state_dict": {"mlp.0.weight": torch.ones(1)}, "iter": 1}
    assert migrate_checkpoint(today) == (today, None)
    ours = {"sim_rl": {}, "model_state_dict": {"actor.0.weight": torch.ones(1), "critic.0.weight": torch.ones(1)}}
    assert migrate_checkpoint(ours) == (ours, None)
    others = {"model_state_dict": {"encoder.0.weight": torch.ones(1)}}
    assert migrate_checkpoint(others) == (others, None)


def test_the_contents_are_not_modified():
    for case in CASES:
        contents = read_checkpoint(FOLDER / f"{case}.pt")
        keys = {key: list(value) if isinstance(value, dict) else value for key, value in contents.items()}
        params = list(contents["optimizer_state_dict"]["param_groups"][0]["params"])
        migrate_checkpoint(contents)
        assert keys == {key: list(value) if isinstance(value, dict) else value for key, value in contents.items()}
        assert contents["optimizer_state_dict"]["param_groups"][0]["params"] == params


def test_parameters_of_somebody_elses_network_are_one_message(tmp_path):
    contents = read_checkpoint(FOLDER / "2.3.3" / "ppo_log.pt")
    contents["model_state_dict"]["estimator.0.weight"] = torch.ones(1)
    torch.save(contents, tmp_path / "model_1.pt")
    with pytest.raises(ValueError, match=r"model_1.pt cannot be used: it is from before .*\(estimator.0.weight\)"):
        load_checkpoint(tmp_path / "model_1.pt")


def test_an_optimizer_of_other_parameters_is_left_out_and_said():
    contents = read_checkpoint(FOLDER / "2.3.3" / "ppo_log.pt")
    contents["optimizer_state_dict"]["param_groups"][0]["params"].append(11)
    migrated, note = migrate_checkpoint(contents)
    assert "optimizer_state_dict" not in migrated
    assert note is not None and note.endswith("the state of its optimizer was left out, because it belongs to other "
                                              "parameters")  # fmt: skip


def test_the_training_dicts_of_the_releases_say_what_was_changed(caplog):
    with caplog.at_level(logging.WARNING):
        build("2.3.3/ppo_normalized")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "policy: from before rsl_rl 4.0, became actor (MLPModel, GaussianDistribution) and critic (MLPModel)",
        "empirical_normalization: from before rsl_rl 4.0, became obs_normalization: true, where policy does not say "
        "otherwise",
    ]
