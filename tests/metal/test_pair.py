"""Whole pairs on the emulator, with kernels in every layer."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models import switch_layers

from benchmarks.examine import block_against_rows, check_loop
from dflash_mlx import PromptCache, decode, load
from dflash_mlx.bench.verify import compare
from dflash_mlx.errors import UnsupportedError
from dflash_mlx.metal import attention, block_matmul, delta_rule, experts, linear
from dflash_mlx.metal.dispatch import Dispatch
from dflash_mlx.metal.kernel import Kernel
from dflash_mlx.metal.verdicts import STOCK, Verdict, Verdicts
from dflash_mlx.pair import Pair
from dflash_mlx.text.chat_template import apply_template
from dflash_mlx.tuning.kernels import check_exact, ignore, install_kernels
from tests import emulator
from tests.equipment import architectures
from tests.equipment.tiny import (
    Script,
    make_model,
    run,
    some_prompt,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_checks():
    """Run quickly: the kernels' own tests check accesses and the order of threads."""
    with emulator.using(seeds=(0,), checks=False):
        yield


PLAN = (2, 0, 5, 1, 99, 3)


def install(tmp_path, pair, mode, notice=ignore):
    """Install kernels, with verdicts in a file of the test's own."""
    verdicts = Verdicts("chip", tmp_path / "verdicts.json")
    return install_kernels(pair, mode, notice, verdicts)


def plan_choices(monkeypatch, *choices):
    """Race nothing: the first of `choices` that supports a shape runs it."""

    def choose_kernel(request, rows):
        kernels = {kernel.name: kernel for kernel in request.operation.kernels}
        case = request.operation.sample(request.case, rows)
        found = [
            name
            for name in choices
            if name in kernels and not kernels[name].refusal(**case)
        ]
        return Verdict(*found[:1] or [STOCK], "as planned")

    monkeypatch.setattr("dflash_mlx.metal.dispatch.choose_kernel", choose_kernel)


def with_kernels(monkeypatch, tmp_path, pair, mode, *choices):
    """The pair with these kernels, of which none is dropped or unsupported."""
    plan_choices(monkeypatch, *choices)
    notices = []
    pair = install(tmp_path, pair, mode, notices.append)
    assert not [line for line in notices if "is off" in line or "depend" in line]
    return pair


def record_launches(monkeypatch):
    """A set that receives the name of every kernel launched from now on."""
    launched = set()
    stock = Kernel.__getattribute__

    def record(kernel, name):
        if name == "launch":
            launched.add(stock(kernel, "name"))
        return stock(kernel, name)

    monkeypatch.setattr(Kernel, "__getattribute__", record)
    return launched


def count_to_30(tokenizer):
    """The ids of a prompt that the embedded pair answers well."""
    messages = [{"role": "user", "content": "Count from 1 to 30."}]
    return apply_template(tokenizer, messages)


@pytest.mark.full("metal")
@pytest.mark.parametrize("bits", (4, None))
def test_exact_is_bit_for_bit_for_the_embedded_pair(metal, monkeypatch, tmp_path, bits):
    pair, tokenizer = load("tiny", quantize=bits, draft_quantize=bits, kernels="off")
    ids, stop = count_to_30(tokenizer), tokenizer.eos_token_ids
    expected = run(pair, ids, 64, speculate=False)
    monkeypatch.setattr("dflash_mlx.tuning.kernels.WIDTHS", range(2, 17))
    pair = with_kernels(monkeypatch, tmp_path, pair, "exact")
    launched = record_launches(monkeypatch)
    assert run(pair, ids, 64) == expected
    matmul = "quantized_matmul_exact" if bits else "matmul_exact"
    assert launched == {matmul, "block_attention"}
    assert pair.kernels_in_service == sorted(launched)
    for block_size in (2, 5, 16):
        found = compare(pair, ids, "", stop, 24, block_size)
        assert found.verdict == "identical" and found.bits and found.tokens == 24


@pytest.mark.parametrize(
    "bits", (4, pytest.param(None, marks=pytest.mark.full("metal")))
)
def test_fast_kernels_draft_and_verify_as_the_cpu_does(
    metal, monkeypatch, tmp_path, bits
):
    pair, tokenizer = load("tiny", quantize=bits, draft_quantize=bits, kernels="off")
    ids = count_to_30(tokenizer)
    expected = run(pair, ids, 64, speculate=False)
    fast = "quantized_matmul_fast" if bits else "matmul_fast"
    pair = with_kernels(monkeypatch, tmp_path, pair, "auto", fast, "block_attention")
    launched = record_launches(monkeypatch)
    # A fixed width, because drafting does not pay at the emulator's speed.
    rounds = list(decode(pair, ids, max_tokens=64, block_size=8))
    assert [token for round in rounds for token in round.tokens] == expected
    assert launched == {fast, "block_attention"}
    assert len(rounds) < 20  # the drafter drafts well with its kernels, too


def test_a_broken_kernel_does_not_change_the_answer(metal, monkeypatch, tmp_path):
    pair, tokenizer = load("tiny", kernels="off")
    ids = count_to_30(tokenizer)
    expected = run(pair, ids, 24, speculate=False)
    pair = with_kernels(monkeypatch, tmp_path, pair, "auto", "matmul_fast")
    calls, stock = iter(range(10**6)), Kernel.__getattribute__

    def failing(*args, **kwargs):
        raise RuntimeError("[metal::Device] Unable to build metal library from source")

    def breaking(kernel, name):
        late = name == "launch" and next(calls) > 40
        return failing if late else stock(kernel, name)

    monkeypatch.setattr(Kernel, "__getattribute__", breaking)
    assert run(pair, ids, 24, block_size=8) == expected
    assert {"matmul_fast"} == {name for d in pair.kernels for name in d.dropped}


@pytest.mark.parametrize("family", ("qwen3_next", "qwen3_5"))
def test_recurrent_states_are_rolled_back_by_the_tape(
    metal, monkeypatch, tmp_path, family
):
    # A head size that the kernel supports.
    monkeypatch.setitem(architectures.COMMON, "linear_key_head_dim", 32)
    model = architectures.build(family)
    prompt = some_prompt(20)
    answer = run(Pair.of(model), prompt, 30)
    pair = Pair.of(model, Script(prompt + answer, PLAN))
    plan_choices(monkeypatch)
    pair = install(tmp_path, pair, "exact")
    launched = record_launches(monkeypatch)
    result = check_loop(pair, prompt, answer, slack=1e-3)
    assert result.cache == 0
    assert {"gated_delta_block", "gated_delta_rewind"} <= launched


@pytest.mark.parametrize(
    ("family", "window"),
    [
        ("gemma3_text", 16),
        pytest.param("gemma3_text", 48, marks=pytest.mark.full("metal")),
        pytest.param("gpt_oss", 16, marks=pytest.mark.full("metal")),
        pytest.param("gpt_oss", 48, marks=pytest.mark.full("metal")),
    ],
)
def test_exact_holds_where_windows_are_full(
    metal, monkeypatch, tmp_path, family, window
):
    monkeypatch.setitem(architectures.COMMON, "head_dim", 32)
    monkeypatch.setitem(architectures.COMMON, "sliding_window", window)
    pair = Pair.of(architectures.build(family))
    pair = with_kernels(monkeypatch, tmp_path, pair, "exact")
    launched = record_launches(monkeypatch)
    assert block_against_rows(pair.target, some_prompt(70)) == 0
    assert "block_attention" in launched


def test_exact_is_refused_where_layers_share_keys(metal, monkeypatch, tmp_path):
    """The position of the first key of a window is unknown in such a layer."""
    for name in ("head_dim", "global_head_dim"):
        monkeypatch.setitem(architectures.COMMON, name, 32)
    monkeypatch.setitem(architectures.COMMON, "sliding_window", 48)
    pair = Pair.of(architectures.build("gemma4_text"))
    with pytest.raises(UnsupportedError, match="attend to keys of other layers"):
        install(tmp_path, pair, "exact")


@pytest.mark.parametrize("wrong", (0.0, 1.01, float("nan")))
def test_exact_is_refused_where_a_kernel_is_wrong(metal, monkeypatch, tmp_path, wrong):
    stock = block_matmul.dense
    right = linear.MATMUL.exact

    def launch(x, weight):
        return stock(x, weight) * wrong

    bad = replace(right, launch=launch)
    monkeypatch.setattr(linear, "MATMUL", replace(linear.MATMUL, exact=bad))
    pair = Pair.of(make_model("qwen3"))
    with pytest.raises(UnsupportedError, match="matmul_exact kernel is wrong here"):
        install(tmp_path, pair, "exact")


def test_exact_is_refused_where_masked_attention_is_wrong(metal, monkeypatch, tmp_path):
    """The check of the whole model is too short to fill a window."""
    right = attention.ATTENTION.exact

    def launch(mask, **case):
        out = right.launch(mask=mask, **case)
        return out * 1.01 if isinstance(mask, mx.array) else out

    bad = replace(attention.ATTENTION, exact=replace(right, launch=launch))
    monkeypatch.setattr(attention, "ATTENTION", bad)
    pair = Pair.of(make_model("qwen3"))
    with pytest.raises(UnsupportedError, match="block_attention kernel is wrong here"):
        install(tmp_path, pair, "exact")


def test_a_target_without_a_drafter_need_not_be_verified(metal, monkeypatch, tmp_path):
    pair = Pair.of(architectures.build("longcat_flash_ngram"))
    with pytest.raises(UnsupportedError, match="its embedding"):
        _ = pair.target.parts
    pair = with_kernels(monkeypatch, tmp_path, pair, "auto")
    assert len(run(pair, some_prompt(9), 4)) == 4


def test_only_the_target_is_exact(metal, monkeypatch, tmp_path):
    monkeypatch.setattr("dflash_mlx.tuning.kernels.check_exact", lambda target: None)
    pair, _ = load("tiny", kernels="off")
    pair = with_kernels(monkeypatch, tmp_path, pair, "exact")
    assert [dispatch.exact for dispatch in pair.kernels] == [True, False]
    assert pair.drop_kernels("hung") and all(d.dropped for d in pair.kernels)
    again = with_kernels(monkeypatch, tmp_path, Pair.of(pair.model), "exact")
    layer = pair.target.parts.list_layers(pair.model)[0]
    assert layer.mlp.up_proj.dispatch is again.kernels[0]


def test_a_call_without_a_kernel_clears_the_tape():
    rule = delta_rule.DeltaRule(Dispatch(verdicts=Verdicts("chip", Path("none"))))
    rule.tape = "of another call"
    q, gate, ones = mx.ones((1, 2, 1, 16)), mx.ones((1, 2, 1)), mx.ones((1,))
    rule(q, q, q, gate, gate, ones, ones)
    assert rule.tape is None


@pytest.mark.parametrize("family", ("qwen3_moe", "gpt_oss"))
def test_exact_keeps_experts_from_sorting_rows(metal, monkeypatch, tmp_path, family):
    model = architectures.build(family)
    sizes, stock = set(), switch_layers.SwitchLinear.__call__

    def call(layer, x, indices, sorted_indices=False):
        sizes.add((indices.size, sorted_indices))
        return stock(layer, x, indices, sorted_indices)

    monkeypatch.setattr(switch_layers.SwitchLinear, "__call__", call)
    monkeypatch.setattr(experts, "SORT_THRESHOLD", 12)
    pair = Pair.of(model)
    plain = pair.target.forward(mx.arange(16)[None], pair.target.make_cache())[0]
    plan_choices(monkeypatch)
    pair = install(tmp_path, pair, "exact")
    sizes.clear()
    block = pair.target.forward(mx.arange(16)[None], pair.target.make_cache())[0]
    assert mx.allclose(block, plain, atol=1e-4)
    assert max(size for size, _ in sizes) < 12 and not any(s for _, s in sizes)


def test_exact_is_refused_where_one_row_takes_another_form(
    metal, monkeypatch, tmp_path
):
    pair = Pair.of(architectures.build("kimi_linear"))  # latent attention
    with pytest.raises(UnsupportedError, match="2 rows together"):
        install(tmp_path, pair, "exact")


def test_exact_needs_every_layer(metal, monkeypatch, tmp_path):
    pair = Pair.of(make_model("qwen3"))
    pair = with_kernels(monkeypatch, tmp_path, pair, "exact")
    check_exact(pair.target)
    dispatch = pair.kernels[0]
    dispatch.drop("block_attention", "planned")
    cache = PromptCache(pair)
    assert run(pair, some_prompt(9), 8, prompt_cache=cache)  # still answers
    assert mx.array(cache.tokens).size
