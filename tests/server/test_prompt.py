"""Requests to prompts: the variables of the chat template."""

from types import SimpleNamespace

import pytest

from dflash_mlx.server.dialects.openai import EFFORTS
from dflash_mlx.server.prompt import template_options
from dflash_mlx.server.schema import Request
from dflash_mlx.server.settings import Defaults

TOKENIZER = SimpleNamespace(chat_template="{{ reasoning_effort }}")


@pytest.mark.parametrize("effort", EFFORTS)
def test_templates_get_an_effort_that_most_of_them_know(effort):
    nearest = {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)
    request = Request(effort=effort)
    options, warnings = template_options(request, TOKENIZER, Defaults())
    assert options == {"reasoning_effort": nearest} and not warnings
