import pytest
import torch
from torch import nn

from tombola.networks.masking import survey
from tombola.networks.network import (
    GatedNetwork,
    estimate_statistics,
    lacks_statistics,
    uses_batch_statistics,
)
from tombola.networks.task import Task

from .conftest import CPU, TinyConv, frozen, images, mlp


def test_a_full_mask_gives_the_dense_output_and_an_empty_one_the_biases():
    model = mlp()
    network = frozen(model)
    batch = (torch.randn(5, 6), torch.zeros(5))
    assert torch.equal(network.under(network.weights, batch), model(batch[0]))
    assert torch.equal(network.dense(batch), model(batch[0]))
    empty = network.under(torch.zeros_like(network.weights), batch)
    hidden = torch.relu(model[0].bias)
    assert torch.allclose(empty, (hidden * 0).sum() + model[2].bias.expand(5, 3))


def test_the_layout_is_the_models_order_row_by_row():
    model = mlp()
    network = frozen(model)
    assert torch.equal(network.weights, torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]))


def test_batch_statistics_normalise_and_update_nothing(conv):
    conv.norm.running_mean.fill_(100.0)
    network = frozen(conv)
    network.use_batch_statistics()
    batch = images(1)[0]
    reference = TinyConv()
    reference.load_state_dict(conv.state_dict())
    reference.train()
    reference.drop.eval()  # no dropout, but the batch's statistics
    assert torch.allclose(network.under(network.weights, batch), reference(batch[0]), atol=1e-6)
    assert torch.equal(network.under(network.weights, batch), network.under(network.weights, batch))
    assert conv.norm.num_batches_tracked == 0
    assert (conv.norm.running_mean == 100).all()


def test_estimated_statistics_are_the_average_over_batches(conv):
    assert lacks_statistics(conv)
    data = images(2)
    estimated = estimate_statistics(conv, list(data), Task(), CPU)
    outputs = [conv.conv(x) for x, _ in data]
    means = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs]).mean(0)
    assert torch.allclose(estimated.norm.running_mean, means, atol=1e-6)
    assert not estimated.training
    assert not lacks_statistics(estimated)
    assert (conv.norm.running_mean == 0).all()


def test_layers_whose_statistics_are_set_keep_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2))
    model[1].running_mean.fill_(0.7)
    model[1].running_var.fill_(3.0)
    model[1].num_batches_tracked.fill_(9)
    inputs = torch.randn(16, 3)
    found = estimate_statistics(model, [(inputs, None)], Task(), CPU)
    assert found[1].running_mean.tolist() == pytest.approx([0.7] * 4)
    # The later layer sees what the earlier one gives with its own statistics.
    seen = model.eval()[:3](inputs)
    assert torch.allclose(found[3].running_mean, seen.mean(dim=0), atol=1e-6)
    assert (model[3].running_mean == 0).all()


def test_statistics_loaded_without_their_counter_are_no_fresh_ones(conv):
    conv.train()(images(1)[0][0])
    values = {name: value for name, value in conv.state_dict().items() if "num_batches" not in name}
    loaded = TinyConv()
    loaded.load_state_dict(values, strict=False)
    assert loaded.norm.num_batches_tracked == 0
    assert not lacks_statistics(loaded)
    found = estimate_statistics(loaded, list(images(1, seed=3)), Task(), CPU)
    assert torch.equal(found.norm.running_mean, conv.norm.running_mean)


def test_statistics_of_instance_norm_which_counts_no_batches_are_estimated_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True))
    data = [(3 * torch.randn(4, 3, 5) + 2, None) for _ in range(3)]
    assert lacks_statistics(model)
    found = estimate_statistics(model, data, Task(), CPU)
    means = torch.stack([inputs.mean(dim=(0, 2)) for inputs, _ in data]).mean(dim=0)
    variances = torch.stack([inputs.var(dim=2).mean(dim=0) for inputs, _ in data]).mean(dim=0)
    assert torch.allclose(found[0].running_mean, means, atol=1e-5)
    assert torch.allclose(found[0].running_var, variances, rtol=1e-4)
    found.train()(data[0][0])
    assert found[0].num_batches_tracked == 3, "nothing counts on"
    model.train()(data[0][0])
    assert not lacks_statistics(model)


def test_models_that_always_use_batch_statistics_are_recognised():
    assert uses_batch_statistics(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))
    assert not uses_batch_statistics(nn.Sequential(nn.BatchNorm1d(3), nn.InstanceNorm1d(3)))


def test_weights_shared_by_two_modules_are_masked_in_both():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    network = frozen(model)
    mask = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0])
    masked = model[0].weight * mask.view(3, 3)
    x = torch.randn(2, 3)
    assert torch.allclose(network.under(mask * network.weights, (x, None)), x @ masked.T @ masked.T, atol=1e-6)


def test_a_masked_copy_masks_shared_weights_too():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    network, x = GatedNetwork(model, survey(model).layout, Task()), torch.randn(2, 3)
    mask = torch.rand(9)
    masked = network.masked(mask)
    assert torch.allclose(masked(x), network.under(mask, (x, None)))
    assert masked[0].weight is masked[1].weight
    assert not torch.allclose(model[0].weight, masked[0].weight)


def test_attention_is_masked_by_functional_call():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    model = Attend()
    network = frozen(model)
    x = torch.randn(2, 3, 4)
    out = network.under(torch.zeros_like(network.weights), (x, None))
    bias = model.attention.out_proj.bias
    assert torch.allclose(out, bias.expand(2, 3, 4))
