"""Hugging Face models of all kinds, built from small configurations: their own losses, and every standard head."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

import tombola
from tombola import Recipe, Task, UsageError
from tombola.core.numeric import softmax_kl
from tombola.data import ListFeed
from tombola.networks.masking import survey
from tombola.networks.task import batch_size, settle_task
from tombola.networks.task.labels import bernoulli_kl
from tombola.networks.teacher import is_informed

from .conftest import CPU

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")

WORDS = torch.randint(12, (4, 6), generator=torch.Generator().manual_seed(0))
BERT = {
    "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 16,
}  # fmt: skip


def bert(kind, **options):
    torch.manual_seed(0)
    model = getattr(transformers, f"BertFor{kind}")(transformers.BertConfig(**BERT, **options))
    return _with_large_weights(model)


def _with_large_weights(model):
    with torch.no_grad():  # outputs that differ from each other
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


def segformer():
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], hidden_sizes=[8, 8], num_attention_heads=[1, 1], sr_ratios=[1, 1],
        patch_sizes=[3, 3], strides=[2, 2], mlp_ratios=[1, 1], decoder_hidden_size=8, num_labels=3,
    )  # fmt: skip
    return _with_large_weights(transformers.SegformerForSemanticSegmentation(config))


def two_outputs(model, batch):
    """Two outputs of a model that differ, and the task settled on the first."""
    with torch.no_grad():
        output = Task.hugging_face().forward(model, batch)
        for parameter in model.parameters():
            parameter.mul_(0.7)
        other = Task.hugging_face().forward(model, batch)
    return output, other, settle_task(Task.hugging_face(), output, batch)


def divergences(model, batch):
    """The divergence by a task that was settled, and by one that asks anew."""
    output, other, task = two_outputs(model, batch)
    anew = Task.hugging_face().divergence(output, other, batch)
    assert torch.equal(task.divergence(output, other, batch), anew)
    assert task.divergence(output, output, batch).item() == 0
    return output, other, anew


def kl(output, other, dim):
    return softmax_kl(output, other, dim).mean()


def test_semantic_segmentation_has_its_classes_on_axis_1():
    model = segformer()
    batch = {"pixel_values": torch.randn(2, 3, 16, 16), "labels": torch.randint(3, (2, 16, 16))}
    output, other, found = divergences(model, batch)
    assert output.logits.shape == (2, 3, 8, 8)
    assert torch.equal(found, kl(output.logits, other.logits, 1))
    assert not torch.allclose(found, kl(output.logits, other.logits, -1))
    task = settle_task(Task.hugging_face(), output, batch)
    assert torch.allclose(task.prediction(output).sum(1), torch.ones(2, 8, 8))
    batch["labels"][0] = 255
    assert (task.samples(batch), task.counted(batch)) == (2, 256)


def test_the_classes_of_tokens_are_on_the_last_axis():
    batch = {"input_ids": WORDS, "labels": WORDS % 3}
    output, other, found = divergences(bert("TokenClassification", num_labels=3), batch)
    assert torch.equal(found, kl(output.logits, other.logits, -1))
    mask = torch.ones(4, 6)
    mask[:, 3:] = 0
    masked = Task.hugging_face().divergence(output, other, {**batch, "attention_mask": mask})
    assert torch.allclose(masked, kl(output.logits[:, :3], other.logits[:, :3], -1))


def test_as_many_tokens_as_classes_do_not_mislead():
    batch = {"input_ids": WORDS[:, :3], "labels": WORDS[:, :3] % 3}
    output, other, found = divergences(bert("TokenClassification", num_labels=3), batch)
    assert torch.equal(found, kl(output.logits, other.logits, -1))


def test_question_answering_sums_start_and_end():
    batch = {"input_ids": WORDS, "start_positions": torch.arange(4), "end_positions": torch.arange(4)}
    output, other, found = divergences(bert("QuestionAnswering"), batch)
    wanted = kl(output.start_logits, other.start_logits, 1) + kl(output.end_logits, other.end_logits, 1)
    assert torch.equal(found, wanted)
    task = Task.hugging_face()
    assert task.metric(output, batch) == -output.loss
    assert task.prediction(output).shape == (4, 12)
    assert task.samples(batch) == 4


def test_pretraining_sums_words_and_sentences():
    batch = {"input_ids": WORDS, "labels": WORDS, "next_sentence_label": torch.zeros(4).long()}
    output, other, found = divergences(bert("PreTraining"), batch)
    words = kl(output.prediction_logits, other.prediction_logits, -1)
    assert torch.allclose(found, words + kl(output.seq_relationship_logits, other.seq_relationship_logits, 1))


@pytest.mark.parametrize(
    ("options", "labels", "kind"),
    [
        ({"num_labels": 1}, torch.tensor([0.2, 0.9, -1.0, 3.0]), "numbers"),
        ({"num_labels": 1}, torch.tensor([0, 1, 1, 0]), "numbers"),
        ({"num_labels": 3, "problem_type": "regression"}, torch.rand(4, 3), "numbers"),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, torch.tensor([[0.0], [1]] * 2), "labels"),
        ({"num_labels": 3}, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]), "labels"),
    ],
)  # fmt: skip
def test_heads_of_numbers_and_of_labels_are_told_by_the_models_own_loss(options, labels, kind):
    batch = {"input_ids": WORDS, "labels": labels}
    output, other, found = divergences(bert("SequenceClassification", **options), batch)
    task = settle_task(Task.hugging_face(), output, batch)
    if kind == "numbers":
        assert torch.equal(found, nn.functional.mse_loss(output.logits, other.logits))
        assert task.metric(output, batch) == -output.loss
        assert torch.equal(task.prediction(output), output.logits)
    else:
        assert torch.equal(found, bernoulli_kl(output.logits, other.logits).mean())
        right = ((output.logits > 0) == (labels > 0)).double().mean()
        assert task.metric(output, batch) == Task.hugging_face().metric(output, batch) == right
        assert torch.equal(task.prediction(output), output.logits.sigmoid())
    assert found > 0


@pytest.mark.parametrize("kind", ["SequenceClassification", "QuestionAnswering"])
def test_outputs_without_names_are_asked_for_by_name(kind):
    labels = {"labels": torch.tensor([0, 1, 2, 0])}
    if kind == "QuestionAnswering":
        labels = {"start_positions": torch.arange(4), "end_positions": torch.arange(4)}
    options = {} if kind == "QuestionAnswering" else {"num_labels": 3}
    batch = {"input_ids": WORDS, **labels}
    found = [divergences(bert(kind, **options, return_dict=named), batch)[2] for named in (True, False)]
    assert torch.equal(*found)
    assert isinstance(bert(kind, **options, return_dict=False)(**batch), tuple)


def test_tuples_and_dictionaries_of_other_models():
    logits, other, loss = torch.randn(4, 3), torch.randn(4, 3), torch.tensor(1.5)
    batch, task = {"x": WORDS, "labels": torch.tensor([0, 1, 2, 0])}, Task.hugging_face()
    for wrap in (
        lambda scores: (loss, scores),
        lambda scores: {"loss": loss, "logits": scores},
        lambda scores: SimpleNamespace(loss=loss, logits=scores),
        lambda scores: (loss, scores, (torch.zeros(4, 2),)),
    ):
        assert task.loss(wrap(logits), batch) == 1.5
        assert torch.equal(task.divergence(wrap(logits), wrap(other), batch), kl(logits, other, 1))
        assert task.metric(wrap(logits), batch) == (logits.argmax(1) == batch["labels"]).double().mean()
    with pytest.raises(UsageError, match=r"do not say what to compare \(0, 1\): give Task\(divergence=\.\.\.\)"):
        task.divergence((loss, logits, logits), (loss, logits, logits), batch)


def test_encoders_and_decoders_are_compared_on_what_they_decode():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model, labels = transformers.T5ForConditionalGeneration(config).eval(), WORDS.clone()
    labels[:, 2:] = -100
    mask = torch.ones_like(WORDS)
    mask[:, 5:] = 0  # of what is encoded, which here is as long as what is decoded
    output, other, found = divergences(model, {"input_ids": WORDS, "labels": labels, "attention_mask": mask})
    assert torch.allclose(found, kl(output.logits[:, :2], other.logits[:, :2], -1))


def test_images_and_texts_that_belong_together():
    torch.manual_seed(0)
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    }  # fmt: skip
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=BERT, vision_config=vision, projection_dim=4))
    batch = {"input_ids": WORDS, "pixel_values": torch.randn(4, 3, 8, 8), "return_loss": True}
    output, other, found = divergences(model.eval(), batch)
    wanted = kl(output.logits_per_image, other.logits_per_image, 1) + kl(
        output.logits_per_text, other.logits_per_text, 1
    )
    assert torch.allclose(found, wanted)
    assert Task.hugging_face().samples(batch) == 4


def detector():
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=[16, 16],
        patch_size=8, num_detection_tokens=3, num_labels=2,
    )  # fmt: skip
    boxes = [{"class_labels": torch.tensor([0]), "boxes": torch.rand(1, 4)} for _ in range(2)]
    return transformers.YolosForObjectDetection(config), {"pixel_values": torch.randn(2, 3, 16, 16), "labels": boxes}


def autoencoder():
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        decoder_hidden_size=8, decoder_num_attention_heads=2, decoder_num_hidden_layers=1, decoder_intermediate_size=8,
    )  # fmt: skip
    return transformers.ViTMAEForPreTraining(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


@pytest.mark.parametrize("make", [detector, autoencoder])
def test_where_outputs_do_not_tell_the_loss_works_and_the_part_is_named(make):
    model, batch = make()
    keywords = {"density": 0.5, "task": Task.hugging_face(), "progress": False}
    assert tombola.draw(model, [batch], steps=2, objective="loss", **keywords).density == pytest.approx(0.5, abs=0.01)
    assert tombola.draw(model, [batch], steps=2, **keywords).provenance.finder["objective"] == "loss"
    with pytest.raises(UsageError, match=r"do not say what to compare .*: give Task\(divergence=\.\.\.\)"):
        tombola.draw(model, [batch], steps=2, objective="reverse-kl", **keywords)
    recipe = Recipe(epochs=2, learning_rate=0.01)
    found = tombola.sparsify(model, [batch], [batch], finder=tombola.Random(), recipe=recipe, **keywords)
    assert found.held_out_metric < 0, "the loss, its sign turned"


def test_no_labels_end_in_a_sentence_but_for_objectives_that_need_none():
    model, batch = bert("SequenceClassification", num_labels=3), {"input_ids": WORDS}
    keywords = {"density": 0.5, "steps": 2, "task": Task.hugging_face(), "progress": False}
    assert tombola.draw(model, [batch], objective="reverse-kl", **keywords).density == pytest.approx(0.5, abs=0.01)
    with pytest.raises(UsageError, match=r"batches need labels, or the task another loss, Task\(loss=\.\.\.\)"):
        tombola.draw(model, [batch], **keywords)
    with pytest.raises(UsageError, match="dictionary of arguments, got tuple"):
        tombola.draw(model, [(WORDS, torch.zeros(4).long())], **keywords)


def test_means_over_tokens_do_not_depend_on_how_the_data_are_cut():
    labels = WORDS % 3
    labels[0, 1:], labels[1, 2:] = -100, -100
    batch = {"input_ids": WORDS, "labels": labels}
    cut = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(4)]
    model = bert("TokenClassification", num_labels=3)
    recipe = Recipe(epochs=2, learning_rate=1e-12)
    losses = [
        -tombola.sparsify(
            model, [batch], held_out, density=1.0, finder=tombola.Random(), recipe=recipe, rewind_to=0,
            task=Task.hugging_face(), progress=False,
        ).held_out_metric
        for held_out in ([batch], cut)
    ]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] == pytest.approx(model(**batch).loss.item(), rel=1e-4)


def test_tokens_that_are_foretold_are_counted_without_the_first():
    config = transformers.GPT2Config(vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    torch.manual_seed(0)
    model, batch = transformers.GPT2LMHeadModel(config).eval(), {"input_ids": WORDS, "labels": WORDS}
    task = settle_task(Task.hugging_face(), model(**batch), batch)
    assert (task.samples(batch), task.counted(batch)) == (4, 4 * 5)
    assert Task.hugging_face().counted(batch) == 4, "samples, where nothing is known of the model"


@pytest.mark.parametrize("labels", [False, True])
def test_samples_are_counted_by_labels_or_arguments(labels):
    batch = {"pixel_values": torch.zeros(7, 3), "input_ids": torch.zeros(4, 6), "labels": [{}] * 4 if labels else None}
    assert Task.hugging_face().samples(batch) == 4
    assert batch_size({"input_ids": torch.zeros(4, 6), "labels": torch.zeros(4)}) == 4


@pytest.mark.parametrize("by_token", [False, True])
def test_a_fresh_transformer_is_told_from_a_trained_one(by_token):
    torch.manual_seed(0)
    kind = "TokenClassification" if by_token else "SequenceClassification"
    model = getattr(transformers, f"BertFor{kind}")(transformers.BertConfig(**BERT, num_labels=2)).eval()
    words = torch.randint(12, (64, 6), generator=torch.Generator().manual_seed(0))
    labels = (words > 5).long() if by_token else (words[:, 0] > 5).long()
    data = [{"input_ids": w, "labels": y} for w, y in zip(words.split(16), labels.split(16), strict=True)]
    layout, task = survey(model).layout, Task.hugging_face()
    assert is_informed(model, layout, task, ListFeed(data), CPU) is False
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for batch in data * 20:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert is_informed(model, layout, task, ListFeed(data), CPU) is True
    ticket = tombola.draw(model, data, density=0.5, steps=2, task=task, progress=False)
    assert ticket.provenance.finder["objective"] == "reverse-kl"
