"""Sources, batches, augmentation."""

from tombola.data.arrays import Arrays
from tombola.data.augmentation import AUGMENTATIONS, FlipCrop
from tombola.data.feeds import ArrayFeed, Feed, Item, ListFeed, Recall, StreamFeed, feed_of, forever
from tombola.data.sources import DATASETS, Splits, load

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "ArrayFeed",
    "Arrays",
    "Feed",
    "FlipCrop",
    "Item",
    "ListFeed",
    "Recall",
    "Splits",
    "StreamFeed",
    "feed_of",
    "forever",
    "load",
]
