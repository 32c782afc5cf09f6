"""Parts: written as texts or as keys and values, read back, told apart; one's own among them."""

import json
import linecache
import re
import sys
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import CTS, GradBalance, ProportionalBalance, Random, UsageError
from tombola.core.allocation import ALLOCATIONS, ErdosRenyiKernel
from tombola.core.concrete import RELAXATIONS, Concrete, Deterministic
from tombola.core.controllers import CONTROLLERS, Lagrangian
from tombola.core.granularity import GRANULARITIES, Block, OfEveryM
from tombola.core.parts import (
    COUNT,
    POSITIVE,
    Must,
    Part,
    describe,
    fits,
    identify,
    is_part,
    kinds,
    option,
    options_of,
)
from tombola.core.plugins import code_of
from tombola.core.written import Family, from_text
from tombola.finders import ACDC, FINDERS, SNIP, ContinuousSparsification, GraNet, Joint, ObjectiveSaliency
from tombola.finders.sparse_training import SparseTraining
from tombola.objectives import OBJECTIVES, FeatureMSE, Loss, Objective
from tombola.training import OPTIMIZERS, SGD, AdamW, Recipe

FAMILIES = {
    family.option: family
    for family in (FINDERS, OBJECTIVES, CONTROLLERS, RELAXATIONS, ALLOCATIONS, GRANULARITIES, OPTIMIZERS)
}
KNOWN = [(option, name) for option, family in FAMILIES.items() for name in family]

OWN = """
from dataclasses import dataclass
from typing import ClassVar

from tombola import ProportionalBalance
from tombola.finders.ranked import Ranked
from tombola.objectives import Objective, MaskedBatch
from tombola.core.parts import COUNT, option

@dataclass(frozen=True)
class Largest(Ranked):
    name: ClassVar[str] = "largest"
    power: int = option(1, "power of the weights", must=COUNT)

    def scores(self, problem):
        return problem.layout.flatten(problem.values_of(problem.weights)).abs() ** self.power

PREPARED = Largest(3)

@dataclass(frozen=True)
class Demanding(Largest):
    needed: int = option(kw_only=True)

@dataclass(frozen=True)
class Square(Objective):
    def __call__(self, masked: MaskedBatch):
        return masked.sparse.square().mean()

def own(masked):
    return masked.sparse.square().mean()

class Plain:
    def draw(self, problem, density):
        raise AssertionError

number = 3
"""


@pytest.fixture
def module(bring):
    return bring("mine", OWN) / "mine.py"


def written(part):
    """A part as one text, parts within it in brackets."""
    settings = ""
    for f in options_of(part):
        value = getattr(part, f.name)
        if is_part(value):
            value = written(value)
        elif isinstance(value, tuple):
            value = f"[{','.join(map(str, value))}]"
        elif isinstance(value, bool):
            value = str(value).lower()
        settings += f":{f.name}=" + (f"[{value}]" if is_part(getattr(part, f.name)) else str(value))
    return f"{part.name}{settings}"


@pytest.mark.parametrize(("kind", "name"), KNOWN)
def test_every_known_part_reads_back_from_all_its_forms(kind, name):
    family, part = FAMILIES[kind], FAMILIES[kind].known[name]
    assert part.name == name
    for value in (name, part, type(part), describe(part), json.loads(json.dumps(describe(part))), written(part)):
        assert family.read(value) == part
    assert identify(part) == {"name": name, "version": type(part).version} | {
        f.name: identify(getattr(part, f.name)) for f in options_of(part) if f.name in identify(part)
    }


NUMBERS = {
    int: st.integers(1, 10**6),
    float: st.floats(1e-6, 0.999),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(st.sampled_from(["relu*", "act", "[ab]*"]), max_size=3).map(tuple),
}


@st.composite
def parts(draw, family):
    """A part of a family with settings of its own, and parts within it likewise."""
    part = family.known[draw(st.sampled_from(sorted(family.known)))]
    given = {}
    for f in options_of(part):
        kind = kinds(type(part))[f.name]
        if f.metadata.get("family"):
            given[f.name] = draw(parts(f.metadata["family"]))
        elif type(part) is Block and f.name == "shape":
            given[f.name] = draw(st.sampled_from(["1x2", "4x4", "16x8"]))
        elif kind is str:
            given[f.name] = draw(st.sampled_from(re.findall(r"[a-z-]+", f.metadata["must"].words.partition("of ")[2])))
        else:
            plain = next(each for each in NUMBERS if each in (kind, *getattr(kind, "__args__", ())))
            given[f.name] = draw(NUMBERS[plain])
    if given.get("nesterov"):
        given["momentum"] = 0.5
    if type(part) is ACDC:
        given["warm_up"], given["last_phase"] = given["warm_up"] / 4, given["last_phase"] / 4
    if isinstance(part, SparseTraining):
        given["updates"] += 1
    if type(part) is GraNet:
        given["until"], given["falling"] = (f(given["until"], given["falling"]) for f in (max, min))
    if type(part) is OfEveryM:
        given["n"], given["m"] = min(given["n"], given["m"]), max(given["n"], given["m"]) + 1
    if type(part) is ContinuousSparsification:
        given["temperature"] = 1 + given["temperature"]
    return replace(part, **given)


@given(st.data())
@pytest.mark.parametrize("kind", FAMILIES)
def test_any_settings_read_back(kind, data):
    family = FAMILIES[kind]
    part = data.draw(parts(family))
    assert family.read(json.loads(json.dumps(describe(part)))) == part
    assert family.read(written(part)) == part


@given(parts(FINDERS), parts(FINDERS))
def test_two_parts_have_one_identity_only_where_they_are_equal(one, other):
    assert (identify(one) == identify(other)) == (one == other)
    assert identify(one) == identify(replace(one))


def test_a_setting_belongs_to_the_part_named_last_else_around_else_within():
    assert FINDERS.read("cts:controller=gradbalance:momentum=0.5:steps=7") == CTS(
        steps=7, controller=GradBalance(momentum=0.5)
    )
    assert FINDERS.read("cts:steps=7:width=0.1") == CTS(steps=7, controller=ProportionalBalance(width=0.1)), "within"
    assert FINDERS.read("cts:objective=feature-mse:features=[a*,b]:controller=lagrangian:rate=2:epsilon=1e-10") == CTS(
        objective=FeatureMSE(("a*", "b")), controller=Lagrangian(2.0), epsilon=1e-10
    )
    # What the part named last does not have is the search's, though the name is that of neither's first option.
    assert FINDERS.read("cts:relaxation=concrete:temperature=0.5:learning_rate=0.3") == CTS(
        relaxation=Concrete(0.5), learning_rate=0.3
    )
    assert FINDERS.read("continuous-sparsification:temperature=9").temperature == 9.0
    assert FINDERS.read("joint:search-epochs=3:search-learning-rate=0.2") == Joint(epochs=3, learning_rate=0.2)
    # The later counts; a part that is named again begins at its defaults.
    assert FINDERS.read("cts:steps=7:steps=9").steps == 9
    again = FINDERS.read("cts:controller=gradbalance:momentum=0.5:controller=gradbalance")
    assert again == CTS(controller=GradBalance())


def test_brackets_hold_a_part_with_settings_of_its_own():
    expected = CTS(steps=5, controller=GradBalance(momentum=0.5, overshoot=1.2))
    assert FINDERS.read("cts:controller=[gradbalance:momentum=0.5:overshoot=1.2]:steps=5") == expected
    assert FINDERS.read("saliency:objective=[feature-mse:features=[relu1,relu2]]:batches=2") == ObjectiveSaliency(
        objective=FeatureMSE(("relu1", "relu2")), batches=2
    )
    assert OBJECTIVES.read("feature-mse:features=[ab]*") == FeatureMSE(("[ab]*",)), "a glob, and no list in brackets"
    assert OBJECTIVES.read("feature-mse:features=[a]*,b[c]").features == ("[a]*", "b[c]")
    assert OBJECTIVES.read("feature-mse:features=[]").features == ()


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("010", int, 10),
        ("-08", int, -8),
        ("010", float, 10),
        ("01.50", float, 1.5),
        ("1e-8", float, 1e-8),
        ("[07,010]", tuple[int, ...], (7, 10)),
        ("yes", bool, True),
        ("off", bool, False),
    ],
)
def test_numbers_are_decimal(text, kind, value):
    found = from_text(text, kind)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "kind"), [("0x10", int), ("1:30", int), ("1:30.5", float), ("1", bool), ("nan", float)]
)
def test_other_numbers_of_yaml_are_none(text, kind):
    with pytest.raises(ValueError, match=text):
        from_text(text, kind)


def test_none_is_for_options_that_may_be_unset():
    assert FINDERS.read("cts:learning_rate=none:objective=null") == CTS()
    with pytest.raises(UsageError, match="'none' is unknown; allowed are gradbalance"):
        FINDERS.read("cts:controller=none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ctz", r"finder 'ctz' is unknown; allowed are .*, or MODULE:NAME; did you mean cts\?"),
        ("nothing-like-it", "allowed are .*, or MODULE:NAME$"),
        ("cts:objective=los", r"objective 'los' is unknown; .*; did you mean loss\?"),
        ("cts:step=3", "finder 'cts:step=3': 'step' is not an option of cts, which has .*objective, steps, controller"),
        ("random:steps=3", "'steps' is not an option of random, which has allocation, granularity$"),
        ("cts:steps", "finder 'cts:steps': steps needs a value, such as steps="),
        ("cts:steps=", "finder 'cts:steps=': steps needs a value"),
        ("cts:steps=many", "finder 'cts:steps=many': steps must be a whole number of at least 1, got 'many'"),
        ("cts:steps=1.5", "steps must be a whole number of at least 1, got '1.5'"),
        ("cts:steps=true", "steps must be a whole number"),
        ("cts:epsilon=nan", "epsilon must be a number above 0"),
        ("cts:steps=0", "steps must be a whole number of at least 1, got 0"),
        ("cts:learning_rate=0", r"search_learning_rate must be a number above 0, at most 1e\+30, got 0"),
        ("cts:epsilon=inf", "search_epsilon must be a number above 0"),
        ("cts:lr_schedule=up", "search_lr_schedule must be one of one-cycle, drop, constant, got 'up'"),
        ("cts:objective=feature-mse:features=[a:steps=3", r"features must be a list of texts such as .*, got '\[a:"),
        ("cts:controller=random", "controller 'random' is unknown"),
        ("cts:controller=[gradbalance", "controller must be"),
        ("", "finder '' is unknown"),
        ({"steps": 3}, "finder must have a name where it is written as keys and values"),
        ({"name": "cts", "step": 3}, "finder 'cts': 'step' is not an option of it, which has .*steps"),
        ({"name": "cts", "steps": "3"}, "steps must be a whole number of at least 1, got '3'"),
        ({"name": "cts", "controller": {"name": "gradbalance", "momentum": 2}}, r"momentum must be a number in \[0, 1"),
        ({"name": "cts", "controller": None}, "controller must be one of gradbalance, .*, got None"),
        (3, "finder must be one of .*, MODULE:NAME, or such an object, got 3"),
        (None, "finder must be one of .*, got None"),
        (GradBalance(), r"finder: GradBalance\(.*\) is no finder: it lacks draw"),
        (int, "finder: <class 'int'> is no finder: it lacks draw"),
        ("nowhere:Finder", "finder 'nowhere:Finder' cannot be imported: ModuleNotFoundError"),
        ("mine:nothing", "finder 'mine:nothing' cannot be imported: mine has no nothing"),
        ("mine:number", "finder must be one of .*, got 'mine:number'"),
        ("mine:Plain", "finder 'mine:Plain' is no finder: it must be a dataclass"),
        ("mine:own", "finder 'mine:own' is no finder: it lacks draw"),
        ("mine:Demanding", "finder 'mine:Demanding' cannot be made without arguments: .*needed|finder.*must be one of"),
        ("mine:Largest:power=0", "power must be a whole number of at least 1, got 0"),
        ("mine:Largest:steps=1", "'steps' is not an option of mine:Largest, which has "),
        ("mine.py:Largest", r"must name the module without \.py: mine:Largest"),
    ],
)
def test_what_is_no_part_gets_one_sentence_that_names_the_option(module, text, message):
    with pytest.raises(UsageError, match=message) as found:
        FINDERS.read(text)
    assert found.value.option
    assert str(found.value).startswith(found.value.option)
    assert "\n" not in str(found.value)


def test_parts_of_ones_own_are_classes_objects_or_functions(module):
    largest, prepared = FINDERS.read("mine:Largest"), FINDERS.read("mine:PREPARED")
    assert (largest.power, prepared.power) == (1, 3)
    assert FINDERS.read("mine:Largest:power=4:allocation=erk") == replace(
        largest, power=4, allocation=ErdosRenyiKernel()
    )
    assert FINDERS.read("mine:PREPARED:allocation=uniform").power == 3
    assert describe(prepared)["name"] == "mine:Largest"
    assert FINDERS.read(describe(prepared)) == prepared
    # Functions are objectives; so are classes.
    for text in (
        "cts:objective=[mine:own]:steps=3",
        "cts:objective=mine:own:steps=3",
        {"name": "cts", "objective": "mine:own", "steps": 3},
    ):
        found = FINDERS.read(text)
        assert (found.steps, found.objective.name, found.objective.asks_outputs) == (3, "mine:own", True)
        assert FINDERS.read(describe(found)) == found
    square = FINDERS.read("cts:objective=[mine:Square]")
    assert describe(square.objective)["name"] == "mine:Square"
    assert FINDERS.read(describe(square)) == square
    import mine

    assert CTS(objective=mine.own).objective == found.objective
    assert CTS(objective=mine.Square).objective == square.objective


@pytest.mark.parametrize("family", [ALLOCATIONS, RELAXATIONS, OPTIMIZERS, GRANULARITIES, CONTROLLERS], ids=FAMILIES.get)
def test_objects_whose_options_are_not_known_are_refused(family):
    """Their tickets could not say what made them."""

    class Anything:
        def counts(self, layout, density, kept): ...
        def mask(self, logits, noise): ...
        def slope(self, mask, logits): ...
        def build(self, parameters, learning_rate, weight_decay): ...
        def groups(self, layout): ...
        def init(self, logits): ...
        def update(self, logits, task_gradient, target, state): ...

    with pytest.raises(UsageError, match=f"is no {family.option}: it (is no function, and )?must be a dataclass"):
        family.read(Anything())
    known = dataclass(frozen=True)(Anything)
    assert family.read(known) == known()


def test_an_option_at_its_default_is_no_part_of_the_identity():
    assert (identify(Random())["name"], identify(Random())["version"]) == ("random", Random.version)
    assert identify(CTS(steps=7))["steps"] == 7
    assert "steps" not in identify(CTS())
    assert identify(CTS(steps=CTS().steps)) == identify(CTS())
    inner = identify(CTS(controller=ProportionalBalance(0.1)))["controller"]
    assert inner == {"name": "proportional", "version": ProportionalBalance.version, "width": 0.1}


def test_a_new_option_with_a_default_renames_nothing_and_a_version_renames_all():
    @dataclass(frozen=True)
    class Before(Part):
        name: ClassVar[str] = "thing"
        size: int = option(1, must=COUNT)

    @dataclass(frozen=True)
    class After(Part):
        name: ClassVar[str] = "thing"
        size: int = option(1, must=COUNT)
        added: float = option(0.5, must=POSITIVE)
        silent: int = option(1, named=False)

    @dataclass(frozen=True)
    class Raised(After):
        version: ClassVar[int] = 2

    def known(part):
        return {key: value for key, value in identify(part).items() if key not in {"name", "code"}}

    assert known(Before(3)) == known(After(3)) == known(After(3, silent=9)) == {"version": 1, "size": 3}
    assert known(After(3, added=0.25)) == {"version": 1, "size": 3, "added": 0.25}
    assert known(Raised(3)) == {"version": 2, "size": 3}
    # Whole numbers and numbers are one option.
    assert known(After(3, added=1)) == known(After(3, added=1.0))
    assert json.dumps(known(After(3, added=1))) == json.dumps(known(After(3, added=1.0)))


def test_the_code_of_ones_own_part_enters_its_identity(module):
    import linecache

    names = []
    for text in (OWN, OWN.replace("** self.power", "* self.power"), OWN):
        module.write_text(text)
        sys.modules.pop("mine", None)
        linecache.clearcache()
        sys.dont_write_bytecode = True
        names.append([identify(FINDERS.read(each)) for each in ("mine:Largest", "cts:objective=[mine:own]")])
    first, changed, again = names
    assert first == again
    assert all(a["code"] != b["code"] for a, b in zip(first[:1], changed[:1], strict=True))
    assert first[1]["objective"]["code"] != changed[1]["objective"]["code"]
    assert "code" not in identify(CTS())


def test_parts_check_what_they_are_given():
    @dataclass(frozen=True)
    class Thing(Part):
        name: ClassVar[str] = "thing"
        count: int = option(1, must=COUNT)
        share: float | None = option(None, must=Must(lambda value: value < 1, "below 1"), flag="the-share")
        sizes: tuple[float, ...] = option(())
        on: bool = option(False)

    assert Thing(share=0) == Thing(share=0.0)
    assert isinstance(Thing(share=0).share, float)
    assert json.dumps(describe(Thing(sizes=[1, 2.5]))["sizes"]) == "[1.0, 2.5]"
    for given_, message in (
        ({"count": True}, "count must be a whole number of at least 1, got True"),
        ({"count": None}, "count must be a whole number of at least 1, got None"),
        ({"share": float("nan")}, "the_share must be a number below 1, got nan"),
        ({"share": 1}, "the_share must be a number below 1, got 1"),
        ({"share": "0.5"}, "the_share must be a number below 1, got '0.5'"),
        ({"sizes": 3}, "sizes must be a list of numbers such as"),
        ({"sizes": ["a"]}, "sizes must be a list of numbers"),
        ({"on": 1}, "on must be true or false, got 1"),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
            Thing(**given_)


def test_recipes_take_optimisers_as_they_are_written():
    assert Recipe(optimizer="sgd:momentum=0.5").optimizer == SGD(momentum=0.5)
    assert Recipe(optimizer={"name": "adamw", "beta1": 0.8}).optimizer == AdamW(beta1=0.8)
    with pytest.raises(UsageError, match="nesterov must be false where momentum is 0"):
        Recipe(optimizer="sgd:nesterov=true:momentum=0")


def test_a_family_lists_its_parts_and_each_has_help():
    for family in FAMILIES.values():
        assert isinstance(family, Family)
        assert list(family) == list(family.known)
        for part in family.known.values():
            for f in options_of(part):
                assert f.metadata["help"], (part.name, f.name)
    assert {f.name for f in fields(SNIP())} == {"allocation", "granularity", "rounds", "batch_size", "batches"}


def test_an_objective_asks_what_it_says():
    assert Loss().asks_outputs is False
    assert isinstance(OBJECTIVES.read(lambda masked: masked.sparse.sum()), Objective)
    assert Deterministic().mask(torch.zeros(2), torch.rand(2)).tolist() == [0.5, 0.5]


def typed(constant, rate=1, where="typed"):
    """A class as it is where it was typed into an interpreter: its module has no file."""
    code = f"""
class Mine:
    rate = {rate}
    def scores(self):
        return sorted(value - {constant} for value in self.given if value in {{"a", "b"}})
    @staticmethod
    def helper():
        return {constant}
"""
    space = {"__name__": where}
    exec(code, space)
    return space["Mine"]


def test_what_was_typed_in_is_known_by_its_constants_too():
    assert code_of(typed(1)) == code_of(typed(1))
    assert len({code_of(typed(1)), code_of(typed(2)), code_of(typed(1, rate=3))}) == 3


def test_the_code_of_a_part_holds_that_of_its_bases(bring, monkeypatch):
    folder = bring("base_part", "class Base:\n    rate = 1\n")
    bring("own_part", "from base_part import Base\nclass Mine(Base):\n    pass\n")
    import own_part

    before, alone = code_of(own_part.Mine), code_of(sys.modules["base_part"].Base)
    (folder / "base_part.py").write_text("class Base:\n    rate = 2  # longer\n")
    linecache.checkcache()
    assert code_of(own_part.Mine) != before
    assert code_of(sys.modules["base_part"].Base) != alone


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("7", int | str, 7),
        ("seven", int | str, "seven"),
        ("[1,2]", list[int], (1, 2)),
        ("[1,2]", tuple[int, ...] | None, (1, 2)),
        ("[1,a]", tuple[int, str], (1, "a")),
        ("b", Literal["a", "b"], "b"),
    ],
)
def test_types_of_ones_own_options_are_read_as_they_say(text, kind, value):
    assert (from_text(text, kind), fits(value, kind)) == (value, True)
    assert not fits(1.5, kind)
    if kind != int | str:
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the text at fault
            from_text("[1,a,b]", kind)
