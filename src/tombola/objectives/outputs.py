"""Objectives that compare outputs: loss, delta-loss, reverse-kl, forward-kl."""

from torch import Tensor

from tombola.objectives.view import View


def loss(view: View) -> Tensor:
    """Return the task's loss of f_z."""
    return view.task.loss(view.sparse, view.batch)


def delta_loss(view: View) -> Tensor:
    """Return |loss(f_z) / loss(f) - 1|."""
    return (loss(view) / view.task.loss(view.dense, view.batch) - 1).abs()


def reverse_kl(view: View) -> Tensor:
    """Return KL( softmax f_z || softmax f ), batch mean."""
    return view.task.divergence(view.sparse, view.dense, view.batch)


def forward_kl(view: View) -> Tensor:
    """Return KL( softmax f || softmax f_z ), batch mean."""
    return view.task.divergence(view.dense, view.sparse, view.batch)
