"""A tokenizer of characters, chat templates, and a chat that counts its rows."""

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
ASK = "{% if add_generation_prompt %}<|s|>a"
TEMPLATES = {
    "stable": LOOP + ASK + "{% endif %}",
    # Qwen3's manners: earlier turns lose their reasoning, and ...
    "thinking": LOOP + ASK + "<think>{% endif %}",
    # ... the empty block of an answer without any vanishes.
    "not thinking": LOOP
    + ASK
    + "{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}",
}
ANSWER = 12  # tokens


def make_tokenizer(template: str) -> TokenizerWrapper:
    """One id a character, 96 in all, as many as the models of architectures.py have."""
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


class Conversation:
    """A chat of a random model, whose every answer is checked against a fresh one.

    Args:
        family: The model's; see bench/architectures.py.
        template: Of TEMPLATES.
        plan: Right drafts per round; None for plain decoding.
        snapshot_bytes: As in PromptCache.
    """

    def __init__(self, family, template="stable", plan=None, snapshot_bytes=None):
        self.model = architectures.build(family)
        self.drafter = None if plan is None else Script([], plan, block_size=6)
        self.pair = counted(self.model, self.drafter)
        self.cache = PromptCache(self.pair, snapshot_bytes=snapshot_bytes)
        self.tokenizer = make_tokenizer(TEMPLATES[template])
        self.template = template
        self.options = {"enable_thinking": template == "thinking"}
        self.messages = []

    def prompt(self):
        """The ids of the chat so far, and their marks."""
        ids = apply_template(self.tokenizer, self.messages, **self.options)
        return ids, marks(self.tokenizer, self.messages, **self.options)

    def wanted(self, ids):
        """A fresh run's answer."""
        wanted = greedy(self.model, ids, ANSWER)
        if self.drafter:
            self.drafter.text = ids + wanted
        return wanted

    def ask(self, question):
        """Say something; see `answer`."""
        self.messages.append({"role": "user", "content": question})
        return self.answer()

    def answer(self):
        """Answer the last message.

        Returns:
            How many of the prompt's rows passed the target, and how many had to if
            all is kept that the prompt shares with what is held.
        """
        ids, stops = self.prompt()
        new = len(ids) - min(common_prefix(self.cache.tokens, ids), len(ids) - 1)
        passed = self.pass_on(ids, stops)
        return passed, new

    def pass_on(self, ids, stops):
        """Answer a prompt, as a fresh run would; how many of its rows were passed."""
        wanted, before = self.wanted(ids), self.pair.target.rows
        rest = self.cache.reuse(ids, stops)
        rounds = decode(self.pair, rest, max_tokens=ANSWER, prompt_cache=self.cache)
        said = list(next(rounds).tokens)
        # What plain decoding has sent ahead by now is behind the prompt.
        passed = self.pair.target.prompt_rows(before, len(ids))
        said += [token for round in rounds for token in round.tokens]
        assert said == wanted
        text = self.tokenizer.decode(said)
        if self.template == "thinking":
            text = text[:2] + "</think>" + text[2:]
        self.messages.append({"role": "assistant", "content": text})
        return passed


def counted(model, drafter):
    """A pair whose target counts the rows that it passes, by their position."""
    stock = type(make_target(model, None))

    class Counted(stock):
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
            """Rows of a prompt of `length` among those passed since `before`."""
            return sum(at < length for at in self.rows[len(before) :])

    target = Counted(model, None)
    if drafter:
        target.check(drafter.taps)
        drafter.bind(target.embed, target.head)
        target.rows = ()
    return Pair(target, drafter)
