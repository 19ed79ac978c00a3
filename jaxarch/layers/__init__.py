"""Feature layers: pure functions of their parameters and one example."""

from ._bases import (
    chebyshev_basis as chebyshev_basis,
    fourier_basis as fourier_basis,
    legendre_basis as legendre_basis,
    rbf_basis as rbf_basis,
    relu_basis as relu_basis,
    sine_basis as sine_basis,
    wavelet_basis as wavelet_basis,
)
from ._bspline import bspline_basis as bspline_basis
from ._kan import (
    KANParams as KANParams,
    kan_apply as kan_apply,
    kan_init as kan_init,
)
from ._kan_conv import (
    KANConvParams as KANConvParams,
    kan_conv_apply as kan_conv_apply,
    kan_conv_init as kan_conv_init,
)
from ._kan_grid import (
    kan_adapt as kan_adapt,
    kan_layer_adapt as kan_layer_adapt,
    kan_layer_refine as kan_layer_refine,
    kan_refine as kan_refine,
)
from ._kan_layer import (
    KANLayerParams as KANLayerParams,
    kan_layer_apply as kan_layer_apply,
    kan_layer_edges as kan_layer_edges,
    kan_layer_init as kan_layer_init,
)
from ._kan_plot import kan_plot as kan_plot
from ._kan_prune import (
    kan_edge_norms as kan_edge_norms,
    kan_mask as kan_mask,
    kan_prune as kan_prune,
    kan_regularizer as kan_regularizer,
)
from ._kan_symbolic import (
    SymbolicKANParams as SymbolicKANParams,
    kan_formula as kan_formula,
    kan_symbolic as kan_symbolic,
    symbolic_kan_apply as symbolic_kan_apply,
)
from ._mlp import (
    MLPParams as MLPParams,
    mlp_apply as mlp_apply,
    mlp_init as mlp_init,
)
from ._selectable_kan import (
    SelectableKANParams as SelectableKANParams,
    selectable_kan_apply as selectable_kan_apply,
    selectable_kan_entropy as selectable_kan_entropy,
    selectable_kan_init as selectable_kan_init,
    selectable_kan_prune as selectable_kan_prune,
    selectable_kan_select as selectable_kan_select,
    selectable_kan_spread as selectable_kan_spread,
)
from ._selectable_kan_conv import (
    SelectableKANConvParams as SelectableKANConvParams,
    selectable_kan_conv_apply as selectable_kan_conv_apply,
    selectable_kan_conv_init as selectable_kan_conv_init,
    selectable_kan_conv_spread as selectable_kan_conv_spread,
)
