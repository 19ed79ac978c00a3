"""The entries of `jaxarch.transforms`."""

import functools

import jax
import jax.numpy as jnp

from jaxarch import transforms as tr

from .entry import Entry

_X = jnp.asarray([0.5, -1.0, 2.0])
_PARAMS = {
    "b": jnp.asarray([0.1, -0.2, 0.3, 0.2]),
    "v": jnp.cos(jnp.arange(8.0)).reshape(4, 2),
    "w": jnp.sin(jnp.arange(12.0)).reshape(3, 4),
}
_DEPGRAPH = "Fang et al. 2023, [arXiv:2301.12900](https://arxiv.org/abs/2301.12900)"
_SPA = "Wang et al. 2024, [arXiv:2403.18955](https://arxiv.org/abs/2403.18955)"
_OTO = "Chen et al. 2023, [arXiv:2303.06862](https://arxiv.org/abs/2303.06862)"
_ONNX_NET = "Qin et al. 2025, [arXiv:2510.04938](https://arxiv.org/abs/2510.04938)"
_MODELS = "a ResNet, language models of plain JAX, Flax and Equinox, an LSTM, a U-Net, "
_MODELS += "a ViT, a key-value cache, Flax NNX"


def _network(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


@functools.cache
def _annotation():
    return tr.annotate(_network, _PARAMS, _X)


def _prune():
    small, apply, _ = tr.prune(_network, _PARAMS, _X, keep={"b[0]": [0, 2, 3]})
    return apply, (small, _X)


def _obspa():
    data = (jnp.sin(jnp.arange(3.0) + 0.5),)
    small, apply, _ = tr.obspa(_network, _PARAMS, _X, keep=0.5, data=data)
    return apply, (small, _X)


def _scores(params):
    return tr.importance(_annotation(), params, criterion="l2")


def _sub_network(params, x):
    nets = tr.elastic(_annotation(), {"b[0]": (1, 2, 4)})
    return _network(nets.mask(params, {("b[0]",): 2}), x)


def _evaluate(params, x):
    rules = tr.Rules(
        primitives={}, constant=lambda v: v, other=lambda eqn, *ins: eqn.bind(*ins)
    )
    jaxpr = jax.make_jaxpr(_network)(params, x)
    return tr.walk(jaxpr, rules, [*jax.tree.leaves(params), x])


def _step(transformation, params, grads):
    state = transformation.init(params)
    return transformation.update(grads, state, params)[0]


def _dhspg(params, grads):
    rule = tr.dhspg(
        _annotation(), target=2, learning_rate=0.1, warmup=0, saliency="magnitude"
    )
    return _step(rule, params, grads)


def _group_proximal(params, grads):
    rule = tr.group_proximal(_annotation(), learning_rate=0.1, penalty=0.1)
    return _step(rule, params, grads)


def _ticket(params):
    return tr.rewind(params, tr.magnitude_masks(params, fraction=0.25))


_GRADS = jax.tree.map(lambda a: 0.3 * jnp.cos(3 * a), _PARAMS)

ENTRIES = (
    Entry(
        package="transforms",
        kind="transform",
        names=("Annotation", "Group", "annotate", "groups"),
        source=f"{_DEPGRAPH}; {_SPA}",
        proof=f"the groups of {_MODELS} as their authors would name them; random "
        "networks whose exact groups are cut, against zeros in their place; the "
        "algebra of axes against positions written out",
        differs="axes are sums of products of atoms, so that heads, gates, groups of "
        "convolutions and depth need no rule of their own; a group is exact only where "
        "that follows from zeros",
    ),
    Entry(
        package="transforms",
        kind="transform",
        names=("PruneReport", "Pruned", "check_exact", "prune"),
        make=_prune,
        skip=frozenset({"pickle"}),  # its function holds a jaxpr
        source=f"{_DEPGRAPH}; {_SPA}",
        proof=f"zeros in the old function against the small one, 5e-6, for every group "
        f"of {_MODELS} and every primitive of this library; derivatives that functions "
        "bring along; an Equinox model made at the sizes reported",
        differs="equations are bound again at smaller shapes: code that knows its "
        "sizes is not run again",
    ),
    Entry(
        package="transforms",
        kind="function",
        names=("importance",),
        make=lambda: (_scores, (_PARAMS,)),
        source="SNIP, [arXiv:1810.02340](https://arxiv.org/abs/1810.02340); Taylor, "
        "[arXiv:1906.10771](https://arxiv.org/abs/1906.10771); optimal brain damage, "
        "LeCun et al. 1989",
        proof="sums written out, 2e-5",
        differs="`obs` has the Fisher information in the place of the Hessian",
    ),
    Entry(
        package="transforms",
        kind="transform",
        names=("obspa",),
        make=_obspa,
        skip=frozenset({"pickle"}),
        source=f"{_SPA}; Hassibi and Stork, NIPS 1992",
        proof="least squares, for a matrix and for a convolution; the first channel "
        "to go, by trying all",
        differs="damping and order are ours: no code of the authors was found",
        state="our choice",
    ),
    Entry(
        package="transforms",
        kind="training rule",
        names=("DHSPGState", "dhspg", "zero_groups"),
        make=lambda: (_dhspg, (_PARAMS, _GRADS)),
        # Which groups are emptied is a decision; near a threshold it jumps.
        skip=frozenset({"bfloat16", "grad"}),
        source=_OTO,
        proof="one step in NumPy; half-spaces and penalties by hand; trained networks "
        "against pruned ones",
        differs="groups hold the consuming side too, so that no activation has to be "
        "zero at zero; a deadline, and a saliency that takes evenly from all groups, "
        "are ours",
    ),
    Entry(
        package="transforms",
        kind="training rule",
        names=("GroupProximalState", "group_proximal"),
        make=lambda: (_group_proximal, (_PARAMS, _GRADS)),
        source="Yuan and Lin, J. Royal Statistical Society B 68, 2006 (group lasso)",
        proof="the block soft threshold of groups that do not overlap",
        differs="groups that share a parameter: each thresholds by its own norm, and "
        "the factors multiply",
        state="our choice",
    ),
    Entry(
        package="transforms",
        kind="function",
        names=(
            "LotteryRound",
            "iterative_pruning_masks",
            "magnitude_masks",
            "rewind",
        ),
        make=lambda: (_ticket, (_PARAMS,)),
        source="Frankle and Carbin 2019, "
        "[arXiv:1803.03635](https://arxiv.org/abs/1803.03635)",
        proof="the order of `numpy.sort`, ties and rounds by hand",
        differs="exactly the share asked for goes; the authors' code takes one weight "
        "more, and all equal ones",
    ),
    Entry(
        package="transforms",
        kind="transform",
        names=("Elastic", "elastic"),
        make=lambda: (_sub_network, (_PARAMS, _X)),
        source="Cai et al. 2019, [arXiv:1908.09791](https://arxiv.org/abs/1908.09791)",
        proof="masked, cut out and written by hand are one network; one compiled "
        "program for all; sorted channels do not change the function",
        differs="depth is that of a scan; windows are the middle of the largest, "
        "without a learned map between them",
    ),
    Entry(
        package="transforms",
        kind="transform",
        names=("SVG", "diagram"),
        source="Abbott 2024, [arXiv:2402.05424](https://arxiv.org/abs/2402.05424)",
        proof="wires at an operation are the axes of its operands; coupled axes have "
        "one colour; no text over another; twelve layers folded into one",
        differs="colours are the groups of `annotate`; drawn from the jaxpr and not by "
        "hand, one operation below the other",
        state="our choice",
    ),
    Entry(
        package="transforms",
        kind="transform",
        names=("Description", "Held", "Layer", "describe"),
        source="tables of layers: ours",
        proof="parameters by counting; operations against XLA's cost analysis, 2 %",
    ),
    Entry(
        package="transforms",
        kind="transform",
        names=("chain_text",),
        source=_ONNX_NET,
        proof="texts written by hand; the same text under jit, other names and another "
        "layout of parameters, in plain JAX, Flax and Equinox",
        differs="operations are those of JAX, attributes an allow-list; loops and "
        "branches are blocks; a value with several uses is always named",
    ),
    Entry(
        package="transforms",
        kind="function",
        names=("predict_performance",),
        source=_ONNX_NET,
        proof="the posterior in NumPy; architectures ranked in families held out",
        differs="counts in the text and an exact Gaussian process in the place of a "
        "language model, for hundreds of texts and not hundreds of thousands",
        state="our choice",
    ),
    Entry(
        package="transforms",
        kind="function",
        names=("Equation", "Rules", "walk"),
        make=lambda: (_evaluate, (_PARAMS, _X)),
        skip=frozenset({"pickle"}),
        source="one walk over jaxprs: ours",
        proof="primitives bound again are the function; a reading that counts, by hand",
    ),
)
