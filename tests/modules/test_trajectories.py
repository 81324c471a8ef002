"""Rollouts of recurrent models: cut, padded, and put together again."""

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.modules.trajectories import split_and_pad_trajectories, trajectory_starts, unpad_trajectories

# Two environments, four steps. The first ends an episode with its second step and one with its last.
VALUES = torch.tensor([[1, 5], [2, 6], [3, 7], [4, 8]])
DONES = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 0]])


def test_starts_are_the_first_step_and_those_after_an_end():
    assert trajectory_starts(DONES).int().tolist() == [[1, 1], [0, 0], [1, 0], [0, 0]]
    assert torch.equal(trajectory_starts(DONES.unsqueeze(-1)), trajectory_starts(DONES))


def test_pieces_lie_side_by_side_by_environment_then_by_time():
    padded, masks = split_and_pad_trajectories(VALUES, DONES)
    assert padded.tolist() == [[1, 3, 5], [2, 4, 6], [0, 0, 7], [0, 0, 8]]
    assert masks.int().tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 1]]
    assert torch.equal(unpad_trajectories(padded, masks), VALUES)


def test_an_end_in_every_step_makes_pieces_of_one_step():
    padded, masks = split_and_pad_trajectories(VALUES, torch.ones_like(DONES))
    assert padded.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], *[[0] * 8] * 3]
    assert torch.equal(unpad_trajectories(padded, masks), VALUES)


def test_a_part_of_the_environments_is_put_together_from_its_own_pieces():
    padded, masks = split_and_pad_trajectories(VALUES, DONES)
    assert torch.equal(unpad_trajectories(padded[:, 2:], masks[:, 2:]), VALUES[:, 1:])


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_any_shape_and_type_come_back_as_they_were(seed: int):
    torch.manual_seed(seed)
    rollout = TensorDict(
        {"policy": torch.randn(6, 5, 3), "camera": torch.randint(0, 255, (6, 5, 1, 2, 2), dtype=torch.uint8)}, [6, 5]
    )
    dones = (torch.rand(6, 5, 1) < 0.4).to(torch.uint8)
    padded, masks = split_and_pad_trajectories(rollout, dones)
    # A piece per environment, and one more for every end that is not in the last step.
    assert padded.batch_size == torch.Size([6, 5 + int(dones[:-1].sum())])
    assert masks.sum() == 30
    assert not padded["policy"][~masks].any()
    assert padded["camera"].dtype == torch.uint8
    back = unpad_trajectories(padded, masks)
    assert back.batch_size == torch.Size([6, 5])
    assert all(torch.equal(back[group], rollout[group]) for group in rollout.keys())
