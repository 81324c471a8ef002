"""The three formats: how a policy and its description get into a file."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from sim_rl_plugin.errors import UserError

METADATA_KEY = "sim_rl"
"""Under which the description lies in an ONNX file."""

METADATA_FILE = "sim_rl.json"
"""As which the description lies in a TorchScript or pt2 file; both are archives that can hold more files."""

INSTALL = 'pip install "sim-rl-plugin[export]"'


def write_onnx(model: Any, path: str, verbose: bool = False, dynamic_batch: bool = False) -> None:
    """Write the exportable form of a policy as one ONNX file, opset 18.

    Args:
        model: What ``as_onnx`` of a model returned, on the CPU.
        path: The file.
        verbose: Let the exporter print what it does.
        dynamic_batch: Let the graph take any number of robots at once; the form must have
            ``get_batch_axes``.
    """
    inputs, shapes = _example(model, dynamic_batch)
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


def write_onnx_with(about: Mapping[str, Any], policy: Any, path: Path, dynamic_batch: bool, verbose: bool) -> None:
    """Write a policy as ONNX with a description.

    Args:
        about: The description, plain data.
        policy: The model, on the CPU.
        path: The file.
        dynamic_batch: See ``write_onnx``.
        verbose: Let the exporter print what it does.

    Raises:
        UserError: The packages for export are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"exporting to ONNX needs more packages: {INSTALL}") from error
    with nullcontext() if verbose else _quiet_exporter():
        write_onnx(policy.as_onnx(verbose=verbose).to("cpu").eval(), str(path), verbose, dynamic_batch)
    file = onnx.load(str(path))
    onnx.helper.set_model_props(file, {METADATA_KEY: json.dumps(about)})
    onnx.save(file, str(path))


def write_torchscript_with(about: Mapping[str, Any], policy: Any, path: Path) -> None:
    """Write a policy as TorchScript with a description; a recurrent one keeps its memory itself, of one robot."""
    with _quiet_exporter():
        scripted = torch.jit.script(policy.as_jit().to("cpu").eval())
    scripted.save(str(path), _extra_files={METADATA_FILE: json.dumps(about)})


def write_pt2_with(about: Mapping[str, Any], policy: Any, path: Path, dynamic_batch: bool) -> None:
    """Write a policy as ``torch.export``'s program with a description; its inputs and outputs are those of ONNX."""
    model = policy.as_onnx().to("cpu").eval()
    inputs, shapes = _example(model, dynamic_batch)
    with torch.no_grad(), _quiet_exporter():
        program = torch.export.export(model, inputs, dynamic_shapes=shapes)
        torch.export.save(program, str(path), extra_files={METADATA_FILE: json.dumps(about)})


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Drop what torch's exporters say about their own insides, which nobody here can heed."""
    log = logging.getLogger("torch.onnx._internal.exporter")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _example(model: Any, dynamic_batch: bool) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Return inputs to trace an exportable form with, and which of their sizes may change."""
    inputs = model.get_dummy_inputs()
    if not dynamic_batch:
        return inputs, None
    axes = model.get_batch_axes()
    # Of one robot, the size would be taken for a constant.
    inputs = tuple(torch.cat((value, value), dim=axis) for value, axis in zip(inputs, axes, strict=True))
    batch = torch.export.Dim("batch")
    shapes: Any = tuple({axis: batch} for axis in axes)
    parameters = inspect.signature(model.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        shapes = (shapes,)
    return inputs, shapes
