"""The operators that a start may use to make first values: an allow-list of torch's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from harness.errors import AuditError, printable
from harness.submission.operators import is_of_tensors
from harness.submission.plain import malformed

TRUNC_NORMAL = "init.trunc_normal_"
"""Stands for `torch.nn.init.trunc_normal_`, which draws again until every value is within its bounds: how often
depends on the seed. Its arguments are the tensor, mean, standard deviation and the two bounds."""

_GROUPS = {
    "memory and values made from nothing": (
        "empty empty_like empty_permuted empty_strided new_empty new_empty_strided zeros zeros_like new_zeros "
        "ones ones_like new_ones full full_like new_full scalar_tensor arange linspace logspace eye "
        "tril_indices triu_indices bartlett_window blackman_window hamming_window hann_window kaiser_window"
    ),
    "draws": (
        "rand rand_like randn randn_like randint randint_like randperm normal normal_ uniform uniform_ "
        "bernoulli bernoulli_ exponential_ log_normal log_normal_ geometric_ cauchy_ random_ multinomial "
        "poisson binomial native_dropout"
    ),
    "fills and copies": (
        "fill fill_ zero zero_ copy copy_ clone _to_copy lift_fresh lift_fresh_copy masked_fill masked_fill_ "
        "masked_scatter masked_scatter_ index_fill index_fill_ index_put index_put_ _unsafe_index_put "
        "index_copy index_copy_ index_add index_add_ scatter scatter_ scatter_add scatter_add_ select_scatter "
        "slice_scatter diagonal_scatter"
    ),
    "views and arrangements": (
        "view view_as_real view_as_complex _unsafe_view alias detach as_strided expand select slice "
        "split split_with_sizes unbind unfold t transpose permute squeeze unsqueeze diagonal "
        "unsafe_split view_copy expand_copy select_copy slice_copy t_copy transpose_copy permute_copy "
        "diagonal_copy squeeze_copy unsqueeze_copy detach_copy alias_copy split_copy split_with_sizes_copy "
        "as_strided_copy unfold_copy unbind_copy flip roll rot90 cat stack repeat tril tril_ triu triu_ "
        "diag_embed block_diag constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d "
        "replication_pad2d pixel_shuffle pixel_unshuffle trace"
    ),
    "reading at places": (
        "index _unsafe_index index_select gather take embedding masked_select nonzero where sort topk "
        "searchsorted bucketize"
    ),
    "arithmetic": (
        "add add_ sub sub_ rsub mul mul_ div div_ remainder remainder_ fmod fmod_ floor_divide floor_divide_ "
        "pow pow_ neg neg_ abs abs_ sign sign_ sgn sgn_ sqrt sqrt_ rsqrt rsqrt_ reciprocal "
        "reciprocal_ exp exp_ exp2 exp2_ expm1 expm1_ log log_ log2 log2_ log10 log10_ log1p log1p_ sin sin_ "
        "cos cos_ tan tan_ asin asin_ acos acos_ atan atan_ atan2 atan2_ sinh sinh_ cosh cosh_ tanh tanh_ "
        "asinh asinh_ acosh acosh_ atanh atanh_ sinc sinc_ erf erf_ erfc erfc_ erfinv erfinv_ lgamma lgamma_ "
        "digamma digamma_ i0 i0_ sigmoid sigmoid_ logit logit_ clamp clamp_ clamp_min clamp_min_ clamp_max "
        "clamp_max_ maximum minimum fmax fmin hypot floor floor_ ceil ceil_ round round_ trunc trunc_ frac "
        "frac_ lerp lerp_ addcmul addcmul_ addcdiv addcdiv_ nan_to_num nan_to_num_ copysign copysign_ "
        "special_bessel_j0 special_bessel_j1 complex polar angle _conj _conj_physical conj_physical "
        "gcd gcd_"
    ),
    "comparisons and logic": (
        "eq ne lt le gt ge eq_ ne_ lt_ le_ gt_ ge_ logical_and logical_or logical_not logical_xor "
        "logical_and_ logical_or_ logical_not_ logical_xor_ bitwise_and bitwise_or bitwise_xor bitwise_not "
        "bitwise_and_ bitwise_or_ bitwise_xor_ bitwise_not_ bitwise_left_shift bitwise_right_shift __lshift__ "
        "__rshift__ isnan isinf isin signbit"
    ),
    "reductions": (
        "sum mean prod amax amin aminmax max min argmax argmin any all norm linalg_vector_norm var std "
        "var_mean std_mean cumsum cumsum_ cumprod cumprod_ cummax cummin logsumexp logcumsumexp median "
        "kthvalue mode count_nonzero dist"
    ),
    "matrices": (
        "mm bmm mv dot vdot addmm addmm_ addmv addbmm baddbmm addr addr_ linear linalg_cross "
        "linalg_qr linalg_householder_product geqrf _linalg_svd _linalg_eigh "
        "linalg_lu_factor_ex linalg_inv_ex linalg_matrix_exp linalg_cholesky_ex _linalg_det "
        "_linalg_slogdet linalg_solve_triangular _linalg_solve_ex _cdist_forward _euclidean_dist"
    ),
    "transforms": ("_fft_r2c _fft_c2r _fft_c2c"),
    "layers, where build runs the network once": (
        "convolution relu relu_ leaky_relu leaky_relu_ elu elu_ celu gelu silu silu_ mish mish_ hardtanh "
        "hardtanh_ hardswish hardswish_ hardsigmoid softplus log_sigmoid_forward _prelu_kernel "
        "threshold glu _softmax _log_softmax native_batch_norm native_layer_norm native_group_norm "
        "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d "
        "upsample_bilinear2d"
    ),
}

OPERATORS = frozenset(name for names in _GROUPS.values() for name in names.split())
"""Base names of the operators that a start may use. None of them reads a file, takes foreign memory, changes the size
of memory that exists, or makes sparse or quantised tensors."""

COSTLY = frozenset((*_GROUPS["matrices"].split(), "convolution"))
"""Operators that take more than a pass over their arguments and results."""


def operator_of(name: str) -> torch._ops.OpOverload:
    """Return the operator of a name such as ``aten.add.Tensor``.

    Raises:
        AuditError: a start may not use it, or there is none.
    """
    space, _, rest = name.partition(".")
    base, _, overload = rest.rpartition(".")
    if space != "aten" or base not in OPERATORS:
        raise AuditError(
            "start",
            f"build makes first values with the operator {printable(name)}, which the harness does not replay.",
            allowed="Allowed: torch's draws, fills, views, arithmetic, sorting and matrix decompositions, on the CPU.",
            hint="Use torch.nn.init, or write it with such operators.",
        )
    found = _overloads(base).get(overload)
    if found is None:
        raise malformed(f"an operator {name[:60]!r}")
    return found


@functools.cache
def _overloads(base: str) -> Mapping[str, torch._ops.OpOverload]:
    """Return the variants of an operator that a recording can hold.

    What is composed of other operators is recorded as these.
    """
    packet = getattr(torch.ops.aten, base, None)
    found = {} if packet is None else {name: getattr(packet, name) for name in packet.overloads()}
    return {
        name: variant
        for name, variant in found.items()
        if is_of_tensors(variant)
        and not torch._C._dispatch_has_kernel_for_dispatch_key(variant.name(), "CompositeImplicitAutograd")
        and all(str(returned.real_type) in ("Tensor", "List[Tensor]") for returned in variant._schema.returns)
    }


def base_name(operator: torch._ops.OpOverload) -> str:
    """Return an operator's name without namespace and overload, such as ``add``."""
    return operator._schema.name.partition("::")[2]


def draws(name: str) -> bool:
    """Whether the operator of a name, or `TRUNC_NORMAL`, draws random numbers."""
    return name == TRUNC_NORMAL or torch.Tag.nondeterministic_seeded in operator_of(name).tags
