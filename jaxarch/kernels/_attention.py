r"""Self-attention over positions.

Hron, Bahri, Sohl-Dickstein and Novak, *Infinite attention: NNGP and NTK for deep
attention networks* (arXiv:2006.10540). With $\kappa$ the input covariance, positional
embeddings added, and $d$ the key features:

Scores $q \cdot k / d$ with queries equal to keys (`scaling="linear"`) become numbers in
the limit, $A = \zeta(\sigma_Q \sigma_K \kappa)$, one matrix an example:

$$k' = \sigma_O^2 \sigma_V^2\, A k A'^\top + \sigma_b^2, \qquad
  t' = \sigma_O^2 \sigma_V^2\, A t A'^\top + 2 (k' - \sigma_b^2) + \sigma_b^2.$$

Scores $q \cdot k / \sqrt d$ stay random. For $\zeta$ the identity, with
$\sigma = \sigma_Q \sigma_K \sigma_O \sigma_V$ and infinitely many heads,

$$k'(p, p') = \sigma^2 \kappa(p, p') \sum_{s, s'} \kappa(s, s') k(s, s') + \sigma_b^2.$$
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_option, check_positive
from .._params import params
from ._covariance import Marginal
from ._graph import Number, Operation, Shape, Symbol, Value, emit

_MECHANISMS = {
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
    "identity": lambda x: x,
    "relu": jax.nn.relu,
    "absolute": jnp.abs,
}


@params
class AttentionParams:
    """Parameters of one attention layer."""

    query: Array | None  # (heads, keys, in); None: the keys serve
    key: Array  # (heads, keys, in)
    value: Array  # (heads, values, in)
    out: Array  # (out, heads * values)
    bias: Array | None  # (out,)
    position: Array | None  # (*space, embedding)


@dataclasses.dataclass(frozen=True)
class Attention(Operation):
    """Rules of `attention`."""

    name = "attention"
    positional = True

    label: str
    width: int
    num_heads: int
    key_features: int
    value_features: int
    mechanism: str
    scaling: str
    embedding: str | None
    embed_values: bool
    bias: bool

    @property
    def numbers(self) -> tuple[str, ...]:  # pyright: ignore
        """Scales of the weights, and of bias and embedding where there are such."""
        names = ("w_query_std", "w_key_std", "w_value_std", "w_out_std")
        bias = ("b_std",) if self.bias else ()
        return (*names, *bias, *(("w_position_std",) if self.embedding else ()))

    def _split(self, numbers) -> tuple[Any, ...]:
        """Products of scales, the bias scale and that of the embedding."""
        query, key, value, out, *rest = numbers
        b_std = rest[0] if self.bias else 0.0
        return query * key, value * out, b_std, rest[-1] if self.embedding else 0.0

    @property
    def parameter(self) -> str:
        """All weights together."""
        return self.label

    def infer(self, *args: Value) -> Value:
        """A new Gaussian family."""
        return Value(frozenset([self.label]), gaussian=True, centred=True)

    def shape(self, *args: Shape) -> Shape:
        """The positions stay."""
        (h,) = args
        if not h.space:
            raise ValueError(
                "attention: `h` must have axes of positions, got none; "
                "inputs are `(n, *space, channels)`."
            )
        return Shape(h.space, self.width)

    def needs(self, full: bool) -> bool:
        """Every pair of positions."""
        return True

    def mixes(self, full: bool) -> bool:
        """It does."""
        return True

    def _embedded(self, numbers, k: Array, fresh: Any) -> Array:
        """Adds independent embeddings: `fresh` marks pairs of one position."""
        if self.embedding is None:
            return k
        own = numbers[-1] ** 2 * jnp.where(fresh, 1, 0).astype(k.dtype)
        return k + own if self.embedding == "sum" else (k + own) / 2

    def weights(
        self, numbers, k: Array, fresh: Array, ndim: int, mask: Array | None = None
    ) -> tuple[Array, ...]:
        """What the second examples meet: `A` as `(keys, *space, n)`.

        Scores that stay random have no weights; the mask, if any, stands for them.

        Args:
            numbers: Of the operation.
            k: Covariance of each example with itself, `(*space, *space, n)`.
            fresh: Marks pairs of one position.
            ndim: Number of spatial axes.
            mask: Positions that are keys, `(*space, n)`; `None`: all.
        """
        if self.scaling == "sqrt":
            return () if mask is None else (mask,)
        scores = self._split(numbers)[0] * self._embedded(numbers, k, fresh)
        space, n = k.shape[:ndim], k.shape[-1]
        scores = scores.reshape(*space, -1, n)
        keys = None if mask is None else mask.reshape(-1, n).T
        mapped = self._map(jnp.moveaxis(scores, ndim, -1), keys)
        return (jnp.moveaxis(mapped, -1, 0),)

    def _map(self, scores: Array, keys: Array | None) -> Array:
        r"""$\zeta$ over the last axis, whose entries count where `keys` is 1."""
        mapped = _MECHANISMS[self.mechanism]
        if keys is None:
            return mapped(scores)
        here = jnp.broadcast_to(keys > 0, scores.shape)
        scores = jnp.where(here, scores, jnp.finfo(scores.dtype).min / 2)
        return jnp.where(here, mapped(scores), 0)

    def attend(
        self, numbers, k: Array, t: Array, one: Marginal, two: Marginal, fresh: Array
    ) -> tuple[Array, Array]:
        """Both kernels of the result at absolute pairs `(*space, *space, n)`.

        The weights of `one` and `two` are `(keys, *space, n)` and `(keys, *space, m)`,
        with m = n or 1.
        """
        _, output, b_std, _ = self._split(numbers)
        values = (k, t)
        if self.embed_values:
            values = tuple(self._embedded(numbers, a, fresh) for a in (k, t))
        if self.scaling == "linear":
            (a1,), (a2,) = one.weights, two.weights
            n, m = k.shape[-1], a2.shape[-1]
            a1 = a1.reshape(a1.shape[0], -1, n)
            a2 = jnp.broadcast_to(a2.reshape(a1.shape[0], -1, m), a1.shape)

            def spread(a):
                a = a.reshape(a1.shape[0], a1.shape[0], n)
                a = jnp.einsum("sin,sun,ujn->ijn", a1, a, a2, precision="highest")
                return output**2 * a.reshape(k.shape)

            new, tangent = map(spread, values)
            return new + b_std**2, tangent + 2 * new + b_std**2
        scores, slopes = (self._embedded(numbers, a, fresh) for a in (k, t))
        if one.weights:
            (mask1,), (mask2,) = one.weights, two.weights
            ndim = mask1.ndim - 1
            here = jnp.expand_dims(mask1, tuple(range(ndim, 2 * ndim)))
            here = here * jnp.expand_dims(mask2, tuple(range(ndim)))
            scores, slopes = scores * here, slopes * here
        axes = tuple(range(k.ndim - 1))
        scale = (output * self._split(numbers)[0]) ** 2
        total = (scores * values[0]).sum(axes, keepdims=True)
        change = (slopes * values[0] + scores * values[1]).sum(axes, keepdims=True)
        new = scale * scores * total
        tangent = scale * (scores * change + slopes * total) + 4 * new
        return new + b_std**2, tangent + b_std**2

    def init(self, key, numbers, shapes, dtype) -> AttentionParams:
        """Standard normal."""
        (shape,) = shapes
        keys = jax.random.split(key, 6)
        n = shape.width
        inside = 2 * n if self.embedding == "concat" else n
        value_inside = inside if self.embed_values else n
        heads, d = self.num_heads, self.key_features

        def draw(i, *size):
            return jax.random.normal(keys[i], size, dtype)

        return AttentionParams(
            query=draw(0, heads, d, inside) if self.scaling == "sqrt" else None,
            key=draw(1, heads, d, inside),
            value=draw(2, heads, self.value_features, value_inside),
            out=draw(3, self.width, heads * self.value_features),
            bias=draw(4, self.width) if self.bias else None,
            position=draw(5, *shape.space, n) if self.embedding else None,
        )

    def apply(self, numbers, params: AttentionParams, *args: Array, key) -> Array:
        """Attention over all positions of one example `(*space, features)`."""
        return self.masked_apply(numbers, params, *args, key=key, masks=(None,))

    def masked_apply(
        self, numbers, params: AttentionParams, *args, key, masks
    ) -> Array:
        """The same over those positions that are keys."""
        (x,), (mask,) = args, masks
        space = x.shape[:-1]
        product, output, b_std, position_std = self._split(numbers)
        plain = x
        if self.embedding == "sum":
            x = x + position_std * params.position
        elif self.embedding == "concat":
            x = jnp.concatenate([x, position_std * params.position], -1)
        values = x if self.embed_values else plain
        x, values = (a.reshape(-1, a.shape[-1]) for a in (x, values))
        keys = jnp.einsum("hdi,si->hsd", params.key, x)
        queries = keys
        if params.query is not None:
            queries = jnp.einsum("hdi,si->hsd", params.query, x)
        power = 1 if self.scaling == "linear" else 0.5
        scores = jnp.einsum("hsd,hud->hsu", queries, keys)
        scores = scores * (product / (x.shape[-1] * self.key_features**power))
        attended = self._map(scores, None if mask is None else mask.reshape(-1))
        heads = jnp.einsum("hdi,ui->hud", params.value, values)
        heads = jnp.einsum("hsu,hud->shd", attended, heads)
        heads = heads.reshape(heads.shape[0], -1)
        y = (heads @ params.out.T) * (
            output / math.sqrt(heads.shape[-1] * values.shape[-1])
        )
        if params.bias is not None:
            y = y + jnp.broadcast_to(b_std * params.bias, y.shape)
        return y.reshape(*space, -1)


def attention(
    h: Symbol,
    features: int,
    *,
    num_heads: int = 1,
    key_features: int | None = None,
    value_features: int | None = None,
    mechanism: str = "softmax",
    scaling: str = "linear",
    w_query_std: Number = 1.0,
    w_key_std: Number = 1.0,
    w_value_std: Number = 1.0,
    w_out_std: Number = 1.0,
    b_std: Number | None = 0.0,
    embedding: str | None = None,
    w_position_std: Number = 1.0,
    embed_values: bool = False,
    name: str | None = None,
) -> Symbol:
    r"""Self-attention over all positions, in the NTK parameterisation.

    See the module for the formulas. The limit is that of many key and value features,
    and of many heads for `scaling="sqrt"`.

    Args:
        h: A value with positions.
        features: Width of the result in the finite network.
        num_heads: Heads of the finite network.
        key_features: Width of keys and queries a head; `None` means `features`.
        value_features: Width of values a head; `None` means `features`.
        mechanism: $\zeta$: `"softmax"`, `"identity"`, `"relu"` or `"absolute"`.
        scaling: `"linear"` divides scores by `key_features` and takes the keys for
            queries too; `"sqrt"` divides by its root, and has a kernel for
            `mechanism="identity"` only.
        w_query_std: $\sigma_Q$.
        w_key_std: $\sigma_K$.
        w_value_std: $\sigma_V$.
        w_out_std: $\sigma_O$.
        b_std: $\sigma_b$; `None` leaves the bias out.
        embedding: `"sum"` adds trained positional embeddings to the input, `"concat"`
            puts as many features beside it; `None` has none.
        w_position_std: Scale of the embeddings.
        embed_values: Whether values see the embeddings too, not only keys and queries.
        name: Names the parameter.

    Returns:
        A Gaussian value at the same positions.

    Raises:
        ValueError: if an option is unknown.
        NotImplementedError: if the scores stay random and the kernel is not known.
    """
    where = "attention"
    key_features = features if key_features is None else key_features
    value_features = features if value_features is None else value_features
    check_positive(
        where,
        features=features,
        num_heads=num_heads,
        key_features=key_features,
        value_features=value_features,
    )
    check_option(where, "mechanism", mechanism, tuple(_MECHANISMS))
    check_option(where, "scaling", scaling, ("linear", "sqrt"))
    check_option(where, "embedding", embedding, (None, "sum", "concat"))
    if not isinstance(h, Symbol):
        raise TypeError(
            "attention: `h` must be a value of the network being recorded, "
            f"got {type(h).__name__}."
        )
    if scaling == "sqrt" and mechanism != "identity" and h._recorder.infinite:
        raise NotImplementedError(
            "attention: scaling='sqrt' has a known kernel for mechanism='identity' "
            f"only, got {mechanism!r}."
        )
    operation = Attention(
        f"attention#{h._recorder.fresh()}" if name is None else name,
        features,
        num_heads,
        key_features,
        value_features,
        mechanism,
        scaling,
        embedding,
        embed_values and embedding is not None,
        b_std is not None,
    )
    numbers = [w_query_std, w_key_std, w_value_std, w_out_std]
    numbers += [] if b_std is None else [b_std]
    numbers += [] if embedding is None else [w_position_std]
    return emit(operation, [h], numbers)
