"""Texts made tokens: by a tokenizer in a local folder, or by one trained on the training texts."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.errors import UsageError, in_words, shown

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# BERT's names (Devlin et al. 2019); padding comes first, as its configuration expects it.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Tokens that a trained tokenizer has before it has seen a text: these, and one for each byte.
LEAST = 256 + len(SPECIAL)
FILE = "tokenizer.json"


@contextmanager
def _library() -> Iterator[None]:
    """Explain a library that is missing, and keep it on one thread: its own would not be counted by --threads."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            "text needs the tokenizers library: pip install 'tombola[transformers]'", option="data"
        ) from error
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def trained(texts: Iterable[str], vocabulary: int) -> "Tokenizer":
    """Return a tokenizer of bytes' pairs, trained on lower-cased texts (Radford et al. 2019).

    The same texts give the same one: bytes have an order, as the characters that WordPiece begins with have not. Texts
    begin with [CLS] and end with [SEP], which also stands between the two of a pair. vocabulary: the most tokens, at
    least `LEAST`.
    """
    with _library():
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[1]))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        first, last = ((name, tokenizer.token_to_id(name)) for name in SPECIAL[2:])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[2]} $A {SPECIAL[3]}",
            pair=f"{SPECIAL[2]} $A {SPECIAL[3]} $B:1 {SPECIAL[3]}:1",
            special_tokens=[first, last],
        )
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(SPECIAL[0]), pad_token=SPECIAL[0])
        return tokenizer


def read(folder: str) -> "Tokenizer":
    """Return the tokenizer in a folder's tokenizer.json, as Hugging Face models have it beside them, or in such a file.

    Raises UsageError where there is none.
    """
    place = Path(folder)
    path = place / FILE if place.is_dir() else place
    if not path.is_file():
        raise UsageError(f"must be a {FILE}, or a folder with one, got {shown(folder)}", option="tokenizer")
    with _library():
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exceptions
            raise UsageError(f"{shown(path)} cannot be read ({in_words(error)})", option="tokenizer") from error


def padding_of(tokenizer: "Tokenizer") -> int:
    """Return the number of the token that pads: the one that the tokenizer names, else 0, which is masked anyway."""
    padding = tokenizer.padding
    if padding:
        return int(padding["pad_id"])
    found = next((tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>") if tokenizer.token_to_id(name)), 0)
    return int(found or 0)


def encode(tokenizer: "Tokenizer", columns: Sequence[Sequence[str]], longest: int) -> "list[Encoding]":
    """Return the encodings of texts, or of pairs where there are two columns, at most so many tokens each.

    Raises UsageError where the tokens that the tokenizer adds to each text are more than these: it would cut nothing.
    """
    added = tokenizer.num_special_tokens_to_add(len(columns) == 2)
    if longest < added:
        words = f"must be at least {added}, the tokens that the tokenizer adds to each text, got {longest}"
        raise UsageError(words, option="max_tokens")
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    texts = list(columns[0]) if len(columns) == 1 else list(zip(columns[0], columns[1], strict=True))
    with _library():
        found: list[Encoding] = tokenizer.encode_batch_fast(texts)
        return found
