"""Learning-rate rewinding, by hand on three weights and in a real training."""

import pytest
import torch

from tombola import sparsify
from tombola.errors import UsageError
from tombola.finders import LRR, draw
from tombola.ticket import Ticket
from tombola.training import Recipe

from .conftest import batches, command, mlp
from .test_rivals import problem, three


def test_rounds_go_on_from_the_weights_of_the_round_before():
    of = three(a=0.4, b=0.3, c=0.5)
    found = draw(LRR(rate=0.5), of, 1 / 3)
    dense = of.dense_at(of.epochs)
    # By hand: the dense training, the two largest of its weights (3 x 0.5, rounded half up), trained on from there.
    sizes = torch.cat([of.values_of(dense)[name].flatten().abs() for name in of.layout.names])
    first = torch.zeros(3, dtype=torch.bool)
    first[sizes.argsort(descending=True)[:2]] = True
    trained = of.fit(Ticket(of.layout.views(first)), LRR().start(of, type("R", (), {"trained": dense})()))
    assert found.start.epoch == of.weights.epoch
    assert all(torch.equal(found.start.tensors[name], value) for name, value in trained.tensors.items())
    left = torch.cat([of.values_of(trained)[name].flatten().abs() for name in of.layout.names])
    assert of.layout.flatten(found.ticket).nonzero().item() == left.argmax().item()
    assert found.ticket.provenance.weights == found.start.digest


def test_a_schedule_that_goes_back_to_its_end_is_refused_before_anything_is_trained(capsys, tmp_path):
    with pytest.raises(UsageError, match="back_to must lie below 4, where the training ends, got 4"):
        sparsify(mlp(), batches(), batches(1), density=0.5, finder=LRR(back_to=4), recipe=Recipe(epochs=4))
    arguments = ["--preset", "digits", "--epochs", "3", "--milestones", "[]", "--finder", "lrr:back-to=20"]
    status, _, err = command(capsys, "run", *arguments, "--density", "0.5", "--out", tmp_path / "o")
    assert status == 2
    assert "--back-to must lie below 3, where the training ends, got 20" in err
    assert not (tmp_path / "o").exists()


def test_kept_weights_keep_their_signs_and_the_schedule_goes_back():
    of = problem(mlp(), batches(), at="rewind", epochs=4, rewind=1)
    found = draw(LRR(), of, 0.5)
    assert found.start.epoch == 1
    assert draw(LRR(back_to=3), of, 0.5).start.epoch == 3
    flat = of.layout.flatten(of.values_of(found.start))
    assert (flat[of.layout.flatten(found.ticket).bool()] != 0).all()
    assert found.ticket.kept == round(0.5 * of.layout.total)
    with pytest.raises(ValueError, match="draw_at must be rewind or init for the finder lrr"):
        draw(LRR(), problem(mlp(), batches(), at="trained"), 0.5)
