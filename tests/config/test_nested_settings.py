"""Settings within settings: a typo is one line with its path, before a simulator starts."""

import copy

import pytest
from small_configs import CNN, GRU, MLP, distillation_cfg, mirror, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.config import check_train_cfg, load_config
from sim_rl_plugin.errors import UserError

RND = {"weight": 1.0, "num_outputs": 2, "predictor_hidden_dims": [8], "target_hidden_dims": [8]}
EXPORTED = {"class_name": "ExportedPolicy", "path": "teacher.onnx"}


def with_teachers(*members: dict) -> dict:
    return {**distillation_cfg(), "teacher": {"class_name": "TeacherEnsemble", "teachers": list(members)}}


def with_cnn(cnn_cfg: dict) -> dict:
    cfg = ppo_cfg_with(CNN)
    cfg["actor"]["cnn_cfg"] = cnn_cfg
    return cfg


FLAT = CNN["cnn_cfg"]


@pytest.mark.parametrize(
    "cfg",
    [
        ppo_cfg(rnd_cfg={**RND, "weight_schedule": {"mode": "step", "final_step": 5, "final_value": 0.0}}),
        ppo_cfg(symmetry_cfg={"data_augmentation_func": mirror, "use_mirror_loss": True}),
        ppo_cfg(symmetry_cfg={"data_augmentation_func": "a_module_of_a_simulator_not_started:mirror"}),
        with_cnn({"camera": FLAT, "depth": {**FLAT, "padding": "zeros"}}),
        ppo_cfg_with(GRU),
        distillation_cfg(GRU, MLP, dagger_cfg={"num_updates": 5}, loss_type="kl"),
        with_teachers(MLP, EXPORTED),
    ],
)
def test_what_is_right_passes_and_is_not_changed(cfg: dict):
    before = copy.deepcopy(cfg)
    assert check_train_cfg(cfg) == cfg == before


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            ppo_cfg(rnd_cfg={**RND, "wieght": 1.0}),
            "'algorithm.rnd_cfg.wieght': did you mean 'algorithm.rnd_cfg.weight'",
        ),
        ({**ppo_cfg(), "init_from": 3}, "init_from: expected a string or a list of strings or null, found 3"),
        (ppo_cfg(rnd_cfg={"weight": 1.0}), "algorithm.rnd_cfg.num_outputs is missing"),
        (ppo_cfg(rnd_cfg={**RND, "num_states": 3}), "algorithm.rnd_cfg.num_states is filled in by the framework"),
        (ppo_cfg(rnd_cfg={**RND, "weight": "x"}), "algorithm.rnd_cfg.weight: expected a number, found 'x'"),
        (
            ppo_cfg(rnd_cfg={**RND, "weight_schedule": {"mode": "liner"}}),
            "unknown algorithm.rnd_cfg.weight_schedule.mode 'liner': did you mean 'linear'",
        ),
        (
            ppo_cfg(rnd_cfg={**RND, "weight_schedule": {"mode": "step", "final_stp": 3, "final_value": 1.0}}),
            "algorithm.rnd_cfg.weight_schedule.final_step is missing",
        ),
        (
            ppo_cfg(symmetry_cfg={"data_augmentation_func": mirror, "use_miror_loss": True}),
            "did you mean 'algorithm.symmetry_cfg.use_mirror_loss'",
        ),
        (ppo_cfg(symmetry_cfg={}), "algorithm.symmetry_cfg.data_augmentation_func is missing"),
        (with_cnn({**FLAT, "paddin": "zeros"}), "'actor.cnn_cfg.paddin': did you mean 'actor.cnn_cfg.padding'"),
        (with_cnn({"camera": FLAT, "depth": {**FLAT, "strid": 2}}), "did you mean 'actor.cnn_cfg.depth.stride'"),
        (with_cnn({**FLAT, "flatten": False}), "actor.cnn_cfg.flatten is filled in by the framework"),
        (with_cnn({"kernel_size": 3}), "actor.cnn_cfg.output_channels is missing"),
        (with_cnn({**FLAT, "stride": "2"}), "actor.cnn_cfg.stride: expected an integer or a list of integers"),
        (ppo_cfg_with({**GRU, "rnn_hiden_dim": 3}), "did you mean 'actor.rnn_hidden_dim'"),
        (distillation_cfg(gradient_lenght=3), "did you mean 'algorithm.gradient_length'"),
        (distillation_cfg(dagger_cfg={"num_update": 3}), "did you mean 'algorithm.dagger_cfg.num_updates'"),
        (distillation_cfg(dagger_cfg={}), "algorithm.dagger_cfg.num_updates is missing"),
        (distillation_cfg(dagger_cfg={"num_updates": 3, "device": "cpu"}), "dagger_cfg.device is filled in by"),
        (distillation_cfg(rnd_cfg=RND), "algorithm.rnd_cfg: not possible with Distillation"),
        (distillation_cfg({**MLP, "hidden_dim": 3}), "did you mean 'student.hidden_dims'"),
        (with_teachers(MLP, {**MLP, "hidden_dim": 3}), "did you mean 'teacher.teachers[1].hidden_dims'"),
        (with_teachers(MLP, {"class_name": "MLPModl"}), "teacher.teachers[1].class_name: unknown class 'MLPModl'"),
        (with_teachers({"class_name": "ExportedPolicy"}), "teacher.teachers[0].path is missing"),
        (with_teachers({**MLP, "obs_set": "x"}), "teacher.teachers[0].obs_set is filled in by the framework"),
    ],
)
def test_a_mistake_is_one_line_with_its_path(cfg: dict, message: str):
    with pytest.raises(UserError) as caught:
        check_train_cfg(cfg)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


DISTILLATION = ["class_name=DistillationRunner", "algorithm.class_name=Distillation"]


def test_a_student_and_a_teacher_take_the_place_of_actor_and_critic():
    ppo = load_config("mujoco", "Ant")
    config = load_config("mujoco", "Ant", overrides=[*DISTILLATION, "student.class_name=RNNModel", "init_from=runs/x"])
    assert (config.actor, config.critic) == (None, None)
    assert config.teacher == ppo.actor
    assert config.student == {"class_name": "RNNModel"}
    assert config.algorithm == {"class_name": "Distillation"}
    assert config.init_from == "runs/x"
    assert (ppo.student, ppo.teacher) == (None, None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.hidden_dims=[8]"], "student: the algorithm PPO has no student; its models are actor, critic"),
        ([*DISTILLATION, "actor.hidden_dims=[8]"], "actor: the algorithm Distillation has no actor"),
        (
            [*DISTILLATION, "student.hidden_dim=8"],
            "unknown key 'student.hidden_dim': did you mean 'student.hidden_dims'",
        ),
        ([*DISTILLATION, "algorithm.gradient_lenght=3"], "did you mean 'algorithm.gradient_length'"),
        ([*DISTILLATION, "algorithm.dagger_cfg.num_update=3"], "did you mean 'algorithm.dagger_cfg.num_updates'"),
        (["algorithm.rnd_cfg.wieght=1"], "did you mean 'algorithm.rnd_cfg.weight'"),
        (["init_from=3"], "init_from: expected a string or a list of strings or null, found 3"),
        (["torch_compile_mode=defualt"], "torch_compile_mode: expected one of 'default'"),
    ],
)
def test_mistakes_on_the_command_line(overrides: list[str], message: str):
    with pytest.raises(UserError) as caught:
        load_config("mujoco", "Ant", overrides=overrides)
    assert message in str(caught.value)
