"""Builds a network from the nested lists in which the golden file writes one."""

from jaxarch import kernels as ker

_NONLINEARITIES = {
    "Relu": ker.relu,
    "Abs": ker.absolute,
    "LeakyRelu": ker.leaky_relu,
    "ABRelu": ker.abrelu,
    "Erf": ker.erf,
    "Sigmoid_like": ker.sigmoid_like,
    "Gelu": ker.gelu,
    "Sin": ker.sin,
    "Cos": ker.cos,
    "Rbf": ker.rbf,
    "Gaussian": ker.gaussian,
    "Exp": ker.exp,
    "ExpNormalized": ker.exp_normalized,
    "Gabor": ker.gabor,
    "Sign": ker.sign,
    "Hermite": ker.hermite,
    "Monomial": ker.monomial,
    "RectifiedMonomial": ker.rectified_monomial,
    "LayerNorm": ker.layer_norm,
}


_CONVOLUTIONS = {
    "Conv": ker.conv,
    "ConvTranspose": ker.conv_transpose,
    "ConvLocal": ker.conv_local,
}
_POOLS = {"AvgPool": ker.avg_pool, "SumPool": ker.sum_pool}
_GLOBAL = {
    "GlobalAvgPool": ker.global_avg_pool,
    "GlobalSumPool": ker.global_sum_pool,
    "Flatten": ker.flatten,
}


def _attention(options, h):
    names = {
        "n_heads": "num_heads",
        "n_chan_key": "key_features",
        "n_chan_val": "value_features",
        "W_key_std": "w_key_std",
        "W_value_std": "w_value_std",
        "W_query_std": "w_query_std",
        "W_out_std": "w_out_std",
        "W_pos_emb_std": "w_position_std",
        "val_pos_emb": "embed_values",
        "b_std": "b_std",
    }
    options = dict(options)
    features = options.pop("n_chan_out")
    mechanism = options.pop("attention_mechanism").lower()
    scaling = "linear" if options.pop("linear_scaling") else "sqrt"
    embedding = options.pop("pos_emb_type", "NONE").lower()
    return ker.attention(
        h,
        features,
        mechanism=mechanism,
        scaling=scaling,
        embedding=None if embedding == "none" else embedding,
        **{names[k]: v for k, v in options.items()},
    )


def _layer(name, options, h):
    if name in _CONVOLUTIONS:
        options = dict(options)
        sizes = options.pop("out_chan"), options.pop("filter_shape")
        return _CONVOLUTIONS[name](h, *sizes, **options)
    if name in _POOLS:
        options = dict(options)
        return _POOLS[name](h, options.pop("window_shape"), **options)
    if name in _GLOBAL:
        return _GLOBAL[name](h)
    if name == "GlobalSelfAttention":
        return _attention(options, h)
    if name == "ImageResize":
        return ker.image_resize(h, options["shape"][1:-1], method=options["method"])
    if name == "Dense":
        options = dict(options)
        return ker.dense(h, options.pop("out_dim"), **options)
    if name == "W_std":
        raise AssertionError
    if name == "Polynomial":
        return ker.polynomial(h, options["coef"])
    if name == "ElementwiseNumerical":
        return getattr(ker, options["fn"])(h)
    if name == "Dropout":
        return ker.dropout(h, rate=1 - options["rate"])
    if name == "LayerNorm" and "axis" in options:
        return ker.layer_norm(h, axes=[axis - 1 for axis in options["axis"]])
    if name == "Identity":
        return h
    return _NONLINEARITIES[name](h, **options)


def build(architecture, h):
    """Applies a golden architecture to `h`, a value or a list of branches."""
    name, *rest = architecture
    if name == "serial":
        for layer in rest:
            h = build(layer, h)
        return h
    if name == "parallel":
        return [build(branch, x) for branch, x in zip(rest, h, strict=True)]
    options = rest[0] if rest else {}
    if name == "FanOut":
        return [h] * options["num"]
    if name == "FanInSum":
        return sum(h[1:], start=h[0])
    if name == "FanInProd":
        product = h[0]
        for factor in h[1:]:
            product = product * factor
        return product
    if name == "FanInConcat":
        return ker.concatenate(h)
    options = {
        {"W_std": "w_std"}.get(k, k): tuple(v) if k == "s" else v
        for k, v in options.items()
    }
    return _layer(name, options, h)
