"""The rollout storage and its mini-batches."""

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.storage import RolloutStorage

OBS = TensorDict({"policy": torch.zeros(3, 4), "camera": torch.zeros(3, 2, 5, 5, dtype=torch.uint8)}, batch_size=[3])


def filled(steps: int = 4) -> RolloutStorage:
    storage = RolloutStorage("rl", 3, steps, OBS, [2])
    for step in range(steps):
        transition = RolloutStorage.Transition()
        number = torch.arange(3.0) + 10.0 * step
        transition.observations = TensorDict(
            {"policy": number.view(3, 1).expand(3, 4), "camera": torch.full((3, 2, 5, 5), step, dtype=torch.uint8)},
            batch_size=[3],
        )
        transition.actions = number.view(3, 1).expand(3, 2)
        transition.rewards = number
        transition.dones = torch.tensor([False, step == 1, False])
        transition.values = number.view(3, 1)
        transition.actions_log_prob = number
        transition.distribution_params = (transition.actions, transition.actions + 1.0)
        storage.add_transition(transition)
    storage.returns.copy_(storage.rewards)
    storage.advantages.copy_(storage.rewards)
    return storage


def test_fresh_buffers_are_nan_where_the_dtype_allows():
    storage = RolloutStorage("rl", 3, 4, OBS, [2])
    for name in ("rewards", "actions", "values", "actions_log_prob", "returns", "advantages"):
        assert getattr(storage, name).isnan().all()
    assert storage.observations["policy"].isnan().all()
    assert storage.observations["camera"].dtype == torch.uint8
    assert storage.dones.dtype == torch.uint8


def test_transitions_are_stored_in_order():
    storage = filled()
    assert storage.rewards.squeeze(-1).tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22], [30, 31, 32]]
    assert storage.dones[1].squeeze(-1).tolist() == [0, 1, 0]
    assert (storage.observations["camera"][2] == 2).all()
    with pytest.raises(OverflowError, match="holds 4 steps"):
        storage.add_transition(RolloutStorage.Transition())
    storage.clear()
    assert storage.step == 0


def test_every_sample_comes_once_an_epoch_and_stays_together():
    storage = filled()
    batches = list(storage.mini_batch_generator(num_mini_batches=3, num_epochs=2))
    assert len(batches) == 6
    for epoch in (batches[:3], batches[3:]):
        seen = torch.cat([batch.values.squeeze(-1) for batch in epoch])
        assert sorted(seen.tolist()) == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]
    for batch in batches:
        assert torch.equal(batch.observations["policy"][:, 0], batch.actions[:, 0])
        assert torch.equal(batch.old_distribution_params[1], batch.actions + 1.0)
        assert torch.equal(batch.old_actions_log_prob, batch.returns)
    # One permutation serves all epochs, and a caller may change what it got.
    batches[0].values.fill_(-1.0)
    assert torch.equal(batches[3].returns, batches[0].returns)
    assert not (batches[3].values == -1.0).any()


def test_an_uneven_rest_is_left_out_as_in_rsl_rl():
    storage = filled()
    seen = torch.cat([batch.values for batch in storage.mini_batch_generator(5, 1)])
    assert len(seen) == 10
    assert seen.max() == 30  # the last two samples of the flattened rollout


def test_distillation_batches_come_step_by_step():
    storage = RolloutStorage("distillation", 3, 2, OBS, [2])
    for step in range(2):
        transition = RolloutStorage.Transition()
        transition.observations = OBS
        transition.actions = torch.zeros(3, 2)
        transition.privileged_actions = torch.full((3, 2), float(step))
        transition.rewards = torch.zeros(3)
        transition.dones = torch.zeros(3)
        storage.add_transition(transition)
    assert [batch.privileged_actions[0, 0].item() for batch in storage.generator()] == [0.0, 1.0]
    with pytest.raises(ValueError, match="reinforcement learning"):
        next(storage.mini_batch_generator(1))
    with pytest.raises(ValueError, match="for distillation"):
        next(filled().generator())
    with pytest.raises(ValueError, match="training_type"):
        RolloutStorage("imitation", 3, 2, OBS, [2])
