"""Models of other libraries: timm's by name, Hugging Face's from a configuration or a local folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from tombola.core.parts import BELOW_ONE, COUNT, Part, option
from tombola.errors import UsageError, did_you_mean, in_words, shown

# Files with weights in a folder of Hugging Face.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")

CONFIGURED = "the configuration's"


@dataclass(frozen=True)
class TimmModel(Part):
    """A model of timm, timm:NAME, with freshly initialised weights."""

    name: str = ""  # type: ignore[misc]
    drop_path: float | None = option(
        None, "share of residual branches that are left out in training", must=BELOW_ONE, unset="the model's"
    )

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network; models that are made for one size of images are made for that of the data."""
        try:
            import timm
        except ModuleNotFoundError as error:
            raise UsageError("timm is missing: pip install 'tombola[timm]'", option="model") from error
        name = self.name.partition(":")[2]
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models())
            raise UsageError(f"timm has no model {name!r}{hint}", option="model")
        if len(shape) != 3:
            raise UsageError(f"{self.name} takes images (channels, height, width), got {list(shape)}", option="model")
        settings: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0], "pretrained": False}
        if self.drop_path is not None:
            settings["drop_path_rate"] = self.drop_path
        known = timm.get_pretrained_cfg(name)
        if known is not None and known.fixed_input_size:
            settings["img_size"] = shape[1:]
        try:
            found: nn.Module = timm.create_model(name, **settings)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise UsageError(
                f"{self.name} cannot be built for {list(shape)}: {in_words(error)}", option="model"
            ) from error
        return found


@dataclass(frozen=True)
class HuggingFaceModel(Part):
    """A Hugging Face model that classifies texts, hf:CONFIG_OR_FOLDER; nothing is fetched.

    What stands behind the colon is a kind of model, such as bert, a configuration, config.json, or a folder with one.
    Weights that lie in the folder are loaded, others come from the seed. The rest changes a configuration.
    """

    name: str = ""  # type: ignore[misc]
    version: ClassVar[int] = 2

    layers: int | None = option(None, "layers", must=COUNT, unset=CONFIGURED)
    width: int | None = option(None, "width, four times as much between", must=COUNT, unset=CONFIGURED)
    heads: int | None = option(None, "attention heads", must=COUNT, unset=CONFIGURED)

    @property
    def code(self) -> str:
        """What the network depends on beside its name: the configuration in the file."""
        path = self._file
        return path.read_text(encoding="utf-8", errors="replace") if path is not None else ""

    @property
    def _place(self) -> str:
        return self.name.partition(":")[2]

    @property
    def _file(self) -> Path | None:
        """Return where the configuration lies, None where a kind is named."""
        place = Path(self._place)
        path = place / "config.json" if place.is_dir() else place
        return path if path.is_file() else None

    def build(self, shape: tuple[int, ...], classes: int, padding: int | None = None) -> nn.Module:
        """Return the network for texts.

        shape: the most tokens of a text, and how many different ones there are. padding: the token that pads shorter
        texts, which a model has to know that looks for the last token of each; None: the configuration's. Raises
        UsageError where it does not fit the weights in the folder.
        """
        try:
            from transformers import AutoModelForSequenceClassification
        except ModuleNotFoundError as error:
            words = "transformers is missing: pip install 'tombola[transformers]'"
            raise UsageError(words, option="model") from error
        if len(shape) != 2:
            raise UsageError(f"{self.name} takes texts, such as --data text; got {list(shape)}", option="model")
        folder, changes = Path(self._place), self._changes()
        with_weights = folder.is_dir() and any(path for each in _WEIGHTS for path in folder.glob(each))
        if with_weights and changes:
            raise UsageError(f"{next(iter(changes))} cannot be changed: {shown(folder)} holds weights", option="model")
        config = self._config({**changes, "num_labels": classes})
        self._fit(config, shape, padding, with_weights)
        try:
            if with_weights:
                found: nn.Module = AutoModelForSequenceClassification.from_pretrained(
                    str(folder), config=config, local_files_only=True, ignore_mismatched_sizes=True
                )
            else:
                found = AutoModelForSequenceClassification.from_config(config)
        except Exception as error:  # of a damaged file the libraries may raise anything
            raise UsageError(f"{self.name} cannot be built: {in_words(error)}", option="model") from error
        return found.train()

    def _changes(self) -> dict[str, int]:
        given = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "intermediate_size": self.width and 4 * self.width,
            "num_attention_heads": self.heads,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _config(self, changes: dict[str, int]) -> Any:
        """Return the configuration with some changes."""
        from transformers import CONFIG_MAPPING, AutoConfig

        if self._file is not None:
            values = json.loads(self.code)
            kind = values.pop("model_type", "")
        else:
            values, kind = {}, self._place
        if kind not in CONFIG_MAPPING:
            hint = did_you_mean(kind, CONFIG_MAPPING)
            words = f"must be a configuration, a folder with config.json, or a kind of model such as bert, got {kind!r}"
            raise UsageError(f"hf: {words}{hint}", option="model")
        config = AutoConfig.for_model(kind, **{**values, **changes})
        if kind == "xlnet" and config.summary_type != "first":
            raise UsageError(
                f"{self.name} reads the last place of a text, which may be padding; give a configuration with "
                'model_type "xlnet" and summary_type "first"',
                option="model",
            )
        return config

    def _fit(self, config: Any, shape: tuple[int, ...], padding: int | None, fixed: bool) -> None:
        """Fit a configuration to texts; fixed: whether its weights are there, to which these must fit."""
        longest, vocabulary = shape
        positions = getattr(config, "max_position_embeddings", longest)
        if 0 < positions < longest:  # XLNet's -1: no limit
            raise UsageError(f"must be at most {positions} for {self.name}, got {longest}", option="max_tokens")
        if not fixed:
            config.vocab_size = vocabulary
        elif config.vocab_size < vocabulary:
            raise UsageError(
                f"has {vocabulary:,} tokens, and {self.name} knows {config.vocab_size:,}; give the model's own",
                option="tokenizer",
            )
        if padding is None:
            return
        known = getattr(config, "pad_token_id", None)
        if fixed and known not in (None, padding):
            raise UsageError(
                f"has {padding} as the token that pads, and {self.name} has {known}; give the model's own, with its "
                "padding named in tokenizer.json",
                option="tokenizer",
            )
        config.pad_token_id = padding
