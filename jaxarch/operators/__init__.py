"""Operators between functions on grids: MgNO, DeepONet, FNO, function-space layers."""

from ._attention_integral import (
    AttentionIntegralParams as AttentionIntegralParams,
    attention_integral as attention_integral,
    attention_integral_apply as attention_integral_apply,
    attention_integral_init as attention_integral_init,
)
from ._burgers_dataset import burgers_dataset as burgers_dataset
from ._coordinate_derivatives import coordinate_derivatives as coordinate_derivatives
from ._darcy_dataset import darcy_dataset as darcy_dataset, solve_darcy as solve_darcy
from ._deeponet import (
    DeepONetParams as DeepONetParams,
    deeponet_apply as deeponet_apply,
    deeponet_init as deeponet_init,
)
from ._deepxde import (
    deeponet_from_torch as deeponet_from_torch,
    mionet_from_torch as mionet_from_torch,
    pod_deeponet_from_torch as pod_deeponet_from_torch,
)
from ._differential_conv import (
    DifferentialConvParams as DifferentialConvParams,
    differential_conv_apply as differential_conv_apply,
    differential_conv_init as differential_conv_init,
)
from ._domain_padding import domain_pad as domain_pad, domain_unpad as domain_unpad
from ._fno import (
    FNOParams as FNOParams,
    fno_apply as fno_apply,
    fno_from_torch as fno_from_torch,
    fno_init as fno_init,
)
from ._kernel_integral import (
    KernelIntegralParams as KernelIntegralParams,
    RadiusNeighbors as RadiusNeighbors,
    kernel_integral_apply as kernel_integral_apply,
    kernel_integral_init as kernel_integral_init,
    radius_neighbors as radius_neighbors,
)
from ._local_integral import (
    LocalIntegralParams as LocalIntegralParams,
    local_integral_apply as local_integral_apply,
    local_integral_init as local_integral_init,
)
from ._losses import relative_h1 as relative_h1, relative_l2 as relative_l2
from ._mgno import (
    MgNOLayerParams as MgNOLayerParams,
    MgNOParams as MgNOParams,
    mgno_apply as mgno_apply,
    mgno_from_torch as mgno_from_torch,
    mgno_init as mgno_init,
)
from ._mionet import (
    MIONetParams as MIONetParams,
    mionet_apply as mionet_apply,
    mionet_init as mionet_init,
)
from ._multigrid import (
    MultigridLevelParams as MultigridLevelParams,
    MultigridParams as MultigridParams,
    SmootherParams as SmootherParams,
    multigrid_apply as multigrid_apply,
    multigrid_init as multigrid_init,
)
from ._ode_datasets import (
    antiderivative_dataset as antiderivative_dataset,
    pendulum_dataset as pendulum_dataset,
)
from ._patch_embed import (
    PatchEmbedParams as PatchEmbedParams,
    PatchExpandParams as PatchExpandParams,
    patch_embed_apply as patch_embed_apply,
    patch_embed_init as patch_embed_init,
    patch_expand_apply as patch_expand_apply,
    patch_expand_init as patch_expand_init,
)
from ._pde_datasets import (
    advection_dataset as advection_dataset,
    diffusion_reaction_dataset as diffusion_reaction_dataset,
)
from ._pod_deeponet import (
    PODDeepONetParams as PODDeepONetParams,
    pod_basis as pod_basis,
    pod_deeponet_apply as pod_deeponet_apply,
    pod_deeponet_init as pod_deeponet_init,
)
from ._pointwise import (
    fourier_positions as fourier_positions,
    instance_norm as instance_norm,
    pointwise as pointwise,
)
from ._poisson_multigrid import poisson_multigrid_params as poisson_multigrid_params
from ._random_fields import gaussian_random_field as gaussian_random_field
from ._resolution_report import (
    ResolutionReport as ResolutionReport,
    resolution_report as resolution_report,
)
from ._sampling import (
    domain_mean as domain_mean,
    grid_points as grid_points,
    grid_weights as grid_weights,
    integrate as integrate,
    resample as resample,
    trapezoid_weights as trapezoid_weights,
)
from ._spectral_conv import (
    SpectralConvParams as SpectralConvParams,
    spectral_conv_apply as spectral_conv_apply,
    spectral_conv_init as spectral_conv_init,
)
