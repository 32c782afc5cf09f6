"""A ticket from a Hugging Face text classifier: batches are dictionaries, the loss is the model's own.

Needs `pip install tombola[transformers]`. The model is built from its configuration and pretrained on a toy task (does
the text hold the word 7?), so nothing is downloaded.
"""

import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

import tombola


def texts(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Return batches of word numbers, with the arguments that the model's forward takes."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 12, (count, 16), generator=generator)
    return [
        {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": (part == 7).any(dim=1).long()}
        for part in words.split(64)
    ]


def train(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict[str, torch.Tensor]], epochs: int
) -> None:
    """Train as one always does."""
    model.train()
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()


def accuracy(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> float:
    """Return the share of right answers."""
    model.eval()
    with torch.no_grad():
        right = [(model(**batch).logits.argmax(dim=1) == batch["labels"]).double().mean() for batch in batches]
    return float(sum(right) / len(right))


def main(epochs: int = 8, steps: int = 400) -> tuple[tombola.Ticket, float]:
    """Pretrain, draw a ticket of 20 %, train it, and return it with its accuracy on new texts."""
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=12, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=16)
    model, batches = DistilBertForSequenceClassification(config), texts(1024, seed=0)
    train(model, torch.optim.AdamW(model.parameters(), lr=2e-3), batches, epochs)
    ticket = tombola.draw(model, batches, density=0.2, steps=steps, task=tombola.Task.hugging_face())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with ticket.attach(model, optimizer):
        train(model, optimizer, batches, epochs)
    return ticket, accuracy(model, texts(512, seed=1))


if __name__ == "__main__":
    ticket, reached = main()
    print(f"{ticket}, accuracy {reached:.1%}")
