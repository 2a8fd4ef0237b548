"""The embedded pair's tokenizer with a chat template that has tools and reasoning."""

from __future__ import annotations

from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import AutoTokenizer

from dflash_mlx.hub.find import TINY_FOLDER

# In the manner of Qwen3: JSON calls, reasoning that the model opens itself or that the
# template closes, and no reasoning of earlier turns.
TEMPLATE = """\
{%- if tools -%}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call with <tool_call>
{"name": ..., "arguments": ...}
</tool_call><|im_end|>
{% elif messages[0].role == 'system' -%}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'system' and not loop.first -%}
{{ raise_exception('System message must be at the beginning.') }}
{%- elif m.role == 'user' -%}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' -%}<|im_start|>assistant
{% if m.reasoning_content and loop.index0 > ns.last -%}
<think>
{{ m.reasoning_content }}
</think>

{% endif -%}
{{ m.content }}
{%- for call in m.tool_calls or [] -%}{%- set f = call.function %}
<tool_call>
{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}
</tool_call>
{%- endfor -%}<|im_end|>
{% elif m.role == 'tool' -%}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false -%}
<think>

</think>

{% endif -%}
{%- endif -%}
"""


def tool_tokenizer(eos: set[int]) -> Any:
    """The tokenizer, as mlx-lm wraps it.

    Args:
        eos: The tokens that end an answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(TINY_FOLDER)
    tokenizer.chat_template = TEMPLATE
    return TokenizerWrapper(tokenizer, eos_token_ids=sorted(eos))
