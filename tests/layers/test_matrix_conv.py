"""A convolution of a small map gives the same as a product of matrices, and takes its place in a prepared model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ultravid.layers import Conv2d, matrix_conv
from ultravid.layers.matrix_conv import MatrixConv2d, MatrixConvTranspose2d, use_matrix_products

CONVS = [
    nn.Conv2d(5, 7, 3, padding=1),
    nn.Conv2d(5, 7, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
    Conv2d(5, 7, 3, padding=1, activation=F.relu).eval(),
    nn.ConvTranspose2d(5, 7, 4, stride=2, padding=1),
    nn.ConvTranspose2d(5, 7, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), bias=False),
]


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("size", [(2, 2), (1, 5), (4, 3), (9, 9)])  # the last has too many cells for a product
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_it_gives_what_the_convolution_gives(conv, size, layout, monkeypatch):
    monkeypatch.setattr(matrix_conv, "MIN_WEIGHTS", 1)
    layers = nn.Sequential(conv).to(memory_format=layout)
    for num_images in (0, 1, 3):
        x = torch.randn(num_images, 5, *size, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
        replaced = nn.Sequential(*layers)
        use_matrix_products(replaced)
        assert isinstance(replaced[0], MatrixConv2d | MatrixConvTranspose2d)
        torch.testing.assert_close(replaced(x), conv(x), atol=1e-5, rtol=1e-5)


def test_convolutions_with_few_weights_or_of_another_kind_stay(monkeypatch):
    monkeypatch.setattr(matrix_conv, "MIN_WEIGHTS", 300)
    layers = nn.Sequential(
        nn.Conv2d(5, 6, 3),  # 270 weights
        nn.Conv2d(6, 6, 3, padding="same"),
        nn.Conv2d(6, 12, 3, dilation=2),
        nn.Conv2d(12, 12, 3, groups=2),
        nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(12, 12, 3),
    ).eval()
    before = layers(torch.ones(1, 5, 12, 12))
    use_matrix_products(layers)
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 5 + [MatrixConv2d]
    torch.testing.assert_close(layers(torch.ones(1, 5, 12, 12)), before)


def test_an_exported_program_has_the_convolution_itself():
    module = MatrixConv2d(Conv2d(2, 3, 3, padding=1, activation=F.relu)).eval()
    program = torch.export.export(module, (torch.ones(1, 2, 4, 4),), strict=True)
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)
