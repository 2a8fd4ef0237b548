"""Drafts and contexts of several texts in one pass: those of each text alone."""

from random import Random

import mlx.core as mx
import mlx.nn as nn
import pytest

from dflash_mlx import Pair, Sampling, load, load_drafter
from dflash_mlx.decoding.sampling import Chooser
from dflash_mlx.models.drafters import layers
from dflash_mlx.models.drafters.base import Batched
from dflash_mlx.models.drafters.batched import extend_many, propose_many
from dflash_mlx.models.drafters.fields import GEMMA, MARKOV
from dflash_mlx.speculation.lookup import Lookup
from tests.equipment.full import thinned
from tests.equipment.random_weights import quantizable
from tests.equipment.scripted import Script
from tests.equipment.tiny import VOCAB, greedy, make_drafter, make_model
from tests.models.drafters.published import CONFIGS, checkpoint
from tests.models.drafters.test_dflash2 import SAMPLINGS, make_dflash2
from tests.models.drafters.test_dspark import make_dspark

SLIDING = {"layer_types": ("sliding_attention",) * 2, "sliding_window": 13}
MIXED = {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 13}


def dspark(kind, **changes):
    drafter = make_dspark(
        markov_head_type=kind, markov_bias=True, enable_confidence_head=True, **changes
    )
    head = drafter.markov_head  # gates and states shall have an effect
    for name in ("gate_proj", "joint_proj"):
        if name in head:
            head[name].weight = mx.random.normal(head[name].weight.shape) * 0.3
    return drafter


DRAFTERS = {
    "full": lambda: make_drafter(),
    "causal": lambda: make_drafter(is_causal=True),
    "sliding": lambda: make_drafter(**SLIDING),
    "mixed": lambda: make_drafter(is_causal=False, **MIXED),
    "anchored": lambda: make_drafter(window_from_anchor=True, **SLIDING),
    "limited": lambda: make_drafter(window=20),
    "sinks": lambda: make_drafter(attention_sink_bias=True, sample_from_anchor=True),
    "gates": lambda: make_drafter(attention_gate="per-head", norm_context=True),
    "wide gates": lambda: make_drafter(attention_gate="per-element", norm_taps=True),
    "gemma": lambda: make_drafter(model_type=GEMMA, final_logit_softcapping=30.0),
    "dflash2": lambda: make_dflash2(),
    "dflash2 sliding": lambda: make_dflash2(conv_kernel_size=3, **SLIDING),
    **{f"dspark {kind}": lambda kind=kind: dspark(kind) for kind in MARKOV},
    "dspark recurrent": lambda: dspark("rnn", sample_from_anchor=False),
    "dspark noise": lambda: dspark("gated", log_snr_conditioning=True, is_causal=True),
    "dspark headless": lambda: make_dspark(
        markov_rank=0, enable_confidence_head=True, confidence_head_with_markov=False
    ),
}


def bound(drafter, dtype="float32"):
    """The drafter in a dtype, or quantized, with a target's embedding and head."""
    if dtype == "4bit":
        nn.quantize(drafter, 32, 4, class_predicate=quantizable)
    else:
        drafter.set_dtype(getattr(mx, dtype))
    Pair.of(make_model("qwen3", "bfloat16" if dtype == "bfloat16" else "4bit"), drafter)
    return drafter


class Text:
    """One text's context, once kept in passes with other texts and once alone."""

    def __init__(self, drafter, draw: Random, vocab, sampling: Sampling, longest):
        self.together, self.alone = drafter.make_cache(), drafter.make_cache()
        self.size = len(drafter.taps) * hidden_size(drafter)
        self.draw, self.pending = draw, []
        self.tokens = [draw.randrange(vocab)]
        self.lookup = Lookup(self.tokens)
        self.vocab, self.chooser = vocab, Chooser(sampling)
        self.chooser.process(mx.zeros((1, vocab)), mx.array(self.tokens))
        self.commit(draw.choice((1, 9, longest // 5, longest)))

    def commit(self, rows: int) -> None:
        """Add tokens, a third of them from earlier in the text, and features."""
        draw = self.draw
        if len(self.tokens) > 20 and draw.random() < 0.4:
            at = draw.randrange(len(self.tokens) - rows)
            self.tokens += self.tokens[at : at + rows]
        else:
            self.tokens += [draw.randrange(self.vocab) for _ in range(rows)]
        key = mx.random.key(draw.randrange(2**31))
        self.pending.append(mx.random.normal((1, rows, self.size), key=key))

    def flush(self) -> mx.array:
        features, self.pending = mx.concatenate(self.pending, axis=1), []
        return features

    def move(self) -> None:
        """Skip rows or cut some, in both contexts."""
        rows = self.draw.randrange(1, 5)
        for entry in (*self.together, *self.alone):
            entry.skip(rows) if rows % 2 else entry.cut(min(rows, entry.offset))

    def choose(self):
        history = mx.array(self.tokens) if self.chooser.needs_tokens else None
        return self.chooser.for_drafts(history, len(self.tokens) - 1)

    @property
    def anchor(self):
        return mx.array(self.tokens[-1:], mx.uint32)

    def check_contexts(self):
        for ours, theirs in zip(self.together, self.alone, strict=True):
            ours, theirs = ours.read(), theirs.read()
            assert ours.numbers == theirs.numbers
            for pair in zip(ours.arrays, theirs.arrays, strict=True):
                empty = [array is None for array in pair]
                assert all(empty) or mx.array_equal(*pair)


def hidden_size(drafter):
    if isinstance(drafter, Script):
        return 1
    return drafter.config.target_hidden_size or drafter.config.hidden_size


def draft_alone(drafter, text, width, with_confidence):
    """The ids and the confidence [1, width - 1] of one text's own call."""
    if width == 1:
        return mx.zeros((1, 0), mx.uint32), mx.zeros((1, 0))
    arguments = text.anchor, text.alone, width, text.choose()
    if with_confidence:
        return drafter.propose_with_confidence(*arguments)
    return drafter.propose(*arguments), None


def play(drafter, seed: int, rounds: int = 5, vocab: int = VOCAB, longest: int = 300):
    """Random rounds of 2 to 5 texts, of which some draft together: each as alone."""
    draw = Random(seed)
    samplings = draw.sample(list(SAMPLINGS.values()), len(SAMPLINGS))
    confident = getattr(drafter, "confident", False)
    texts = [
        Text(drafter, Random(seed * 10 + i), vocab, samplings[i], longest)
        for i in range(draw.randrange(2, 6))
    ]
    for _ in range(rounds):
        # A text with a match in itself drafts by lookup, and its features wait.
        drafting = [text for text in texts if not text.lookup.find(7)]
        waiting = [text for text in drafting if text.pending]
        features = [text.flush() for text in waiting]
        extend_many(drafter, features, [text.together for text in waiting])
        for text, each in zip(waiting, features, strict=True):
            drafter.extend(each, text.alone)
        widths = [draw.randrange(1, 17) for _ in drafting]
        found = propose_many(
            drafter,
            [text.anchor for text in drafting],
            [text.together for text in drafting],
            widths,
            [text.choose() for text in drafting],
            with_confidence=confident,
        )
        for text, width, (ids, confidence) in zip(drafting, widths, found, strict=True):
            assert ids.shape == (1, width - 1)
            wanted = draft_alone(drafter, text, width, confident)
            assert ids.tolist() == wanted[0].tolist()
            assert (confidence is None) == (not confident)
            assert not confident or mx.array_equal(confidence, wanted[1])
            text.check_contexts()
        for text in texts:
            text.commit(draw.randrange(1, 12))
            if draw.random() < 0.2:
                text.move()


@pytest.mark.parametrize(
    ("kind", "dtype"), thinned(DRAFTERS, ("float32", "bfloat16", "4bit"), "loop", 3)
)
def test_texts_together_are_as_alone(kind, dtype):
    play(bound(DRAFTERS[kind](), dtype), seed=list(DRAFTERS).index(kind))


@pytest.mark.full("loop")
@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "4bit"))
@pytest.mark.parametrize("kind", DRAFTERS)
def test_more_texts_together_are_as_alone(kind, dtype):
    drafter = bound(DRAFTERS[kind](), dtype)
    for seed in range(100, 106):
        play(drafter, seed, rounds=8)


@pytest.mark.parametrize(
    ("name", "dtype"), thinned(CONFIGS, ("float32", "bfloat16", "4bit"), "loop", 3)
)
def test_published_packagings_together_are_as_alone(name, dtype, tmp_path):
    play(bound(load_drafter(checkpoint(tmp_path / name, name)), dtype), 3, rounds=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bits"), [("tiny", None), ("tiny", 4), ("tiny-dflash2", None)]
)
def test_the_embedded_heads_together_are_as_alone(name, bits, uncalibrated):
    """The second one is quantized as it is."""
    target, drafter = load("tiny")[0].target, load_drafter(name, quantize=bits)
    drafter.bind(target.embed, target.head)
    assert (drafter.bits is None) == (name == "tiny" and bits is None)
    # MLX's products of quantized matrices are slow on a CPU.
    play(drafter, seed=1, rounds=3, vocab=target.vocab_size, longest=30)


class Counting(Script):
    """Satisfies the Drafter protocol and no more: drafts by anchor and position."""

    def __init__(self):
        super().__init__([], [])
        self.calls = []

    def propose(self, anchor, cache, width, choose):
        self.calls.append(width)
        first = anchor.item() + cache[0].offset
        return mx.array([[(first + i) % self.vocab for i in range(1, width)]])


class Confiding(Counting):
    confident = True

    def propose_with_confidence(self, *arguments):
        ids = self.propose(*arguments)
        return ids, ids / self.vocab


@pytest.mark.parametrize("kind", (Counting, Confiding))
def test_a_drafter_of_the_users_own_is_called_for_each_text(kind):
    drafter = kind()
    assert not isinstance(drafter, Batched)
    for seed in range(5):
        play(drafter, seed)
    drafter.calls.clear()
    caches, widths = [drafter.make_cache() for _ in range(4)], [3, 1, 9, 4]
    propose_many(drafter, [mx.array([5])] * 4, caches, widths, [greedy] * 4)
    assert sorted(drafter.calls) == [3, 4, 9]


def many(drafter, widths, contexts, choose=greedy, with_confidence=False):
    """Drafts of texts with random contexts of these lengths."""
    caches = [drafter.make_cache() for _ in widths]
    for rows, cache in zip(contexts, caches, strict=True):
        if rows:
            size = len(drafter.taps) * hidden_size(drafter)
            features = mx.random.normal((1, rows, size), key=mx.random.key(rows))
            drafter.extend(features, cache)
    anchors = [mx.array([7 + i], mx.uint32) for i in range(len(widths))]
    chooses = [choose] * len(widths)
    return propose_many(drafter, anchors, caches, widths, chooses, with_confidence)


@pytest.mark.parametrize("kind", ("full", "dflash2", "dspark rnn"))
def test_a_text_of_width_one_drafts_nothing(kind):
    drafter = bound(DRAFTERS[kind]())
    confident = kind == "dspark rnn"
    assert many(drafter, [], []) == []
    for widths in ([1], [1, 1], [1, 4, 1, 2], [2, 1, 16]):
        found = many(drafter, widths, [3 * w for w in widths], greedy, True)
        for width, (ids, confidence) in zip(widths, found, strict=True):
            assert ids.shape == (1, width - 1)
            assert (confidence.shape == ids.shape) if confident else confidence is None
    extend_many(drafter, [], [])


@pytest.mark.parametrize("kind", DRAFTERS)
def test_weights_are_read_once_for_all_texts(kind, monkeypatch):
    """As many products of matrices as for one text: of attention's there are more."""

    def attend(queries, keys, values, **_):
        return queries + 0 * (keys[..., -1:, :] + values[..., -1:, :]).sum(1)

    monkeypatch.setattr(layers, "scaled_dot_product_attention", attend)
    drafter = bound(DRAFTERS[kind]())

    def products(compute, *inputs):
        events = []
        mx.disable_compile()  # what is fused cannot be exported
        try:
            mx.export_function(events.append, compute, *inputs)
        finally:
            mx.enable_compile()
        names = [event["name"] for event in events if event["type"] == "primitive"]
        found = [n for n in names if n in ("Matmul", "AddMM", "QuantizedMatmul")]
        assert found
        return len(found)

    def draft(texts):
        caches = [drafter.make_cache() for _ in range(texts)]
        widths = [9, 5, 9, 2][:texts]

        def compute(anchors):
            chooses = [greedy] * texts
            found = propose_many(drafter, list(anchors), caches, widths, chooses)
            return [ids for ids, _ in found]

        return products(compute, mx.arange(texts)[:, None])

    def extend(texts):
        caches = [drafter.make_cache() for _ in range(texts)]
        size = len(drafter.taps) * hidden_size(drafter)

        def compute(features):
            parts = [features[:, : 2 + i] for i in range(texts)]
            extend_many(drafter, parts, caches)
            return [a for cache in caches for entry in cache for a in entry.arrays()]

        return products(compute, mx.zeros((1, 9, size)))

    assert draft(4) == draft(1)
    assert extend(4) == extend(1)
