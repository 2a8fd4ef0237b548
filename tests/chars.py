"""A tokenizer of single characters, and chat templates as models have them."""

from __future__ import annotations

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tiny import VOCAB
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHARACTERS = [*map(chr, range(32, 127)), "\n", "\t"]

# Says every turn as it was.
STABLE = """{% for m in messages %}[{{ m.role }}]{{ m.content }}
{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"""
# Opens the reasoning, and drops that of earlier turns.
THINKING = """{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}
{% endfor %}{% if add_generation_prompt %}[assistant]<think>
{% endif %}"""
# Answers without reasoning begin with an empty block, which later turns lack.
EMPTY_BLOCK = """{% for m in messages %}[{{ m.role }}]{{ m.content }}
{% endfor %}{% if add_generation_prompt %}[assistant]<think>

</think>

{% endif %}"""
TEMPLATES = {"stable": STABLE, "thinking": THINKING, "empty block": EMPTY_BLOCK}


def character_tokenizer(template: str) -> TokenizerWrapper:
    """One token a character; no end token but one that no text has."""
    assert len(CHARACTERS) == VOCAB
    words = {character: i for i, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="\t"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = template
    return TokenizerWrapper(fast)
