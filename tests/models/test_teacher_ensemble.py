"""Several teachers, each for some of the environments."""

import pytest
import torch
from small_configs import GAUSSIAN, GRU, MLP
from tensordict import TensorDict

from sim_rl_plugin.models import TeacherEnsemble

OBS = TensorDict({"policy": torch.randn(5, 2), "terrain": torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0]])}, [5])
GROUPS = {"teacher": ["policy"]}


def ensemble(assignment="interleave", members: tuple[dict, ...] = (MLP, MLP)) -> TeacherEnsemble:
    torch.manual_seed(0)
    teachers = [{**member, "distribution_cfg": dict(GAUSSIAN)} for member in members]
    return TeacherEnsemble(OBS, GROUPS, "teacher", 2, teachers, assignment)


@pytest.mark.parametrize(
    ("assignment", "indices"),
    [
        ("interleave", [0, 1, 0, 1, 0]),
        ("blocks", [0, 0, 0, 1, 1]),
        ([1, 1, 0, 0, 1], [1, 1, 0, 0, 1]),
        ("terrain", [1, 0, 1, 1, 0]),
    ],
)
def test_every_environment_gets_its_teachers_action(assignment, indices: list[int]):
    teacher = ensemble(assignment)
    expected = torch.stack([teacher.teachers[index](OBS)[env] for env, index in enumerate(indices)])
    torch.testing.assert_close(teacher(OBS), expected)
    actions, params = teacher.label(OBS)
    torch.testing.assert_close(actions, expected)
    torch.testing.assert_close(params, (expected, torch.full((5, 2), 0.5)))


def test_an_environment_may_change_its_teacher_with_its_terrain():
    teacher, other = ensemble("terrain"), OBS.clone()
    other["terrain"] = 1.0 - other["terrain"]
    both = torch.stack([member(OBS) for member in teacher.teachers])
    torch.testing.assert_close(teacher(OBS) + teacher(other), both.sum(0))


def test_every_member_keeps_its_own_memory():
    teacher = ensemble(members=(GRU, MLP, {**GRU, "rnn_type": "lstm"}))
    assert teacher.is_recurrent
    teacher(OBS)
    first, nothing, third = teacher.get_hidden_state()
    assert nothing is None
    assert first.shape == (1, 5, 8)
    assert len(third) == 2
    once_more = teacher(OBS)
    teacher.reset(hidden_state=[first, None, third])
    torch.testing.assert_close(teacher(OBS), once_more)
    teacher.reset(torch.tensor([1, 0, 0, 0, 0]))
    assert not teacher.get_hidden_state()[0][:, 0].any()
    assert teacher.get_hidden_state()[2][1][:, 1].any()
    teacher.reset()
    assert teacher.get_hidden_state() == [None, None, None]
    assert ensemble().get_hidden_state() is None


def test_the_assignment_is_no_part_of_a_checkpoint():
    assert {name.split(".")[0] for name in ensemble().state_dict()} == {"teachers"}


@pytest.mark.parametrize(
    ("assignment", "members", "message"),
    [
        (
            "interlaeve",
            (MLP,),
            "teacher.assignment: expected 'interleave', .* found 'interlaeve'; the groups are policy",
        ),
        ("policy", (MLP,), "observation group of size 1, found 'policy'"),
        ([0, 1], (MLP, MLP), "expected 5 indices from 0 to 1, found 2 from 0 to 1"),
        ([0, 0, 0, 0, 2], (MLP, MLP), "expected 5 indices from 0 to 1, found 5 from 0 to 2"),
        ("blocks", (), "teacher.teachers: expected at least one model"),
    ],
)
def test_an_assignment_that_does_not_fit(assignment, members: tuple[dict, ...], message: str):
    with pytest.raises(ValueError, match=message):
        ensemble(assignment, members)
