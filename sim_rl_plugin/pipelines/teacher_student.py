"""The teacher-student pipeline of legged robotics.

A teacher learns by PPO from everything that the simulator knows. A student, which sees only what the
robot can sense, learns by distillation to act as the teacher would (Lee et al., "Learning quadrupedal
locomotion over challenging terrain", Science Robotics 2020), and may then be fine-tuned by PPO. The
same network trained by PPO from random weights, for as many control steps, shows what the teacher
was good for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.pipelines.definition import Pipeline, Stage

if TYPE_CHECKING:
    from sim_rl_plugin.config import RunConfig


def _distillation(earlier: Mapping[str, RunConfig]) -> dict[str, Any]:
    """Imitate the teacher's actor."""
    teacher = earlier["teacher"].to_dict()
    return {
        "class_name": "DistillationRunner",
        "algorithm": {"class_name": "Distillation"},
        "teacher": teacher["actor"],
        "obs_groups": {"teacher": _groups(earlier, "teacher", "actor")},
    }


def _student_by_ppo(earlier: Mapping[str, RunConfig]) -> dict[str, Any]:
    """Train the student's network on its observations, judged by the teacher's privileged critic."""
    student, teacher = earlier["student"].to_dict(), earlier["teacher"].to_dict()
    return {
        "actor": student["student"],
        "critic": teacher["critic"],
        "obs_groups": {
            "actor": _groups(earlier, "student", "student"),
            "critic": _groups(earlier, "teacher", "critic"),
        },
    }


def _groups(earlier: Mapping[str, RunConfig], stage: str, observation_set: str) -> list[str]:
    groups = earlier[stage].obs_groups.get(observation_set)
    if not groups:
        raise UserError(
            f"{stage}.obs_groups.{observation_set} is missing: the later stages need to know "
            f"which observation groups the {observation_set} sees"
        )
    return list(groups)


TEACHER_STUDENT = Pipeline(
    (
        Stage("teacher", "PPO on all that the simulator knows"),
        Stage(
            "student",
            "Distillation of the teacher into a policy that sees what the robot senses",
            inputs=("teacher",),
            settings=_distillation,
        ),
        Stage(
            "finetune",
            "PPO that starts from the student, and from the teacher's critic",
            inputs=("student", "teacher"),
            settings=_student_by_ppo,
            optional=True,
            continues="student",
        ),
        Stage(
            "scratch",
            "PPO with the student's network from random weights, for as many control steps",
            settings=_student_by_ppo,
            optional=True,
            same_budget_as=("student", "finetune"),
        ),
    ),
    reference="teacher",
)
"""What ``pipeline: teacher-student`` in a file means."""
