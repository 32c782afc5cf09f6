"""Which parameters are prunable, and why the rest are not."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from tombola.core.flat import PLAIN, Layout, Wiring
from tombola.errors import TicketWarning, UsageError
from tombola.literal import literal
from tombola.networks.masking.computed import computes_its_weight
from tombola.networks.masking.heads import Heads, heads_of
from tombola.networks.masking.names import named_parameters, without_fabric
from tombola.networks.masking.storage import refuse_shared_memory

Patterns = str | Sequence[str]

# The prunable tensors of each kind of module. Biases and normalisation parameters are never among them.
WEIGHTS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (_ConvNd, ("weight",)),
    (nn.Linear, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
    (nn.RNNBase, ("weight_ih_l*", "weight_hh_l*", "weight_hr_l*")),
    (nn.RNNCellBase, ("weight_ih", "weight_hh")),
)
KINDS = "convolution, linear layer, recurrent layer or attention projection"


@dataclass(frozen=True)
class Entry:
    """One parameter: its canonical name, shape, whether it would be pruned, and why not otherwise.

    wiring: what its dimensions mean.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    prunable: bool
    why: str = ""
    wiring: Wiring = PLAIN


@dataclass(frozen=True)
class Survey:
    """All parameters of a model, in the model's order."""

    entries: tuple[Entry, ...]

    @property
    def layout(self) -> Layout:
        """The prunable parameters laid end to end."""
        chosen = [entry for entry in self.entries if entry.prunable]
        wirings = {e.name: e.wiring for e in chosen if e.wiring != PLAIN}
        return Layout(tuple(e.name for e in chosen), tuple(e.shape for e in chosen), wirings)

    @property
    def prunable(self) -> int:
        """Number of prunable weights."""
        return sum(entry.count for entry in self.entries if entry.prunable)

    @property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(entry.count for entry in self.entries)

    def __str__(self) -> str:
        width = max((len(literal(entry.name)) for entry in self.entries), default=0)
        lines = [
            f"{literal(entry.name):<{width}}  {'x'.join(map(str, entry.shape)) or 'scalar':>14}  {entry.count:>12,}  "
            f"{'prunable' if entry.prunable else 'not pruned: ' + literal(entry.why)}"
            for entry in self.entries
        ]
        lines.append(f"{self.prunable:,} of {self.total:,} parameters are prunable")
        return "\n".join(lines)


def survey(model: nn.Module, include: Patterns = "*", exclude: Patterns = ()) -> Survey:
    """List every parameter of a model and whether it would be pruned.

    include, exclude: glob patterns of canonical parameter names (`module.` and `_orig_mod.` stripped). A pattern
    with wildcards picks among the weights of convolutions, linear layers, recurrent layers and attention projections;
    an exact name in `include` also takes in any other parameter of two or more dimensions, such as an embedding, or one
    tied to it. Layers that compute other weights from theirs in forward are left out. Raises UsageError for a pattern
    without effect, and for parameters that no mask can hold.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UsageError(f"model must be a torch.nn.Module that is not scripted, got {type(model).__name__}")
    _refuse_sharded(model)
    model = without_fabric(model)
    _refuse_lazy(model)
    _refuse_parametrised(model)
    _refuse_quantised(model)
    owners, heads = _owners(model), heads_of(model)
    include, exclude = _patterns("include", include), _patterns("exclude", exclude)
    names = [name for name, _, _ in named_parameters(model, duplicates=True)]
    _refuse_unmatched(names, include, exclude)
    reasons: dict[str, str] = {}  # against each parameter, under all of its names
    entries, spared = [], set[str]()
    for name, _, parameter in named_parameters(model):
        owned = owners[id(parameter)]
        why = _reason_against(parameter, owned, include, exclude)
        if not why:
            _refuse_unusable(name, parameter)
            why = _reason_in_use(owned, include) if parameter.numel() else "it has no elements"
        wiring = _wiring(owned, heads.get(id(parameter)))
        entries.append(Entry(name, tuple(parameter.shape), parameter.numel(), not why, why, wiring))
        reasons |= dict.fromkeys(owned.aliases, why)
        if why == EXCLUDED and not _reason_against(parameter, owned, include, ()):
            spared.update(owned.aliases)
    _refuse_without_effect(reasons, include)
    _warn_of_no_effect(spared, names, exclude)
    refuse_shared_memory(model)
    found = Survey(tuple(entries))
    if not found.prunable:
        computed = next((why for why in reasons.values() if why.endswith(COMPUTED)), "")
        raise UsageError(
            f"the model has no prunable weights: no {KINDS} is left (after include and exclude)"
            f"{computed and '; ' + computed}"
        )
    devices = {str(p.device) for _, _, p in named_parameters(model)}
    if len(devices) > 1:
        raise UsageError(f"the model is spread over several devices ({', '.join(sorted(devices))}); put it on one")
    return found


def _patterns(option: str, patterns: Patterns) -> tuple[str, ...]:
    found = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(found, Sequence) or not all(isinstance(pattern, str) for pattern in found):
        raise UsageError(
            f"must be a glob pattern of parameter names or a list of them, got {patterns!r}", option=option
        )
    return tuple(found)


@dataclass
class _Owned:
    """One parameter: all its canonical names, what holds it as something not prunable, and what as a weight."""

    aliases: list[str]
    strangers: list[str]
    layers: list[tuple[nn.Module, str]]


def _owners(model: nn.Module) -> dict[int, _Owned]:
    """Return what holds each parameter, by the parameter's identity."""
    own_names = {own: name for name, own, _ in named_parameters(model, duplicates=True)}
    owners: dict[int, _Owned] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        weights = next((names for kind, names in WEIGHTS if isinstance(module, kind)), ())
        if not weights and _is_transformers_conv1d(module):
            weights = ("weight",)
        for attribute, parameter in module.named_parameters(recurse=False):
            owned = owners.setdefault(id(parameter), _Owned([], [], []))
            own = f"{path}.{attribute}" if path else attribute
            owned.aliases.append(own_names[own])
            if any(fnmatchcase(attribute, weight) for weight in weights):
                owned.layers.append((module, attribute))
            else:
                owned.strangers.append(f"{type(module).__name__}'s {attribute}")
    return owners


def _wiring(owned: _Owned, heads: Heads | None) -> Wiring:
    """Return what the dimensions of a parameter mean."""
    if not owned.layers:
        return Wiring(inputs_first="Embedding's weight" in owned.strangers)
    module = owned.layers[0][0]
    inputs_first = isinstance(module, _ConvTransposeNd) or _is_transformers_conv1d(module)
    found = Wiring(inputs_first, getattr(module, "groups", 1))
    if heads is None:
        return found
    return replace(found, heads=heads.numbers, reads_heads=heads.reads, unknown_heads=heads.unknown)


def _is_transformers_conv1d(module: nn.Module) -> bool:
    # Named, not imported: transformers is an optional dependency.
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def _reason_against(parameter: nn.Parameter, owned: _Owned, include: tuple[str, ...], exclude: tuple[str, ...]) -> str:
    """Return why a parameter is not pruned, or nothing."""
    aliases, strangers = owned.aliases, owned.strangers
    if any(fnmatchcase(name, pattern) for name in aliases for pattern in exclude):
        return EXCLUDED
    named = any(name in include for name in aliases)
    if strangers and not named:
        if len(strangers) < len(set(aliases)):
            return f"shared with {strangers[0]}; include it by name"
        if parameter.dim() < 2:
            return "biases and normalisation parameters are never pruned"
        return f"{strangers[0]} is no weight of a {KINDS}"
    if named and parameter.dim() < 2:
        raise UsageError(
            f"{aliases[0]} is a bias or normalisation parameter, and those are never pruned", option="include"
        )
    if not any(fnmatchcase(name, pattern) for name in aliases for pattern in include):
        return "not included by name"
    return ""


EXCLUDED = "excluded by name"
# How the reason against a layer ends whose zeros are no zeros.
COMPUTED = "computes other weights from its own in forward, so that zeros would not stay zeros"


def _reason_in_use(owned: _Owned, include: tuple[str, ...]) -> str:
    """Return why a layer's weight cannot be pruned for what the layer does with it, or nothing.

    Raises UsageError where it was included by name.
    """
    for module, attribute in owned.layers:
        if not _is_transformers_conv1d(module) and computes_its_weight(module, attribute):
            why = f"{type(module).__name__} {COMPUTED}"
            for name in owned.aliases:
                if name in include:
                    raise UsageError(f"{name} cannot be pruned: {why}", option="include")
            return why
    return ""


def _refuse_unmatched(names: Collection[str], include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(f"no parameter of the model matches {pattern!r}", option=option)


def _refuse_without_effect(reasons: Mapping[str, str], include: tuple[str, ...]) -> None:
    """Raise UsageError for a pattern that takes nothing in; reasons: against each parameter, by all of its names."""
    for pattern in include:
        matched = [name for name in reasons if fnmatchcase(name, pattern)]
        if pattern != "*" and all(reasons[name] for name in matched):
            name = next((name for name in matched if reasons[name] == EXCLUDED), matched[0])
            why = _clause(reasons[name])
            raise UsageError(f"{pattern!r} takes in nothing: {name} is not pruned, since {why}", option="include")


def _warn_of_no_effect(spared: set[str], names: Collection[str], exclude: tuple[str, ...]) -> None:
    """Warn of patterns that leave nothing out; spared: names of what would be pruned without any."""
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in spared):
            name = next(name for name in names if fnmatchcase(name, pattern))
            warnings.warn(
                f"exclude: {pattern!r} leaves nothing out: {name} and whatever else it matches would not be pruned "
                "anyway",
                TicketWarning,
                stacklevel=4,
            )


def _clause(why: str) -> str:
    return f"it is {why}" if why.startswith(("excluded", "shared")) else why


def _refuse_unusable(name: str, parameter: nn.Parameter) -> None:
    if parameter.is_meta:
        raise UsageError(f"{name} is on the meta device and holds no values; materialise the model first")
    if parameter.is_complex():
        raise UsageError(f"{name} is complex ({parameter.dtype}); only real floating-point weights can be masked")
    if parameter.is_quantized or not parameter.is_floating_point():
        raise UsageError(f"{name} is quantised ({parameter.dtype}); only floating-point weights can be masked")
    if type(parameter.data).__name__ in {"DTensor", "ShardedTensor"}:
        raise UsageError(f"{name} is sharded over processes; gather the model first")


def _refuse_quantised(model: nn.Module) -> None:
    """Refuse modules that hold packed weights, which are no parameters and would go unnoticed."""
    for path, module in model.named_modules():
        home = type(module).__module__
        if home.startswith("torch.ao.nn.") and "quantized" in home:
            raise UsageError(f"module {path!r} is quantised; draw from the model before it is quantised")


def _refuse_sharded(model: nn.Module) -> None:
    # Named, not imported: what is not loaded yet is in no model.
    modules = {type(module).__name__ for module in model.modules()}
    parameters = {type(parameter).__name__ for parameter in model.parameters()}
    if "FullyShardedDataParallel" in modules or "DTensor" in parameters:
        raise UsageError(
            "the model is sharded over processes (FSDP, DTensor), and a mask needs whole weights: gather them by "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)), load them into a plain model, and give that"
        )


def _refuse_lazy(model: nn.Module) -> None:
    for name, _, parameter in named_parameters(model):
        if is_lazy(parameter):
            raise UsageError(f"{name} is not initialised yet; run the model once on a batch first")


def _refuse_parametrised(model: nn.Module) -> None:
    for path, module in model.named_modules():
        name = path or type(module).__name__
        if is_parametrized(module):
            raise UsageError(
                f"module {name!r} is parametrised; "
                "remove it with torch.nn.utils.parametrize.remove_parametrizations first"
            )
        own = {attribute for attribute, _ in module.named_parameters(recurse=False)}
        if "weight_orig" in own or {"weight_g", "weight_v"} <= own:
            raise UsageError(
                f"module {name!r} computes its weight from other parameters ({', '.join(sorted(own))}); make it plain "
                "first, with torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm"
            )
