"""Infinite-width kernels (NNGP, NTK) of architectures, and what is done with them.

An architecture is a Python function of one value, made of the operations below;
`infinite` and `finite` read it.
"""

from ._aggregate import aggregate as aggregate
from ._attention import AttentionParams as AttentionParams, attention as attention
from ._big import gram as gram
from ._classifier import (
    ClassifierSamples as ClassifierSamples,
    predict_classes as predict_classes,
    sample_classifier as sample_classifier,
)
from ._closed_forms import (
    cos as cos,
    erf as erf,
    exp as exp,
    exp_normalized as exp_normalized,
    gabor as gabor,
    gaussian as gaussian,
    gelu as gelu,
    rbf as rbf,
    sigmoid_like as sigmoid_like,
    sin as sin,
)
from ._combine import concatenate as concatenate
from ._conv import (
    ConvParams as ConvParams,
    conv as conv,
    conv_local as conv_local,
    conv_transpose as conv_transpose,
)
from ._dense import DenseParams as DenseParams, dense as dense
from ._descent import (
    Descended as Descended,
    gradient_descent as gradient_descent,
)
from ._dynamics import (
    Trained as Trained,
    max_learning_rate as max_learning_rate,
    train as train,
)
from ._empirical import (
    empirical_nngp as empirical_nngp,
    empirical_ntk as empirical_ntk,
    ntk_vector_product as ntk_vector_product,
)
from ._expand import linearize as linearize, taylor_expand as taylor_expand
from ._expansion import (
    elementwise as elementwise,
    elementwise_error as elementwise_error,
    mish as mish,
    silu as silu,
    softplus as softplus,
    tanh as tanh,
)
from ._finite import Model as Model, finite as finite
from ._forecast import Forecast as Forecast
from ._gp import (
    Posterior as Posterior,
    Predictive as Predictive,
    condition as condition,
    log_evidence as log_evidence,
    predict as predict,
)
from ._gram import Gram as Gram
from ._infinite import Kernel as Kernel, infinite as infinite
from ._largest import class_probabilities as class_probabilities
from ._mixture import Mixture as Mixture
from ._monte_carlo import Estimate as Estimate, monte_carlo as monte_carlo
from ._piecewise import elu as elu, selu as selu
from ._polynomials import (
    hermite as hermite,
    monomial as monomial,
    polynomial as polynomial,
)
from ._pool import (
    avg_pool as avg_pool,
    global_avg_pool as global_avg_pool,
    global_sum_pool as global_sum_pool,
    image_resize as image_resize,
    sum_pool as sum_pool,
)
from ._positions import flatten as flatten, index as index
from ._rectified import (
    abrelu as abrelu,
    absolute as absolute,
    leaky_relu as leaky_relu,
    rectified_monomial as rectified_monomial,
    relu as relu,
    sign as sign,
)
from ._regularise import dropout as dropout, layer_norm as layer_norm
from ._scale_init import scale_mixture_init as scale_mixture_init
from ._scale_posterior import ScalePosterior as ScalePosterior
from ._scale_prior import (
    BurrXII as BurrXII,
    Delta as Delta,
    HalfCauchy as HalfCauchy,
    InverseGamma as InverseGamma,
    LogNormal as LogNormal,
    ScalePrior as ScalePrior,
)
from ._solve import Solution as Solution, solve as solve
from ._state import State as State
from ._store import StoredMatrix as StoredMatrix
from ._variational import (
    VariationalParams as VariationalParams,
    variational_bound as variational_bound,
    variational_init as variational_init,
    variational_predict as variational_predict,
)
