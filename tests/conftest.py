"""Settings that every test shares."""

import pytest
import torch
from small_configs import ppo_cfg


@pytest.fixture
def train_cfg() -> dict:
    return ppo_cfg()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
