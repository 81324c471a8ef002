"""Models that see images: one convolutional network per image group, in front of a multi-layer perceptron."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.config.signature import check_arguments
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.models.mlp_model import ExportablePolicy, MLPModel
from sim_rl_plugin.modules import CNN, HiddenState

_PROVIDED_TO_CNN = ("input_dim", "input_channels", "flatten")


class CNNModel(MLPModel):
    """Run each image group through its own convolutional network, append the flat groups, and run a perceptron.

    Image groups are ``(batch, channels, height, width)``. Those of type uint8 are stored as such and
    scaled to [0, 1] here; floats are taken as they are. Only flat groups are normalised.
    """

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: tuple[int, ...] | list[int] = (256, 256, 256),
        activation: str = "elu",
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
        cnn_cfg: dict[str, dict[str, Any]] | dict[str, Any] | None = None,
        cnns: nn.ModuleDict | dict[str, nn.Module] | None = None,
    ) -> None:
        """Build the model for the observations that it will see.

        Args:
            obs: Observations as the environment gives them, batch size ``[num_envs]``.
            obs_groups: Observation sets: which groups each of them is made of, in order.
            obs_set: The set that this model reads (``actor``, ``critic``, ...).
            output_dim: Number of actions, or 1 for a value.
            hidden_dims: Sizes of the perceptron's hidden layers.
            activation: Name of the perceptron's activation function.
            obs_normalization: Shift and scale flat observations by their running mean and deviation.
            distribution_cfg: ``class_name`` and arguments of the distribution; None for a
                deterministic model.
            cnn_cfg: Arguments of ``CNN`` for all image groups, or a mapping from each of them to its own.
            cnns: Networks to use, by image group, such as another model's; ``cnn_cfg`` is then not used.

        Raises:
            ValueError: No image group, a group of another shape, or arguments that do not fit.
        """
        self._get_obs_dim(obs, obs_groups, obs_set)  # which groups are images; done again by the base class
        encoders: dict[str, Any] = self._build_encoders(cnn_cfg, f"{obs_set}.cnn_cfg") if cnns is None else {}
        encoders.update(cnns or {})
        if set(encoders) != set(self.obs_groups_2d):
            raise UserError(
                f"obs_groups.{obs_set}: shared encoders are for {', '.join(sorted(encoders))}, but the image groups "
                f"here are {', '.join(sorted(self.obs_groups_2d))}"
            )
        for group, encoder in encoders.items():
            if getattr(encoder, "output_channels", None) is not None:
                raise UserError(f"{obs_set}.cnn_cfg: the encoder of {group!r} must be flattened")
        self.cnn_latent_dim = sum(encoder.output_dim for encoder in encoders.values())
        super().__init__(
            obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg
        )
        self.cnns = cnns if isinstance(cnns, nn.ModuleDict) else nn.ModuleDict(encoders)

    def get_latent(
        self, obs: TensorDict, masks: torch.Tensor | None = None, hidden_state: HiddenState = None
    ) -> torch.Tensor:
        """Return flat observations, normalised, then the image groups' features, ``(..., latent_dim)``."""
        parts = [self.prepare(obs)] if self.obs_groups else []
        for group in self.obs_groups_2d:
            images = as_float_images(obs[group])
            # Convolutions know one batch dimension; a rollout has two.
            features = self.cnns[group](images.reshape(-1, *images.shape[-3:]))
            parts.append(features.view(*images.shape[:-3], -1))
        return torch.cat(parts, dim=-1)

    def update_normalization(self, obs: TensorDict) -> None:
        """Let the normaliser learn from the flat groups of a batch of observations."""
        if self.obs_groups:
            super().update_normalization(obs)

    def as_jit(self) -> nn.Module:
        """Return a copy for ``torch.jit.script``: flat observations and a list of images in, actions out."""
        return _JitCNN(self)

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """Return a copy for ``torch.onnx.export``: ``obs`` (if any) and one input per image group."""
        return _OnnxCNN(self, verbose)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any], path: str) -> None:
        """Check the arguments of the convolutional networks, see ``check_arguments``."""
        cnn_cfg = settings.get("cnn_cfg") or {}
        for group, cfg in cnn_cfg.items() if _is_per_group(cnn_cfg) else ():
            check_arguments(CNN, cfg, f"{path}.cnn_cfg.{group}", provided=_PROVIDED_TO_CNN)
        if cnn_cfg and not _is_per_group(cnn_cfg):
            check_arguments(CNN, cnn_cfg, f"{path}.cnn_cfg", provided=_PROVIDED_TO_CNN)

    def _build_encoders(self, cnn_cfg: Mapping[str, Any] | None, path: str) -> dict[str, Any]:
        if cnn_cfg is None:
            raise UserError(f"{path} is missing: it holds the arguments of the convolutional network")
        per_group = {group: cnn_cfg for group in self.obs_groups_2d}
        if _is_per_group(cnn_cfg):
            for group in cnn_cfg:
                if group not in self.obs_groups_2d:
                    raise unknown_name(f"image group in {path}:", group, self.obs_groups_2d)
            missing = [group for group in self.obs_groups_2d if group not in cnn_cfg]
            if missing:
                raise UserError(f"{path}.{missing[0]} is missing: every image group needs its own, or all share one")
            per_group = dict(cnn_cfg)
        encoders: dict[str, Any] = {}
        for group, size, channels in zip(self.obs_groups_2d, self.obs_dims_2d, self.obs_channels_2d, strict=True):
            encoders[group] = CNN(input_dim=size, input_channels=channels, **per_group[group])
        return encoders

    def _get_obs_dim(self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str) -> tuple[list[str], int]:
        """Return the flat groups of the set and their size; note the image groups."""
        groups_1d: list[str] = []
        self.obs_groups_2d: list[str] = []
        self.obs_dims_2d: list[tuple[int, int]] = []
        self.obs_channels_2d: list[int] = []
        self.obs_dtypes_2d: list[torch.dtype] = []
        for group in obs_groups[obs_set]:
            shape = obs[group].shape
            if len(shape) == 4:
                self.obs_groups_2d.append(group)
                self.obs_channels_2d.append(shape[1])
                self.obs_dims_2d.append((shape[2], shape[3]))
                self.obs_dtypes_2d.append(obs[group].dtype)
            elif len(shape) == 2:
                groups_1d.append(group)
            else:
                raise UserError(
                    f"{type(self).__name__} reads (batch, size) and (batch, channels, height, width), but group "
                    f"{group!r} of obs_groups.{obs_set} has shape {tuple(shape)}"
                )
        if not self.obs_groups_2d:
            raise UserError(
                f"obs_groups.{obs_set}: {type(self).__name__} needs an image group (batch, channels, height, width), "
                f"and {', '.join(groups_1d)} are flat: use MLPModel"
            )
        return groups_1d, sum(obs[group].shape[-1] for group in groups_1d)

    def _get_latent_dim(self) -> int:
        """Return the size of flat observations and features together."""
        return self.obs_dim + self.cnn_latent_dim


def _is_per_group(cnn_cfg: Mapping[str, Any]) -> bool:
    """Return whether each image group has arguments of its own."""
    return all(isinstance(value, Mapping) for value in cnn_cfg.values())


def as_float_images(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images scaled to [0, 1], and float images as they are."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images


class _ExportedCNN(ExportablePolicy):
    """What the exported forms of a convolutional model have in common."""

    def __init__(self, model: CNNModel, verbose: bool = False) -> None:
        super().__init__(model, verbose)
        self.cnns = nn.ModuleList([copy.deepcopy(model.cnns[group]) for group in model.obs_groups_2d])
        self.obs_groups_2d = list(model.obs_groups_2d)
        self.image_shapes = [
            (1, channels, *size) for channels, size in zip(model.obs_channels_2d, model.obs_dims_2d, strict=True)
        ]
        # Types that scripting understands: a dtype is none of them.
        self.images_are_bytes = [dtype == torch.uint8 for dtype in model.obs_dtypes_2d]


class _JitCNN(_ExportedCNN):
    """Flat observations ``(n, obs_dim)``, possibly empty, and a list of images in; actions out."""

    def forward(self, obs_1d: torch.Tensor, obs_2d: list[torch.Tensor]) -> torch.Tensor:
        parts = [self.obs_normalizer(obs_1d)]
        for index, cnn in enumerate(self.cnns):
            images = obs_2d[index]
            if images.dtype == torch.uint8:
                images = images.float() / 255.0
            parts.append(cnn(images))
        return self.deterministic_output(self.mlp(torch.cat(parts, dim=-1)))


class _OnnxCNN(_ExportedCNN):
    """``obs (n, obs_dim)``, if there are flat groups, and one input per image group in; ``actions`` out."""

    def forward(self, *obs: torch.Tensor) -> torch.Tensor:
        images = obs[-len(self.cnns) :]
        parts = [self.obs_normalizer(flat) for flat in obs[: -len(self.cnns)]]
        parts += [cnn(as_float_images(image)) for cnn, image in zip(self.cnns, images, strict=True)]
        return self.deterministic_output(self.mlp(torch.cat(parts, dim=-1)))

    def get_dummy_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return inputs to trace with, images in the type that the environment gives."""
        flat = super().get_dummy_inputs() if self.input_size else ()
        images = [
            torch.zeros(shape, dtype=torch.uint8 if is_bytes else torch.float32)
            for shape, is_bytes in zip(self.image_shapes, self.images_are_bytes, strict=True)
        ]
        return (*flat, *images)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in the exported file."""
        return (["obs"] if self.input_size else []) + self.obs_groups_2d
