"""Images reduced to keypoints: the spatial soft-argmax of Levine et al. (2016), section 5.1 (arXiv 1504.00702)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.models import CNNModel
from sim_rl_plugin.modules import CNN

_OWN_KEYS = ("spatial_softmax", "spatial_softmax_temperature")
_FIXED_KEYS = ("global_pool", "flatten")


class SpatialSoftmax(nn.Module):
    """The expected place of each feature map's softmax.

    Legend: ``b`` images, ``c`` channels, ``p`` pixels of a feature map.
    """

    pos_x: torch.Tensor
    pos_y: torch.Tensor

    def __init__(self, height: int, width: int, temperature: float = 1.0) -> None:
        """Note where the pixels are.

        Args:
            height: Of the feature maps, pixels.
            width: Of the feature maps, pixels.
            temperature: Above 1 the softmax is flatter.
        """
        super().__init__()
        self.temperature = temperature
        rows, columns = torch.linspace(-1.0, 1.0, height), torch.linspace(-1.0, 1.0, width)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        # The names and shapes of mjlab's buffers, which its checkpoints hold.
        self.register_buffer("pos_x", x.reshape(1, 1, -1).clone())
        self.register_buffer("pos_y", y.reshape(1, 1, -1).clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map ``(b, c, height, width)`` to ``(b, 2 c)``: x and y of each channel in turn, in [-1, 1]."""
        weights_bcp = torch.softmax(features.flatten(2) / self.temperature, dim=-1)
        x_bc = (weights_bcp * self.pos_x).sum(dim=-1)
        y_bc = (weights_bcp * self.pos_y).sum(dim=-1)
        return torch.stack((x_bc, y_bc), dim=-1).flatten(1)


class SpatialSoftmaxCNN(nn.Module):
    """Convolutions and a spatial soft-argmax."""

    output_channels = None
    """The output is flat."""

    def __init__(
        self, input_dim: tuple[int, int], input_channels: int, temperature: float = 1.0, **cnn_cfg: Any
    ) -> None:
        """Build the layers.

        Args:
            input_dim: Height and width of the images, pixels.
            input_channels: Channels of the images.
            temperature: See ``SpatialSoftmax``.
            **cnn_cfg: Further arguments of ``CNN``.
        """
        super().__init__()
        self.cnn = CNN(input_dim, input_channels, global_pool="none", flatten=False, **cnn_cfg)
        size, channels = self.cnn.output_dim, self.cnn.output_channels
        assert isinstance(size, tuple)
        assert channels is not None
        self.spatial_softmax = SpatialSoftmax(*size, temperature=temperature)
        self.output_dim = 2 * channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map ``(b, channels, height, width)`` to keypoints ``(b, output_dim)``."""
        return self.spatial_softmax(self.cnn(images))


class SpatialSoftmaxCNNModel(CNNModel):
    """``CNNModel`` with a spatial soft-argmax behind the convolutions, as mjlab's model of this name.

    ``cnn_cfg`` may hold ``spatial_softmax_temperature``; pooling and flattening are given.
    """

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check the arguments of the convolutional networks, without those that are ours, see ``check_arguments``."""
        cnn_cfg = settings.get("cnn_cfg")
        super().check_settings({**settings, "cnn_cfg": cnn_cfg and _of_convolutions(cnn_cfg)}, path)

    def _build_encoders(self, cnn_cfg: Mapping[str, Any] | None, path: str) -> dict[str, Any]:
        if cnn_cfg is None:
            raise UserError(f"{path} is missing: it holds the arguments of the convolutional network")
        plain = super()._build_encoders(_of_convolutions(cnn_cfg), path)  # finds groups that are missing or unknown
        encoders: dict[str, Any] = {}
        for group, size, channels in zip(plain, self.obs_dims_2d, self.obs_channels_2d, strict=True):
            own = cnn_cfg[group] if _is_per_group(cnn_cfg) else cnn_cfg
            temperature = own.get("spatial_softmax_temperature", 1.0)
            encoders[group] = SpatialSoftmaxCNN(size, channels, temperature=temperature, **_of_convolutions(own))
        return encoders


def _is_per_group(cnn_cfg: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Mapping) for value in cnn_cfg.values())


def _of_convolutions(cnn_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the arguments goes to ``CNN``, for one group or for each."""
    if _is_per_group(cnn_cfg):
        return {group: _of_convolutions(cfg) for group, cfg in cnn_cfg.items()}
    return {key: value for key, value in cnn_cfg.items() if key not in (*_OWN_KEYS, *_FIXED_KEYS)}
