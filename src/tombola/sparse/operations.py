"""Operations that a sparse network knows, as PyTorch names them."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

# Modules that treat all samples and all channels alike, beside those that are taken apart below.
PLANEWISE_MODULES = {
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.CELU, nn.Dropout, nn.Dropout2d, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.LeakyReLU, nn.LogSigmoid, nn.MaxPool1d, nn.MaxPool2d, nn.Mish, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid,
    nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink,
}  # fmt: skip
PLANEWISE_FUNCTIONS = {
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool1d, F.avg_pool2d, F.celu, F.dropout,
    F.dropout2d, F.elu, F.gelu, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid, F.max_pool1d,
    F.max_pool2d, F.mish, F.relu6, F.selu, F.silu, F.softplus, F.tanh, F.sigmoid, torch.sigmoid, torch.tanh, torch.mul,
    torch.sub, operator.mul, operator.sub, operator.truediv, operator.imul, torch.clamp, torch.adaptive_avg_pool1d,
    torch.max_pool2d,
}  # fmt: skip
DROPOUTS = {F.dropout, F.dropout2d}
PLANEWISE_METHODS = {"mul", "sub", "div", "sigmoid", "tanh", "clamp"}
ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
RELUS = {F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"}
FLATTENINGS = {torch.flatten, "flatten", "view", "reshape", torch.reshape}
MEANS = {torch.mean, "mean"}
CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}


def dims_of(name: str) -> int | None:
    """Return how many dimensions a batch has for an operation of a name such as max_pool2d; None where any will do."""
    return int(name[-2]) + 2 if name[-2:] in {"1d", "2d", "3d"} else None
