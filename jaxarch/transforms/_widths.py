"""The sizes to write into a Flax or Equinox model for it to have pruned parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

# Equinox: class of the layer -> argument -> (array, axis) that has its size.
_EQUINOX = {
    "Linear": {"in_features": ("weight", 1), "out_features": ("weight", 0)},
    "Conv": {"out_channels": ("weight", 0)},
    "Conv1d": {"out_channels": ("weight", 0)},
    "Conv2d": {"out_channels": ("weight", 0)},
    "Conv3d": {"out_channels": ("weight", 0)},
    "Embedding": {"num_embeddings": ("weight", 0), "embedding_size": ("weight", 1)},
    "LayerNorm": {"shape": ("weight", 0)},
    "RMSNorm": {"shape": ("weight", 0)},
    "GRUCell": {"input_size": ("weight_ih", 1), "hidden_size": ("weight_hh", 1)},
    "LSTMCell": {"input_size": ("weight_ih", 1), "hidden_size": ("weight_hh", 1)},
}


def widths(
    params: Any,
    changed: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    factors: Callable[[str, int], list[int]],
) -> dict[str, dict[str, Any]]:
    """Gives, for each layer with arrays that changed, its arguments with new sizes.

    Args:
        params: the pruned parameters.
        changed: (name of a parameter, its shape before, its shape after).
        factors: gives the sizes of the factors of an axis of a pruned parameter.

    Returns:
        Name of the layer -> argument -> size. Layers of Flax are told by arrays named
        `kernel` and `embedding`, those of Equinox by their class.
    """
    config: dict[str, dict[str, Any]] = {}
    modules = _modules(params)
    for path, before, after in changed:
        layer, _, name = path.rpartition("/")
        if name == "value":  # a variable of Flax NNX
            layer, _, name = layer.rpartition("/")
        found = {}
        if name in ("kernel", "embedding") and len(after) > 1:
            # The projections of attention have two axes of features, its output one.
            two = len(after) == 3 and layer.endswith(("query", "key", "value"))
            k = -2 if two else -1
            if before[k:] != after[k:]:
                found["features"] = after[k:] if two else after[k]
        for argument, (array, axis) in _EQUINOX.get(modules.get(layer, ""), {}).items():
            if array == name and before[axis] != after[axis]:
                found[argument] = after[axis]
        attention, _, projection = layer.rpartition("/")
        if modules.get(attention) == "MultiheadAttention" and name == "weight":
            sizes = factors(path, 0)
            if projection == "query_proj" and len(sizes) == 2:
                config[attention] = {"num_heads": sizes[0], "qk_size": sizes[1]}
            if projection == "value_proj" and len(sizes) == 2:
                config.setdefault(attention, {})["vo_size"] = sizes[1]
        elif found:
            config.setdefault(layer, {}).update(found)
    return config


def _modules(params: Any) -> dict[str, str]:
    """Gives the class of every module that holds arrays, by its name in the tree."""
    found: dict[str, str] = {}
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        node = params
        for i, key in enumerate(path[:-1]):
            name = jax.tree_util.keystr(path[:i], simple=True, separator="/")
            found[name] = type(node).__name__
            if hasattr(key, "name"):
                node = getattr(node, key.name, None)
            elif node is not None:
                index = getattr(key, "key", getattr(key, "idx", None))
                try:
                    node = node[index]
                except (KeyError, TypeError, IndexError):
                    node = None
        name = jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        found[name] = type(node).__name__
    return found
