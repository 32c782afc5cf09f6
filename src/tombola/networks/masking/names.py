"""Names of parameters that stay the same however a model is wrapped."""

from collections.abc import Collection, Iterator

from torch import Tensor, nn

_WRAPPERS = {"module", "_orig_mod"}


def canonical(name: str, prefixes: int) -> str:
    """Return a parameter's name without its `prefixes` first parts and without torch.compile's parts."""
    return ".".join(part for part in name.split(".")[prefixes:] if part != "_orig_mod")


def wrapper_depth(names: list[str]) -> int:
    """Count the leading `module` and `_orig_mod` parts that all names share (DDP, torch.compile)."""
    depth = 0
    while names and all(len(parts := name.split(".")) > depth + 1 and parts[depth] in _WRAPPERS for name in names):
        depth += 1
    return depth


def state_names(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Return a state_dict's names by canonical name, as many wrappers stripped as it takes to find all `wanted` ones.

    Buffers may lie outside of the wrapper that all parameters share, and then keep their names out of the result.
    """
    depths = {name: wrapper_depth([name]) for name in names}
    found: dict[str, str] = {}
    for depth in range(max(depths.values(), default=0) + 1):
        found = {canonical(name, depth): name for name in names if depths[name] >= depth}
        if found.keys() >= set(wanted):
            break
    return found


def without_fabric(model: nn.Module) -> nn.Module:
    """Return the module that Lightning Fabric's setup() wraps, which it registers twice, or the model itself."""
    # Named, not imported: nobody who does not use Fabric should wait for it.
    return model.module if type(model).__name__ == "_FabricModule" else model  # type: ignore[return-value]


def named_parameters(model: nn.Module, *, duplicates: bool = False) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield (canonical name, the model's own name, parameter), shared ones once unless `duplicates`."""
    pairs = list(without_fabric(model).named_parameters(remove_duplicate=not duplicates))
    depth = wrapper_depth([name for name, _ in pairs])
    for name, parameter in pairs:
        yield canonical(name, depth), name, parameter


def unwrap(model: nn.Module) -> nn.Module:
    """Return the plain module inside torch.compile, DataParallel, DistributedDataParallel and Lightning Fabric."""
    while True:
        model = without_fabric(model)
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def architecture(model: nn.Module) -> dict[str, list[int]]:
    """Return all parameters' canonical names and shapes."""
    return {name: list(tensor.shape) for name, _, tensor in named_parameters(model)}


def by_canonical_name(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter, shared ones under each of their names."""
    return {name: tensor for name, _, tensor in named_parameters(model, duplicates=True)}
