"""Sources, batches, augmentation."""

from tombola.data.arrays import ArrayFeed, Arrays, on_device
from tombola.data.augmentation import AUGMENTATIONS, FlipCrop
from tombola.data.feeds import Feed, Item, ListFeed, OutputTable, RowRange, StreamFeed, forever
from tombola.data.loading import file_stamp, load, shared
from tombola.data.mixing import MixedFeed
from tombola.data.samples import Samples
from tombola.data.sources import DATASETS, Source
from tombola.data.splits import Normalisation, Split, Splits, Wanted
from tombola.data.targets import Targets
from tombola.data.user_feeds import feed_of

# Raised when the same source gives other batches.
VERSION = 1

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "VERSION",
    "ArrayFeed",
    "Arrays",
    "Feed",
    "FlipCrop",
    "Item",
    "ListFeed",
    "MixedFeed",
    "Normalisation",
    "OutputTable",
    "RowRange",
    "Samples",
    "Source",
    "Split",
    "Splits",
    "StreamFeed",
    "Targets",
    "Wanted",
    "feed_of",
    "file_stamp",
    "forever",
    "load",
    "on_device",
    "shared",
]
