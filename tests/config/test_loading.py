"""Layers, overrides, and what users get to read when they are wrong."""

import copy
import logging
from pathlib import Path

import pytest

from sim_rl_plugin import plugins
from sim_rl_plugin.config import RunConfig, check_train_cfg, dump_config, load_config, with_overrides
from sim_rl_plugin.config.files import configs_folder, merge, merge_layers, read_config, task_settings
from sim_rl_plugin.config.overrides import parse_overrides
from sim_rl_plugin.config.schema import schema_defaults
from sim_rl_plugin.config.yaml_text import parse_value
from sim_rl_plugin.errors import UserError

MUJOCO_TASKS = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
)


@pytest.fixture(autouse=True)
def only_builtins(monkeypatch):
    monkeypatch.setenv(plugins.ALLOW_LIST, "")
    plugins.reset_manager()
    yield
    plugins.reset_manager()


def test_the_command_line_lies_on_the_file_on_the_task_on_the_schema(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("num_steps_per_env: 10\nseed: 5\nalgorithm: {gamma: 0.5, lam: 0.5}\n")
    config = load_config("mujoco", "HalfCheetah", file, ["algorithm.gamma=0.7"], {"seed": 9, "num_envs": None})
    assert config.check_for_nan is True  # schema
    assert config.num_envs == 64  # the task's settings
    assert config.num_steps_per_env == 10  # the file
    assert config.seed == 9  # the option
    assert (config.algorithm["lam"], config.algorithm["gamma"]) == (0.5, 0.7)
    assert config.algorithm["class_name"] == "PPO"


def test_simulator_and_task_may_come_from_the_file(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("simulator: gymnasium\ntask: Pendulum-v1\n")
    config = load_config(config_file=file)
    assert (config.simulator, config.task, config.algorithm["gamma"]) == ("gymnasium", "Pendulum-v1", 0.9)
    assert load_config(task="Ant").simulator == "mujoco"
    with pytest.raises(UserError, match="no task is given: say --task NAME"):
        load_config()


def test_another_class_drops_the_settings_of_the_first():
    lower = {"actor": {"class_name": "MLPModel", "hidden_dims": [64], "distribution_cfg": {"class_name": "A", "x": 1}}}
    upper = {"actor": {"distribution_cfg": {"class_name": "B"}}}
    assert merge(lower, upper) == {
        "actor": {"class_name": "MLPModel", "hidden_dims": [64], "distribution_cfg": {"class_name": "B"}}
    }
    assert merge(lower, {"actor": {"class_name": "Mine", "y": 2}}) == {"actor": {"class_name": "Mine", "y": 2}}
    same = merge(lower, {"actor": {"class_name": "MLPModel", "hidden_dims": [1]}})
    assert same["actor"]["distribution_cfg"] == {"class_name": "A", "x": 1}


def test_another_runner_keeps_the_other_settings():
    merged = merge_layers({"class_name": "OnPolicyRunner", "seed": 3}, {"class_name": "Mine"})
    assert merged == {"class_name": "Mine", "seed": 3}


def test_merging_changes_neither_layer():
    lower, upper = {"a": {"b": [1]}}, {"a": {"c": [2]}}
    merged = merge(lower, upper)
    merged["a"]["b"].append(3)
    merged["a"]["c"].append(3)
    assert (lower, upper) == ({"a": {"b": [1]}}, {"a": {"c": [2]}})


@pytest.mark.parametrize("task", MUJOCO_TASKS)
@pytest.mark.parametrize("simulator", ["mujoco", "gymnasium"])
def test_the_tuned_settings_load_without_a_complaint(simulator, task, caplog):
    with caplog.at_level(logging.WARNING):
        config = load_config(simulator, task)
    assert not caplog.records
    if simulator == "gymnasium":
        mujoco = load_config("mujoco", task)
        assert (config.algorithm, config.actor) == (mujoco.algorithm, mujoco.actor)
        assert load_config(simulator, f"{task}-v5").algorithm == config.algorithm


def test_every_key_of_the_tuned_settings_has_a_comment():
    for path in configs_folder().rglob("*.yaml"):
        first, *lines = path.read_text().splitlines()
        assert first.startswith("# "), path
        for line in lines:
            key, _, value = line.partition(":")
            if value and key.strip() not in ("class_name", "base"):
                assert "  # " in value, f"{path}: {line}"


def test_a_checkouts_settings_come_before_the_packages(tmp_path: Path, monkeypatch):
    package = tmp_path / "sim_rl_plugin"
    monkeypatch.setattr("sim_rl_plugin.config.files.__file__", str(package / "config" / "files.py"))
    (tmp_path / "configs").mkdir()
    assert configs_folder() == package / "configs"
    (tmp_path / "pyproject.toml").touch()
    assert configs_folder() == tmp_path / "configs"


def test_a_task_without_a_file_gets_its_simulators_defaults():
    assert task_settings("mujoco", "MyRobot") == read_config(configs_folder() / "mujoco" / "_default.yaml")
    assert task_settings("mujoco", "../gymnasium/Pendulum") == task_settings("mujoco", "MyRobot")
    assert task_settings("some-simulator", "MyRobot") is None
    assert task_settings("../configs/mujoco", "Ant") is None
    assert load_config("some-simulator", "MyRobot").algorithm == schema_defaults().algorithm


def test_bases_that_do_not_exist_or_go_in_a_circle(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sim_rl_plugin.config.files.configs_folder", lambda: tmp_path)
    (tmp_path / "a.yaml").write_text("base: b.yaml\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    (tmp_path / "c.yaml").write_text("base: d.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        read_config(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"there is no 'd\.yaml' in"):
        read_config(tmp_path / "c.yaml")


def test_overrides_make_one_layer():
    layer = parse_overrides(["algorithm.learning_rate=3e-4", "actor.hidden_dims=[256,128]", "seed=1", "seed=2"])
    assert layer == {"algorithm": {"learning_rate": 3e-4}, "actor": {"hidden_dims": [256, 128]}, "seed": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.clip_parm=0.1", "unknown key 'algorithm.clip_parm': did you mean 'algorithm.clip_param'?"),
        ("algorithm.gamma=abc", "algorithm.gamma: expected a number, found 'abc'"),
        ("algorithm.class_name=PPOO", "algorithm.class_name: unknown class 'PPOO': did you mean 'PPO'?"),
        ("actor.distribution_cfg.init_sdt=1", "unknown key 'actor.distribution_cfg.init_sdt': did you mean"),
        ("actor.distribution_cfg.init_std=x", "actor.distribution_cfg.init_std: expected a number, found 'x'"),
        ("actor.hidden_dims=64", "actor.hidden_dims: expected a list of integers, found 64"),
        ("algorithm.gamma.x=1", "algorithm.gamma: expected a number, found {'x': 1}"),
        ("algorithm=3", "algorithm: expected a mapping of settings, found 3"),
        ("algorithm.device=cpu", "algorithm.device is filled in by the framework and cannot be set"),
        ("class_name=OnPolicyRuner", "runner.class_name: unknown class 'OnPolicyRuner': did you mean"),
        ("seed.x=1", "seed.x: seed is a single value (1), not a section"),
        ("sede=1", "unknown key 'sede': did you mean 'seed'?"),
        ("gamma=1", "unknown key 'gamma': did you mean 'algorithm.gamma'?"),
        ("seed=1.5", "seed: expected an integer, found 1.5"),
        ("seed=true", "seed: expected an integer, found True"),
        ("num_envs=0", "num_envs: it should be greater than 0, found 0"),
        ("logger=3", "logger: expected a string or a mapping or"),
        ("seed", "cannot read the override 'seed': expected KEY=VALUE, as algorithm.learning_rate=3e-4"),
        ("algorithm..gamma=1", "cannot read the override"),
        ("actor.hidden_dims=[1", "actor.hidden_dims: cannot read the value '[1'"),
    ],
)
def test_a_wrong_override_is_one_line_with_its_path(override, message):
    with pytest.raises(UserError) as caught:
        load_config("mujoco", "HalfCheetah", overrides=[override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_overrides_that_contradict_each_other():
    with pytest.raises(UserError, match=r"a\.b\.c: a\.b is set to 1 by another override"):
        parse_overrides(["a.b=1", "a.b.c=2"])


def test_a_config_is_frozen_and_hands_out_copies():
    config = load_config(task="Ant")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    config.to_dict()["algorithm"]["gamma"] = 0.0
    assert config.algorithm["gamma"] == 0.99


def test_a_dumped_config_is_read_back_identically(tmp_path: Path):
    config = load_config(
        "mujoco", "Ant", overrides=["run_name='3e-4'", "logger=[tensorboard, {class_name: csv}]", "clip_actions=1"]
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(config_file=path) == config
    assert with_overrides(parse_value(dump_config(config))) == config


def test_settings_of_an_earlier_run_take_overrides_and_new_defaults():
    settings = load_config(task="Ant", overrides=["seed=3"]).to_dict()
    del settings["clip_actions"]
    settings["multi_gpu"] = None
    config = with_overrides(settings, ["algorithm.gamma=0.5"], {"max_iterations": 7, "device": None})
    assert (config.seed, config.algorithm["gamma"], config.max_iterations, config.clip_actions) == (3, 0.5, 7, None)


def test_a_plugins_settings_may_hold_tuples_classes_and_foreign_keys(caplog):
    from sim_rl_plugin.models import MLPModel

    class Tuned:
        @plugins.hooks.hookimpl
        def sim_rl_default_config(self, adapter, task):
            return {
                "actor": {"class_name": MLPModel, "hidden_dims": (32, 32)},
                "wandb_project": "x",
                "save_intervall": 5,
            }

    plugins.get_manager().register(Tuned(), "tuned")
    with caplog.at_level(logging.WARNING):
        config = load_config("lab", "Cartpole")
    assert config.actor["hidden_dims"] == [32, 32]
    assert config.actor["class_name"] == f"{MLPModel.__module__}:MLPModel"
    assert [record.getMessage() for record in caplog.records] == [
        "the setting 'save_intervall' is unknown and has no effect: did you mean 'save_interval'?"
    ]


def test_a_plugin_may_look_at_the_users_settings_and_cannot_change_them():
    seen = []

    class Started:
        @plugins.hooks.hookimpl
        def sim_rl_default_config(self, adapter, task, settings):
            seen.append(settings["env"]["headless"])
            settings["seed"] = 5
            return {"seed": 4}

    plugins.get_manager().register(Started(), "started")
    assert load_config("lab", "Cartpole", overrides=["env.headless=false"]).seed == 4
    assert seen == [False]


def rsl_rl_cfg() -> dict:
    return {
        "class_name": "OnPolicyRunner",
        "num_steps_per_env": 24,
        "max_iterations": 300,
        "save_interval": 50,
        "experiment_name": "go1",
        "run_name": "",
        "logger": "wandb",
        "wandb_project": "mjlab",
        "upload_model": True,
        "resume": False,
        "load_run": ".*",
        "obs_groups": {"actor": ["actor"], "critic": ["critic"]},
        "algorithm": {"class_name": "rsl_rl.algorithms.PPO", "gamma": 0.99, "share_cnn_encoders": False},
        "actor": {
            "class_name": "rsl_rl.models:MLPModel",
            "hidden_dims": (512, 256, 128),
            "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0},
        },
        "critic": {"class_name": "MLPModel", "hidden_dims": (512, 256, 128)},
    }


def test_an_rsl_rl_dict_runs_unchanged_and_unmutated(caplog):
    cfg = rsl_rl_cfg()
    with caplog.at_level(logging.WARNING):
        checked = check_train_cfg(cfg)
    assert not caplog.records
    assert checked == cfg == rsl_rl_cfg()
    checked["actor"]["distribution_cfg"]["init_std"] = 5
    assert cfg == rsl_rl_cfg()


def test_an_rsl_rl_dict_is_strict_within_and_helpful_on_top(caplog):
    cfg = rsl_rl_cfg()
    cfg["save_intervall"] = 3
    with caplog.at_level(logging.WARNING):
        check_train_cfg(cfg)
    assert "'save_intervall' is unknown and has no effect: did you mean 'save_interval'?" in caplog.text
    for section, key in (("algorithm", "gama"), ("actor", "hidden_dim"), ("critic", "activatoin")):
        wrong = copy.deepcopy(cfg)
        wrong[section][key] = 1
        with pytest.raises(UserError, match=rf"^unknown key '{section}\.{key}': did you mean"):
            check_train_cfg(wrong)
    with pytest.raises(UserError, match="algorithm is missing: the training dict has 'num_steps_per_env'"):
        check_train_cfg({"num_steps_per_env": 3})
    with pytest.raises(UserError, match="num_steps_per_env: expected an integer, found '24'"):
        check_train_cfg({**cfg, "num_steps_per_env": "24"})
    with pytest.raises(UserError, match="obs_groups: expected a mapping, found"):
        check_train_cfg({**cfg, "obs_groups": {"actor": "policy"}})


def test_every_setting_is_explained():
    for name, field in RunConfig.model_fields.items():
        assert field.description, name
