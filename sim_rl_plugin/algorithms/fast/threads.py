"""Threads that each do a share of the work from beginning to end.

Dividing every single operation among threads, as torch does, makes them wait for each other hundreds of times per
mini-batch, and leaves what is not divided to one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

_CHUNK_BYTES = 4 * 2**20
"""Buffers of one chunk: smaller ones make products slower, larger ones everything between them."""
_FEWEST_OPERATIONS = 10**7
"""What makes another thread worth waking: about 0.1 ms of work."""


def run_together(tasks: list[Callable[[], None]]) -> None:
    """Run tasks at once, one thread each, this thread among them; return when all are done."""
    others = [_pool(len(tasks) - 1).submit(task) for task in tasks[1:]]
    tasks[0]()
    for other in others:
        other.result()


@contextmanager
def one_thread_per_operation() -> Iterator[int]:
    """Keep torch from dividing operations; gives how many threads it would have used."""
    number = torch.get_num_threads()
    if number == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield number
    finally:
        torch.set_num_threads(number)


@cache
def _pool(number: int) -> ThreadPoolExecutor:
    # torch keeps the number of threads per operation for each thread that asks for operations.
    return ThreadPoolExecutor(number, "sim-rl-learner", initializer=torch.set_num_threads, initargs=(1,))


def shares(number: int, *, bytes_per_row: int, operations_per_row: int, num_threads: int) -> list[list[slice]]:
    """Return the chunks of rows that each thread goes through.

    Chunks are equally large and small enough for a cache; there are as many for each thread, if they are worth one.

    Args:
        number: Rows.
        bytes_per_row: Buffers of one row that are in use at once.
        operations_per_row: Floating-point operations.
        num_threads: Most threads.
    """
    num_threads = max(1, min(num_threads, number * operations_per_row // _FEWEST_OPERATIONS))
    most = max(1, _CHUNK_BYTES // bytes_per_row)
    per_thread = -(-number // (most * num_threads))
    size = -(-number // (per_thread * num_threads))
    chunks = [slice(start, min(start + size, number)) for start in range(0, number, size)]
    return [chunks[index::num_threads] for index in range(num_threads) if chunks[index::num_threads]]
