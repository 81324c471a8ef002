"""The convolutional network: its size is torch's, whatever the settings."""

import pytest
import torch
from torch import nn

from sim_rl_plugin.modules import CNN


@pytest.mark.parametrize("padding", ["none", "zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("stride", [1, [2, 3]])
@pytest.mark.parametrize("max_pool", [False, [True, False]])
def test_the_computed_size_is_that_of_the_output(padding: str, norm: str, stride, max_pool):
    cnn = CNN((17, 14), 2, [3, 4], [3, 2], stride, [2, 1], padding, norm, max_pool=max_pool)
    assert cnn(torch.randn(2, 2, 17, 14)).shape == (2, cnn.output_dim)
    assert cnn.output_channels is None
    maps = CNN((17, 14), 2, [3, 4], [3, 2], stride, [2, 1], padding, norm, max_pool=max_pool, flatten=False)
    assert maps(torch.randn(2, 2, 17, 14)).shape == (2, maps.output_channels, *maps.output_dim)


def test_without_padding_by_hand():
    # (8 - 3) // 2 + 1 = 3 rows, (9 - 3) // 2 + 1 = 4 columns, 5 channels.
    assert CNN((8, 9), 1, [5], 3, 2).output_dim == 5 * 3 * 4
    # Padded, the size is divided by the stride and rounded down.
    assert CNN((8, 9), 1, [5], 3, 2, padding="zeros", flatten=False).output_dim == (4, 4)
    assert CNN((8, 9), 1, [5], 3, 1, padding="zeros", flatten=False).output_dim == (8, 9)


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_global_pooling_leaves_one_number_per_channel(pool: str):
    cnn = CNN((8, 9), 1, [5], 3, global_pool=pool)
    images = torch.randn(2, 1, 8, 9)
    maps = cnn[1](cnn[0](images))
    expected = maps.amax(dim=(2, 3)) if pool == "max" else maps.mean(dim=(2, 3))
    torch.testing.assert_close(cnn(images), expected)


def test_modules_are_numbered_as_in_rsl_rl():
    cnn = CNN((8, 8), 1, [2, 3], 3, norm=["batch", "layer"], max_pool=[True, False])
    assert [type(layer) for layer in cnn] == [
        nn.Conv2d, nn.BatchNorm2d, nn.ELU, nn.MaxPool2d, nn.Conv2d, nn.LayerNorm, nn.ELU, nn.Flatten,
    ]  # fmt: skip
    cnn.init_weights()
    assert not cnn[0].bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "zero"}, "unknown cnn_cfg.padding 'zero': did you mean 'zeros'"),
        ({"norm": "bach"}, "unknown cnn_cfg.norm 'bach': did you mean 'batch'"),
        ({"global_pool": "mean"}, "unknown cnn_cfg.global_pool 'mean': expected one of avg, max, none"),
        ({"kernel_size": 9}, r"layer 0 is wider \(9 pixels\) than .* \(8 x 6 pixels\)"),
        ({"kernel_size": [3]}, r"cnn_cfg.kernel_size: expected 2 values, found \[3\]"),
        ({"stride": 0}, r"cnn_cfg.stride: expected at least one number of 1 or more, found \[0\]"),
        ({"output_channels": []}, "cnn_cfg.output_channels: expected at least one number"),
        ({"padding": "reflect", "kernel_size": 13}, "'reflect' cannot make a border of 6 pixels"),
        ({"padding": "circular", "kernel_size": 15}, "'circular' cannot make a border of 7 pixels"),
    ],
)
def test_what_does_not_fit_is_said(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CNN(**{"input_dim": (8, 6), "input_channels": 1, "output_channels": [2, 2], "kernel_size": 3, **arguments})
