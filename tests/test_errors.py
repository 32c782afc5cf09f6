"""What an error says, and carries."""

import copy
import pickle

import pytest

from tombola.errors import UsageError, nearest


@pytest.mark.parametrize(
    ("message", "option", "text"),
    [
        ("must be above 0, got 0", "std", "std must be above 0, got 0"),
        ("needs images", "augmentation", "augmentation needs images"),
        ("takes no folder", "data", "data takes no folder"),
        ("is empty", "held_out", "held_out is empty"),
        ("cannot be read", "data", "data cannot be read"),
        ("there is no file x", "data_dir", "data_dir: there is no file x"),
        ("data 'cats' is unknown", "data", "data 'cats' is unknown"),
        ("data: sample 3 is odd", "data", "data: sample 3 is odd"),
        ("database x is unknown", "data", "data: database x is unknown"),
        ("islands are missing", "data", "data: islands are missing"),
        ("must be above 0", "", "must be above 0"),
    ],
)
def test_the_text_begins_with_the_option(message, option, text):
    error = UsageError(message, option=option)
    assert (str(error), error.message, error.option) == (text, message, option)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_survive_copies_and_pickles(again):
    found = again(UsageError("must be above 0", option="std"))
    assert type(found) is UsageError
    assert (str(found), found.message, found.option) == ("std must be above 0", "must be above 0", "std")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cst", "cts"), ("est", "set"), ("synflwo", "synflow"), ("randon", "random"), ("x", ""), ("", "")],
)
def test_the_nearest_name_has_two_letters_exchanged_or_is_the_most_alike(name, meant):
    assert nearest(name, ["set", "cts", "synflow", "random"]) == meant
