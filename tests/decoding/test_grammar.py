"""Constrained answers: the same tokens with drafts and without, all of them legal."""

import json
import random
from dataclasses import replace

import jsonschema
import mlx.core as mx
import pytest

from dflash_mlx import Pair, PromptCache, Sampling, decode
from dflash_mlx.errors import GrammarError
from dflash_mlx.text.grammar import Grammar
from tests.equipment.grammars import (
    WIDTH,
    answer,
    encode,
    make_speaker,
    random_root,
    random_sampling,
    text_of,
    tiny_tokenizer,
)
from tests.equipment.tiny import Script, make_drafter, some_prompt
from tests.metal.test_failures import fail_reads, in_service
from tests.models.drafters.test_dflash2 import make_dflash2
from tests.models.drafters.test_dspark import make_dspark

PROMPT = some_prompt(12)
EOS = 2
CASES = [
    pytest.param(i, marks=() if i % 15 == 0 else pytest.mark.full("loop"))
    for i in range(300)
]


def drafter_of(draw, text):
    """A drafter for a text: an untrained one, or one that is right by a plan."""
    if draw.random() < 0.3:
        return make_drafter(vocab_size=WIDTH, mask_token_id=3)
    plan = [draw.randrange(17) for _ in range(5)]
    return Script(text, plan, vocab=512)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_blocks_equal_plain_decoding_and_the_schema_allows_the_text(case):
    draw = random.Random(case)
    schema, sampling = random_root(draw), random_sampling(draw)
    grammar = Grammar.of_json_schema(tiny_tokenizer(), schema)
    model = make_speaker(draw.choice(("llama", "qwen3")))
    options = {"sampling": sampling, "tokens": draw.choice((9, 400, 400, 400))}
    plain, _ = answer(Pair.of(model), PROMPT, grammar, **options)
    pair = Pair.of(model, drafter_of(draw, PROMPT + plain))
    for width in (1 + case % 16, None):
        tokens, _ = answer(pair, PROMPT, grammar, block_size=width, **options)
        assert tokens == plain, (schema, sampling, width)
    assert (plain[-1] == EOS) or len(plain) == options["tokens"]
    if plain[-1] == EOS:
        jsonschema.validate(json.loads(text_of(plain)), schema)


def test_the_best_legal_token_is_chosen():
    model = make_speaker()
    first = next(decode(Pair.of(model), PROMPT)).logits[0]
    digits = Grammar.of_regex(tiny_tokenizer(), "[0-9]{6}")
    legal = mx.array(encode("0123456789"))
    wanted = legal[mx.argmax(first[legal])].item()
    tokens, rounds = answer(Pair.of(model), PROMPT, digits)
    assert tokens[0] == wanted != mx.argmax(first).item()
    assert text_of(tokens).isdigit() and len(text_of(tokens)) == 6
    assert sum((rounds[0].logits[0] > -mx.inf).tolist()) == 10  # also padded rows
    assert all(mx.argmax(r.logits, axis=-1).tolist() == r.tokens for r in rounds)


def test_processors_come_before_the_mask():
    seen = []

    def processor(tokens, logits):
        seen.append(bool(mx.isinf(logits).any().item()))
        return logits - 50 * (mx.arange(WIDTH) == 21)

    options = {"logits_processors": [processor], "tokens": 9}
    grammar = Grammar.of_regex(tiny_tokenizer(), "[0-9]{8}")
    tokens, _ = answer(Pair.of(make_speaker()), PROMPT, grammar, **options)
    assert not any(seen) and 21 not in tokens


@pytest.mark.parametrize("width", (1, 2, 5, 16, None))
def test_filters_see_legal_tokens_only(width):
    """Or top-k of 1 would leave nothing, where the best token is illegal."""
    sampling = Sampling(temp=1.0, top_k=1, top_p=0.1, seed=1)
    grammar = Grammar.of_regex(tiny_tokenizer(), "[0-9]{12}")
    model = make_speaker()
    plain, _ = answer(Pair.of(model), PROMPT, grammar, sampling=sampling)
    assert text_of(plain).isdigit()
    pair = Pair.of(model, Script(PROMPT + plain, [5, 0, 2], vocab=512))
    options = {"sampling": sampling, "block_size": width}
    assert answer(pair, PROMPT, grammar, **options)[0] == plain


LIST = '{"numbers": [1, 2, 3], "name": "Compute the sum of"}'


def exactly(text, *markers):
    """A grammar of one text, with a choice of white space so that little is forced."""
    words = [json.dumps(word) for word in text.split(" ")]
    grammar = Grammar.of_lark(
        tiny_tokenizer(), "start: " + " WS ".join(words) + "\nWS: /[ ]{1,2}/"
    )
    return grammar.after(*markers) if markers else grammar


class Fixed(Script):
    """Proposes a text with one wrong draft at a place of each block."""

    def __init__(self, text, at, wrong):
        super().__init__(text, [99], vocab=WIDTH)
        self.at, self.wrong = at, wrong

    def propose(self, anchor, cache, width, choose):
        ids = super().propose(anchor, cache, width, choose)[0].tolist()
        if self.at < len(ids):
            ids[self.at] = self.wrong
        return mx.array([ids], dtype=mx.uint32)


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("wrong", (5, EOS, 515), ids=("text", "end", "padding"))
def test_an_illegal_draft_at_each_offset_of_a_block(at, wrong):
    model = make_speaker()
    grammar = Grammar.of_regex(tiny_tokenizer(), "[0-9]{30}")
    plain, _ = answer(Pair.of(model), PROMPT, grammar)
    pair = Pair.of(model, Fixed(PROMPT + plain, at, wrong))
    cache = PromptCache(pair)
    options = {"block_size": 8, "prompt_cache": cache}
    tokens, rounds = answer(pair, PROMPT, grammar, **options)
    assert tokens == plain and cache.text == PROMPT + plain
    # The block ends before the illegal draft.
    assert [r.width for r in rounds[1:-1]] == [min(at + 1, 8)] * (len(rounds) - 2)
    assert all(len(r.tokens) == r.width for r in rounds[1:-1])


def say(text, prompt=PROMPT):
    """A processor that makes a model say `text` after a prompt, where it is legal."""

    def processor(tokens, logits):
        at = tokens.shape[0] - len(prompt)
        wanted = text[at] if at < len(text) else EOS
        return logits + 1000 * (mx.arange(logits.shape[-1]) == wanted)

    return processor


def spoken(model, grammar, text, **options):
    """A plain constrained answer of a model that wants to say `text`."""
    processors = [say(text)]
    pair, options = Pair.of(model), options | {"logits_processors": processors}
    return answer(pair, PROMPT, grammar, **options)[0]


@pytest.mark.parametrize("length", range(9))
@pytest.mark.parametrize("width", (8, None))
def test_reasoning_that_ends_at_each_offset_of_a_block(length, width):
    """Behind the marker the model wants to say what is not legal."""
    model, thoughts = make_speaker(), encode("a b c d e f g h i j")[:length]
    start = [*thoughts, *encode("</think>")]
    grammar = Grammar.of_regex(tiny_tokenizer(), r"[0-9]{3}\{\{[0-9]{8}")
    grammar = grammar.after("</think>")
    wanted = [*start, *encode("Sure, 12")]
    plain = spoken(model, grammar, wanted)
    assert plain[: len(start)] == start
    text = text_of(plain[len(start) :])
    assert plain[-1] == EOS and text[3:5] == "{{" and len(text) == 13
    pair = Pair.of(model, Script(PROMPT + plain, [99], vocab=WIDTH))
    options = {"block_size": width, "logits_processors": [say(wanted)]}
    tokens, rounds = answer(pair, PROMPT, grammar, **options)
    assert tokens == plain
    if width:  # every draft was kept, also across the marker
        assert all(r.accepted == r.judged for r in rounds)
        assert len(rounds) == 1 + -(-(len(plain) - 1) // 8)
    wrong = Script(PROMPT + plain, [3, 0, 6], vocab=512)
    assert answer(Pair.of(model, wrong), PROMPT, grammar, **options)[0] == plain


def test_a_brace_is_not_doubled_behind_the_end_of_reasoning():
    """The drafts hold the marker's end and the first tokens of the answer."""
    model, start = make_speaker(), encode("so</think>")
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    grammar = Grammar.of_json_schema(tiny_tokenizer(), schema).after("</think>")
    wanted = [*start, *encode('{{"a": 1}}')]
    plain = spoken(model, grammar, wanted)
    for drafts in (wanted, plain, [*start, *encode('{"{')]):
        pair = Pair.of(model, Lines(PROMPT, drafts))
        options = {"block_size": 16, "logits_processors": [say(wanted)]}
        assert answer(pair, PROMPT, grammar, **options)[0] == plain
    assert json.loads(text_of(plain[len(start) :])) == {"a": 1}


class Lines(Script):
    """Proposes the rest of a text, whatever was said before."""

    def __init__(self, prompt, text):
        super().__init__([*prompt, *text, *[EOS] * 50], [99], vocab=WIDTH)

    def propose(self, anchor, cache, width, choose):
        at = cache[0].offset + 1
        return mx.array([self.text[at : at + width - 1]], dtype=mx.uint32)


@pytest.mark.parametrize("width", (1, 2, 4, 16, None))
@pytest.mark.parametrize(
    ("marker", "pattern", "said", "wanted"),
    [
        # Inside one token: "Compute" holds it, and its end must fit.
        ("put", "[a-z]{3}", ["Compute"], "Compute"),
        ("put", "[0-9]{3}", ["Compute"], None),
        # From inside a token to inside another one.
        ("product", "s[0-9]", [" produ", "cts"], " products"),
        ("product", "[0-9]", [" produ", "cts"], " produ"),
        # White space behind it is skipped, where it does not fit.
        ("x", "[0-9]{2}", ["x", "\n\n"], "x"),
    ],
)
def test_markers_that_begin_and_end_inside_tokens(width, marker, pattern, said, wanted):
    model, grammar = make_speaker(), Grammar.of_regex(tiny_tokenizer(), pattern)
    said = [token for part in said for token in encode(part)]
    grammar = grammar.after(marker)
    plain = spoken(model, grammar, said, tokens=30)
    if wanted is None:
        assert plain[0] != said[0]
    else:
        assert text_of(plain).startswith(wanted)
    script = Script(PROMPT + plain, [3, 0, 7], vocab=512)
    options = {"block_size": width, "logits_processors": [say(said)], "tokens": 30}
    assert answer(Pair.of(model, script), PROMPT, grammar, **options)[0] == plain


@pytest.mark.parametrize("width", (2, 4, 8, 16))
def test_forced_tokens_are_drafts_of_any_drafter(width):
    lark = 'start: "The product is " /[0-9]/ " and the sum is " /[0-9]/'
    model, grammar = make_speaker(), Grammar.of_lark(tiny_tokenizer(), lark)
    plain, rounds = answer(Pair.of(model), PROMPT, grammar)
    assert all(r.width <= 1 for r in rounds)
    wrong = Pair.of(model, Lines(PROMPT, [5] * 50))
    tokens, rounds = answer(wrong, PROMPT, grammar, block_size=width)
    assert tokens == plain
    assert sum(r.accepted for r in rounds) >= (len(plain) - 5) * (width - 1) // width
    assert "grammar" in {r.source for r in rounds} or width > 4


@pytest.mark.parametrize("width", (1, 4, None))
def test_a_forced_text_is_split_as_the_tokenizer_does(width):
    """Whatever the model prefers, and with drafts as without."""
    model, letters = make_speaker(), [t for c in "The product" for t in encode(c)]
    grammar = Grammar.of_regex(tiny_tokenizer(), "The product")
    options = {"block_size": width, "logits_processors": [say(letters)]}
    pair = Pair.of(model, Lines(PROMPT, letters))
    tokens, _ = answer(pair, PROMPT, grammar, **options)
    assert tokens == [*encode("The product"), EOS] and letters[:2] != tokens[:2]


@pytest.mark.parametrize("right", range(9))
def test_the_end_of_the_answer_inside_a_block(right):
    model, grammar = make_speaker(), Grammar.of_regex(tiny_tokenizer(), "[0-9]{7}")
    plain, _ = answer(Pair.of(model), PROMPT, grammar)
    assert plain[-1] == EOS and len(plain) == 8
    pair = Pair.of(model, Script(PROMPT + plain, [right], vocab=512))
    cache = PromptCache(pair)
    options = {"block_size": 16, "prompt_cache": cache}
    tokens, rounds = answer(pair, PROMPT, grammar, **options)
    assert tokens == plain and rounds[-1].ended
    assert cache.text == PROMPT + plain and cache.rows == len(cache.text) - 1


@pytest.mark.parametrize("stop_ids", ((), (5,)))
def test_only_a_token_that_ends_the_answer_follows_a_complete_one(stop_ids):
    model, grammar = make_speaker(), Grammar.of_regex(tiny_tokenizer(), "[0-9]{2}")
    tokens, rounds = answer(Pair.of(model), PROMPT, grammar, stop_ids=stop_ids)
    assert tokens[2:] == [EOS]
    assert sum((rounds[-1].logits[0] > -mx.inf).tolist()) == 1


def test_no_legal_token_is_an_error_and_no_text():
    """A processor may rule out what the grammar needs."""

    def no_digits(tokens, logits):
        digits = mx.array([i in encode("0123456789") for i in range(WIDTH)])
        return mx.where(digits, -mx.inf, logits)

    grammar = Grammar.of_regex(tiny_tokenizer(), "ab[0-9]")
    pair = Pair.of(make_speaker(), make_drafter(vocab_size=WIDTH, mask_token_id=3))
    for width in (1, 4, None):
        cache = PromptCache(pair)
        options = {"logits_processors": [no_digits], "block_size": width}
        seen = []
        with pytest.raises(GrammarError, match="does not allow"):
            options |= {"grammar": grammar, "prompt_cache": cache}
            for round in decode(pair, PROMPT, **options):
                seen += round.tokens
        assert "ab".startswith(text_of(seen)) and cache.text == PROMPT + seen
        assert not cache.broken


def test_a_cache_goes_on_after_a_constrained_answer():
    model, grammar = make_speaker(), Grammar.of_regex(tiny_tokenizer(), "[0-9]{9}")
    drafter = make_drafter(vocab_size=WIDTH, mask_token_id=3)
    pair, more = Pair.of(model, drafter), some_prompt(7, 8)
    cache = PromptCache(pair)
    first, _ = answer(pair, PROMPT, grammar, prompt_cache=cache, block_size=6)
    second, _ = answer(pair, more, grammar, prompt_cache=cache, block_size=6)
    whole = PROMPT + first + more
    assert second == answer(Pair.of(model), whole, grammar)[0]
    free = [
        t
        for r in decode(pair, more, max_tokens=9, prompt_cache=cache)
        for t in r.tokens
    ]
    whole += second + more
    plain = decode(Pair.of(model), whole, max_tokens=9)
    assert free == [t for r in plain for t in r.tokens]


@pytest.mark.parametrize("rounds", range(5))
def test_a_constrained_answer_that_is_closed_leaves_its_cache_usable(rounds):
    model, grammar = make_speaker(), Grammar.of_regex(tiny_tokenizer(), "[0-9]{20}")
    plain, _ = answer(Pair.of(model), PROMPT, grammar)
    pair = Pair.of(model, Script(PROMPT + plain, [3, 0], vocab=512))
    cache, seen = PromptCache(pair), []
    stream = decode(pair, PROMPT, grammar=grammar, prompt_cache=cache, block_size=6)
    for _ in range(rounds):
        seen += next(stream).tokens
    stream.close()
    assert seen == plain[: len(seen)] and cache.text == PROMPT * bool(rounds) + seen
    assert answer(pair, PROMPT, grammar, block_size=6)[0] == plain


def test_answers_share_a_grammar_at_the_same_time():
    model, grammar = make_speaker(), Grammar.of_json_object(tiny_tokenizer())
    grammar = grammar.after("x")
    alone = [spoken(model, grammar, encode(t), tokens=20) for t in ("x", "abxxx")]
    together = [[], []]
    streams = [
        decode(
            Pair.of(model),
            PROMPT,
            max_tokens=20,
            grammar=grammar,
            logits_processors=[say(encode(text))],
        )
        for text in ("x", "abxxx")
    ]
    for rounds in zip(*streams, strict=False):
        for tokens, round in zip(together, rounds, strict=True):
            tokens += round.tokens
    assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize("make", (make_dspark, make_dflash2))
@pytest.mark.parametrize("marker", (None, ":"))
def test_any_drafter_and_changing_widths(controllers, make, marker):
    """Blocks of the drafter, of lookup and of forced tokens, probes, plain rounds."""
    draw = random.Random(len(str(marker)))
    schema = {"type": "array", "items": {"enum": ["Compute", "product", "sum"]}}
    schema |= {"minItems": 6, "maxItems": 6}
    grammar = Grammar.of_json_schema(tiny_tokenizer(), schema)
    grammar = grammar.after(marker) if marker else grammar
    options = {"sampling": random_sampling(draw), "tokens": 120}
    model, said = make_speaker(), [say(encode("so so so so :"))] if marker else None
    plain, _ = answer(
        Pair.of(model), PROMPT, grammar, logits_processors=said, **options
    )
    pair = Pair.of(model, make(vocab_size=WIDTH, mask_token_id=3))
    tokens, rounds = answer(pair, PROMPT, grammar, logits_processors=said, **options)
    assert tokens == plain
    assert len({r.source for r in rounds}) >= 3


@pytest.mark.parametrize("at", (0, 1, 3))
@pytest.mark.parametrize("drafting", (True, False))
def test_a_kernel_that_fails_loses_no_place_in_the_grammar(
    monkeypatch, tmp_path, at, drafting
):
    model, grammar = make_speaker(), exactly(LIST, "x")
    processors = [say(encode("abcx"))]
    plain = spoken(model, grammar, encode("abcx"))
    drafter = Script(PROMPT + plain, [2, 0, 5], vocab=512) if drafting else None
    pair, notices = Pair.of(model, drafter), []
    pair = replace(pair, kernels=(in_service(tmp_path, notices),))
    fail_reads(monkeypatch, {at})
    tokens, _ = answer(pair, PROMPT, grammar, logits_processors=processors)
    assert tokens == plain and len(notices) == 1
