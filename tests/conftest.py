"""Settings that every test shares."""

import signal

import pytest
import torch
from small_configs import ppo_cfg


@pytest.fixture
def train_cfg() -> dict:
    return ppo_cfg()


# The tensors of tests are small: more threads only wait for each other, longest where tests run in parallel.
torch.set_num_threads(1)

# A shell lets its background jobs ignore Ctrl-C, and so would the trainings under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
