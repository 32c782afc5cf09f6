"""Where images come from: every source is a part, a frozen dataclass whose fields are its options."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tombola.core.written import Family
from tombola.data.folder import find_part
from tombola.data.saved import is_saved
from tombola.data.sources.base import Source as Source
from tombola.data.sources.cifar import Cifar10, Cifar100
from tombola.data.sources.digits import Digits
from tombola.data.sources.folder import Folder, FolderAt
from tombola.data.sources.images import Images
from tombola.data.sources.mnist import FashionMnist, Mnist
from tombola.data.sources.own import Own
from tombola.data.sources.table import Table, is_table
from tombola.data.sources.text import Text
from tombola.data.splits import Splits, Wanted
from tombola.errors import UsageError, did_you_mean, shown


class _Sources(Family[Source]):
    """Sources by name; the path of a folder with train and test means the folder source."""

    def named(self, name: str) -> Source:
        """Return the source of a name; raises UsageError listing what there is."""
        if name in self.known:
            return self.known[name]
        if name and is_saved(Path(name)):
            kinds = "text, table or images, with the folder as data_dir"
            raise UsageError(f"'{shown(name)}' is what datasets saved: say {kinds}", option=self.option)
        if name and all(find_part(Path(name), part) is not None for part in ("train", "test")):
            return FolderAt(name)
        if is_table(name):
            return Table(name)
        if ":" in name:
            return super().named(name)
        hint = did_you_mean(name.lower(), self.known)
        if os.path.isdir(name):
            hint = f"; the folder {shown(name)} does not hold train and test"
        allowed = f"{', '.join(self.known)}, a folder with train and test, or MODULE:FUNCTION"
        raise UsageError(f"'{shown(name)}' is unknown; allowed are {allowed}{hint}", option=self.option)


DATASETS: Family[Source] = _Sources(
    "data",
    {kind.name: kind() for kind in (Digits, Mnist, FashionMnist, Cifar10, Cifar100, Folder, Images, Table, Text)},
    Source,
    Own.of,
)


def load(source: Source | Mapping[str, Any] | str, wanted: Wanted) -> Splits:
    """Return a dataset, a share of its training data held out; source: one, or as it is written."""
    return DATASETS.read(source).splits(wanted)
