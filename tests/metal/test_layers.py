"""Kernels in a model's layers: which calls they get, and what is left unchanged."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3
from mlx_lm.models.cache import KVCache, QuantizedKVCache, RotatingKVCache
from mlx_lm.models.switch_layers import SwitchGLU

from dflash_mlx.cache.kinds import OrderedKVCache
from dflash_mlx.decoding.loop import decode
from dflash_mlx.errors import OptionError
from dflash_mlx.metal.layers import (
    ATTENTION,
    OPERATIONS,
    QUANTIZED,
    attention,
    install,
)
from dflash_mlx.metal.operation import Request
from dflash_mlx.metal.selection import find_fault
from dflash_mlx.pair import Pair
from tests.equipment import architectures
from tests.equipment.tiny import make_model


class CallRecorder:
    """Stands in for a dispatch: records calls, and runs them by `run`, if given."""

    def __init__(self, exact=False, run=None):
        self.exact, self.run, self.calls = exact, run, []

    def accepts(self, rows):
        return True

    def call(self, operation, shape, rows, case):
        self.calls.append((operation.name, shape, rows, case))
        return self.run(operation, case) if self.run else None

    @property
    def shapes(self):
        return [shape for _, shape, _, _ in self.calls]


def by_stock(operation, case):
    """A kernel that rounds as MLX does."""
    return operation.stock(**case)


def random(*shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(len(shape))).astype(dtype)


@pytest.mark.parametrize("family", ("qwen3", "llama"))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16-4bit"))
def test_kernels_that_round_alike_give_the_same_logits(family, dtype):
    stock, model = make_model(family, dtype), make_model(family, dtype)
    recorder = CallRecorder(run=by_stock)
    install(model, recorder)
    assert [(k, v.shape) for k, v in tree_flatten(model.parameters())] == [
        (k, v.shape) for k, v in tree_flatten(stock.parameters())
    ]
    ids = mx.arange(6)[None]
    cache, other = ([KVCache() for _ in model.layers] for _ in range(2))
    assert mx.array_equal(model(ids, cache=cache), stock(ids, cache=other))
    matmul = "quantized matmul" if "4bit" in dtype else "matmul"
    assert {name for name, *_ in recorder.calls} == {matmul, "attention"}
    assert len(recorder.calls) == len(model.layers) * (7 + 1) + 1  # and the head
    assert {rows for _, _, rows, _ in recorder.calls} == {6}


def test_sinks_reach_the_kernel():
    stock, model = (architectures.build("gpt_oss") for _ in range(2))
    install(model, CallRecorder(run=by_stock))
    ids = mx.arange(6)[None]
    assert mx.array_equal(model(ids), stock(ids))


def test_each_packing_is_a_shape_of_its_own():
    recorder = CallRecorder()
    for group_size, bits in ((32, 4), (32, 8), (64, 4)):
        layer = nn.QuantizedLinear(64, 32, False, group_size, bits)
        install(nn.Sequential(layer), recorder)
        layer(random(1, 2, 64))
    assert len(set(recorder.shapes)) == 3


@pytest.mark.parametrize("bits", (None, 4))
def test_a_bias_is_added_once(bits):
    layer = nn.Linear(64, 32)
    layer = layer if bits is None else nn.QuantizedLinear.from_linear(layer, 32, bits)
    x = random(1, 3, 64)
    layer.bias = random(32)
    expected = layer(x)
    recorder = CallRecorder(run=by_stock)
    install(nn.Sequential(layer), recorder)
    assert mx.allclose(layer(x), expected, atol=1e-5) and len(recorder.calls) == 1


@pytest.mark.parametrize("bits", (None, 4))
def test_an_embedding_serves_as_head(bits):
    layer = nn.Embedding(96, 64)
    layer = (
        layer if bits is None else nn.QuantizedEmbedding.from_embedding(layer, 32, 4)
    )
    x, ids = random(1, 3, 64), mx.array([[1, 2]])
    expected, rows = layer.as_linear(x), layer(ids)
    recorder = CallRecorder(run=by_stock)
    install(nn.Sequential(layer), recorder)
    assert mx.array_equal(layer.as_linear(x), expected) and len(recorder.calls) == 1
    assert mx.array_equal(layer(ids), rows) and len(recorder.calls) == 1


def test_each_combination_of_dtypes_is_a_shape_of_its_own():
    dtypes = (mx.float32, mx.float16, mx.bfloat16)
    recorder = CallRecorder()
    for of_weight in dtypes:
        for of_x in dtypes:
            layer = nn.Linear(64, 32, bias=False)
            layer.weight = layer.weight.astype(of_weight)
            packed = nn.QuantizedLinear.from_linear(layer, 32, 4)
            install(nn.Sequential(layer, packed), recorder)
            for part in (layer, packed):
                part(random(1, 2, 64, dtype=of_x))
    assert len(set(recorder.shapes)) == len(recorder.shapes) == 18


def attend(keys=12, queries=3, batch=1, mask="causal", cache=None, **dtypes):
    q = random(batch, 4, queries, 32, dtype=dtypes.get("q", mx.float32))
    k = random(batch, 2, keys, 32, dtype=dtypes.get("k", mx.float32))
    recorder = CallRecorder()
    out = attention(recorder, q, k, k, cache, 0.2, mask)
    expected = mx.fast.scaled_dot_product_attention(q, k, k, scale=0.2, mask=mask)
    assert mx.array_equal(out, expected)
    return recorder


def test_attention_calls_kernels_for_masks_that_they_support():
    seen = mx.arange(12) < mx.array([[10], [11], [12]])
    for mask in (None, "causal", seen, seen[None, None]):
        (call,) = attend(mask=mask).calls
        assert call[2] == 3 and call[3]["mask"] is mask
    assert not attend(mask=mx.where(seen, 0.0, -1e9)).calls
    assert not attend(mask=mx.broadcast_to(seen, (1, 4, 3, 12))).calls
    assert not attend(batch=2).calls
    assert attend().shapes != attend(q=mx.float16, k=mx.float16).shapes


@pytest.mark.parametrize("rows, first", ((5, 0), (12, 0), (20, 8)))
def test_attention_passes_the_position_of_the_first_key(rows, first):
    for kind, start in ((KVCache(), 0), (OrderedKVCache(12), first)):
        for row in range(rows):
            keys, values = kind.update_and_fetch(
                *(random(1, 2, 1, 32) + row for _ in range(2))
            )
        recorder = CallRecorder()
        attention(recorder, random(1, 4, 1, 32), keys, values, kind, 0.2, None)
        assert recorder.calls[0][3]["first"] == start


def test_a_quantized_cache_is_left_to_mlx():
    cache, recorder = QuantizedKVCache(32, 4), CallRecorder()
    keys, values = cache.update_and_fetch(random(1, 2, 6, 32), random(1, 2, 6, 32))
    out = attention(recorder, random(1, 4, 6, 32), keys, values, cache, 0.2, "causal")
    assert out.shape == (1, 4, 6, 32) and not recorder.calls


def test_weights_that_no_kernel_supports_are_a_shape_too():
    layer = nn.QuantizedLinear(64, 32, bias=False, group_size=32, bits=4, mode="mxfp4")
    recorder = CallRecorder()
    install(nn.Sequential(layer), recorder)
    layer(random(1, 2, 64))
    ((_, shape, _, case),) = recorder.calls
    assert "mxfp4" in shape and "mxfp4" in str(shape)
    for kernel in QUANTIZED.kernels:
        fault = find_fault(kernel, QUANTIZED.sample(case, 4), QUANTIZED.tail)
        assert "affine" in fault


def test_experts_are_left_alone_unless_exact():
    for exact in (False, True):
        experts = SwitchGLU(32, 64, 4)
        install(nn.Sequential(experts), CallRecorder(exact))
        assert (type(experts) is SwitchGLU) != exact


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_an_operation_can_make_its_calls(operation):
    """A sample has the given rows, a tail gives the end of the result, and a row alone
    gives that row."""
    case = next(c for c in operation.exact.cases() if c.get("mask") != 40)
    sample = operation.sample(case, 5)
    out = operation.stock(**sample)
    assert out.shape[-2] == 5
    tail = operation.stock(**operation.tail(sample))
    assert mx.allclose(tail, out[..., -tail.shape[-1] :], atol=0.05)
    for row in (0, 4):
        alone = operation.stock(**operation.row_alone(sample, row))
        assert mx.allclose(alone, out[..., row : row + 1, :], atol=0.05)


def test_what_a_class_overrides_stays_overridden():
    class Twice(qwen3.Attention):
        def __call__(self, *arguments):
            return 2 * super().__call__(*arguments)

    layer = qwen3.Attention(make_model("qwen3").args)
    expected = 2 * layer(x := random(1, 3, 64))
    layer.__class__ = Twice
    install(nn.Sequential(layer), CallRecorder(run=by_stock))
    assert mx.allclose(layer(x), expected, atol=1e-6)


def test_attention_is_compared_with_a_mask_too():
    case = next(ATTENTION.exact.cases()) | {"mask": None}
    plain, masked = Request(ATTENTION, (), case).samples(4)
    assert plain["mask"] == "causal" and masked["mask"].dtype == mx.bool_
    assert not ATTENTION.exact.refusal(**masked)
    seen = masked["mask"].sum(axis=-1).tolist()
    assert len(set(seen)) == 1 and 1 < seen[0] < plain["k"].shape[2] - 4
    assert masked["mask"][-1, -1] and not masked["mask"][-2, -1]


@pytest.mark.parametrize("window", (None, 6))
def test_an_ordered_window_sees_what_a_ring_sees(window):
    """Row by row and in blocks, before and after the window is full."""
    ring, ordered = RotatingKVCache(8), OrderedKVCache(8)
    for rows in (1, 3, 1, 1, 4, 1, 1, 1, 5, 1, 1):
        seen = []
        masks = [cache.make_mask(rows, window) for cache in (ring, ordered)]
        new = mx.arange(ring.offset, ring.offset + rows)[None, None, :, None]
        for cache, mask in zip((ring, ordered), masks, strict=True):
            keys, _ = cache.update_and_fetch(new, new)
            keys = keys[0, 0, :, 0].tolist()
            if not isinstance(mask, mx.array):
                end = len(keys) - rows if mask == "causal" else len(keys) - 1
                mask = mx.arange(len(keys)) <= mx.arange(end, end + rows)[:, None]
            shown = mx.broadcast_to(mask, (rows, len(keys))).tolist()
            seen.append(
                [sorted(k for k, s in zip(keys, r, strict=True) if s) for r in shown]
            )
        assert seen[0] == seen[1]
        in_order = ordered.keys[0, 0, :, 0].tolist()
        assert in_order == sorted(in_order)


def test_exact_blocks_have_16_rows_at_most():
    pair = Pair.of(make_model("qwen3"))
    pair.target.exact = True
    with pytest.raises(OptionError, match="block_size must be 16 or less with --exact"):
        next(decode(pair, [1, 2, 3], block_size=17))
