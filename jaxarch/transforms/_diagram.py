"""A picture of any function, in which the axes can be followed.

In the manner of V. Abbott, "Neural Circuit Diagrams: Robust Diagrams for the
Communication, Implementation, and Analysis of Deep Learning Architectures",
arXiv:2402.05424: a value is a bundle of wires, one for each axis; values stand side by
side with a dashed line between them; an operation spans the wires that it acts on, and
those that it broadcasts over pass it. Ours are the colours, which are the atoms of the
annotation (`annotate`): wires of one colour can only change their size together.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from ._annotate import annotate
from ._boxes import boxes
from ._circuit import Reading
from ._diagram_drawing import Drawing
from ._frames import Folded, fold as folded
from ._svg import SVG
from ._wire_colours import WireColours


def diagram(
    f: Callable,
    params: Any,
    *example_args: Any,
    fold: bool = True,
    title: str | None = None,
) -> SVG:
    """Draws a function, from its arguments at the top to its results at the bottom.

    Wires are axes of more than one position, with their sizes where they begin; the
    colours are explained in a legend. A wire in alternating colours is a product of
    axes, one of several strands a concatenation. Equations are drawn together where
    that is what a reader would call them, by the name of the function that made them:
    a gelu, a softmax, a normalisation, a linear map with its bias. Parameters come in
    from the right; what is computed from parameters or constants alone is not drawn.

    Args:
        f: `f(params, *args)`, any function that JAX can trace.
        params: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        example_args: the other arguments, likewise; only shapes are read.
        fold: whether equal blocks one behind the other are drawn once, in a frame with
            their number. A scan always is.
        title: what stands above it; by default the name of f.

    Returns:
        A string of SVG, which notebooks show as a picture. The same function always
        gives the same string.

    Raises:
        TypeError: a leaf of `params` or of the arguments is not an array.
        ValueError: as of `annotate`.

    Examples:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.ones((3, 8)), "v": jnp.ones((8, 2))}
        >>> f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> diagram(f, params, jnp.ones(3))[:4]
        '<svg'
    """
    annotation = annotate(f, params, *example_args)
    drawn = boxes(Reading(annotation, _argument_names(f, example_args)))
    picture = folded(drawn) if fold else Folded(drawn)
    colours = WireColours(annotation, picture.boxes, picture.same, picture.names)
    name = getattr(f, "__name__", type(f).__name__)
    shown = title or ("function" if name == "<lambda>" else name)
    return SVG(Drawing(annotation, picture, colours, shown).text())


def _argument_names(f: Callable, args: tuple) -> list[str]:
    """Names the leaves of the arguments behind the parameters."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    places = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    names = [p.name for p in parameters if p.kind in places][1:]
    names += [f"args[{k}]" for k in range(len(names), len(args))]
    leaves = jax.tree_util.tree_flatten_with_path(args)[0]
    return [names[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in leaves]
