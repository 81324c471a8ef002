"""Convolutional network."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.modules.activation import resolve_nn_activation
from sim_rl_plugin.modules.mlp import get_param

_PADDING_MODES = ("none", "zeros", "reflect", "replicate", "circular")
_NORMS = ("none", "batch", "layer")
_GLOBAL_POOLS: dict[str, Any] = {
    "none": None,
    "max": nn.AdaptiveMaxPool2d,
    "avg": nn.AdaptiveAvgPool2d,
}


class CNN(nn.Sequential):
    """Convolutions, each with an optional normalisation, an activation and an optional pooling.

    The sub-modules are numbered as in rsl_rl, so that state dicts are interchangeable.
    """

    def __init__(
        self,
        input_dim: tuple[int, int],
        input_channels: int,
        output_channels: tuple[int, ...] | list[int],
        kernel_size: int | tuple[int, ...] | list[int],
        stride: int | tuple[int, ...] | list[int] = 1,
        dilation: int | tuple[int, ...] | list[int] = 1,
        padding: str = "none",
        norm: str | tuple[str, ...] | list[str] = "none",
        activation: str = "elu",
        max_pool: bool | tuple[bool, ...] | list[bool] = False,
        global_pool: str = "none",
        flatten: bool = True,
    ) -> None:
        """Build the layers with PyTorch's default initialisation.

        What can differ between layers is one value for all of them, or a list with one per layer.

        Args:
            input_dim: Height and width of the images, pixels.
            input_channels: Channels of the images.
            output_channels: Channels after each layer; as many layers as entries.
            kernel_size: Width of the square kernels, pixels.
            stride: Step of the kernels, pixels.
            dilation: Distance between the points of a kernel, pixels.
            padding: ``none``, or how the border is filled so that stride 1 keeps the size: ``zeros``,
                ``reflect``, ``replicate`` or ``circular``.
            norm: ``none``, ``batch`` or ``layer``, after each convolution.
            activation: Name of the activation after each layer.
            max_pool: Halve height and width after a layer.
            global_pool: ``none``, ``max`` or ``avg`` over all pixels at the end.
            flatten: Return one vector per image.

        Raises:
            ValueError: A name is unknown, a list has the wrong length, or the image is too small.
        """
        super().__init__()
        if padding not in _PADDING_MODES:
            raise unknown_name("cnn_cfg.padding", padding, _PADDING_MODES)
        if global_pool not in _GLOBAL_POOLS:
            raise unknown_name("cnn_cfg.global_pool", global_pool, _GLOBAL_POOLS)
        per_layer: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "dilation": dilation,
            "norm": norm,
            "max_pool": max_pool,
        }
        for name, value in per_layer.items():
            if isinstance(value, (tuple, list)) and len(value) < len(output_channels):
                raise UserError(f"cnn_cfg.{name}: expected {len(output_channels)} values, found {list(value)}")
        for name in ("output_channels", "kernel_size", "stride", "dilation"):
            sizes = output_channels if name == "output_channels" else per_layer[name]
            sizes = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes]
            if not sizes or min(sizes) < 1:
                raise UserError(f"cnn_cfg.{name}: expected at least one number of 1 or more, found {sizes}")

        layers: list[nn.Module] = []
        channels, size = input_channels, (int(input_dim[0]), int(input_dim[1]))
        for index, next_channels in enumerate(output_channels):
            own = {name: get_param(value, index) for name, value in per_layer.items()}
            layer, size = _convolution(channels, next_channels, size, padding, activation, index, **own)
            layers += layer
            channels = next_channels
        pool = _GLOBAL_POOLS[global_pool]
        if pool is not None:
            layers.append(pool((1, 1)))
            size = (1, 1)
        if flatten:
            layers.append(nn.Flatten(start_dim=1))
        self._output_channels = None if flatten else channels
        self._output_dim: tuple[int, int] | int = channels * size[0] * size[1] if flatten else size
        for index, module in enumerate(layers):
            self.add_module(str(index), module)

    @property
    def output_channels(self) -> int | None:
        """Channels of the output, or None if it is flattened."""
        return self._output_channels

    @property
    def output_dim(self) -> tuple[int, int] | int:
        """Height and width of the output, or its size if it is flattened."""
        return self._output_dim

    def init_weights(self) -> None:
        """Give every convolution He's normal initialisation with zero bias."""
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``(batch, channels, height, width)`` to ``(batch, output_dim)`` or feature maps."""
        for layer in self:
            x = layer(x)
        return x


def _convolution(
    channels: int,
    next_channels: int,
    size: tuple[int, int],
    padding: str,
    activation: str,
    index: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    norm: str,
    max_pool: bool,
) -> tuple[list[nn.Module], tuple[int, int]]:
    """Return the modules of one layer, and height and width after it."""
    if norm not in _NORMS:
        raise unknown_name("cnn_cfg.norm", norm, _NORMS)
    border = (0, 0) if padding == "none" else _same_border(size, kernel_size, stride, dilation)
    layers: list[nn.Module] = [
        nn.Conv2d(
            channels,
            next_channels,
            kernel_size,
            stride,
            border,
            dilation,
            padding_mode="zeros" if padding == "none" else padding,  # type: ignore[arg-type]
        )
    ]
    reach = dilation * (kernel_size - 1)
    # What the border is copied from must be there: reflection leaves the outermost pixels out.
    widest = {"reflect": min(size) - 1, "circular": min(size)}.get(padding, max(border))
    if max(border) > widest:
        raise UserError(
            f"cnn_cfg.padding: {padding!r} cannot make a border of {max(border)} pixels out of what the layers before "
            f"layer {index} leave of the image ({size[0]} x {size[1]} pixels)"
        )
    height, width = ((size[axis] + 2 * border[axis] - reach - 1) // stride + 1 for axis in (0, 1))
    if height < 1 or width < 1:
        raise UserError(
            f"cnn_cfg: layer {index} is wider ({reach + 1} pixels) than what the layers before it leave of the image "
            f"({size[0]} x {size[1]} pixels)"
        )
    if norm == "batch":
        layers.append(nn.BatchNorm2d(next_channels))
    elif norm == "layer":
        layers.append(nn.LayerNorm([next_channels, height, width]))
    layers.append(resolve_nn_activation(activation))
    if max_pool:
        layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return layers, (height, width)


def _same_border(size: tuple[int, int], kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the border, in pixels, with which the output is the input divided by the stride, rounded down.

    Where no border is needed rsl_rl computes a negative one and fails; here it is zero.
    """
    reach = dilation * (kernel_size - 1)
    return tuple(  # type: ignore[return-value]
        max(0, math.ceil((stride * (pixels // stride) - pixels - stride + reach + 1) / 2)) for pixels in size
    )
