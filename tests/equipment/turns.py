"""A character tokenizer, chat templates, and a chat that counts prefilled rows."""

from __future__ import annotations

import string

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.examine import greedy
from dflash_mlx import Pair, PromptCache, decode
from dflash_mlx.cache.prompt_cache import common_prefix
from dflash_mlx.models.targets import make_target
from dflash_mlx.text.chat_template import apply_template, marks
from tests.equipment import architectures
from tests.equipment.scripted import Script

SPECIAL = ["<|s|>", "<|e|>", "<think>", "</think>"]
LETTERS = (string.ascii_letters + string.digits + string.punctuation)[:92]
EARLIER = "<|s|>{{ m['role'][0] }}{{ m['content'].split('</think>')[-1] }}<|e|>"
LOOP = "{% for m in messages %}" + EARLIER + "{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|s|>a"
TEMPLATES = {
    "stable": LOOP + OPEN + "{% endif %}",
    # As in Qwen3, earlier turns lose their reasoning, and ...
    "thinking": LOOP + OPEN + "<think>{% endif %}",
    # ... the empty block of an answer without reasoning.
    "not thinking": LOOP
    + OPEN
    + "{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}",
}
ANSWER = 12  # tokens


def make_tokenizer(template: str) -> TokenizerWrapper:
    """One id per character, 96 in total, which is the models' vocabulary."""
    vocab = {token: i for i, token in enumerate([*LETTERS, *SPECIAL])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        additional_special_tokens=SPECIAL,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
    return TokenizerWrapper(fast)


class CheckedChat:
    """A chat with a random model; each answer is compared with a run without cache.

    Args:
        family: A family of tests/equipment/architectures.
        template: A key of TEMPLATES.
        plan: Number of correct drafts per round; None for plain decoding.
        snapshot_bytes: As in PromptCache.
    """

    def __init__(self, family, template="stable", plan=None, snapshot_bytes=None):
        self.model = architectures.build(family)
        self.drafter = None if plan is None else Script([], plan, block_size=6)
        self.pair = make_counting_pair(self.model, self.drafter)
        self.cache = PromptCache(self.pair, snapshot_bytes=snapshot_bytes)
        self.tokenizer = make_tokenizer(TEMPLATES[template])
        self.template = template
        self.options = {"enable_thinking": template == "thinking"}
        self.messages = []

    def prompt(self):
        """The prompt's token ids, and its marks for PromptCache.reuse."""
        ids = apply_template(self.tokenizer, self.messages, **self.options)
        return ids, marks(self.tokenizer, self.messages, **self.options)

    def expected(self, ids):
        """The answer of a run without cache, which a scripted drafter then drafts."""
        answer = greedy(self.model, ids, ANSWER)
        if self.drafter:
            self.drafter.text = ids + answer
        return answer

    def send(self, question):
        """Add a message and answer it; see `answer`."""
        self.messages.append({"role": "user", "content": question})
        return self.answer()

    def answer(self):
        """Answer the last message.

        Returns:
            The number of prompt rows that passed the target, and the number that had
            to pass if the cache keeps all that it shares with the prompt.
        """
        ids, found = self.prompt()
        new = len(ids) - min(common_prefix(self.cache.tokens, ids), len(ids) - 1)
        passed = self.answer_prompt(ids, found)
        return passed, new

    def answer_prompt(self, ids, found):
        """Answer a prompt with marks; the number of its rows that passed the target."""
        expected, before = self.expected(ids), self.pair.target.rows
        rest = self.cache.reuse(ids, found)
        rounds = decode(self.pair, rest, max_tokens=ANSWER, prompt_cache=self.cache)
        emitted = list(next(rounds).tokens)
        # Rows that plain decoding has already sent ahead are after the prompt.
        passed = self.pair.target.prompt_rows(before, len(ids))
        emitted += [token for round in rounds for token in round.tokens]
        assert emitted == expected
        text = self.tokenizer.decode(emitted)
        if self.template == "thinking":
            text = text[:2] + "</think>" + text[2:]
        self.messages.append({"role": "assistant", "content": text})
        return passed


def make_counting_pair(model, drafter):
    """A pair whose target records the position of each row that passes it."""
    stock = type(make_target(model, None))

    class CountingTarget(stock):
        rows = ()

        def _count(self, tokens, cache):
            at = self.cache_length(cache)
            self.rows += tuple(range(at, at + tokens.shape[1]))

        def cache_length(self, cache):
            held = [entry for entry in cache if "offset" in vars(entry)]
            if held:
                return held[0].offset
            return len(self.rows)

        def forward(self, tokens, cache, taps=()):
            self._count(tokens, cache)
            return super().forward(tokens, cache, taps)

        def prompt_rows(self, before, length):
            """The number of rows of a prompt of `length` that passed since `before`."""
            return sum(at < length for at in self.rows[len(before) :])

    target = CountingTarget(model, None)
    if drafter:
        target.check(drafter.taps)
        drafter.bind(target.embed, target.head)
        target.rows = ()
    return Pair(target, drafter)
