"""The recurrent network: step by step, over trajectories, and its memory."""

import copy
import pickle

import pytest
import torch

from sim_rl_plugin.modules import RNN
from sim_rl_plugin.modules.rnn import map_hidden_state
from sim_rl_plugin.modules.trajectories import split_and_pad_trajectories

KINDS = pytest.mark.parametrize("kind", ["gru", "lstm"])


def parts(memory) -> tuple[torch.Tensor, ...]:
    return memory if isinstance(memory, tuple) else (memory,)


@KINDS
@pytest.mark.parametrize("layers", [1, 2])
def test_trajectories_give_what_the_steps_gave(kind: str, layers: int):
    torch.manual_seed(0)
    rnn = RNN(3, 5, layers, kind)
    inputs, dones = torch.randn(7, 4, 3), torch.rand(7, 4) < 0.3
    rnn(torch.randn(4, 3))  # the rollout begins with a memory
    steps, starts, memories = [], [], []
    for step in range(7):
        memories.append(rnn.hidden_state)
        steps.append(rnn(inputs[step]).squeeze(0))
        rnn.reset(dones[step])
    starts_tn = torch.cat((torch.ones(1, 4, dtype=torch.bool), dones[:-1]))
    for part in zip(*map(parts, memories), strict=True):
        # By environment, then by time, as the trajectories.
        starts.append(torch.stack(part).permute(2, 0, 1, 3)[starts_tn.t()].transpose(0, 1).contiguous())
    padded, masks = split_and_pad_trajectories(inputs, dones)
    before = map_hidden_state(torch.clone, rnn.hidden_state)
    together = rnn(padded, masks, starts[0] if kind == "gru" else tuple(starts))
    torch.testing.assert_close(together, torch.stack(steps))
    assert all(torch.equal(a, b) for a, b in zip(parts(rnn.hidden_state), parts(before), strict=True))


@KINDS
def test_reset_clears_the_rows_that_ended_and_leaves_what_was_handed_out(kind: str):
    rnn = RNN(3, 5, 1, kind)
    rnn.reset(torch.tensor([True, False]))  # nothing to forget yet
    assert rnn.hidden_state is None
    rnn(torch.randn(2, 3))
    handed_out = rnn.hidden_state
    copies = [part.clone() for part in parts(handed_out)]
    rnn.reset(torch.tensor([1, 0], dtype=torch.uint8))
    for part, copied in zip(parts(rnn.hidden_state), copies, strict=True):
        assert not part[:, 0].any()
        assert torch.equal(part[:, 1], copied[:, 1])
    assert all(torch.equal(a, b) for a, b in zip(parts(handed_out), copies, strict=True))
    rnn.reset(hidden_state=handed_out)
    assert rnn.hidden_state is handed_out
    rnn.reset()
    assert rnn.hidden_state is None
    with pytest.raises(NotImplementedError):
        rnn.reset(torch.ones(2), handed_out)


@KINDS
def test_detaching_cuts_the_gradient_of_those_rows_alone(kind: str):
    rnn = RNN(3, 5, 1, kind)
    inputs = torch.randn(2, 3, requires_grad=True)
    rnn(inputs)
    rnn.detach_hidden_state(torch.tensor([True, False]))
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in parts(rnn.hidden_state)), inputs)
    assert not gradient[0].any()
    assert gradient[1].all()
    rnn(inputs)
    rnn.detach_hidden_state()
    assert not any(part.requires_grad for part in parts(rnn.hidden_state))


@KINDS
def test_a_memory_of_inference_mode_serves_training_and_back(kind: str):
    rnn = RNN(3, 5, 1, kind)
    with torch.inference_mode():
        rnn(torch.randn(2, 3))
        rnn.reset(torch.tensor([True, False]))
    with torch.no_grad():
        rnn(torch.randn(2, 3))
    rnn.reset(torch.tensor([True, False]))
    rnn(torch.randn(2, 3)).sum().backward()
    with torch.inference_mode():
        rnn(torch.randn(2, 3))


@KINDS
def test_mixed_precision_leaves_a_memory_for_full_precision(kind: str):
    rnn = RNN(3, 5, 1, kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rnn(torch.randn(2, 3).to(torch.bfloat16))
    assert all(part.dtype == torch.float32 for part in parts(rnn.hidden_state))
    assert rnn(torch.randn(2, 3)).dtype == torch.float32


@KINDS
def test_a_copy_has_the_memory_and_none_of_the_graph(kind: str):
    rnn = RNN(3, 5, 1, kind)
    rnn(torch.randn(2, 3))
    inputs = torch.randn(2, 3)
    expected = rnn(inputs)
    for copied in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        assert all(torch.equal(a, b) for a, b in zip(parts(copied.hidden_state), parts(rnn.hidden_state), strict=True))
        assert not any(part.requires_grad for part in parts(copied.hidden_state))
        copied.reset()
        rnn_of_same_weights = copied(inputs)
        assert rnn_of_same_weights.shape == expected.shape
    assert rnn.hidden_state is not None


def test_what_cannot_be_is_said():
    rnn = RNN(3, 5, 1, "gru")
    rnn(torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"memory is that of 4 environments, and there are 2: call reset\(\) first"):
        rnn(torch.randn(2, 3))
    with pytest.raises(ValueError, match="hidden states that they start from"):
        rnn(torch.randn(2, 1, 3), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="unknown rnn_type 'gruu': did you mean 'gru'"):
        RNN(3, 5, 1, "gruu")
    with pytest.raises(ValueError, match="rnn_num_layers: expected 1 or more"):
        RNN(3, 5, 0)
