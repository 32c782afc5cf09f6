"""Operations by what they do to channels: modules by their type, functions and methods by their name."""

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

LINEAR = {nn.Linear, NonDynamicallyQuantizableLinear}
CONVOLUTIONS = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}  # and the dimensions of their inputs
NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}
# Each number of the output comes of the numbers at its own place.
ELEMENTWISE_MODULES = {
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink,
}  # fmt: skip
ELEMENTWISE = {
    "add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "div", "div_", "truediv", "neg", "abs",
    "square", "exp", "clamp", "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "selu", "celu", "gelu",
    "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "logsigmoid", "tanh", "softplus", "softsign",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "contiguous", "clone", "detach",
}  # fmt: skip
# Each channel of the output comes of the same channel, and is constant where that is.
POOLING_MODULES = {
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Upsample,
}  # fmt: skip
POOLING = {
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "interpolate",
}  # fmt: skip
# The same, but for padding, whose zeros may be averaged in.
AVERAGING = {"avg_pool1d", "avg_pool2d", "avg_pool3d"}
REDUCTIONS = {"mean", "amax", "amin"}
CONCATENATIONS = {"cat", "concat", "concatenate"}
RESHAPINGS = {"flatten", "view", "reshape", "squeeze", "unsqueeze"}
# All channels of the output come of all of the input, so that all of them stay.
MIXING_MODULES = {nn.Softmax, nn.LogSoftmax, nn.LayerNorm, nn.GroupNorm}
MIXING = {"softmax", "log_softmax", "layer_norm", "group_norm"}
