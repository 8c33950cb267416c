"""Operators written as others, which torch 1.5.1's exporter knows and exports rightly.

Each function here takes what the operator takes, and is traced in its place on tensors of the same
shapes and types. It returns `LEAVE` for a form that the exporter handles by itself. Constants have
their own values; of other tensors only the shape is to be relied on.
"""

from __future__ import annotations

import itertools
import math
import string
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from stages.fixes.torch.python_values import untraced
from stages.kit.contract import StageError

LEAVE = object()
Decomposition = Callable[..., Any]
_aten = torch.ops.aten
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _is_flag(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype == torch.bool


def _is_integer(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype in _INTEGERS


def _leave(*_: Any) -> Any:
    return LEAVE


def _count(name: str) -> Decomposition:
    """Return a reduction that takes truth values as integers."""
    operator = getattr(_aten, name)
    return lambda x, *rest: operator(x.to(torch.int64), *rest) if _is_flag(x) else LEAVE


def _pool(name: str, rank: int) -> Decomposition:
    """Return a pool that gives one sample (channels, *size) a batch axis."""
    operator = getattr(_aten, name)

    def pool(x: Any, *rest: Any) -> Any:
        if x.dim() != rank + 1:
            return LEAVE
        result = operator(x.unsqueeze(0), *rest)
        if isinstance(result, torch.Tensor):
            return result.squeeze(0)
        return tuple(item.squeeze(0) for item in result)

    return pool


def _avg_pool2d(
    x: Any,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil: bool,
    pads: bool,
    divisor: Optional[int] = None,
) -> Any:
    if x.dim() == 3:
        return _avg_pool2d(x.unsqueeze(0), size, stride, padding, ceil, pads, divisor).squeeze(0)
    if divisor is None:
        return _aten.avg_pool2d(x, size, stride, padding, ceil, pads, None)
    size, padding = _repeat(size, 2), _repeat(padding, 2)
    stride = _repeat(stride, 2) if stride else size
    # Padded to whole windows, so that the mean is of as many elements everywhere.
    amounts: List[int] = []
    for axis in (1, 0):
        length = x.shape[2 + axis] + 2 * padding[axis]
        steps = -(-(length - size[axis]) // stride[axis]) if ceil else 0
        if steps * stride[axis] >= length - padding[axis]:  # it would begin in the padding
            steps -= 1
        missing = max(0, steps * stride[axis] + size[axis] - length)
        amounts += [padding[axis], padding[axis] + missing]
    padded = _aten.constant_pad_nd(x, amounts, 0) if any(amounts) else x
    mean = _aten.avg_pool2d(padded, size, stride, (0, 0), False, True, None)
    return mean * (size[0] * size[1] / divisor)


def _avg_pool2d_or_leave(x: Any, *rest: Any) -> Any:
    divisor = rest[5] if len(rest) > 5 else None
    return LEAVE if x.dim() == 4 and divisor is None else _avg_pool2d(x, *rest)


def _pad(x: Any, amounts: Sequence[int], value: float = 0) -> Any:
    """Pad truth values as integers, as ONNX Runtime 1.4 cannot pad them."""
    if not _is_flag(x):
        return LEAVE
    return _aten.constant_pad_nd(x.to(torch.int32), amounts, int(bool(value))).to(torch.bool)


def _logical(operator: Callable[..., Any]) -> Decomposition:
    """Return arithmetic that is logic for truth values."""

    def combine(x: Any, other: Any, *rest: Any) -> Any:
        return operator(x, other) if _is_flag(x) and _is_flag(other) else LEAVE

    return combine


def _bitwise_and(x: Any, other: Any) -> Any:
    """Write `x & 7` of integers as a remainder; the exporter takes integers for truth values."""
    if not _is_integer(x):
        return LEAVE
    mask = int(other) if not isinstance(other, torch.Tensor) or other.dim() == 0 else 0
    if mask > 0 and mask & (mask + 1) == 0:
        return x % (mask + 1)
    raise StageError(
        "Bitwise `&` of integers has no operator in ONNX.",
        "A mask such as 7 (of low bits alone) is exported as a remainder; compute others outside.",
    )


def _refuse_bits(sign: str) -> Decomposition:
    def refuse(x: Any, other: Any = None) -> Any:
        if not _is_integer(x):
            return LEAVE
        raise StageError(
            f"Bitwise `{sign}` of integers has no operator in ONNX.",
            "Compute it outside of the model, or with arithmetic.",
        )

    return refuse


def _extreme(compare: Callable[..., Any]) -> Decomposition:
    """Return max or min of two integer tensors: ONNX Runtime 1.4 has it for floats only."""

    def choose(x: Any, other: Any = None, *rest: Any) -> Any:
        if rest or not (_is_integer(x) and isinstance(other, torch.Tensor)):
            return LEAVE
        return torch.where(compare(x, other), x, other)

    return choose


def _pow(x: Any, power: Any) -> Any:
    if not _is_integer(x) or isinstance(power, torch.Tensor) or power not in (2, 3):
        return LEAVE
    return x * x if power == 2 else x * x * x


def _fill(name: str) -> Decomposition:
    """Return a factory of truth values; the exporter knows no such type."""
    operator = getattr(_aten, name)

    def fill(*args: Any) -> Any:
        made = operator(*args)
        if made.dtype != torch.bool:
            return LEAVE
        return torch.tensor(made.numpy())

    return fill


def _fill_like(name: str, count: int) -> Decomposition:
    """Return a factory of a tensor's own type, which the exporter takes for float32 if not given.

    The type comes after `count` arguments.
    """
    operator, fill = getattr(torch, name), _fill(name)

    def fill_like(*args: Any) -> Any:
        if args[count] is not None or args[0].dtype in (torch.bool, torch.float32):
            return fill(*args)
        return operator(*args[:count], dtype=args[0].dtype)

    return fill_like


def _fill_with(x: Any, value: Any) -> Any:
    """Write a number all over integers; the exporter makes float32 of them."""
    if isinstance(value, torch.Tensor) or not _is_integer(x):
        return LEAVE
    return torch.full_like(x, value, dtype=x.dtype)


def _index_put(x: Any, indices: Sequence[Any], value: Any, accumulate: bool = False) -> Any:
    """Write an assignment by a mask as a choice, by numbers as one on the leading axes."""
    given = [i for i, index in enumerate(indices) if index is not None]
    tensors = [indices[i] for i in given]
    if len(given) == 1 and tensors[0].dtype in (torch.bool, torch.uint8) and not accumulate:
        return _put_by_mask(x, tensors[0], given[0], value)
    if not all(_is_integer(index) for index in tensors) or given != list(
        range(given[0], given[0] + len(given))
    ):
        return LEAVE
    # The indexed axes come first, where ONNX's ScatterND wants them.
    lead, count = given[0], len(given)
    order = [*range(lead, lead + count), *range(lead), *range(lead + count, x.dim())]
    turned = x.permute(order) if lead else x
    shape = _broadcast_shapes(tensors)
    rest = list(turned.shape[count:])
    value = _spread(value, shape, rest, lead)
    if accumulate:
        made = _add_at(turned, tensors, value, shape)
    else:
        tensors = [index.expand(shape) for index in tensors]
        made = _aten.index_put(turned.contiguous(), tensors, value, False)
    return made.permute([order.index(axis) for axis in range(x.dim())]) if lead else made


def _broadcast_shapes(tensors: Sequence[Any]) -> List[int]:
    with untraced():
        return list(torch.broadcast_tensors(*tensors)[0].shape)


def _spread(value: Any, shape: Sequence[int], rest: Sequence[int], lead: int) -> Any:
    """Expand an assignment's value to (*shape, *rest), with `lead` axes of `rest` moved behind."""
    whole = [*rest[:lead], *shape, *rest[lead:]]
    value = value.expand(whole)
    axes, end = list(range(len(whole))), lead + len(shape)
    return value.permute([*axes[lead:end], *axes[:lead], *axes[end:]]) if lead else value


def _add_at(x: Any, indices: Sequence[Any], value: Any, shape: Sequence[int]) -> Any:
    """Add values at places, of which some may be the same."""
    sizes, rest = list(x.shape[: len(indices)]), list(x.shape[len(indices) :])
    place = indices[0] % sizes[0]
    for index, size in zip(indices[1:], sizes[1:]):
        place = place * size + index % size
    flat = x.reshape([math.prod(sizes), *rest])
    count = math.prod(shape)
    place = place.expand(list(shape)).reshape(count)
    return flat.index_add(0, place, value.reshape([count, *rest])).reshape(x.shape)


def _put_by_mask(x: Any, mask: Any, lead: int, value: Any) -> Any:
    rest = list(x.shape[lead + mask.dim() :])
    if value.numel() != 1 and list(value.shape) != rest:
        return LEAVE
    sizes = [1] * lead + list(mask.shape) + [1] * len(rest)
    value = value.reshape([]) if value.numel() == 1 else value
    return torch.where(mask.to(torch.bool).reshape(sizes), value, x)


def _isinf(x: Any) -> Any:
    return x.abs() == math.inf


def _isfinite(x: Any) -> Any:
    return x.abs() < math.inf


def _addr(x: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Any:
    return x * beta + a.unsqueeze(1) * b.unsqueeze(0) * alpha


def _diag(x: Any, offset: int = 0) -> Any:
    return torch.diagonal(x, offset) if x.dim() == 2 else _diag_embed(x, offset)


def _diag_embed(x: Any, offset: int = 0, first: int = -2, second: int = -1) -> Any:
    if (first, second) != (-2, -1):
        return LEAVE
    size = x.shape[-1] + abs(offset)
    with untraced():
        chosen = torch.diag(torch.ones(x.shape[-1]), offset) > 0
    # Each row's value below the diagonal of an offset above, each column's otherwise.
    padded = _aten.constant_pad_nd(x, (0, abs(offset)), 0)
    values = padded.unsqueeze(-1 if offset >= 0 else -2).expand([*x.shape[:-1], size, size])
    return torch.where(chosen, values, torch.zeros_like(values))


def _rot90(x: Any, times: int, axes: Sequence[int]) -> Any:
    for _ in range(times % 4):
        x = x.transpose(axes[0], axes[1]).flip(axes[0])
    return x


def _reduce(x: Any, reduction: int) -> Any:
    """Reduce a loss, by PyTorch's numbers: 0 not, 1 by the mean, 2 by the sum."""
    return x if reduction == 0 else x.mean() if reduction == 1 else x.sum()


def _mse_loss(x: Any, target: Any, reduction: int = 1) -> Any:
    return _reduce((x - target) * (x - target), reduction)


def _l1_loss(x: Any, target: Any, reduction: int = 1) -> Any:
    return _reduce((x - target).abs(), reduction)


def _smooth_l1_loss(x: Any, target: Any, reduction: int = 1) -> Any:
    size = (x - target).abs()
    return _reduce(torch.where(size < 1, size * size * 0.5, size - 0.5), reduction)


def _kl_div(x: Any, target: Any, reduction: int = 1) -> Any:
    whole = torch.where(target > 0, target * (torch.log(target) - x), torch.zeros_like(x))
    return _reduce(whole, reduction)


def _binary_cross_entropy(x: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    low = torch.tensor(-100.0)
    loss = -(target * torch.max(x.log(), low) + (1 - target) * torch.max((1 - x).log(), low))
    return _reduce(loss if weight is None else loss * weight, reduction)


def _bce_with_logits(
    x: Any, target: Any, weight: Any = None, positive: Any = None, reduction: int = 1
) -> Any:
    scale = 1 if positive is None else 1 + (positive - 1) * target
    loss = (1 - target) * x - scale * torch.nn.functional.logsigmoid(x)
    return _reduce(loss if weight is None else loss * weight, reduction)


def _nll_loss(
    x: Any, target: Any, weight: Any = None, reduction: int = 1, ignored: int = -100
) -> Any:
    """Write the negative log-likelihood of (N, C, ...) as a gather of the targets' elements."""
    axis = 0 if x.dim() == 1 else 1
    kept = target != ignored
    # An ignored target need not be a class.
    target = torch.where(kept, target, torch.zeros_like(target))
    factor = kept.to(x.dtype) if weight is None else weight[target] * kept.to(x.dtype)
    loss = -x.gather(axis, target.unsqueeze(axis)).squeeze(axis) * factor
    if reduction == 1:
        return loss.sum() / factor.sum(), loss
    return _reduce(loss, reduction), loss


def _pdist(x: Any, p: float = 2) -> Any:
    with untraced():
        first, second = torch.triu(torch.ones(x.shape[0], x.shape[0]), 1).nonzero().t()
    return (x[first] - x[second]).norm(p, 1)


def _einsum(equation: str, tensors: Sequence[Any]) -> Any:
    """Write einsum with an ellipsis, a repeated letter or many operands as simple ones."""
    equation = equation.replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    simple = "." not in equation and len(terms) <= 2
    if simple and all(len(set(term)) == len(term) for term in terms):
        return LEAVE
    if "." in equation:
        free = [c for c in string.ascii_lowercase if c not in equation]
        counts = [x.dim() - len(t.replace("...", "")) for t, x in zip(terms, tensors)]
        most = max(counts)
        for i, count in enumerate(counts):
            terms[i] = terms[i].replace("...", "".join(free[most - count : most]))
        if not arrow:
            letters = sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1)
            output = "".join(free[:most]) + "".join(letters)
        output = output.replace("...", "".join(free[:most]))
    elif not arrow:
        output = "".join(sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1))
    operands = list(tensors)
    for i in range(len(terms)):
        while len(set(terms[i])) < len(terms[i]):
            letter = next(c for c in terms[i] if terms[i].count(c) > 1)
            one = terms[i].index(letter)
            other = terms[i].index(letter, one + 1)
            operands[i] = torch.diagonal(operands[i], 0, one, other)
            terms[i] = terms[i][:one] + terms[i][one + 1 : other] + terms[i][other + 1 :] + letter
    while len(operands) > 2:
        rest = set("".join(terms[2:]) + output)
        both = "".join(dict.fromkeys(terms[0] + terms[1]))
        kept = "".join(c for c in both if c in rest)
        joined = torch.einsum(f"{terms[0]},{terms[1]}->{kept}", [operands[0], operands[1]])
        operands, terms = [joined, *operands[2:]], [kept, *terms[2:]]
    return torch.einsum(f"{','.join(terms)}->{output}", operands)


def _broadcast_tensors(tensors: Sequence[Any]) -> Any:
    shape = _broadcast_shapes(tensors)
    return [x if list(x.shape) == shape else x.expand(shape) for x in tensors]


def _embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad: bool = False,
    mode: int = 0,
    sparse: bool = False,
    weights: Any = None,
    last_is_end: bool = False,
) -> Any:
    """Write bags whose offsets are known as a gather and reductions."""
    starts, total = offsets.tolist(), indices.shape[0]
    if last_is_end:
        total = starts.pop()
        indices = indices[:total]
        weights = None if weights is None else weights[:total]
    bags = len(starts)
    if bags > 1 and not any(starts):
        raise StageError(
            "An embedding_bag whose offsets depend on an input has no operator in ONNX.",
            "Give it indices of shape (batch, bag), without offsets.",
        )
    found = torch.nn.functional.embedding(indices, weight)
    if weights is not None:
        found = found * weights.reshape(total, 1)
    if starts != list(range(0, total, max(total // bags, 1))):
        result = _reduce_bags(found, [*starts, total], mode)
    else:
        found = found.reshape(bags, total // bags, -1)
        result = found.sum(1) if mode == 0 else found.mean(1) if mode == 1 else found.max(1)[0]
    return result, offsets, offsets, offsets


def _reduce_bags(found: Any, bounds: Sequence[int], mode: int) -> Any:
    """Reduce rows between known bounds; an empty bag is zero."""
    bags = []
    for begin, end in zip(bounds, bounds[1:]):
        rows = found[begin:end]
        if begin == end:
            bags.append(torch.zeros(found.shape[1]))
        else:
            bags.append(rows.sum(0) if mode == 0 else rows.mean(0) if mode == 1 else rows.max(0)[0])
    return torch.stack(bags)


def _renorm(x: Any, p: float, axis: int, most: float) -> Any:
    axes = [i for i in range(x.dim()) if i != axis % x.dim()]
    size = x.abs()
    if p == float("inf"):
        for i in axes:
            size = size.max(i, keepdim=True)[0]
    else:
        size = size.pow(p).sum(axes, keepdim=True).pow(1 / p)
    return torch.where(size > most, x * (most / (size + 1e-7)), x)


def _max_unpool2d(x: Any, indices: Any, size: Sequence[int]) -> Any:
    """Write max_unpool2d as a scatter of each plane's values."""
    lead = list(x.shape[:-2])
    flat = torch.zeros([*lead, size[0] * size[1]])
    places = indices.reshape([*lead, -1])
    return flat.scatter(len(lead), places, x.reshape([*lead, -1])).reshape([*lead, *size])


def _max_pool_with_indices(rank: int) -> Decomposition:
    """Return a pool whose indices are computed from the window's elements, axis by axis.

    The exporter makes them of a second pool, which onnx-tf takes for indices into all channels.
    """
    pool_of = getattr(_aten, "max_pool{}d".format(rank))

    def pool(
        x: Any,
        size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil: bool = False,
    ) -> Any:
        if x.dim() == rank + 1:
            one, places = pool(x.unsqueeze(0), size, stride, padding, dilation, ceil)
            return one.squeeze(0), places.squeeze(0)
        size = _repeat(size, rank)
        stride, padding = _repeat(stride or size, rank), _repeat(padding, rank)
        dilation = _repeat(dilation, rank)
        values = pool_of(x, size, stride, padding, dilation, ceil)
        space, out = list(x.shape[2:]), list(values.shape[2:])
        ends = [
            max((o - 1) * s + (k - 1) * d + 1 - p - n, 0)
            for o, s, k, d, p, n in zip(out, stride, size, dilation, padding, space)
        ]
        amounts = [n for pair in reversed(list(zip(padding, ends))) for n in pair]
        padded = torch.nn.functional.pad(x, amounts, value=-3.4e38) if any(amounts) else x
        elements, places = [], []
        for offsets in itertools.product(*map(range, size)):
            part = padded
            place = torch.zeros([1] * rank, dtype=torch.int64)
            for axis in range(rank):
                start, step = offsets[axis] * dilation[axis], stride[axis]
                part = part.narrow(2 + axis, start, (out[axis] - 1) * step + 1)
                if step > 1:
                    part = _aten.slice(part, 2 + axis, 0, 2**63 - 1, step)
                with untraced():
                    along = torch.arange(out[axis]) * step + start - padding[axis]
                    shape = [-1 if i == axis else 1 for i in range(rank)]
                    place = place * space[axis] + along.reshape(shape)
            # Flat, since TensorFlow Lite has most operators for four axes at most.
            elements.append(part.reshape([-1]))
            places.append(place.expand(out))
        chosen = torch.stack(elements).argmax(0, keepdim=True)
        with untraced():
            table = torch.stack(places).unsqueeze(1).unsqueeze(1)
            table = table.expand([len(elements), *values.shape]).reshape([len(elements), -1])
        return values, table.gather(0, chosen).reshape(values.shape)

    return pool


def _repeat(numbers: Sequence[int], rank: int) -> List[int]:
    return list(numbers) * rank if len(numbers) == 1 else list(numbers)


DECOMPOSITIONS: Dict[str, Decomposition] = {
    "__and__": _bitwise_and,
    "__or__": _refuse_bits("|"),
    "__xor__": _refuse_bits("^"),
    "adaptive_avg_pool1d": _pool("adaptive_avg_pool1d", 1),
    "adaptive_avg_pool2d": _pool("adaptive_avg_pool2d", 2),
    "adaptive_avg_pool3d": _pool("adaptive_avg_pool3d", 3),
    "adaptive_max_pool1d": _pool("adaptive_max_pool1d", 1),
    "adaptive_max_pool2d": _pool("adaptive_max_pool2d", 2),
    "adaptive_max_pool3d": _pool("adaptive_max_pool3d", 3),
    "add": _logical(torch.logical_or),
    "addr": _addr,
    "avg_pool1d": _pool("avg_pool1d", 1),
    "avg_pool2d": _avg_pool2d_or_leave,
    "avg_pool3d": _pool("avg_pool3d", 3),
    "binary_cross_entropy": _binary_cross_entropy,
    "binary_cross_entropy_with_logits": _bce_with_logits,
    "bitwise_and": _bitwise_and,
    "bitwise_or": _refuse_bits("|"),
    "bitwise_xor": _refuse_bits("^"),
    "broadcast_tensors": _broadcast_tensors,
    "constant_pad_nd": _pad,
    "cumsum": _count("cumsum"),
    "diag": _diag,
    "diag_embed": _diag_embed,
    "einsum": _einsum,
    "embedding_bag": _embedding_bag,
    "fill": _fill_with,
    "full": _fill("full"),
    "full_like": _fill_like("full_like", 2),
    "index_put": _index_put,
    "isfinite": _isfinite,
    "isinf": _isinf,
    "kl_div": _kl_div,
    "l1_loss": _l1_loss,
    "mean": _leave,
    "max": _extreme(torch.gt),
    "max_pool1d": _pool("max_pool1d", 1),
    "max_pool2d": _pool("max_pool2d", 2),
    **{f"max_pool{n}d_with_indices": _max_pool_with_indices(n) for n in (1, 2, 3)},
    "max_pool3d": _pool("max_pool3d", 3),
    "max_unpool2d": _max_unpool2d,
    "min": _extreme(torch.lt),
    "mse_loss": _mse_loss,
    "mul": _logical(torch.logical_and),
    "new_full": _fill("new_full"),
    "new_zeros": _fill("new_zeros"),
    "nll_loss": _nll_loss,
    "nll_loss2d": _nll_loss,
    "ones": _fill("ones"),
    "ones_like": _fill_like("ones_like", 1),
    "pdist": _pdist,
    "pow": _pow,
    "prod": _count("prod"),
    "renorm": _renorm,
    "rot90": _rot90,
    "smooth_l1_loss": _smooth_l1_loss,
    "sum": _count("sum"),
    "zeros": _fill("zeros"),
    "zeros_like": _fill_like("zeros_like", 1),
}
