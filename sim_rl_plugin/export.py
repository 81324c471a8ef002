"""Policies into files that run without us."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def write_onnx(model: Any, path: str, verbose: bool = False, dynamic_batch: bool = False) -> None:
    """Write the exportable form of a policy as one ONNX file, opset 18.

    Args:
        model: What ``as_onnx`` of a model returned, on the CPU.
        path: The file.
        verbose: Let the exporter print what it does.
        dynamic_batch: Let the graph take any number of robots at once; the form must have
            ``get_batch_axes``.
    """
    inputs = model.get_dummy_inputs()
    shapes: Any = None
    if dynamic_batch:
        axes = model.get_batch_axes()
        # Of one robot, the size would be taken for a constant.
        inputs = tuple(torch.cat((value, value), dim=axis) for value, axis in zip(inputs, axes, strict=True))
        batch = torch.export.Dim("batch")
        shapes = tuple({axis: batch} for axis in axes)
        parameters = inspect.signature(model.forward).parameters.values()
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
            shapes = (shapes,)
    torch.onnx.export(
        model,
        inputs,
        path,
        opset_version=18,
        verbose=verbose,
        input_names=model.input_names,
        output_names=model.output_names,
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,  # a policy is small, and one file is what gets copied to a robot
    )
