"""Mini-batches of whole trajectories, with the memories that they start from."""

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.storage import RolloutStorage

OBS = TensorDict({"policy": torch.zeros(5, 1)}, batch_size=[5])

# Five environments, three steps; environment 1 ends an episode with steps 0 and 1, environment 3 with step 1.
ENDS = {(0, 1), (1, 1), (1, 3)}


def filled(pairs: bool = False, first_memory: bool = True) -> RolloutStorage:
    """Every number is 100 * step + environment; the critic's memory is the negative of the actor's."""
    storage = RolloutStorage("rl", 5, 3, OBS, [1])
    for step in range(3):
        transition = RolloutStorage.Transition()
        number = 100.0 * step + torch.arange(5.0)
        transition.observations = TensorDict({"policy": number.view(5, 1)}, batch_size=[5])
        transition.actions = transition.values = number.view(5, 1)
        transition.rewards = transition.actions_log_prob = number
        transition.dones = torch.tensor([(step, env) in ENDS for env in range(5)])
        transition.distribution_params = (number.view(5, 1), number.view(5, 1))
        memory = number.view(1, 5, 1).expand(2, 5, 4)
        if step or first_memory:
            transition.hidden_states = ((memory, memory + 0.5) if pairs else memory, -memory)
        storage.add_transition(transition)
    storage.returns.copy_(storage.values)
    storage.advantages.copy_(storage.values)
    return storage


def test_consecutive_environments_with_the_memories_at_the_starts_of_their_trajectories():
    batches = list(filled(pairs=True).recurrent_mini_batch_generator(num_mini_batches=2, num_epochs=1))
    assert len(batches) == 2  # of two environments each; the fifth is left out
    first, second = batches
    assert first.actions[..., 0].tolist() == [[0, 1], [100, 101], [200, 201]]
    # Environment 0 is one piece, environment 1 is three.
    assert first.observations["policy"][..., 0].tolist() == [[0, 1, 101, 201], [100, 0, 0, 0], [200, 0, 0, 0]]
    assert first.masks.int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]
    hidden, cell = first.hidden_states[0]
    assert hidden.shape == (2, 4, 4)
    assert hidden[0, :, 0].tolist() == [0, 1, 101, 201]
    assert torch.equal(cell, hidden + 0.5)
    assert first.hidden_states[1][1, :, 3].tolist() == [0, -1, -101, -201]
    # Environment 3 begins anew with step 2.
    assert second.observations["policy"][..., 0].tolist() == [[2, 3, 203], [102, 103, 0], [202, 0, 0]]
    assert second.hidden_states[0][0][1, :, 2].tolist() == [2, 3, 203]
    assert second.returns[..., 0].tolist() == [[2, 3], [102, 103], [202, 203]]


def test_every_epoch_has_the_same_batches():
    batches = list(filled().recurrent_mini_batch_generator(num_mini_batches=2, num_epochs=3))
    assert len(batches) == 6
    for batch, again in zip(batches[:2], batches[4:], strict=True):
        assert torch.equal(batch.observations["policy"], again.observations["policy"])
        assert torch.equal(batch.hidden_states[0], again.hidden_states[0])


def test_a_model_that_had_no_memory_yet_started_from_zero():
    storage = filled(first_memory=False)
    (batch,) = storage.recurrent_mini_batch_generator(num_mini_batches=1, num_epochs=1)
    # The pieces of environments 0, 1 (three), 2, 3 (two), 4.
    assert batch.hidden_states[0][0, :, 0].tolist() == [0, 0, 101, 201, 0, 0, 203, 0]
    # In the next rollout the buffers are there before the memory is, and must not hold what was.
    storage.clear()
    transition = RolloutStorage.Transition()
    transition.observations = OBS
    transition.actions = transition.values = torch.zeros(5, 1)
    transition.rewards = transition.dones = transition.actions_log_prob = torch.zeros(5)
    transition.distribution_params = (torch.zeros(5, 1), torch.zeros(5, 1))
    storage.saved_hidden_state_a[0].fill_(7.0)
    storage.add_transition(transition)
    assert not storage.saved_hidden_state_a[0][0].any()


def test_more_mini_batches_than_environments_are_refused():
    with pytest.raises(ValueError, match=r"algorithm\.num_mini_batches: 6 mini-batches of 5 environments"):
        next(filled().recurrent_mini_batch_generator(6))
    with pytest.raises(ValueError, match="for reinforcement learning"):
        next(RolloutStorage("distillation", 5, 3, OBS, [1]).recurrent_mini_batch_generator(1))


def test_buffers_that_a_memory_made_in_inference_mode_can_be_written_to_outside():
    with torch.inference_mode():
        storage = filled()
    storage.saved_hidden_state_a[0].fill_(1.0)
    storage.distribution_params[0].fill_(1.0)
