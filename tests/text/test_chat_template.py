"""Messages for a chat template that are refused."""

import pytest

from dflash_mlx.errors import PromptError
from dflash_mlx.text.chat_template import apply_template
from tests.equipment.turns import TEMPLATES, make_tokenizer


@pytest.mark.parametrize("part", ("Hello!", 3, None))
def test_a_part_of_a_message_that_is_no_object(part):
    tokenizer = make_tokenizer(TEMPLATES["stable"])
    chat = [{"role": "user", "content": [part]}]
    with pytest.raises(PromptError, match="which is not an object.*one string"):
        apply_template(tokenizer, chat)
