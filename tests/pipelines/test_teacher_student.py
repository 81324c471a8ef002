"""The teacher-student pipeline: what each stage gets from the ones before it, and the whole of it on points."""

import json
from pathlib import Path

import pytest
import torch
from pipeline_runs import in_a_process, iterations, same

from sim_rl_plugin.config.files import configs_folder
from sim_rl_plugin.pipelines.plan import find_pipeline_file, load_plan

FILE = """
pipeline: teacher-student
common: {simulator: points, task: Go}
evaluation: {episodes: 3}
teacher:
  obs_groups: {actor: [critic], critic: [critic, policy]}
student:
  max_iterations: 4
  obs_groups: {student: [policy]}
  algorithm: {gradient_length: 4}
  student:
    class_name: RNNModel
    rnn_type: gru
    rnn_hidden_dim: 8
    hidden_dims: [8]
    distribution_cfg: {class_name: GaussianDistribution, init_std: 0.2}
finetune: {max_iterations: 2}
scratch: {actor: {distribution_cfg: {init_std: 0.9}}}
"""
LAST = {"teacher": 2, "student": 3, "finetune": 1, "scratch": 5}
"""``scratch`` takes 4 + 2 iterations."""


@pytest.fixture
def file() -> Path:
    path = Path("points.yaml")
    path.write_text(FILE)
    return path


def test_each_stage_gets_its_models_and_observations_from_those_before_it(file):
    teacher, student, finetune, scratch = (planned.config for planned in load_plan(file).stages)
    assert teacher.algorithm["class_name"] == "PPO"
    assert (student.class_name, student.algorithm) == (
        "DistillationRunner",
        {"class_name": "Distillation", "gradient_length": 4},
    )
    assert student.teacher == teacher.actor
    assert student.obs_groups == {"teacher": ["critic"], "student": ["policy"]}
    assert (student.actor, student.critic) == (None, None)
    for config in (finetune, scratch):
        assert config.algorithm == teacher.algorithm
        assert config.obs_groups == {"actor": ["policy"], "critic": ["critic", "policy"]}
        assert config.critic == teacher.critic
        assert (config.student, config.teacher) == (None, None)
    assert finetune.actor == student.student
    assert scratch.actor["distribution_cfg"]["init_std"] == 0.9
    assert {**scratch.actor, "distribution_cfg": None} == {**finetune.actor, "distribution_cfg": None}
    assert [config.max_iterations for config in (student, finetune, scratch)] == [4, 2, 6]


def test_without_fine_tuning_the_budget_is_the_students(file):
    plan = load_plan(file, ["stages=[teacher,student,scratch]"])
    assert [planned.config.max_iterations for planned in plan.stages] == [3, 4, 4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.obs_groups=null", "student.obs_groups.student is missing"),
        ("teacher.obs_groups={actor: []}", "teacher.obs_groups.actor is missing"),
        ("student.algorithm.gradient_lenght=2", "student: unknown key 'algorithm.gradient_lenght': did you mean"),
        ("student.student.rnn_typ=gru", "student: unknown key 'student.rnn_typ': did you mean 'student.rnn_type'?"),
        ("stages=[teacher,finetune]", "stages: 'student' is missing"),
    ],
)
def test_a_mistake_is_one_line(sim_rl, override, message):
    path = Path("points.yaml")
    text = FILE.replace("  obs_groups: {student: [policy]}\n", "") if override.endswith("null") else FILE
    path.write_text(text)
    arguments = [] if override.endswith("null") else [override]
    result = sim_rl("pipeline", "run", path, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_killed_while_the_student_learns_it_ends_bit_for_bit_the_same(file, sim_rl):
    """The student dies in its third iteration, after checkpoint 2 of 0 to 3 was written."""
    result = sim_rl("pipeline", "run", file, "--run-dir", "straight")
    assert result.exit_code == 0, result.output
    killed = in_a_process("pipeline", "run", file, "--run-dir", "parts", at="student:3")
    assert killed.returncode == -9, killed.stderr
    result = sim_rl("pipeline", "run", file, "--run-dir", "parts")
    assert result.exit_code == 0, result.output
    assert "teacher: complete, 3 iterations, skipped" in result.output
    assert "student: continues after 3 of 4 iterations" in result.output
    for stage, last in LAST.items():
        same(*(torch.load(f"{root}/{stage}/model_{last}.pt") for root in ("straight", "parts")), stage)
        assert iterations(Path("parts") / stage) == list(range(last + 1))
    assert Path("parts/results.json").read_bytes() == Path("straight/results.json").read_bytes()


def test_the_student_starts_from_the_teacher_and_fine_tuning_from_the_student(file, sim_rl):
    """Distillation does not change the teacher; with a learning rate of 0 PPO changes neither student nor critic."""
    arguments = ("pipeline", "run", file, "--run-dir", "run", "finetune.algorithm.learning_rate=0.0")
    result = sim_rl(*arguments, "finetune.algorithm.schedule=fixed")
    assert result.exit_code == 0, result.output
    teacher, student, finetune = (
        torch.load(f"run/{stage}/model_{LAST[stage]}.pt") for stage in ("teacher", "student", "finetune")
    )
    for name, value in teacher["actor_state_dict"].items():
        assert torch.equal(student["teacher_state_dict"][name], value), name
    for name, value in student["student_state_dict"].items():
        assert torch.equal(finetune["actor_state_dict"][name], value), name
    for name, value in teacher["critic_state_dict"].items():
        assert torch.equal(finetune["critic_state_dict"][name], value), name
    stages = {stage["stage"]: stage for stage in json.loads(Path("run/results.json").read_text())["stages"]}
    assert stages["student"]["returns"] == stages["finetune"]["returns"]
    assert stages["teacher"]["percent_of_reference"] == 100.0


@pytest.mark.parametrize("path", sorted((configs_folder() / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_that_come_along_are_sound(path):
    plan = load_plan(path)
    assert find_pipeline_file(Path(path.stem)) == path
    names = {planned.name: planned for planned in plan.stages}
    if plan.name == "teacher-student":
        budget = names["student"].control_steps + names["finetune"].control_steps
        assert 0 <= names["scratch"].control_steps - budget < names["scratch"].steps_per_iteration
