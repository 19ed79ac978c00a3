"""Names of primitives that the readings of a jaxpr treat alike."""

# Position by position: an axis of the result is the same axis of every operand.
ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy
    copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt
    igamma igamma_grad_a igammac imag integer_pow is_finite layout_constraint le le_to
    lgamma log log1p log2 logistic lt lt_to max min mul mulhi name ne neg nextafter not
    one_minus_square or pcast polygamma population_count pow pvary random_clone
    random_fold_in random_seed real reduce_precision regularized_incomplete_beta rem
    round rsqrt select_n shard_constraint sharding_constraint shift_left
    shift_right_arithmetic shift_right_logical sign sin
    sinh sqrt square stop_gradient sub tan tanh threefry2x32 xor zeta""".split()
)
REDUCTIONS = frozenset(
    """argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
    reduce_xor""".split()
)
SCANS = frozenset("cumlogsumexp cummax cummin cumprod cumsum rev".split())
WINDOWS = frozenset(
    """reduce_window reduce_window_max reduce_window_min reduce_window_sum""".split()
)
SCATTERS = frozenset(
    "scatter scatter-add scatter-max scatter-min scatter-mul scatter-sub".split()
)
# They act on trailing axes alone: name -> how many.
TRAILING = {
    "cholesky": 2,
    "eig": 2,
    "eigh": 2,
    "householder_product": 2,
    "lu": 2,
    "lu_pivots_to_permutation": 1,
    "qr": 2,
    "svd": 2,
    "top_k": 1,
    "triangular_solve": 2,
    "tridiagonal_solve": 1,
}

# f(0, ..., 0) = 0.
ZERO_AT_ZERO = frozenset(
    """abs add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil
    complex conj convert_element_type copy copy_p erf erf_inv expm1 floor gt imag
    layout_constraint log1p lt max min mul name ne neg or pcast population_count pvary
    real reduce_precision rem round select_n shard_constraint sharding_constraint
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor""".split()
)
# The numbers stay what they are.
KEEPS = frozenset(
    """bitcast_convert_type convert_element_type copy copy_p layout_constraint name
    pcast pvary reduce_precision sharding_constraint stop_gradient""".split()
)
SINGULAR = frozenset("digamma lgamma log log2 rsqrt".split())  # not finite at zero
