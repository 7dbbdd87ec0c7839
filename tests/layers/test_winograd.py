"""Winograd's filtering gives what a direct convolution gives, with its gradients, and takes its place where it is faster."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ultravid.layers import Conv2d, FrozenBatchNorm2d, winograd
from ultravid.layers.winograd import WinogradConv2d, trained_conv2d, use_winograd


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(2, 5, 9, 13), (3, 4, 4, 1), (1, 6, 8, 12)])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_it_equals_a_direct_convolution_in_values_and_gradients(size, block, monkeypatch):
    monkeypatch.setattr(winograd, "_BLOCK", block)
    arguments = [drawn(*size), drawn(7, size[1], 3, 3, seed=1), drawn(7, seed=2)]
    factor = drawn(size[0], 7, *size[2:], seed=3)
    found, expected = [], []
    for compute, results in ((trained_conv2d, found), (lambda *a: F.conv2d(*a, padding=1), expected)):
        leaves = [tensor.clone().requires_grad_() for tensor in arguments]
        out = compute(*leaves)
        results += [out, *torch.autograd.grad((out * factor).sum(), leaves)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_convolutions_are_replaced_that_have_enough_channels_and_are_given_large_maps():
    torch.manual_seed(0)
    large = Conv2d(96, 96, 3, padding=1, activation=F.relu)
    layers = nn.Sequential(
        nn.Conv2d(8, 96, 3, padding=1),  # few channels
        large,
        nn.Conv2d(96, 96, 3, padding=1, stride=2),
        nn.Conv2d(96, 96, 1),
        nn.AdaptiveAvgPool2d(8),
        nn.Conv2d(96, 96, 3, padding=1),  # a small map
    ).eval()
    image = drawn(1, 8, 29, 31)
    with torch.no_grad():
        expected = layers(image)
        use_winograd(layers, lambda: layers(image))
        assert [isinstance(layer, WinogradConv2d) for layer in layers] == [False, True, *[False] * 4]
        torch.testing.assert_close(layers(image), expected, atol=1e-4, rtol=1e-4)
    assert "aten.bmm" not in str(torch.export.export(layers, (image,)).graph)


def test_a_convolution_in_training_is_computed_so_with_its_frozen_norm_but_not_in_half_precision(monkeypatch):
    calls = []
    monkeypatch.setattr("ultravid.layers.conv.trained_conv2d", lambda *a: calls.append(a) or trained_conv2d(*a))
    norm = FrozenBatchNorm2d(96)
    norm.weight.uniform_(0.5, 2)
    norm.running_mean.uniform_(-1, 1)
    conv, image = Conv2d(96, 96, 3, padding=1, bias=False, norm=norm), drawn(1, 96, 28, 28)
    expected = conv.eval()(image)
    assert not calls
    torch.testing.assert_close(conv.train()(image), expected, atol=1e-4, rtol=1e-4)
    assert len(calls) == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv(image)
    conv(image[..., :24, :24])  # too few tiles
    assert len(calls) == 1
