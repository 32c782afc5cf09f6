"""Texts with named columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from tombola.core.parts import COUNT, Must, option
from tombola.data import tokenising
from tombola.data.encoding import Part, encode_targets, named_columns
from tombola.data.sources.base import Source, data_dir_option, existing
from tombola.data.sources.table import targets_option
from tombola.data.splits import Splits, Wanted, held_out_rows
from tombola.data.tables import TEXT_ENDINGS, USUAL_TARGETS, chosen, find_table, read_columns
from tombola.data.texts import Texts, Vocabulary, joined
from tombola.errors import UsageError, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What columns of texts are called that need not be named.
USUAL_TEXTS = ("text", "sentence", "review")
TRAIN = "train"


@dataclass(frozen=True)
class Text(Source):
    """Texts: train and test in data_dir as .tsv, .csv, .jsonl or .parquet with named columns, made tokens.

    Or a folder that Hugging Face's datasets saved.
    """

    name: ClassVar[str] = "text"

    data_dir: str | None = data_dir_option("needed: it holds train and test, each a table of texts")
    targets: tuple[str, ...] = targets_option()
    texts: tuple[str, ...] = option(
        (),
        "column of texts, or the two of pairs",
        flag="texts",
        unset="the one called text, sentence or review",
        group="data",
        named=False,
    )
    tokenizer: str = option(
        TRAIN,
        "folder with a tokenizer.json, or train: one of bytes' pairs is trained on the training texts",
        flag="tokenizer",
        group="data",
        named=False,
    )
    vocabulary: int = option(
        8000,
        "tokens of a tokenizer that is trained, at most",
        must=Must(lambda value: value >= tokenising.LEAST, f"of at least {tokenising.LEAST}"),
        flag="vocabulary",
        group="data",
        named=False,
    )
    max_tokens: int = option(
        128, "tokens of a text, whose rest is cut off", must=COUNT, flag="max-tokens", group="data", named=False
    )

    def splits(self, wanted: Wanted) -> Splits:
        """Return the splits; raises UsageError naming what of the files or options is at fault."""
        wanted.refuse_image_options("is for images; texts have none")
        root = existing(self.data_dir, self.name)
        paths = [find_table(root, part, TEXT_ENDINGS) for part in ("train", "test")]
        train, test = (Part(path, read_columns(path)) for path in paths)
        targets = named_columns(train.columns, self.targets, USUAL_TARGETS, train.path)
        columns = self._columns(train)
        for part in (train, test):
            chosen(part.columns, targets, "targets", part.path)
            chosen(part.columns, columns, "texts", part.path)
        (found, found_test), outputs = encode_targets(train, [test], targets, wanted.targets)
        tokenizer = self._tokenizer(train, columns)
        words = Vocabulary(tokenizer.get_vocab_size(), self.max_tokens, tokenising.padding_of(tokenizer))
        whole = self._tokens(tokenizer, train, columns, found, words)
        classes = found if wanted.targets.are_classes else None
        rows, held = held_out_rows(len(found), wanted.held_out, classes, shown(train.path))
        return Splits(
            whole if held is None else whole.take(rows),
            None if held is None else whole.take(held),
            self._tokens(tokenizer, test, columns, found_test, words),
            outputs,
            words.padding,
        )

    def _columns(self, train: Part) -> list[str]:
        names = list(self.texts) or [name for name in USUAL_TEXTS if name in train.columns][:1]
        if not 1 <= len(names) <= 2:
            raise UsageError(
                f"must name one column, or the two of pairs, of those of {shown(train.path)}: "
                f"{', '.join(train.columns)}",
                option="texts",
            )
        return names

    def _tokenizer(self, train: Part, columns: Sequence[str]) -> "Tokenizer":
        if self.tokenizer != TRAIN:
            return tokenising.read(self.tokenizer)
        return tokenising.trained((text for name in columns for text in _texts(train, name)), self.vocabulary)

    def _tokens(
        self, tokenizer: "Tokenizer", part: Part, columns: Sequence[str], targets: Tensor, words: Vocabulary
    ) -> Texts:
        found = tokenising.encode(tokenizer, [_texts(part, name) for name in columns], self.max_tokens)
        tokens, ends = joined([each.ids for each in found])
        empty = next((row for row, each in enumerate(found) if not each.ids), None)
        if empty is not None:
            raise UsageError(f"{shown(part.path)}: the text of row {empty + 1} has no tokens", option="data_dir")
        kinds = joined([each.type_ids for each in found])[0].to(torch.uint8) if len(columns) == 2 else None
        return Texts(tokens, kinds, ends, targets, words)


def _texts(part: Part, name: str) -> list[str]:
    """Return a column of texts; raises UsageError naming a row that holds none."""
    values: list[str] = part.columns[name].tolist()
    for row, value in enumerate(values):
        if not isinstance(value, str):
            what = f"column {name} has {value!r} in row {row + 1}, which is no text"
            raise UsageError(f"{shown(part.path)}: {what}", option="texts")
    return values
