"""--thinking and --reasoning-effort: template arguments, and the published warnings."""

import re
from types import SimpleNamespace

import pytest

from dflash_mlx import load
from dflash_mlx.errors import OptionError
from dflash_mlx.hub.registry import drafter_entry, targets
from dflash_mlx.terminal.thinking import Thinking
from dflash_mlx.text.template_switches import switch_of, variables

SWITCH = (
    "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}quiet{% endif %}"
)


EFFORT = "{{ 'thinking hard' }}{{ m.thinking }}{{ reasoning_effort }}"


def tokenizer(template, default=True):
    def apply(messages, **options):
        on = options.get("enable_thinking", options.get("thinking", default))
        return "prompt" if on else "prompt quiet"

    return SimpleNamespace(
        chat_template=template,
        has_chat_template=True,
        has_thinking=template is None,
        apply_chat_template=apply,
    )


def test_template_arguments():
    switched = tokenizer(SWITCH)
    assert Thinking().template_arguments(switched) == {}
    assert Thinking("on").template_arguments(switched) == {"enable_thinking": True}
    assert Thinking("off").template_arguments(switched) == {"enable_thinking": False}
    other = tokenizer("{% if thinking %}{% endif %}")
    assert Thinking("off").template_arguments(other) == {"thinking": False}
    program = tokenizer(None)
    assert Thinking("off").template_arguments(program) == {"enable_thinking": False}
    effort = tokenizer(EFFORT)
    assert Thinking(effort="low").template_arguments(effort) == {
        "reasoning_effort": "low"
    }
    several = tokenizer({"default": EFFORT, "tools": SWITCH})
    assert len(Thinking("on", "high").template_arguments(several)) == 2


def test_templates_without_a_switch_are_refused():
    for words, thinking, template in (
        ("no thinking switch. Leave", Thinking("off"), "You are thinking."),
        ("no thinking switch. Use --reasoning-effort low", Thinking("off"), EFFORT),
        ("no reasoning effort. Use --thinking", Thinking(effort="low"), SWITCH),
        ("no reasoning effort. Leave", Thinking(effort="low"), ""),
    ):
        with pytest.raises(OptionError, match=words):
            thinking.template_arguments(tokenizer(template))
    for options in ({"mode": "maybe"}, {"effort": " "}):
        with pytest.raises(OptionError):
            Thinking(**options)
    _, tiny = load(draft="none")
    with pytest.raises(OptionError, match="no thinking switch"):
        Thinking("on").template_arguments(tiny)


def test_variables_are_names_in_code():
    code = "{%- if enable_thinking is defined -%} thinking {{ m.effort ~ 'it\\'s x' }}"
    assert variables(code) == {"if", "enable_thinking", "is", "defined", "m"}
    assert switch_of(tokenizer("{{ 'thinking' }} thinking {{ a.thinking }}")) is None


def test_warnings_give_the_published_figures():
    model = tokenizer(SWITCH)
    eight = drafter_entry("z-lab/Qwen3-8B-DFlash-b16")
    (line,) = Thinking("on").warnings(eight, model)
    assert "25 % drafts accepted with thinking on, 60 % with thinking off" in line
    assert Thinking("off").warnings(eight, model) == []
    moe = drafter_entry("z-lab/Qwen3.5-35B-A3B-DFlash")
    (line,) = Thinking("off").warnings(moe, model)
    assert "2.71 to 3.86 tokens per round" in line and "9.49 with thinking on" in line
    (line,) = Thinking("on").warnings(drafter_entry("z-lab/Qwen3-4B-DFlash-b16"), model)
    assert "non-thinking" in line and not re.search(r"\d+ ?%|\d\.\d", line)


def test_a_default_that_is_neither_on_nor_off_is_not_known():
    third = tokenizer(SWITCH)
    third.apply_chat_template = lambda messages, **options: str(
        options.get("enable_thinking")
    )
    assert Thinking().thinks(third) is None
    assert Thinking("on").thinks(third) is True


def test_warnings_follow_the_models_default():
    eight = drafter_entry("z-lab/Qwen3-8B-DFlash-b16")
    assert Thinking().warnings(eight, tokenizer(SWITCH, default=True))
    assert not Thinking().warnings(eight, tokenizer(SWITCH, default=False))
    assert not Thinking().warnings(eight, tokenizer("no switch"))
    assert not Thinking("on").warnings(None, tokenizer(SWITCH))
    assert not Thinking("on").warnings(
        drafter_entry("z-lab/Qwen3.5-4B-DFlash"), tokenizer(SWITCH)
    )


def test_every_figure_has_its_source():
    found = [d.measured for t in targets() for d in t.drafters if d.measured]
    assert len(found) == 2
    assert all(figures.source.startswith("https://") for figures in found)
