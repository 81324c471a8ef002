"""Training dicts of rsl_rl 2.x, 3.x and 4.x, as people have them, become those of 5.x."""

import copy
import dataclasses
import logging
import warnings

import pytest

from sim_rl_plugin import plugins
from sim_rl_plugin.config import check_train_cfg, load_config
from sim_rl_plugin.config.migrations import migrate
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.hooks import hookimpl
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv
from tests.small_configs import ppo_cfg

# Facts: isaaclab_rl of Isaac Lab 2.2.0, 2.3.2 and main, to_dict() of its runner configs.
ISAAC_LAB_TOP = {
    "seed": 42,
    "device": "cuda:0",
    "num_steps_per_env": 24,
    "max_iterations": 1500,
    "clip_actions": None,
    "save_interval": 50,
    "experiment_name": "anymal_c_rough",
    "run_name": "",
    "logger": "tensorboard",
    "neptune_project": "isaaclab",
    "wandb_project": "isaaclab",
    "resume": False,
    "load_run": ".*",
    "load_checkpoint": "model_.*.pt",
}
PPO = {
    "class_name": "PPO",
    "value_loss_coef": 1.0,
    "use_clipped_value_loss": True,
    "clip_param": 0.2,
    "entropy_coef": 0.005,
    "num_learning_epochs": 5,
    "num_mini_batches": 4,
    "learning_rate": 1.0e-3,
    "schedule": "adaptive",
    "gamma": 0.99,
    "lam": 0.95,
    "desired_kl": 0.01,
    "max_grad_norm": 1.0,
    "normalize_advantage_per_mini_batch": False,
    "symmetry_cfg": None,
    "rnd_cfg": None,
}
POLICY = {
    "class_name": "ActorCritic",
    "init_noise_std": 1.0,
    "noise_std_type": "scalar",
    "actor_hidden_dims": [512, 256, 128],
    "critic_hidden_dims": [512, 256],
    "activation": "elu",
}
RECURRENT = {**POLICY, "class_name": "ActorCriticRecurrent", "rnn_type": "gru", "rnn_hidden_dim": 64}


def isaac_lab_2_2() -> dict:
    """Return a dict for rsl_rl 2.3."""
    return copy.deepcopy({**ISAAC_LAB_TOP, "empirical_normalization": True, "policy": POLICY, "algorithm": PPO})


def isaac_lab_2_3() -> dict:
    """Return a dict for rsl_rl 3.1; ``{}`` is what ``to_dict`` makes of MISSING."""
    more = {"state_dependent_std": False, "actor_obs_normalization": True, "critic_obs_normalization": {}}
    cfg = {**ISAAC_LAB_TOP, "class_name": "OnPolicyRunner", "empirical_normalization": None, "obs_groups": {}}
    return copy.deepcopy({**cfg, "policy": {**POLICY, **more}, "algorithm": PPO})


def isaac_lab_main() -> dict:
    """Return a dict for rsl_rl 4.0 whose keys from before 4.0 nobody has set."""
    model = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "elu", "obs_normalization": True}
    actor = {**model, "distribution_cfg": None, "stochastic": True, "init_noise_std": 0.8, "noise_std_type": "log",
             "state_dependent_std": False}  # fmt: skip
    critic = {**model, "distribution_cfg": None, "stochastic": False, "init_noise_std": {}, "noise_std_type": "scalar",
              "state_dependent_std": False}  # fmt: skip
    cfg = {**ISAAC_LAB_TOP, "class_name": "OnPolicyRunner", "empirical_normalization": {}, "policy": {}}
    groups = {"actor": ["policy"], "critic": ["policy", "critic"]}
    algorithm = {**PPO, "optimizer": "adam", "share_cnn_encoders": False}
    return copy.deepcopy({**cfg, "obs_groups": groups, "actor": actor, "critic": critic, "algorithm": algorithm})


def migrate_policy(policy: dict, **more) -> dict:
    return migrate({"policy": policy, "algorithm": {"class_name": "PPO"}, "obs_groups": {}, **more})[0]


# 2.x and 3.x: `policy`


def test_2_x_policy_and_empirical_normalization():
    cfg, notes = migrate(isaac_lab_2_2())
    model = {"class_name": "MLPModel", "activation": "elu", "obs_normalization": True}
    distribution = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    assert cfg == {
        **ISAAC_LAB_TOP,
        "actor": {**model, "hidden_dims": [512, 256, 128], "distribution_cfg": distribution},
        "critic": {**model, "hidden_dims": [512, 256]},
        "algorithm": PPO,
    }
    assert notes == [
        "policy: from before rsl_rl 4.0, became actor (MLPModel, GaussianDistribution) and critic (MLPModel)",
        "empirical_normalization: from before rsl_rl 4.0, became obs_normalization: true, where policy does not say "
        "otherwise",
    ]


def test_3_x_policy_says_for_each_network_whether_it_normalises():
    cfg, notes = migrate(isaac_lab_2_3())
    assert (cfg["actor"]["obs_normalization"], cfg["critic"]["obs_normalization"]) == (True, False)
    assert len(notes) == 1
    # As rsl_rl 3.x has it: the old switch counts where the new one is not set.
    cfg, notes = migrate({**isaac_lab_2_3(), "empirical_normalization": True})
    assert (cfg["actor"]["obs_normalization"], cfg["critic"]["obs_normalization"]) == (True, True)
    policy = {**POLICY, "critic_obs_normalization": False}
    cfg = migrate_policy(policy, empirical_normalization=True)
    assert (cfg["actor"]["obs_normalization"], cfg["critic"]["obs_normalization"]) == (True, False)


def test_what_policy_leaves_out_has_the_default_of_its_class():
    cfg = migrate_policy({"class_name": "ActorCritic"})
    model = {"class_name": "MLPModel", "hidden_dims": [256, 256, 256], "activation": "elu", "obs_normalization": False}
    distribution = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    assert (cfg["actor"], cfg["critic"]) == ({**model, "distribution_cfg": distribution}, model)
    rnn = {"class_name": "RNNModel", "rnn_type": "lstm", "rnn_hidden_dim": 256, "rnn_num_layers": 1}
    cfg = migrate_policy({"class_name": "ActorCriticRecurrent"})
    assert cfg["critic"] == {**model, **rnn}
    cfg = migrate_policy({"class_name": "StudentTeacher"})
    assert (cfg["student"]["distribution_cfg"]["init_std"], cfg["teacher"]) == (0.1, model)


@pytest.mark.parametrize("class_name", ["ActorCritic", "rsl_rl.modules.ActorCritic", "rsl_rl.modules:ActorCritic"])
def test_every_way_to_name_rsl_rls_class(class_name: str):
    assert migrate_policy({"class_name": class_name})["actor"]["class_name"] == "MLPModel"


def test_a_state_dependent_deviation():
    cfg = migrate_policy({**POLICY, "state_dependent_std": True, "noise_std_type": "log", "init_noise_std": 0.5})
    assert cfg["actor"]["distribution_cfg"] == {
        "class_name": "HeteroscedasticGaussianDistribution",
        "init_std": 0.5,
        "std_type": "log",
    }


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"rnn_hidden_dim": 64}, 64),
        ({"rnn_hidden_size": 32}, 32),  # before 2.3
        ({"rnn_hidden_dim": 256, "rnn_hidden_size": 32}, 32),  # rsl_rl takes 256 for not set
        ({"rnn_hidden_dim": 64, "rnn_hidden_size": 32}, 64),
    ],
)
def test_the_two_names_of_the_memorys_size(sizes: dict, expected: int):
    cfg = migrate_policy({"class_name": "ActorCriticRecurrent", "rnn_type": "gru", **sizes})
    for section in ("actor", "critic"):
        assert (cfg[section]["rnn_hidden_dim"], cfg[section]["rnn_type"]) == (expected, "gru")


def test_a_network_without_images_needs_no_cnn():
    cnn = {"output_channels": [4], "kernel_size": 3}
    cfg = migrate_policy({**POLICY, "class_name": "ActorCriticCNN", "actor_cnn_cfg": cnn, "critic_cnn_cfg": None})
    assert (cfg["actor"]["class_name"], cfg["actor"]["cnn_cfg"]) == ("CNNModel", cnn)
    assert cfg["critic"]["class_name"] == "MLPModel"
    assert "cnn_cfg" not in cfg["critic"]


@pytest.mark.parametrize("teacher_recurrent", [False, True])
def test_distillation_gets_its_sections_and_its_runner(teacher_recurrent: bool):
    policy = {
        "class_name": "StudentTeacherRecurrent",
        "init_noise_std": 0.1,
        "noise_std_type": "scalar",
        "student_hidden_dims": [256, 128],
        "teacher_hidden_dims": [64],
        "activation": "elu",
        "rnn_type": "lstm",
        "rnn_hidden_dim": 128,
        "rnn_num_layers": 2,
        "teacher_recurrent": teacher_recurrent,
    }
    old = {"empirical_normalization": True, "policy": policy, "algorithm": {"class_name": "Distillation"}}
    cfg, notes = migrate(old)
    rnn = {"class_name": "RNNModel", "rnn_type": "lstm", "rnn_hidden_dim": 128, "rnn_num_layers": 2}
    teacher = {"class_name": "MLPModel", "hidden_dims": [64], "activation": "elu", "obs_normalization": True}
    assert cfg["teacher"] == ({**teacher, **rnn} if teacher_recurrent else teacher)
    assert {**cfg["student"], **rnn} == cfg["student"]
    assert cfg["student"]["hidden_dims"] == [256, 128]
    assert cfg["class_name"] == "DistillationRunner"
    assert notes[-1] == "class_name: from before rsl_rl 3.0, became DistillationRunner"
    assert "algorithm" not in " ".join(notes)
    assert migrate({**old, "class_name": "my.Runner"})[0]["class_name"] == "my.Runner"


def test_the_observation_set_policy_is_renamed():
    groups = {"policy": ["policy", "scan"], "critic": ["critic"]}
    cfg, notes = migrate({**isaac_lab_2_3(), "obs_groups": groups})
    assert cfg["obs_groups"] == {"actor": ["policy", "scan"], "critic": ["critic"]}
    assert notes[-1] == "obs_groups.policy: from before rsl_rl 4.0, became obs_groups.actor"
    cfg = migrate_policy({"class_name": "StudentTeacher"}, obs_groups={"policy": ["a"], "teacher": ["b"]})
    assert cfg["obs_groups"] == {"student": ["a"], "teacher": ["b"]}
    # Where the set is the group of its name, a missing one is filled in as it used to be.
    assert migrate_policy(POLICY, obs_groups={"policy": ["policy"]})["obs_groups"] == {"actor": ["policy"]}


def test_a_missing_set_that_could_mean_two_things_is_refused():
    with pytest.raises(UserError, match=r"^obs_groups.critic is missing: before .* policy \(\['policy', 'scan'\]\)"):
        migrate_policy(POLICY, obs_groups={"policy": ["policy", "scan"]})
    groups = {"policy": ["scan"], "critic": ["scan"]}
    algorithm = {"class_name": "PPO", "rnd_cfg": {"weight": 1.0}}
    with pytest.raises(UserError, match=r"^obs_groups\.rnd_state is missing"):
        migrate_policy(POLICY, obs_groups=groups, algorithm=algorithm)
    migrate_policy(POLICY, obs_groups=groups)


def test_2_x_had_other_defaults_for_ppo():
    """rsl_rl 2.3.3: epochs 1, mini-batches 1, gamma 0.998, no entropy bonus, a fixed learning rate."""
    old = {"empirical_normalization": False, "policy": POLICY, "algorithm": {"class_name": "PPO", "gamma": 0.9}}
    cfg, notes = migrate(old)
    assert cfg["algorithm"] == {
        "class_name": "PPO",
        "gamma": 0.9,
        "num_learning_epochs": 1,
        "num_mini_batches": 1,
        "entropy_coef": 0.0,
        "schedule": "fixed",
    }
    assert notes[-1] == (
        "algorithm: what is not set became the default of rsl_rl 2.x (num_learning_epochs 1, num_mini_batches 1, "
        "entropy_coef 0.0, schedule fixed)"
    )
    # 3.x demands obs_groups, and has today's defaults.
    assert migrate({**old, "obs_groups": {}})[0]["algorithm"] == old["algorithm"]


# What has no counterpart


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([1], r"^policy: expected a mapping of settings, found \[1\]"),
        ({"init_noise_std": 1.0}, "^policy.class_name is missing: expected one of ActorCritic, ActorCriticRecurrent"),
        ({"class_name": "ActorCritik"}, "^unknown policy.class_name 'ActorCritik': did you mean 'ActorCritic'?"),
        ({"class_name": "my_lab.nets:Net"}, "^policy.class_name: 'my_lab.nets:Net' is a class of your own .* sections"),
        ({"class_name": "ActorCritic", "actor_hidden_dim": [1]}, "^unknown key 'policy.actor_hidden_dim': did you"),
        ({"class_name": "ActorCritic", "rnn_type": "gru"}, "^unknown key 'policy.rnn_type'"),
        ({"class_name": "StudentTeacher", "state_dependent_std": True}, "^unknown key 'policy.state_dependent_std'"),
    ],
)
def test_what_cannot_be_expressed_is_one_error(policy, message: str):
    with pytest.raises(UserError, match=message):
        migrate_policy(policy)


def test_a_switch_of_another_class_that_is_off_does_not_matter():
    cfg = migrate_policy({"class_name": "StudentTeacher", "state_dependent_std": False, "rnn_type": None})
    assert cfg["student"]["class_name"] == "MLPModel"


def mirror_2_2(obs=None, actions=None, env=None, is_critic=False):
    """Take observations as rsl_rl 2.2 hands them over."""


def mirror_3_x(env, obs, actions, obs_type="policy"):
    """Take observations as rsl_rl 3.x hands them over, with a parameter left over."""


def test_a_mirror_function_of_2_x_is_refused():
    def old(function, **more) -> dict:
        symmetry = {"use_mirror_loss": True, "data_augmentation_func": function, "_env": object()}
        return {"policy": POLICY, "algorithm": {**PPO, "symmetry_cfg": symmetry}, **more}

    message = "^algorithm.symmetry_cfg.data_augmentation_func: mirror_2_2 takes 'is_critic'"
    with pytest.raises(UserError, match=message):
        migrate(old(mirror_2_2, empirical_normalization=False))
    cfg, _ = migrate(old(mirror_3_x, obs_groups={}))
    assert cfg["algorithm"]["symmetry_cfg"] == {"use_mirror_loss": True, "data_augmentation_func": mirror_3_x}


# 4.x: models without `distribution_cfg`


def test_4_x_stochastic_models():
    cfg, notes = migrate(isaac_lab_main())
    model = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "elu", "obs_normalization": True}
    distribution = {"class_name": "GaussianDistribution", "init_std": 0.8, "std_type": "log"}
    assert cfg["actor"] == {**model, "distribution_cfg": distribution}
    assert cfg["critic"] == {**model, "distribution_cfg": None}
    assert notes == [
        "actor: stochastic, init_noise_std, noise_std_type, state_dependent_std from before rsl_rl 5.0, became "
        "distribution_cfg (GaussianDistribution)"
    ]


def test_4_x_has_one_for_every_model():
    stochastic = {"class_name": "RNNModel", "stochastic": True, "state_dependent_std": True}
    cfg, notes = migrate({"student": stochastic, "teacher": {**stochastic, "init_noise_std": 0.0}})
    heteroscedastic = {"class_name": "HeteroscedasticGaussianDistribution", "std_type": "scalar"}
    assert cfg["student"] == {"class_name": "RNNModel", "distribution_cfg": {**heteroscedastic, "init_std": 1.0}}
    assert cfg["teacher"]["distribution_cfg"]["init_std"] == 0.0
    assert [note.partition(":")[0] for note in notes] == ["student", "teacher"]


def test_both_ways_to_say_it():
    new = {"class_name": "GaussianDistribution", "init_std": 0.3}
    actor = {"class_name": "MLPModel", "distribution_cfg": new, "stochastic": True, "init_noise_std": 1.0}
    cfg, notes = migrate({"actor": actor, "critic": {"class_name": "MLPModel", "init_noise_std": 1.0}})
    assert cfg["actor"] == {"class_name": "MLPModel", "distribution_cfg": new}
    assert cfg["critic"] == {"class_name": "MLPModel"}
    assert notes == [
        "actor: stochastic, init_noise_std from before rsl_rl 5.0, left out beside distribution_cfg",
        "critic: init_noise_std from before rsl_rl 5.0, left out: the model is not stochastic",
    ]


def test_a_model_of_ones_own_may_have_such_parameters():
    cfg = {"actor": {"class_name": "my_lab:Net", "stochastic": True}}
    assert migrate(cfg) == (cfg, [])


# 5.x, and generations in one dict


def test_a_dict_of_5_x_comes_back_equal_and_is_told_nothing():
    for cfg in (ppo_cfg(), {**ppo_cfg(), "obs_groups": {}}, {**ppo_cfg(), "empirical_normalization": False}):
        before = copy.deepcopy(cfg)
        migrated, notes = migrate(cfg)
        assert migrated == cfg == before
        assert notes == []
        migrated["actor"]["distribution_cfg"]["init_std"] = 9.0
        migrated["obs_groups"].setdefault("actor", []).append("more")
        assert cfg == before


@pytest.mark.parametrize("unset", [None, {}, dataclasses.MISSING, copy.deepcopy(dataclasses.MISSING), "<MISSING>"])
def test_a_key_that_nobody_set_is_as_good_as_none(unset):
    old_keys = dict.fromkeys(("policy", "empirical_normalization", "student", "teacher"), unset)
    assert migrate({**ppo_cfg(), **old_keys}) == (ppo_cfg(), [])
    cfg = isaac_lab_2_2()
    cfg.update(dict.fromkeys(("actor", "critic"), unset))
    cfg["policy"] |= {"actor_obs_normalization": unset, "state_dependent_std": unset}
    assert migrate(cfg) == migrate(isaac_lab_2_2())
    cfg = ppo_cfg()
    cfg["actor"] |= {"stochastic": unset, "init_noise_std": unset, "noise_std_type": "scalar"}
    assert migrate(cfg) == (ppo_cfg(), [])


def test_sections_of_their_own_come_before_policy():
    cfg = {**ppo_cfg(), "policy": {"class_name": "my_lab:Net"}, "empirical_normalization": True}
    migrated, notes = migrate(cfg)
    assert migrated == ppo_cfg()
    assert notes == [
        "policy: has no effect beside actor and critic",
        "empirical_normalization: has no effect beside actor and critic: set actor.obs_normalization and "
        "critic.obs_normalization",
    ]
    # One of them may be described in the new way already.
    cfg = isaac_lab_2_2()
    cfg["critic"] = {"class_name": "MLPModel", "hidden_dims": [7]}
    migrated, notes = migrate(cfg)
    assert migrated["critic"] == {"class_name": "MLPModel", "hidden_dims": [7]}
    assert migrated["actor"]["hidden_dims"] == [512, 256, 128]
    assert notes[0] == "policy: from before rsl_rl 4.0, became actor (MLPModel, GaussianDistribution)"


def test_a_layer_with_the_switch_alone():
    assert migrate({"empirical_normalization": True})[0] == {
        "actor": {"obs_normalization": True},
        "critic": {"obs_normalization": True},
    }


def test_extensions_at_the_top_are_pointed_out():
    _, notes = migrate({**ppo_cfg(), "rnd_cfg": {"weight": 1.0}})
    assert notes == ["rnd_cfg: has no effect here, in no release of rsl_rl: it belongs into algorithm.rnd_cfg"]


@pytest.mark.parametrize("make", [isaac_lab_2_2, isaac_lab_2_3, isaac_lab_main])
def test_the_input_is_not_modified_and_the_result_is_stable(make):
    cfg = make()
    migrated, _ = migrate(cfg)
    assert cfg == make()
    assert migrate(migrated) == (migrated, [])


# On the way to the runner


def small(cfg: dict) -> dict:
    """Return a dict of a release with networks and a run that fit into a test."""
    more = {"num_steps_per_env": 4, "logger": ["csv"], "console": False, "device": "cpu"}
    cfg = {**cfg, **more}
    if cfg.get("policy"):
        cfg["policy"] |= {"actor_hidden_dims": [8], "critic_hidden_dims": [8]}
    return cfg


@pytest.mark.parametrize("make", [isaac_lab_2_2, isaac_lab_2_3, isaac_lab_main])
def test_every_generation_trains_unchanged(make, caplog):
    cfg = small(make())
    before = copy.deepcopy(cfg)
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of observation sets that are filled in
        runner = OnPolicyRunner(PointEnv(), cfg)
        runner.learn(1)
    assert cfg == before
    assert [record.getMessage() for record in caplog.records] == migrate(cfg)[1]
    assert runner.alg.actor.obs_normalization


def test_a_type_that_is_wrong_is_named_by_its_new_place():
    cfg = isaac_lab_2_2()
    cfg["policy"]["init_noise_std"] = "1.0"
    with pytest.raises(UserError, match=r"^actor\.distribution_cfg\.init_std: expected a number, found '1.0'"):
        check_train_cfg(cfg)


class _OldLab:
    """A simulator's plugin whose tasks have settings for rsl_rl 2.3."""

    @hookimpl
    def sim_rl_default_config(self, adapter: str, task: str):
        return isaac_lab_2_2() if adapter == "old_lab" else None


@pytest.fixture
def old_lab(monkeypatch):
    monkeypatch.setenv(plugins.ALLOW_LIST, "")
    plugins.reset_manager()
    plugins.get_manager().register(_OldLab(), "old_lab")
    yield "old_lab"
    plugins.reset_manager()


def test_the_settings_of_a_simulators_task(old_lab, caplog):
    with caplog.at_level(logging.WARNING):
        config = load_config(old_lab, "Anymal", overrides=["actor.hidden_dims=[9]"])
    assert config.actor["hidden_dims"] == [9]
    assert config.critic == {
        "class_name": "MLPModel",
        "hidden_dims": [512, 256],
        "activation": "elu",
        "obs_normalization": True,
    }
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == ["policy", "empirical_normalization"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_train_cfg(config.to_dict())
    assert not caplog.records  # once per run


def test_a_config_file_in_an_old_shape(tmp_path, caplog):
    file = tmp_path / "old.yaml"
    file.write_text(
        "empirical_normalization: true\npolicy: {class_name: ActorCriticRecurrent, rnn_type: gru, rnn_hidden_dim: 8}\n"
        "algorithm: {gamma: 0.5}\n"
    )
    with caplog.at_level(logging.WARNING):
        config = load_config("mujoco", "HalfCheetah", file, ["critic.rnn_hidden_dim=16"])
    assert (config.actor["class_name"], config.actor["rnn_hidden_dim"], config.critic["rnn_hidden_dim"]) == (
        "RNNModel",
        8,
        16,
    )
    assert config.actor["obs_normalization"] is True
    assert caplog.records[0].getMessage().startswith("policy: from before rsl_rl 4.0, became actor (RNNModel")
