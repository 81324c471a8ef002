"""Settings that every test shares."""

import pytest
import torch
from small_configs import ppo_cfg


@pytest.fixture
def train_cfg() -> dict:
    return ppo_cfg()


# The tensors of tests are small: more threads only wait for each other, longest where tests run in parallel.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
