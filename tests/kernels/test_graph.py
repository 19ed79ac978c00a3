"""What an architecture records, prints and refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxarch import kernels as ker


def residual(h):
    h = ker.dense(h, 32, w_std=1.5, b_std=0.1, name="first")
    u = ker.erf(h) + 0.5 * ker.dense(ker.relu(h), 32, b_std=None)
    return ker.dense(u, 10, parameterization="standard", s=(2.0, 1.0))


def test_print():
    """One line an operation: numbers by name, law and sources behind."""
    lines = str(ker.infinite(residual).graph).splitlines()
    code, notes = zip(*(line.split("  # ") for line in lines), strict=True)
    assert [c.rstrip() for c in code] == [
        "h0 = input()",
        "h1 = dense(h0, features=32, w_std, b_std, learning_rate)",
        "h2 = erf(h1, a, b)",
        "h3 = relu(h1)",
        "h4 = dense(h3, features=32, w_std, learning_rate)",
        "h5 = scale(h4, factor)",
        "h6 = add(h2, h5)",
        "h7 = dense(h6, features=10, parameterization='standard', s=(2.0, 1.0), "
        "w_std, b_std, learning_rate)",
    ]
    own = notes[4].removeprefix("Gaussian; depends on ")
    assert own.startswith("dense#")
    assert notes[:4] == (
        "depends on input",
        "Gaussian; depends on first",
        "centred; depends on first",
        "depends on first",
    )
    assert notes[5] == f"Gaussian; depends on {own}"
    assert notes[6] == f"centred; depends on {own}, first"


def test_graph_holds_no_numbers():
    """Other numbers, Python's or arrays, give an equal and equally hashed graph."""
    graphs = [
        ker.infinite(lambda h, w=w: ker.dense(ker.relu(ker.dense(h, 4)), 1, w_std=w))
        for w in (1, 2.5, np.float64(3), np.float32(3), jnp.float32(4), np.array(1))
    ]
    assert len({kernel.graph for kernel in graphs}) == 1
    assert graphs[0].graph != ker.infinite(lambda h: ker.dense(h, 1)).graph


def test_loops_and_unused_values():
    def network(h):
        ker.relu(ker.dense(h, 3))  # leads nowhere
        for _ in range(3):
            h = ker.relu(ker.dense(h, 4))
        return h

    graph = ker.infinite(network).graph
    assert len(graph.nodes) == 7
    identity = ker.infinite(lambda h: h)
    x = np.array([[1.0, 2.0]], np.float32)
    np.testing.assert_allclose(identity(x).nngp, [[2.5]])
    np.testing.assert_array_equal(identity(x).ntk, [[0.0]])


def test_repr():
    seen = []
    ker.infinite(lambda h: seen.append(repr(h)) or h)
    assert seen == ["h0 of 1 operations"]


@pytest.mark.parametrize(
    ("error", "match", "network"),
    [
        (
            ValueError,
            "dense: `parameterization` must be one of 'ntk', 'standard', got 'mup'",
            lambda h: ker.dense(h, 4, parameterization="mup"),
        ),
        (
            ValueError,
            "dense: `s` belongs to parameterization='standard', got .* with 'ntk'",
            lambda h: ker.dense(h, 4, s=(1.0, 2.0)),
        ),
        (
            ValueError,
            "dense: `s` must be two positive numbers, got",
            lambda h: ker.dense(h, 4, parameterization="standard", s=(1.0, -2.0)),
        ),
        (
            ValueError,
            "dense: `features` must be at least 1, got 0",
            lambda h: ker.dense(h, 0),
        ),
        (
            TypeError,
            "dense: `features` must be an int, got float",
            lambda h: ker.dense(h, 4.0),
        ),
        (
            TypeError,
            "dense: wanted a number, got '1.5'",
            lambda h: ker.dense(h, 4, w_std="1.5"),
        ),
        (
            TypeError,
            "dense: wanted a number, got None",
            lambda h: ker.dense(h, 4, w_std=None),
        ),
        (
            TypeError,
            "dense: wanted a number, got True",
            lambda h: ker.dense(h, 4, b_std=True),
        ),
        (
            ValueError,
            r"dense: numbers must have shape \(\), got \(2,\)",
            lambda h: ker.dense(h, 4, w_std=jnp.ones(2)),
        ),
        (
            TypeError,
            "dense: `h` must be a value of the network being recorded, got int",
            lambda h: ker.dense(3, 4),
        ),
        (
            TypeError,
            "relu: `h` must be a value of the network being recorded, got ndarray",
            lambda h: ker.relu(np.ones(3)),
        ),
        (
            TypeError,
            "concatenate: `h` must be a value of the network being recorded",
            lambda h: ker.concatenate([h, 1.0]),
        ),
        (
            ValueError,
            "hermite: `degree` must be at least 1, got 0",
            lambda h: ker.hermite(ker.dense(h, 4), degree=0),
        ),
        (
            ValueError,
            "monomial: `degree` must be at least 1, got -1",
            lambda h: ker.monomial(ker.dense(h, 4), degree=-1),
        ),
        (
            TypeError,
            "rectified_monomial: `degree` must be an int, got float",
            lambda h: ker.rectified_monomial(ker.dense(h, 4), degree=1.5),
        ),
        (
            ValueError,
            "polynomial: `coefficients` must not be empty, got",
            lambda h: ker.polynomial(ker.dense(h, 4), []),
        ),
        (
            ValueError,
            r"dropout: `rate` must be in \[0, 1\), got -0.1",
            lambda h: ker.dropout(h, rate=-0.1),
        ),
        (
            TypeError,
            "infinite: `network` must return a value made from its argument, got list",
            lambda h: [h],
        ),
    ],
)
def test_refusals_while_recording(error, match, network):
    with pytest.raises(error, match=match):
        ker.infinite(network)


def test_network_must_be_a_function():
    with pytest.raises(
        TypeError, match="infinite: `network` must be a function of one"
    ):
        ker.infinite(3)


def test_bad_inputs():
    kernel = ker.infinite(residual)
    x = np.ones((4, 3), np.float32)
    for args, options, match in [
        ((x[0],), {}, r"kernel: `x1` must have shape \(n, features\), got \(3,\)"),
        (
            (x[None],),
            {},
            r"kernel: `x1` must have shape \(n, features\), got \(1, 4, 3",
        ),
        ((x, x[0]), {}, r"kernel: `x2` must have shape \(n, features\), got \(3,\)"),
        ((x, x[:, :2]), {}, "kernel: `x2` must have the 3 features of `x1`, got 2"),
        ((x[:, :0],), {}, "kernel: `x1` must have at least one feature, got 0"),
        (
            (x, x[:2]),
            {"diagonal": True},
            "kernel: with `diagonal` `x2` must have the 4 examples of `x1`, got 2",
        ),
    ]:
        with pytest.raises(ValueError, match=match):
            kernel(*args, **options)
        with pytest.raises(ValueError, match=match.replace("kernel:", "kernel.state:")):
            kernel.state(*args, **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'batch'"):
        kernel(x, batch=3)
