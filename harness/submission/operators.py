"""The operators that a graph of a submission may call: an allow-list of torch's own, and arithmetic on sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.errors import AuditError
from harness.submission.division import refuse_unknown_divisor
from harness.submission.plain import malformed

_NAMES = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear bilinear
batch_norm instance_norm group_norm layer_norm rms_norm
lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
scaled_dot_product_attention embedding embedding_bag one_hot
dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout
relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid hardshrink softshrink sigmoid
log_sigmoid softplus tanh threshold prelu rrelu glu softmax log_softmax
max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices
max_pool2d_with_indices max_unpool2d fractional_max_pool2d
upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d _upsample_nearest_exact2d
grid_sampler grid_sampler_2d affine_grid_generator pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im unfold
unfold_copy pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d _pad_circular
_pad_enum
add sub rsub mul div true_divide floor_divide remainder fmod pow float_power square sqrt rsqrt reciprocal neg abs
absolute sign sgn exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 arctan2 sinh cosh asinh acosh
atanh arcsin arccos arctan arcsinh arccosh arctanh sinc erf erfc erfinv lgamma digamma logit logaddexp logsumexp xlogy
hypot floor ceil round
trunc fix frac clamp clamp_min clamp_max clip maximum minimum fmax fmin lerp addcmul addcdiv heaviside nan_to_num
bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__
__lshift__ __rshift__ copysign positive deg2rad rad2deg dist multiply divide subtract
negative signbit ldexp logaddexp2 conj_physical i0
eq ne lt le gt ge equal greater greater_equal less less_equal not_equal isnan isinf isfinite isneginf isposinf isreal
isclose logical_and
logical_or logical_not logical_xor where masked_fill masked_scatter masked_select
sum mean prod std var std_mean var_mean amax amin aminmax max min argmax argmin all any norm linalg_norm
linalg_vector_norm linalg_matrix_norm cumsum cumprod cummax cummin logcumsumexp diff median nanmedian nansum nanmean
mode quantile count_nonzero topk sort argsort msort kthvalue unique_consecutive bincount histc searchsorted bucketize
mm bmm matmul mv dot vdot addmm addmv addbmm baddbmm addr outer ger inner einsum tensordot kron chain_matmul
linalg_multi_dot matrix_power linalg_matrix_power linalg_matrix_exp matrix_exp linalg_qr linalg_svd linalg_inv
inverse linalg_solve linalg_cholesky linalg_det det linalg_slogdet slogdet logdet linalg_svdvals linalg_matmul
linalg_diagonal
trace cross linalg_cross cdist pdist
cosine_similarity pairwise_distance linalg_householder_product linalg_vecdot renorm cov corrcoef
view reshape reshape_as view_as _unsafe_view flatten unflatten ravel squeeze unsqueeze transpose swapaxes swapdims
permute movedim moveaxis t numpy_T mT mH adjoint matrix_H expand expand_as broadcast_to broadcast_tensors repeat
repeat_interleave tile select slice narrow split split_with_sizes chunk tensor_split unbind hsplit vsplit dsplit stack
cat concat concatenate hstack vstack dstack column_stack row_stack flip fliplr flipud rot90 roll diagonal diag
diag_embed diagflat tril triu tril_indices triu_indices meshgrid cartesian_prod as_strided
as_strided_copy block_diag alias detach clone contiguous copy lift_fresh lift_fresh_copy lift to _to_copy type_as
view_as_real view_as_complex real imag conj resolve_conj resolve_neg complex polar angle atleast_1d atleast_2d
atleast_3d
gather scatter scatter_add scatter_reduce index index_select index_put index_add index_copy index_fill take
take_along_dim put select_scatter slice_scatter diagonal_scatter as_strided_scatter fill zero fill_diagonal nonzero
argwhere
zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full scalar_tensor arange linspace logspace eye
empty empty_like new_empty empty_strided new_empty_strided empty_permuted
rand rand_like randn randn_like randint randint_like randperm bernoulli uniform normal exponential log_normal
geometric cauchy random multinomial poisson
fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_fftshift
fft_ifftshift fft_hfft stft
sym_size sym_numel sym_stride sym_storage_offset _assert_tensor_metadata _assert_scalar
hann_window hamming_window blackman_window bartlett_window kaiser_window vander cosine_embedding_loss
special_erf special_expit special_logit special_i0 special_gammaln special_log1p special_softmax special_log_softmax
special_logsumexp special_digamma special_psi special_entr special_erfc special_erfinv special_exp2 special_expm1
special_i0e special_i1 special_i1e special_ndtr special_log_ndtr special_round special_sinc special_xlog1py
special_xlogy
_reshape_alias is_floating_point result_type _weight_norm
"""

ALLOWED = frozenset(_NAMES.split())
"""Operators by their base names; one that ends in an underscore works in place and is allowed with its base.

Those that torch calls behind others (`native_batch_norm`, `_cdist_forward`) are not among them: no export shows them,
and they trust their arguments.
"""

ON_SIZES: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in (
        *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "getitem"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
    )},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    **{f"torch.{name}": getattr(torch, name) for name in (
        *("sym_sum", "sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite"),
    )},
}  # fmt: skip
"""Python's arithmetic on numbers of images, by name."""

MOST_NUMBERS = 2**28
"""Most numbers in a result for the few images of an audit: 1 GiB of float32."""

_SIZE_ARGUMENTS = ("size", "repeats", "dims", "output_size", "num_classes", "steps", "n", "N", "window_length")
"""Arguments by which operators are asked for a size."""

_LARGEST_SIZE = 2**62

_SIZES = (bool, int, float, torch.SymBool, torch.SymInt, torch.SymFloat)

_SIZE_NAMES = {function: name for name, function in ON_SIZES.items()}

_LEFT_OUT = ("Generator", "Storage", "Stream", "Dimname", "__torch__")
"""Types of arguments that no call may have: they are no plain data."""


def apply(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call an operator, or Python's arithmetic: with numbers of moderate size, as products of others never end.

    Raises:
        AuditError: arithmetic on what is no number, or with too large a one; or sizes or a divisor that do not fit, and
            that the operator does not check.
    """
    if function is torch.ops.aten._weight_norm.default:
        _refuse_other_norms(*args, **kwargs)
    if isinstance(function, torch._ops.OpOverload):
        refuse_unknown_divisor(function, args, kwargs)
        _refuse_large(function, _asked(function, args, kwargs))
        result = function(*args, **kwargs)
        for made in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(made, Tensor):
                _refuse_large(function, made.numel())
        return result
    if function is operator.getitem:
        return function(*args, **kwargs)
    numbers = args[0] if function is torch.sym_sum and args else args
    largest = 16 if function is operator.pow else _LARGEST_SIZE
    if not all(isinstance(each, _SIZES) for each in numbers) or any(
        type(each) is int and abs(each) > limit
        for each, limit in zip(numbers, (_LARGEST_SIZE, *[largest] * len(numbers)), strict=False)
    ):
        raise malformed(f"the numbers of {_SIZE_NAMES[function]}")
    return function(*args, **kwargs)


def _asked(function: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return how many numbers a call asks for by its sizes; 0 where it names none, or they depend on the images."""
    names = (argument.name for argument in function._schema.arguments)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    sought = ("end",) if function._schema.name == "aten::arange" else _SIZE_ARGUMENTS
    sizes = next((given[name] for name in sought if given.get(name) is not None), 0)
    whole = [*sizes] if isinstance(sizes, (list, tuple)) else [sizes]
    is_known = all(type(each) is int or (type(each) is float and math.isfinite(each)) for each in whole)
    return math.prod(map(int, whole)) if is_known else 0


def _refuse_large(function: Callable[..., Any], numbers: int | torch.SymInt) -> None:
    """Refuse a result that would fill the memory; what is exported has sizes that are not known, and takes none."""
    if type(numbers) is int and numbers > MOST_NUMBERS:
        raise AuditError(
            "memory",
            f"forward makes {numbers:,} numbers at once, with {function}.",
            allowed=f"Allowed: {MOST_NUMBERS:,}.",
            hint="Compute with smaller tensors.",
        )


def _refuse_other_norms(v: Tensor, g: Tensor, dim: int = 0) -> None:
    """Refuse norms of another shape than that of `v` along `dim`: torch would read beyond their memory."""
    shape = tuple(size if axis == dim % v.ndim else 1 for axis, size in enumerate(v.shape)) if dim != -1 else ()
    if tuple(g.shape) != shape or g.dtype != v.dtype:
        raise malformed("the norms of a weight norm")


def name_of(target: object) -> str | None:
    """Return the name under which an operator is handed over, or None for one that is not allowed."""
    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
        return name if _is_allowed(target) else None
    return _SIZE_NAMES.get(target) if callable(target) else None


def named(name: str) -> Callable[..., Any]:
    """Return the operator of a name that `name_of` gives.

    Raises:
        AuditError: there is no such operator, or it is not allowed.
    """
    if name in ON_SIZES:
        return ON_SIZES[name]
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "aten" and _base(parts[1]) in ALLOWED:
        found = getattr(getattr(torch.ops.aten, parts[1], None), parts[2], None)
        if isinstance(found, torch._ops.OpOverload) and _is_allowed(found):
            return found
    raise malformed(f"the operator {name[:60]!r}")


def _base(name: str) -> str:
    return name.removesuffix("_") if not name.startswith("__") and name not in ALLOWED else name


def _is_allowed(target: torch._ops.OpOverload) -> bool:
    is_known = target.namespace == "aten" and _base(target._schema.name.partition("::")[2]) in ALLOWED
    is_packed = target._schema.overload_name == "data"  # a recurrent layer that trusts the lengths it is given
    return is_known and is_of_tensors(target) and not is_packed


def is_of_tensors(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator is one of torch's dispatcher: TorchScript has more, on lists, texts and numbers.

    No export and no recording shows those; they trust their arguments.
    """
    return bool(torch._C._dispatch_has_kernel(operator.name()))


def refuse_foreign_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a call with an argument of a type that is no plain data, or with a name that its operator lacks.

    Raises:
        AuditError: there is one.
    """
    if not isinstance(function, torch._ops.OpOverload):
        if kwargs:
            raise malformed("arithmetic on sizes with named arguments")
        return
    declared = {argument.name: str(argument.type) for argument in function._schema.arguments}
    given = {**dict(zip(declared, args, strict=False)), **kwargs}
    if len(args) > len(declared) or not kwargs.keys() <= declared.keys():
        raise malformed(f"the arguments of {function}")
    for name, value in given.items():
        if value is not None and any(word in declared[name] for word in _LEFT_OUT):
            raise malformed(f"the argument {name} of {function}")
