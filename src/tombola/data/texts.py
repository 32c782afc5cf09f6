"""Texts in memory as token ids, in batches of texts of about one length."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from tombola.core.seeds import generator
from tombola.data.augmentation import Augmentation
from tombola.data.feeds import RowFeed
from tombola.errors import UsageError
from tombola.storage.identity import digest, digest_tensors

# Batches whose texts are ordered by length together: the more, the less padding, and the less of a shuffle.
BUCKET = 50


@dataclass(frozen=True)
class Vocabulary:
    """How many tokens there are, the longest text in them, and the number of the token that pads."""

    size: int
    longest: int
    padding: int


@dataclass(frozen=True)
class Texts:
    """Texts as tokens.

    tokens: of all texts, end to end, int32. kinds: of each token, whether it is of the first or the second text of a
    pair, uint8; None where there are no pairs. ends: (N,) where each text ends. targets: (N, ...).
    """

    tokens: Tensor
    kinds: Tensor | None
    ends: Tensor
    targets: Tensor
    vocabulary: Vocabulary

    at_once: ClassVar[int] = 128

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def shape(self) -> tuple[int, ...]:
        """The most tokens that a text has, and how many different ones there are."""
        return (self.vocabulary.longest, self.vocabulary.size)

    @cached_property
    def lengths(self) -> Tensor:
        """Return the number of tokens of each text, (N,)."""
        return self.ends.diff(prepend=torch.zeros(1, dtype=self.ends.dtype, device="cpu"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything in here."""
        kinds = {} if self.kinds is None else {"kinds": self.kinds}
        content = {"tokens": self.tokens, "ends": self.ends, "targets": self.targets, **kinds}
        words = self.vocabulary
        return digest([digest_tensors(content), words.size, words.longest, words.padding])

    def feed(
        self, batch_size: int, seed: int, purpose: str, shuffle: bool = True, augmentation: Augmentation | None = None
    ) -> "TextFeed":
        """Return batches of these texts; raises UsageError for an augmentation, which is for images."""
        if augmentation is not None:
            raise UsageError("is for images; texts have none", option="augmentation")
        return TextFeed(self, batch_size, seed, purpose, shuffle)

    def take(self, rows: Tensor) -> "Texts":
        """Return some of the texts."""
        places = (
            torch.cat([self._place(row) for row in rows.tolist()])
            if len(rows)
            else torch.zeros(0, dtype=torch.long, device="cpu")
        )
        kinds = None if self.kinds is None else self.kinds[places]
        ends = self.lengths[rows].cumsum(0)
        return Texts(self.tokens[places], kinds, ends, self.targets[rows], self.vocabulary)

    def _place(self, row: int) -> Tensor:
        return torch.arange(int(self.ends[row] - self.lengths[row]), int(self.ends[row]), device="cpu")

    def padded(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return tokens of some texts, (N, T) int64, as long as the longest of them, and which of them are none.

        By the names that Hugging Face models know: input_ids, attention_mask (1 for tokens, 0 for padding), and
        token_type_ids where texts come in pairs.
        """
        longest = max(int(self.lengths[row]) for row in rows)
        found = {"input_ids": torch.full((len(rows), longest), self.vocabulary.padding, device="cpu")}
        found["attention_mask"] = torch.zeros(len(rows), longest, dtype=torch.long, device="cpu")
        if self.kinds is not None:
            found["token_type_ids"] = torch.zeros(len(rows), longest, dtype=torch.long, device="cpu")
        for at, row in enumerate(rows):
            end, length = int(self.ends[row]), int(self.lengths[row])
            found["input_ids"][at, :length] = self.tokens[end - length : end]
            found["attention_mask"][at, :length] = 1
            if self.kinds is not None:
                found["token_type_ids"][at, :length] = self.kinds[end - length : end]
        return found


@dataclass(frozen=True)
class TextFeed(RowFeed):
    """Batches of texts: shuffled ones hold texts of about one length, so that little of them is padding."""

    samples: Texts

    def rows(self, number: int) -> Sequence[Tensor]:
        """Return the rows of each batch of an epoch.

        Texts are shuffled, those of some batches ordered by length, cut into batches, and these are shuffled again; the
        short last one stays the last.
        """
        plain = super().rows(number)
        if not self.shuffle:
            return plain
        size = self.batch_size * BUCKET
        ordered = [part[self.samples.lengths[part].argsort(stable=True)] for part in torch.cat(list(plain)).split(size)]
        batches = [batch for part in ordered for batch in part.split(self.batch_size)]
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        order = torch.randperm(
            len(whole), generator=generator(self.seed, self.purpose, "batches", number), device="cpu"
        )
        return [*(whole[at] for at in order.tolist()), *(b for b in batches if len(b) < self.batch_size)]

    def batch(self, rows: Tensor, number: int, position: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return tokens by the models' names, and targets, of some rows."""
        return self.samples.padded(rows.tolist()), self.samples.targets[rows]

    @property
    def repeatable(self) -> bool:
        """Always: padding is masked."""
        return True


def joined(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return token ids of texts end to end, int32, and where each ends."""
    ends = torch.tensor([len(text) for text in texts], dtype=torch.long, device="cpu").cumsum(0)
    flat = torch.empty(int(ends[-1]) if len(ends) else 0, dtype=torch.int32, device="cpu")
    start = 0
    for text, end in zip(texts, ends.tolist(), strict=True):
        flat[start:end] = torch.tensor(text, dtype=torch.int32, device="cpu")
        start = end
    return flat, ends
