"""Operators of torch 1.5.1, one by one, for nets that compute a dozen each (see nets.py).

`NUMERIC` are those that may lose digits or overflow. Each is computed of the input, whose
magnitude the check varies, and at the edges: near 0, and far from it. `FORMS` are the ways in
which operators are written: of truth values, of integers, of views, with unusual arguments.
"""

import torch
import torch.nn.functional as F

# Values near 0 and far from it; the usual ones and their multiples are the check's own.
EDGES = {
    "near": torch.tensor([[1e-7, -1e-7, 3e-6, -2e-5, 1e-4, -4e-4]]).expand(4, 6)[None],
    "far": torch.tensor([[20.0, -20.0, 90.0, -95.0, 300.0, -1000.0]]).expand(4, 6)[None],
}

NUMERIC = {
    "abs": torch.abs,
    "acos": lambda x: x.tanh().acos(),
    "asin": lambda x: x.tanh().asin(),
    "atan": torch.atan,
    "atan2": lambda x: torch.atan2(x, x.flip(2)),
    "celu": lambda x: F.celu(x, 0.5),
    "cos": lambda x: x.clamp(-100, 100).cos(),
    "cosh": lambda x: x.clamp(-80, 80).cosh(),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(1), -1),
    "cumprod": lambda x: x.tanh().cumprod(2),
    "cumsum": lambda x: x.cumsum(2),
    "distance": lambda x: F.pairwise_distance(x[0], x[0].flip(1)),
    "elu": F.elu,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "exp": lambda x: x.clamp(-200, 80).exp(),
    "expm1": lambda x: x.clamp(-200, 80).expm1(),
    "fmod": lambda x: torch.fmod(x, 0.75),
    "gelu": F.gelu,
    "group_norm": lambda x: F.group_norm(x, 2),
    "hardshrink": F.hardshrink,
    "hardtanh": F.hardtanh,
    "instance_norm": F.instance_norm,
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "log": lambda x: (x.abs() + 1e-6).log(),
    "log10": lambda x: (x.abs() + 1e-6).log10(),
    "log1p": lambda x: x.abs().log1p(),
    "log2": lambda x: (x.abs() + 1e-6).log2(),
    "log_sigmoid": F.logsigmoid,
    "log_softmax": lambda x: F.log_softmax(x, 2),
    "log_softmax_inner": lambda x: F.log_softmax(x, 1),
    "logsumexp": lambda x: x.logsumexp(2),
    "mean": lambda x: x.mean((1, 2)),
    "norm1": lambda x: x.norm(1, 2),
    "norm2": lambda x: x.norm(2, 2),
    "norm3": lambda x: x.norm(3, 2),
    "norm_inf": lambda x: x.norm(float("inf"), 2),
    "normalize": lambda x: F.normalize(x, dim=2),
    "pow_half": lambda x: (x.abs() + 1e-6).pow(0.5),
    "pow_odd": lambda x: x.clamp(-90, 90).pow(3),
    "reciprocal": lambda x: (x + x.sign() * 0.1 + 0.05).reciprocal(),
    "remainder": lambda x: torch.remainder(x, 0.75),
    "rsqrt": lambda x: (x.abs() + 1e-4).rsqrt(),
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "sin": lambda x: x.clamp(-100, 100).sin(),
    "sinh": lambda x: x.clamp(-80, 80).sinh(),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, x.flip(1)),
    "softmax": lambda x: F.softmax(x, 2),
    "softmax_inner": lambda x: F.softmax(x, 1),
    "softmin": lambda x: F.softmin(x, 1),
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, 2.0, 5.0),
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "sqrt": lambda x: x.abs().sqrt(),
    "std": lambda x: x.std(2),
    "std_all": lambda x: x.std(),
    "std_far": lambda x: (x + x.abs().max() * 8).std(2),
    "tan": lambda x: (x.tanh() * 1.2).tan(),
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "var": lambda x: x.var(1, unbiased=False, keepdim=True),
    "var_mean": lambda x: torch.var_mean(x, 2)[0],
}


def _assign(change):
    def function(x):
        y = x * 2
        change(y, x)
        return y

    return function


def _whole(x):
    return (x * 5).clamp(-1000, 1000).long()


FORMS = {
    "bool_sum": lambda x: (x > 0).sum(1),
    "bool_sum_all": lambda x: (x > 0).sum(),
    "bool_cumsum": lambda x: (x > 0).cumsum(1),
    "bool_add": lambda x: (x > 0) + (x.flip(1) > 0),
    "bool_times": lambda x: x * (x > 0),
    "bool_and": lambda x: (x > 0) & (x < 1) | ~(x > -1) ^ (x < 0),
    "bool_cat": lambda x: torch.cat([x > 0, x < 1], 1),
    "bool_pad": lambda x: F.pad(x > 0, (1, 1)),
    "bool_any": lambda x: (x > 0).any(1),
    "bool_all": lambda x: (x > -9).all(),
    "bool_equal": lambda x: (x > 0) == (x < 1),
    "bool_expand": lambda x: (x[:1] > 0).expand(3, 4, 6),
    "bool_zeros": lambda x: torch.zeros_like(x, dtype=torch.bool) | (x > 0),
    "bool_full": lambda x: torch.full_like(x, 1, dtype=torch.bool) & (x > 0),
    "int_max": lambda x: _whole(x).max(1)[0],
    "int_clamp": lambda x: _whole(x).clamp(-2, 3),
    "int_arithmetic": lambda x: 5 - _whole(x).abs() * 3 + _whole(x).sign(),
    "int_divide": lambda x: _whole(x) // 3,
    "int_remainder": lambda x: (_whole(x) % 3, _whole(x) % -3),
    "int_fmod": lambda x: torch.fmod(_whole(x), 3),
    "int_compare": lambda x: (_whole(x) >= 2, _whole(x) == 2),
    "int_sort": lambda x: _whole(x).sort(1)[0],
    "int_topk": lambda x: _whole(x).topk(2, 1)[0],
    "int_cumsum": lambda x: _whole(x).cumsum(1),
    "int_float": lambda x: _whole(x) * x,
    "int_true_divide": lambda x: torch.true_divide(_whole(x), 2),
    "one_hot": lambda x: F.one_hot(_whole(x).clamp(0, 4), 5),
    "where_int": lambda x: torch.where(x > 0, _whole(x), _whole(x) * 2),
    "index_computed": lambda x: x.view(-1)[(x.view(1, -1).argmax(1) + 1) % 24],
    "index_batched": lambda x: x[torch.arange(1)[:, None].repeat(1, 3), x[..., 0].topk(3, 1)[1]],
    "gather_sorted": lambda x: x.gather(1, x[:, :2].argsort(1)),
    "take": lambda x: x.take(torch.tensor([3, 5])),
    "embedding": lambda x: F.embedding(_whole(x).clamp(0, 4), torch.arange(10.0).view(5, 2)),
    "put_mask": _assign(lambda y, x: y.__setitem__(y > 0.5, 1.0)),
    "put_mask_tensor": _assign(lambda y, x: y.__setitem__(y > 0, (x + 1)[y > 0])),
    "put_mask_rows": _assign(lambda y, x: y.__setitem__(x[:, :, 0] > 0, torch.arange(6.0))),
    "put_mask_columns": _assign(lambda y, x: y.__setitem__((slice(None), x[0, :, 0] > 0), 0.0)),
    "put_mask_number": _assign(
        lambda y, x: y.__setitem__((slice(None), x[0, :, 0] > 0), torch.tensor(0.5))
    ),
    "put_indices": _assign(
        lambda y, x: y.__setitem__((slice(None), torch.tensor([0, 2])), x[:, 1:3])
    ),
    "put_added": lambda x: x[0].index_put(
        (torch.tensor([0, 0, 1]),), torch.ones(3, 6), accumulate=True
    ),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, x.flip(1)),
    "masked_softmax": lambda x: F.softmax(x.masked_fill(x > 2, -float("inf")), -1),
    "scatter_best": lambda x: torch.zeros(1, 4, 6).scatter(1, x.argmax(1, keepdim=True), 1.0),
    "causal": lambda x: x.masked_fill(torch.ones(4, 6).triu(1).bool(), -1.0),
    "meshgrid": lambda x: torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(6.0))) + x,
    "linear_vector": lambda x: F.linear(x[0, 0], torch.arange(12.0).view(2, 6), torch.ones(2)),
    "matrix_vector": lambda x: (x[0] @ x[0, 0], x[0, :, 0] @ x[0], x[0, 0] @ x[0, 1]),
    "pool_unbatched": lambda x: (F.max_pool2d(x, 2), F.avg_pool2d(x, 3, 1, 1)),
    "pool_adaptive_unbatched": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "pool_divisor": lambda x: F.avg_pool2d(x[None], 2, divisor_override=3),
    "pool_divisor_whole": lambda x: F.avg_pool2d(
        x[None], 3, 2, 1, ceil_mode=True, divisor_override=4
    ),
    "pool_indices": lambda x: F.max_pool2d(x[None], 2, return_indices=True),
    "unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x[None], 2, return_indices=True), 2),
    "grid_reflected": lambda x: F.grid_sample(
        x[None],
        torch.linspace(-1.5, 1.5, 18).view(1, 3, 3, 2),
        padding_mode="reflection",
        align_corners=False,
    ),
    "grid_border": lambda x: F.grid_sample(
        x[None],
        torch.linspace(-1.5, 1.5, 18).view(1, 3, 3, 2),
        padding_mode="border",
        align_corners=True,
    ),
    "pad_circular": lambda x: F.pad(x[None], (1, 2, 1, 0), mode="circular"),
    "inverse": lambda x: torch.inverse(torch.eye(4) * 2 + 0.1) @ x,
    "addmm": lambda x: torch.addmm(x[0, :, :4], x[0], x[0].t(), beta=2, alpha=0.5),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, :4], x, x.transpose(1, 2), beta=0.5, alpha=2),
    "einsum_diagonal": lambda x: torch.einsum("bii->bi", x[:, :, :4]),
    "einsum_one_letter": lambda x: torch.einsum("iii->i", x.reshape(24)[:8].view(2, 2, 2)),
    "einsum_dots": lambda x: torch.einsum("...i,...i->...", x, x),
    "einsum_three": lambda x: torch.einsum("bij,jk,bil->bkl", x, torch.ones(6, 2), x),
    "cross": lambda x: torch.cross(x[:, :3], x[:, 1:4], 1),
    "interpolate_area": lambda x: F.interpolate(x[None], size=(2, 3), mode="area"),
    "embedding_bag": lambda x: F.embedding_bag(
        _whole(x[0]).clamp(0, 4), torch.arange(10.0).view(5, 2), mode="mean"
    ),
    "embedding_bag_ends": lambda x: F.embedding_bag(
        torch.tensor([0, 2, 1, 3]),
        x[0],
        torch.tensor([0, 1, 4]),
        mode="sum",
        include_last_offset=True,
    ),
    "bilinear": lambda x: F.bilinear(x[0], x[0], torch.ones(2, 6, 6)),
    "diagonals": lambda x: (torch.diag(x[0, 0]), x[0, :, :4].diag(), torch.diag_embed(x)),
    "diagonals_beside": lambda x: (torch.diag_embed(x, 1), torch.diag_embed(_whole(x), -2)),
    "renorm": lambda x: (x.renorm(2, 1, 0.5), x.renorm(float("inf"), 1, 0.5)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2),
    "rotated": lambda x: x.rot90(1, (1, 2)),
    "losses": lambda x: (F.mse_loss(x, x * 2), F.l1_loss(x, x * 2)),
    "cross_entropy": lambda x: F.cross_entropy(x[0], torch.tensor([0, 1, 2, 3])),
    "loss_ignored": lambda x: F.nll_loss(
        F.log_softmax(x[0], 1), torch.tensor([0, -100, 2, 3]), torch.arange(1.0, 7.0)
    ),
    "divergence": lambda x: F.kl_div(
        F.log_softmax(x, 1), torch.arange(24.0).view(1, 4, 6).softmax(1), reduction="batchmean"
    ),
    "finite": lambda x: (torch.isnan(x), torch.isinf(x * 1e38), torch.isfinite(x)),
    "least_number": lambda x: x.masked_fill(x > 0, torch.finfo(x.dtype).min),
}

_OF_EACH = 12


def _group(table):
    names = list(table)
    return [names[start : start + _OF_EACH] for start in range(0, len(names), _OF_EACH)]


def _flatten(values):
    return tuple(
        part for value in values for part in (value if isinstance(value, tuple) else (value,))
    )


def make_sweeps():
    """Return a function of an input (1, 4, 6) by name for each group, and its operators' names."""
    sweeps = {}
    for number, names in enumerate(_group(NUMERIC)):
        functions = [NUMERIC[name] for name in names]
        sweeps[f"sweep_numeric{number}"] = (
            lambda x, functions=functions: tuple(f(x) for f in functions),
            names,
        )
        for edge, values in EDGES.items():
            sweeps[f"sweep_{edge}{number}"] = (
                lambda x, functions=functions, values=values: tuple(
                    f(values + x * 0) for f in functions
                ),
                names,
            )
    for number, names in enumerate(_group(FORMS)):
        functions = [FORMS[name] for name in names]
        sweeps[f"sweep_forms{number}"] = (
            lambda x, functions=functions: _flatten(f(x) for f in functions),
            names,
        )
    return sweeps
