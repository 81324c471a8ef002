"""Nested dicts and lists of tensors: compared, copied, and examined for what a checkpoint can hold or did."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare bit by bit in effect: a NaN equals a NaN in the same place."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def same_tree(a: Any, b: Any) -> bool:
    """Compare leaf by leaf; tensors bit by bit in effect."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_tree(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_tree, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return same(a, b)
    return bool(np.all(a == b)) or (a != a and b != b)


def cloned(tree: Any) -> Any:
    """Copy every leaf; tuples become lists."""
    if isinstance(tree, dict):
        return {key: cloned(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [cloned(value) for value in tree]
    return tree.clone() if isinstance(tree, torch.Tensor) else copy.deepcopy(tree)


def not_plain(where: str, value: object) -> str:
    """Return the place of the first value that a checkpoint cannot hold, with its type, or nothing."""
    if isinstance(value, dict):
        parts = [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list):
        parts = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    elif value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor):
        return ""
    else:
        return f"{where} (a {type(value).__name__})"
    return next((found for place, item in parts if (found := not_plain(place, item))), "")


def unlike(saved: object, own: object, where: str) -> str:
    """Return the first place at which saved data lack what ``own`` has, or hold a tensor of another shape or type."""
    if isinstance(own, dict):
        if not isinstance(saved, dict):
            return f"{where}: expected a mapping, found a {type(saved).__name__}"
        for key, value in own.items():
            if key not in saved:
                return f"{where}[{key!r}] is missing"
            if found := unlike(saved[key], value, f"{where}[{key!r}]"):
                return found
    elif isinstance(own, torch.Tensor):
        if not isinstance(saved, torch.Tensor):
            return f"{where}: expected a tensor, found a {type(saved).__name__}"
        if saved.shape != own.shape or saved.dtype != own.dtype:
            expected, found = (f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in (own, saved))
            return f"{where}: expected {expected}, found {found}"
    return ""
