"""Layers of configuration: presets, files and the command line over each other, in long and in short forms."""

import json
import sys
from dataclasses import replace

import pytest
import yaml

from tombola import CTS, GradBalance, ProportionalBalance, Random, Recipe, UsageError
from tombola.cli.main import main
from tombola.core.concrete import Concrete, Deterministic
from tombola.core.controllers import Lagrangian
from tombola.finders import FINDERS, SNIP, Joint
from tombola.objectives import FeatureMSE, ReverseKL
from tombola.runs.config import RunConfig, built, from_dict, load_preset, preset_names, recipe_names, short_forms
from tombola.studies import plan
from tombola.training import SGD, AdamW


def test_short_forms_and_nested_forms_say_the_same():
    short = {
        "finder": "cts", "steps": 7, "objective": "reverse-kl", "search_learning_rate": 0.2, "temperature": 0.5,
        "epochs": 4, "momentum": 0.8, "learning_rate": 0.3, "seed": 2,
    }  # fmt: skip
    nested = {
        "finder": {
            "name": "cts", "steps": 7, "objective": {"name": "reverse-kl"}, "learning_rate": 0.2,
            "relaxation": {"name": "concrete", "temperature": 0.5},
        },
        "training": {"epochs": 4, "learning_rate": 0.3, "optimizer": {"name": "sgd", "momentum": 0.8}},
        "seed": 2,
    }  # fmt: skip
    texts = {key: str(value) for key, value in short.items()}
    dashed = {key.replace("_", "-"): value for key, value in texts.items()}
    one_text = {
        "finder": "cts:steps=7:objective=reverse-kl:learning_rate=0.2:temperature=0.5",
        "training": {"epochs": 4, "learning_rate": "0.3", "optimizer": "sgd:momentum=0.8"}, "seed": 2,
    }  # fmt: skip
    expected = built([short])
    assert expected.finder == CTS(steps=7, objective=ReverseKL(), learning_rate=0.2, relaxation=Concrete(0.5))
    assert expected.training == Recipe(epochs=4, learning_rate=0.3, optimizer=SGD(momentum=0.8))
    for layer in (nested, texts, dashed, one_text):
        assert built([layer]) == expected


def test_without_anything_a_run_has_its_defaults():
    assert built([]) == built([{}]) == RunConfig()
    assert RunConfig().training == Recipe(epochs=20)


def test_later_layers_go_over_earlier_ones_setting_by_setting():
    config = built([{"steps": 5, "epochs": 3, "momentum": 0.5}, {"steps": 6}, {"training": {"learning_rate": 0.2}}])
    assert config.finder == CTS(steps=6)
    assert config.training == Recipe(epochs=3, learning_rate=0.2, optimizer=SGD(momentum=0.5))
    # The same part again keeps what earlier layers said of it; another begins at its defaults.
    layers = [{"finder": "cts:steps=5", "controller": "proportional:width=0.2", "nesterov": True}]
    again = built([*layers, {"finder": "cts:epsilon=1e-9", "controller": "proportional", "optimizer": "sgd"}])
    assert again.finder == CTS(steps=5, epsilon=1e-9, controller=ProportionalBalance(0.2))
    assert again.training.optimizer == SGD(nesterov=True)
    other = built([*layers, {"controller": "gradbalance", "optimizer": "adamw"}])
    assert other.finder == CTS(steps=5, controller=GradBalance())
    assert other.training.optimizer == AdamW()
    assert built([*layers, {"finder": "joint"}]).finder == Joint()


def test_settings_within_the_finder_win_over_short_forms_of_the_same_layer():
    config = built([{"finder": "cts:steps=7:controller=gradbalance", "steps": 9, "controller": "lagrangian"}])
    assert config.finder == CTS(steps=7, controller=GradBalance())
    over = built([{"finder": "cts:steps=7:controller=gradbalance"}, {"steps": 9, "controller": "lagrangian"}])
    assert over.finder == CTS(steps=9, controller=Lagrangian()), "a later layer"
    within = built([{"finder": "cts:relaxation=concrete", "temperature": 0.5}])
    assert within.finder.relaxation == Concrete(0.5)
    part_within = built([{"finder": "cts:temperature=0.25", "temperature": 0.5}])
    assert part_within.finder.relaxation == Concrete(0.25)


def test_options_may_stand_before_the_part_that_has_them():
    before = {"features": ["relu*"], "objective": "feature-mse", "momentum": 0.5, "optimizer": "sgd"}
    after = dict(reversed(before.items()))
    for layer in (before, after):
        config = built([layer])
        assert config.finder.objective == FeatureMSE(("relu*",))
        assert config.training.optimizer == SGD(momentum=0.5)


def test_what_is_unset_may_be_said():
    layers = [{"objective": "loss", "search_learning_rate": 0.2, "clip_norm": 2.0, "search_precision": "32-true"}]
    for nothing in (None, "null", "none"):
        config = built([*layers, dict.fromkeys(layers[0], nothing)])
        assert config == built([])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"stepz": 3}, r"config: unknown key 'stepz'; did you mean steps\?"),
        ({"xyzzy": 3}, "config: unknown key 'xyzzy'$"),
        ({"training": {"stepz": 3}}, "config: unknown key 'stepz'"),
        ({"training": 3}, "training must hold keys and values"),
        (
            {"finder": "random", "steps": 3},
            "steps is not an option of the finder random, which has --allocation, --granularity$",
        ),
        ({"finder": {"name": "random", "steps": 3}}, "finder 'random': 'steps' is not an option of it"),
        ({"features": ["a"]}, "features is not an option of the finder cts, which has .*--objective"),
        ({"relaxation": "deterministic", "temperature": 1.0}, "temperature is not an option of the finder cts"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum is not an option of the training recipe, which has --epoc"),
        ({"steps": "many"}, "steps must be a whole number of at least 1, got many"),
        ({"steps": 1.5}, "steps must be a whole number of at least 1, got 1.5"),
        ({"controller": None}, "controller must be one of gradbalance, .*, got None"),
        ({"controller": "null"}, "controller 'null' is unknown"),
        ({"search": "papers"}, "search must be default, published, published-files for the finder cts, got papers"),
        ({"finder": "snip", "search": "published"}, "search must be default for the finder snip, got published"),
        ({"training": {"optimizer": "sgd:nesterov=true:momentum=0"}}, "nesterov must be false where momentum is 0"),
        ({"milestones": [9, 3]}, "milestones must be epochs from 1 on, in rising order"),
    ],
)
def test_layers_that_cannot_be_are_refused_by_name(layer, message):
    with pytest.raises(UsageError, match=message):
        built([layer])


def test_a_plain_value_is_no_configuration():
    for values in (None, 3, ["steps"], "steps"):
        with pytest.raises(UsageError, match="config must hold keys and values"):
            from_dict(values)


def test_the_published_search_by_one_name():
    assert built([{"search": "published"}]).finder == CTS.published()
    assert built([{"search": "published", "search_epsilon": 1e-8}]).finder == CTS.published(epsilon=1e-8)
    assert built([{"search": "published"}, {"steps": 9}]).finder == CTS.published(steps=9)
    inline = built([{"finder": "cts:controller=lagrangian", "search": "published"}]).finder
    assert inline == CTS.published(controller="lagrangian")
    assert built([{"steps": 9, "search": "published"}, {"search": "default"}]).finder == CTS(steps=9)


EVERY = [FINDERS.known[name] for name in FINDERS]


@pytest.mark.parametrize("finder", EVERY, ids=lambda finder: finder.name)
def test_a_configuration_reads_back_equal_with_every_finder(finder):
    allocated = replace(finder, allocation="erk")
    for config in (
        RunConfig(finder=finder),
        RunConfig(finder=allocated, training=Recipe(epochs=3, optimizer="adamw", lr_schedule="cosine"), seed=3),
        RunConfig(finder=finder, density={"fc1.*": 0.5, "*": 0.1}, mean=(0, 0.5), include=["fc*"], weights="w.pt"),
    ):
        plain = config.to_dict()
        assert from_dict(plain) == config
        assert from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config
        assert from_dict(json.loads(json.dumps(plain))) == config
        assert from_dict(plain).to_dict() == plain


@pytest.mark.parametrize("finder", [
    CTS.published(), CTS(objective=FeatureMSE(("a",)), relaxation=Deterministic()), SNIP(rounds=3), Joint(epochs=30),
])  # fmt: skip
def test_a_configuration_reads_back_equal_with_settings(finder):
    config = RunConfig(finder=finder)
    assert from_dict(config.to_dict()) == config


def test_every_preset_under_every_recipe_reads_back_equal():
    for name in preset_names():
        for recipe in recipe_names():
            try:
                values = load_preset(name, recipe)
            except UsageError:
                continue
            config = from_dict(values)
            assert from_dict(config.to_dict()) == config


def test_every_short_form_has_help_and_a_heading():
    for name, form in short_forms().items():
        assert form.name == name
        assert "-" not in name
        for owner, f, _ in form.owners:
            assert f.metadata["help"], (name, owner)
            assert form.field.metadata["group"] in {
                "data", "model", "ticket", "search", "rivals", "training", "machine",
            }  # fmt: skip


@pytest.mark.parametrize("preset", [[], ["--preset", "cifar10-resnet20", "--recipe", "published"],
                                    ["--preset", "cifar10-resnet20-fast"]])  # fmt: skip
@pytest.mark.parametrize("command", ["run", "draw", "compare", "preview"])
def test_help_is_there_for_every_preset(capsys, command, preset):
    with pytest.raises(SystemExit):
        main([command, *preset, "--help"])
    out = capsys.readouterr().out
    assert "--density" in out or command == "compare"
    assert "Spec(" not in out


def printed(capsys, *arguments):
    with pytest.raises(SystemExit):
        main(["run", *map(str, arguments), "--print-config"])
    values = yaml.safe_load(capsys.readouterr().out)
    return from_dict({key: value for key, value in values.items() if key not in {"preset", "recipe"}})


def test_presets_files_and_the_command_line_over_each_other(capsys, tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("finder: {name: cts, steps: 7, controller: {name: gradbalance, momentum: 0.5}}\nepochs: 9\n")
    second.write_text("training: {epochs: 12}\nsteps: 8\nmilestones: [3]\n")
    files = ["--config", first, "--config", second]
    found = printed(capsys, *files, "--learning-rate", "0.5")
    assert found.finder == CTS(steps=8, controller=GradBalance(momentum=0.5))
    assert (found.training.epochs, found.training.learning_rate, found.training.milestones) == (12, 0.5, (3,))
    assert found.density == 0.02, "the preset's"
    assert printed(capsys, *files, "--steps", "9").finder.steps == 9
    assert printed(capsys, *files, "--finder", "cts:steps=9").finder.steps == 9
    assert printed(capsys, *files, "--finder", "snip").finder == SNIP()
    assert printed(capsys, *files, "--finder", "cts:steps=9", "--steps", "10").finder.steps == 9
    assert printed(capsys, *files, "--controller", "lagrangian").finder.controller == Lagrangian()


def test_a_printed_configuration_is_the_same_again(capsys, tmp_path):
    for number, arguments in enumerate((
        ["--finder", "joint:relaxation=[concrete:temperature=0.5]", "--density", "fc1.*=50%; *=5%"],
        ["--search", "published", "--optimizer", "adamw:beta1=0.8", "--lr-schedule", "cosine", "--milestones", "[]"],
        ["--preset", "cifar10-resnet20-fast", "--data", "digits", "--image-size", "8"],
    )):  # fmt: skip
        with pytest.raises(SystemExit):
            main(["run", *arguments, "--print-config"])
        text = capsys.readouterr().out
        (tmp_path / f"{number}.yaml").write_text(text)
        assert printed(capsys, "--config", tmp_path / f"{number}.yaml") == printed(capsys, *arguments)


def test_a_comparison_gives_shared_settings_to_those_that_have_them():
    layers = [load_preset("digits"), {"steps": 9, "rounds": 4, "objective": "loss"}]
    found = {m.label: m.config.finder for m in plan(layers, ["cts", "snip", "snip:rounds=2", "random"], [0.1], 1)}
    assert found == {
        "cts": CTS(steps=9, objective="loss"), "snip": SNIP(rounds=4), "snip:rounds=2": SNIP(rounds=2),
        "random": Random(),
    }  # fmt: skip


def test_a_comparison_keeps_what_a_file_says_of_its_finder_and_a_presets_stays_behind():
    file = {"finder": {"name": "cts", "steps": 7, "controller": {"name": "gradbalance", "momentum": 0.5}}}
    found = {m.label: m.config.finder for m in plan([load_preset("digits"), file, {}], ["cts", "random"], [0.1], 1)}
    assert found == {"cts": CTS(steps=7, controller=GradBalance(momentum=0.5)), "random": Random()}
    fast = [{**load_preset("cifar10-resnet20-fast"), "data": "digits", "image_size": 8}, {}]
    found = {m.label: m.config.finder for m in plan(fast, ["joint", "cts"], [0.1], 1)}
    assert found["cts"] == CTS()
    assert found["joint"] == Joint(epochs=34, share=0.4, learning_rate=0.06)


def test_a_finder_of_ones_own_reads_back(tmp_path, monkeypatch):
    code = "from tombola import CTS\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine(CTS):\n"
    (tmp_path / "own_layers.py").write_text(code + "    extra: int = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = built([{"finder": "own_layers:Mine:extra=4", "steps": 5}])
    assert (config.finder.extra, config.finder.steps) == (4, 5)
    assert config.to_dict()["finder"]["name"] == "own_layers:Mine"
    assert from_dict(config.to_dict()) == config
    sys.modules.pop("own_layers", None)
