"""Sums, products, concatenations, normalisation and dropout; what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker

from . import textbook
from .monte_carlo import assert_monte_carlo

# Their features have means that are not zero.
X = np.random.default_rng(1).normal(size=(5, 4)) + 0.7
WIDTH = 128


def sum_of_rectified(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, w_std=1.3, b_std=0.2))
    return u + ops.dense(u, WIDTH, w_std=1.1)


def sum_after_the_input(ops, h):
    u = h + ops.relu(ops.dense(h, 4, w_std=1.2, b_std=0.3))
    return ops.dense(u, WIDTH, b_std=0.1)


def two_means(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, w_std=1.3)) + ops.relu(ops.dense(h, WIDTH))
    v = u + ops.absolute(ops.dense(u, WIDTH, w_std=0.8, b_std=0.2))
    return ops.dense(v, WIDTH)


def difference(ops, h):
    u = ops.relu(ops.dense(h, WIDTH)) - ops.exp(ops.dense(h, WIDTH, w_std=0.4))
    return ops.dense(u, WIDTH)


def multiple(ops, h):
    u = -0.5 * ops.relu(ops.dense(h, WIDTH, w_std=1.3, b_std=0.2))
    return ops.dense(u + ops.relu(ops.dense(u, WIDTH)) / 2.0, WIDTH)


def product(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, w_std=1.3)) * ops.dense(h, WIDTH, b_std=0.5)
    return ops.dense(u, WIDTH)


def product_of_means(ops, h):
    a, b = (ops.dense(h, WIDTH, w_std=w, b_std=0.4) for w in (1.2, 0.9))
    u = ops.relu(a) * ops.absolute(b)
    return u + ops.relu(ops.dense(u, WIDTH))


def product_with_the_input(ops, h):
    u = h * ops.relu(ops.dense(h, 4, b_std=0.2))
    return ops.dense(u, WIDTH)


def joined(ops, h):
    u = ops.relu(ops.dense(h, 3 * WIDTH // 4, w_std=1.3, b_std=0.2))
    v = ops.erf(ops.dense(h, WIDTH // 4, w_std=0.8))
    return ops.dense(ops.concatenate([u, v]), WIDTH)


def joined_dependent(ops, h):
    """Branches of a concatenation may share parameters; the input may be one."""
    u = ops.dense(h, WIDTH, w_std=1.3, b_std=0.2)
    return ops.dense(ops.concatenate([u, ops.relu(u), h]), WIDTH, b_std=0.1)


def joined_plus_centred(ops, h):
    u = ops.relu(ops.dense(h, WIDTH // 2))
    both = ops.concatenate([u, ops.erf(ops.dense(h, WIDTH // 2))])
    return ops.dense(both + ops.dense(both, WIDTH), WIDTH)


def normalised(ops, h):
    u = ops.layer_norm(ops.relu(ops.dense(h, WIDTH, b_std=0.3)), eps=0.05)
    v = ops.relu(ops.dense(ops.layer_norm(h), WIDTH))
    return ops.dense(u + v, WIDTH)


def normalised_sum(ops, h):
    u = ops.relu(ops.dense(h, WIDTH, b_std=0.3))
    return ops.dense(ops.layer_norm(u + ops.relu(ops.dense(u, WIDTH))), WIDTH)


def dropped(ops, h):
    u = ops.dropout(ops.relu(ops.dense(h, WIDTH, b_std=0.3)), rate=0.3)
    v = ops.dropout(ops.dense(u, WIDTH), rate=0.1)
    return ops.dense(u + v, WIDTH)


def standard(ops, h):
    options = {"parameterization": "standard", "w_std": 1.3}
    u = ops.dense(h, WIDTH // 2, b_std=0.2, s=(1.0, 2.0), **options)
    u = ops.dense(ops.relu(u), WIDTH // 4, b_std=0.0, s=(2.0, 4.0), **options)
    return ops.dense(ops.erf(u), WIDTH, b_std=None, s=(4.0, 1.0), **options)


def standard_joined(ops, h):
    options = {"parameterization": "standard"}
    u = ops.relu(ops.dense(h, WIDTH // 2, w_std=1.3, b_std=0.2, **options))
    v = ops.erf(ops.dense(h, WIDTH // 4, b_std=0.1))
    return ops.dense(ops.concatenate([u, v]), WIDTH, b_std=0.3, **options)


NETWORKS = [
    sum_of_rectified,
    sum_after_the_input,
    two_means,
    difference,
    multiple,
    product,
    product_of_means,
    product_with_the_input,
    joined,
    joined_dependent,
    joined_plus_centred,
    normalised,
    normalised_sum,
    dropped,
    standard,
    standard_joined,
]
networks = pytest.mark.parametrize("network", NETWORKS, ids=lambda f: f.__name__)


@networks
def test_textbook(network):
    want = network(textbook, textbook.inputs(X))
    with jax.enable_x64(True):
        kernel = ker.infinite(functools.partial(network, ker))
        gram = kernel(X)
    for got, k in ((gram.nngp, want.k), (gram.ntk, want.t)):
        norm = np.sqrt(np.outer(np.diag(k), np.diag(k)))
        assert (np.abs(np.asarray(got) - k) / norm).max() < 1e-12


@networks
@pytest.mark.slow
def test_monte_carlo(network, key):
    want = network(textbook, textbook.inputs(X))
    assert_monte_carlo(
        functools.partial(network, ker),
        jnp.asarray(X, jnp.float32),
        (want.k, want.t),
        width=WIDTH,
        draws=500,
        key=key,
        dropout=network is dropped,
    )


def refuse(network, match, error=ValueError):
    with pytest.raises(error, match=match):
        ker.infinite(network)


def hidden(h, name=None):
    return ker.dense(h, 8, name=name)


def test_shared_names_off_the_path_to_the_output_are_no_sources():
    def network(h):
        hidden(h, "unused")
        return hidden(h)

    assert "unused" not in str(ker.infinite(network).graph)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("relu", lambda h: ker.relu(ker.flatten(hidden(h)))),
        ("tanh", lambda h: ker.tanh(ker.dropout(hidden(h), rate=0.5))),
        ("erf", lambda h: ker.erf(ker.concatenate([hidden(h), hidden(h)]))),
        ("gelu", lambda h: ker.gelu(hidden(h) * h)),
        ("sign", lambda h: ker.sign(hidden(h) + ker.dropout(hidden(h), rate=0.5))),
        ("elementwise", lambda h: ker.elementwise(hidden(h) + h, jnp.tanh)),
    ],
)
def test_a_nonlinearity_of_what_is_not_gaussian_is_refused(name, network):
    refuse(network, f"{name}: `h` must be Gaussian, got a value that is not")


def test_a_nonlinearity_of_the_data_is_refused():
    kernel = ker.infinite(ker.relu)  # from a `State` it is right
    match = "kernel: the input of `relu` must be Gaussian, got the data"
    with pytest.raises(ValueError, match=match):
        kernel(X)


def test_two_mixed_branches_are_refused():
    def joined(h):
        return ker.concatenate([ker.relu(hidden(h)), ker.erf(hidden(h))])

    one_law = "one of the branches must have coordinates of one law"
    refuse(lambda h: h + joined(h), f"add: {one_law} or of mean zero")
    refuse(lambda h: h + h, f"add: {one_law}")
    refuse(lambda h: joined(h) * h, f"multiply: {one_law}")


def test_bad_arguments():
    refuse(lambda h: ker.concatenate([]), "concatenate: `branches` must not be empty")
    refuse(lambda h: ker.dropout(h, rate=1.0), r"dropout: `rate` must be in \[0, 1\)")
    refuse(lambda h: h + 1.0, "unsupported operand", TypeError)
    refuse(lambda h: 1.0 / h, "unsupported operand", TypeError)
    refuse(lambda h: h / hidden(h), "unsupported operand", TypeError)
    refuse(lambda h: h * np.ones(3), r"scale: numbers must have shape \(\)")
    refuse(lambda h: h * "2", "scale: wanted a number, got '2'", TypeError)


def test_widths_must_agree():
    def network(h):
        return ker.dense(h, 8) + ker.dense(h, 9)

    match = "add: the branches must have one number of features, got 8, 9"
    with pytest.raises(ValueError, match=match):
        ker.infinite(network)(X)
    with pytest.raises(ValueError, match=match):
        ker.finite(network).init(jax.random.key(0), jnp.ones(4))


def test_values_of_two_networks_do_not_mix():
    kept = []

    def leak(h):
        kept.append(hidden(h))
        return kept[0]

    ker.infinite(leak)
    refuse(lambda h: hidden(h) + kept[0], "add: both arguments must come from one")
    refuse(lambda h: kept[0], "`network` must return a value made from", TypeError)


def test_numbers_multiply_from_both_sides():
    factors = [2.0, 2, np.float64(2.0), np.float32(2.0), jnp.asarray(2.0)]
    networks = [lambda h, c=c: c * hidden(h) for c in factors]
    networks += [lambda h, c=c: hidden(h) * c for c in factors]
    networks += [lambda h: hidden(h) / 0.5]
    x = X.astype(np.float32)
    for network in networks:
        np.testing.assert_array_equal(
            ker.infinite(network)(x).nngp[0, 1], ker.infinite(networks[0])(x).nngp[0, 1]
        )
