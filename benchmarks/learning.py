"""Four small tasks, each of which needs one feature: memory, eyes, curiosity, symmetry.

Every task trains the same PPO with and without the feature, with the same settings, seeds and number of steps, through
the public runner. A return of 1 is the most that is possible. The final return is that of the deterministic policy,
in episodes with starts of their own; the curves are training episodes, exploration included. The exit status is 1 if
a claim does not hold.

    python benchmarks/learning.py --tasks memory image sparse symmetric --jobs 2
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import RESULTS, write_results
from learning_tasks import Image, Maze, Memory, Task, Trot

from sim_rl_plugin.evaluation import evaluate
from sim_rl_plugin.plotting import Curve, mean_and_band, read_curve
from sim_rl_plugin.runners import OnPolicyRunner

EVALUATION_ENVS = 256
SOLVED = 0.9
"""Share of the maximum from which a task counts as solved."""


@dataclass(frozen=True)
class Study:
    """A task, the variants that are compared on it, and what they are to show.

    Attributes:
        title: Heading of the picture.
        make_env: The task, by number of environments and seed.
        settings: What its training dict has different from ``training_dict``, for all variants.
        variants: What each variant changes in turn.
        iterations: Length of a training.
        seeds: How many seeds unless told.
        judge: From the results of each variant to whether the claim holds, and a sentence.
    """

    title: str
    make_env: Callable[..., Task]
    settings: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    iterations: int
    seeds: int
    judge: Callable[[dict[str, Any]], tuple[bool, str]]
