"""Configs, overrides and training dicts that are wrong in every way: they work, or are refused in one line."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fuzzing import at_path, attempt, mangled, mutations, paths_of, scalars, short, values
from hypothesis import example, given
from hypothesis import strategies as st
from small_configs import CNN, GRU, MLP, distillation_cfg, mirror, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.config import RunConfig, check_train_cfg, dump_config, load_config, with_overrides
from sim_rl_plugin.config.files import configs_folder
from sim_rl_plugin.config.yaml_text import dump, read_mapping
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.pipelines.plan import load_plan

RND = {
    "weight": 1.0, "num_outputs": 2, "predictor_hidden_dims": [8], "target_hidden_dims": [8],
    "weight_schedule": {"mode": "step", "final_step": 5, "final_value": 0.0},
}  # fmt: skip
SHIPPED = [path.read_bytes() for path in sorted(configs_folder().glob("mujoco/*.yaml"))]
FULL = load_config(
    "mujoco",
    "Ant",
    overrides=[
        "logger=[{class_name: csv}, tensorboard]",
        "algorithm.symmetry_cfg={data_augmentation_func: 'small_configs:mirror', use_mirror_loss: true}",
        "env={num_threads: 1, task_options: {ctrl_cost_weight: 0.5}, observation_groups: {joints: [position]}}",
        "obs_groups={actor: [policy], critic: [policy, joints], rnd_state: [policy]}",
    ],
    options={"algorithm": {"rnd_cfg": RND}},
).to_dict()

IN_2 = {
    "num_steps_per_env": 24, "max_iterations": 10, "save_interval": 50, "empirical_normalization": True, "seed": 1,
    "policy": {"class_name": "ActorCritic", "init_noise_std": 1.0, "actor_hidden_dims": [8],
               "critic_hidden_dims": [8], "activation": "elu"},
    "algorithm": {"class_name": "PPO", "num_learning_epochs": 5, "rnd_cfg": None, "symmetry_cfg": None},
}  # fmt: skip
IN_3 = {
    "class_name": "DistillationRunner", "num_steps_per_env": 24,
    "obs_groups": {"policy": ["policy"], "teacher": ["policy"]},
    "policy": {"class_name": "StudentTeacherRecurrent", "student_hidden_dims": [8], "teacher_hidden_dims": [8],
               "student_obs_normalization": True, "rnn_type": "gru", "rnn_hidden_dim": 8, "teacher_recurrent": False},
    "algorithm": {"class_name": "Distillation", "gradient_length": 4},
}  # fmt: skip
IN_4 = {
    "num_steps_per_env": 24, "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {"class_name": "MLPModel", "hidden_dims": [8], "stochastic": True, "init_noise_std": 0.5,
              "noise_std_type": "log", "state_dependent_std": False},
    "critic": {"class_name": "MLPModel", "hidden_dims": [8], "stochastic": False},
    "algorithm": {"class_name": "PPO"},
}  # fmt: skip
LEGGED_GYM = {
    "seed": 1, "runner_class_name": "OnPolicyRunner",
    "policy": {"init_noise_std": 1.0, "actor_hidden_dims": [8], "critic_hidden_dims": [8], "activation": "elu"},
    "algorithm": {"value_loss_coef": 1.0, "num_learning_epochs": 5},
    "runner": {"policy_class_name": "ActorCritic", "algorithm_class_name": "PPO", "num_steps_per_env": 24},
}  # fmt: skip
ISAAC_LAB = {
    **ppo_cfg(rnd_cfg=None, symmetry_cfg=None), "device": "cuda:0", "policy": dataclasses.MISSING, "clip_actions": None,
    "empirical_normalization": {}, "wandb_project": "isaaclab", "neptune_project": "isaaclab", "resume": False,
    "load_run": ".*", "load_checkpoint": "model_.*.pt",
}  # fmt: skip
MJLAB = {
    **ppo_cfg(), "experiment_name": "go1_velocity", "run_name": "", "wandb_tags": (), "upload_model": True,
    "actor": {**MLP, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
}  # fmt: skip
PLAYGROUND = {
    "num_timesteps": 100_000_000, "num_evals": 10, "reward_scaling": 1.0, "unroll_length": 20, "num_minibatches": 32,
    "network_factory": {"policy_hidden_layer_sizes": (128, 128), "policy_obs_key": "state"},
}  # fmt: skip
TRAINING_DICTS = {
    "ours": ppo_cfg(rnd_cfg=RND, symmetry_cfg={"data_augmentation_func": mirror, "use_mirror_loss": True}),
    "cnn": ppo_cfg_with(CNN), "rnn": ppo_cfg_with(GRU), "distillation": distillation_cfg(dagger_cfg={"num_updates": 5}),
    "2.x": IN_2, "3.x": IN_3, "4.0": IN_4, "legged_gym": LEGGED_GYM, "Isaac Lab": ISAAC_LAB, "mjlab": MJLAB,
    "Playground": PLAYGROUND,
}  # fmt: skip


# Text


def _read(path: Path, text: bytes) -> Any:
    path.write_bytes(text)
    return attempt("config file, text", lambda: load_config("mujoco", "Ant", path))


@short(60)
@given(text=st.sampled_from(SHIPPED).flatmap(mangled))
def test_mangled_config_files(text: bytes, tmp_path_factory: pytest.TempPathFactory):
    _read(tmp_path_factory.getbasetemp() / "fuzz.yaml", text)


@short(60)
@given(text=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))))
def test_noise_as_config_file(text: bytes, tmp_path_factory: pytest.TempPathFactory):
    _read(tmp_path_factory.getbasetemp() / "fuzz.yaml", text)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB.encode(), "aliases"),
        (b"algorithm: &a {x: *a}\n", "holds itself"),
        (b"[" * 500, "deep"),
        (b"a: " + b"{b: " * 500, "deep"),
        (b"seed: 1\nseed: 2\n", "a second time"),
        (b"actor: {hidden_dims: [1], hidden_dims: [2]}\n", "a second time"),
        (b"\xff\xfe\x00s", "UTF-8"),
        (b"seed:\t1\n\talgorithm: 3\n", "found character '\\t'"),
        (b"seed: !!python/object/apply:os.system ['touch executed']\n", "python/object/apply:os.system"),
        (b"seed: !!int abc\n", "'abc' cannot be read as int"),
        (b"run_name: !!timestamp 2020-99-99\n", "tag:yaml.org,2002:timestamp"),
        (b"seed: " + b"9" * 5000 + b"\n", "cannot be read as int"),
        (b"seed: 1\n---\nseed: 2\n", "expected a single document"),
        (b"- seed\n", "expected a mapping"),
        (b"1: 2\n", "expected a name as key"),
        (b"? [a]\n: 2\n", "expected a name as key"),
        (b"#" * 20_000_000, "too large"),
        (b"run_name: !!set {a, b}\n", "tag:yaml.org,2002:set"),
        (b"env: !!omap [a: 1]\n", "tag:yaml.org,2002:omap"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_files_that_are_made_to_hurt(text: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    error = _read(tmp_path / "bad.yaml", text)
    assert isinstance(error, UserError)
    assert message in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_an_empty_file_changes_nothing(tmp_path: Path):
    assert _read(tmp_path / "empty.yaml", b"") == load_config("mujoco", "Ant")


# Settings


@short(80)
@given(settings=mutations(FULL))
def test_mutated_settings(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    try:
        text = dump(settings)
    except Exception:
        return  # no text of a file gives these
    path.write_text(text, encoding="utf-8")
    found = attempt("config file, settings", lambda: load_config(config_file=path))
    if isinstance(found, RunConfig):
        # What is accepted survives the run folder.
        path.write_text(dump_config(found), encoding="utf-8")
        assert repr(with_overrides(read_mapping(path))) == repr(found)


SECTIONS_OF_FREE_NAMES = [("obs_groups",), ("env", "observation_groups")]


@pytest.mark.parametrize(
    "section",
    [path for path in paths_of(FULL, dict) if path not in SECTIONS_OF_FREE_NAMES],
    ids=lambda path: ".".join(map(str, path)) or "top",
)
def test_an_unknown_key_is_refused_at_any_depth(section: tuple[Any, ...], tmp_path: Path):
    settings = copy.deepcopy(FULL)
    at_path(settings, section)["no_such_key"] = 1
    (tmp_path / "bad.yaml").write_text(dump(settings))

    def use() -> None:
        from sim_rl_plugin.simulation import open_env

        with open_env(load_config(config_file=tmp_path / "bad.yaml"), device="cpu", num_envs=1):
            pass

    error = attempt("unknown key", use)
    assert isinstance(error, UserError)
    assert "no_such_key" in str(error)


@short(120)
@given(text=st.one_of(
    st.text(max_size=30),
    st.builds(
        lambda key, equals, value: key + equals + value,
        st.lists(st.sampled_from(["algorithm", "actor", "env", "logger", "seed", "learning_rate", "hidden_dims", "",
                                  "obs_groups", "task_options", "class_name", "init_from", " ", "0", "x"]),
                 min_size=1, max_size=5).map(".".join),
        st.sampled_from(["=", "", "==", " = ", ":", ".="]),
        st.one_of(scalars.map(str), values.map(repr)),
    ),
))  # fmt: skip
@example("=")
@example("algorithm")
@example("." * 2000 + "=1")
@example("algorithm.=1")
@example("algorithm=3")
@example("algorithm.x.y.z=3")
@example("a=" + "[" * 500)
@example("seed=" + "9" * 5000)
def test_mangled_overrides(text: str):
    attempt("override", lambda: load_config("mujoco", "Ant", overrides=[text]))


# Training dicts


@pytest.mark.parametrize("name", TRAINING_DICTS)
def test_mutated_training_dicts(name: str):
    original = TRAINING_DICTS[name]

    @short(25)
    @given(train_cfg=mutations(original))
    def run(train_cfg: dict[str, Any]) -> None:
        before = repr(train_cfg)
        attempt(f"training dict, {name}", lambda: check_train_cfg(train_cfg))
        assert repr(train_cfg) == before

    run()


@short(40)
@given(train_cfg=st.one_of(values, st.dictionaries(st.sampled_from(list(ppo_cfg())), values)))
def test_anything_as_training_dict(train_cfg: Any):
    attempt("training dict, anything", lambda: check_train_cfg(train_cfg))


@pytest.mark.parametrize("name", ["ours", "cnn", "rnn", "distillation", "2.x", "3.x", "4.0"])
def test_an_unknown_key_in_a_training_dict_is_refused_at_any_depth(name: str):
    original = TRAINING_DICTS[name]
    for section in paths_of(original, dict):
        if section in ((), ("obs_groups",)):
            continue  # train scripts keep their own settings there; the sets are checked with the environment
        train_cfg = copy.deepcopy(original)
        at_path(train_cfg, section)["no_such_key"] = 1
        error = attempt("unknown key", lambda train_cfg=train_cfg: check_train_cfg(train_cfg))
        assert isinstance(error, UserError), section
        assert "no_such_key" in str(error)


# Pipelines


@short(25)
@given(settings=mutations(read_mapping(configs_folder() / "pipelines" / "ant_teacher_student.yaml")))
def test_mutated_pipeline_files(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "pipeline.yaml"
    try:
        path.write_text(dump(settings), encoding="utf-8")
    except Exception:
        return
    attempt("pipeline file", lambda: load_plan(path))
