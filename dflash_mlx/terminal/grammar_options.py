"""--json-schema, --grammar and --regex: what an answer of generate may look like.

Owns the options and their files. Does not know how a grammar is compiled or followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import MissingFilesError
from .options import PROMPT, check_exclusive, option

if TYPE_CHECKING:
    from ..text.grammar import Grammar


@dataclass(frozen=True)
class GrammarOptions:
    """What the answer may look like; at most one of them."""

    json_schema: Annotated[
        Path | None,
        option(
            "--json-schema",
            "File with a JSON schema: the answer is JSON that it allows.",
            PROMPT,
            dir_okay=False,
        ),
    ] = None
    grammar: Annotated[
        Path | None,
        option(
            "--grammar",
            "File with a grammar in llguidance's variant of Lark, for the answer.",
            PROMPT,
            dir_okay=False,
        ),
    ] = None
    regex: Annotated[
        str | None,
        option(
            "--regex", "Regular expression that the whole answer has to match.", PROMPT
        ),
    ] = None

    def __post_init__(self):
        first, *others = [*self.given(), ""]
        check_exclusive(first, others[0] if others else "", len(others) > 1)

    def given(self) -> list[str]:
        """The names of the options that are given."""
        values = {
            "--json-schema": self.json_schema,
            "--grammar": self.grammar,
            "--regex": self.regex,
        }
        return [name for name, value in values.items() if value is not None]

    def read(self) -> str | None:
        """The text of the schema, grammar or expression; None without one.

        Raises:
            MissingFilesError: The file cannot be read.
        """
        file = self.json_schema or self.grammar
        if file is None:
            return self.regex
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise MissingFilesError(
                f"{file} of {self.given()[0]} cannot be read: {reason}."
            ) from None

    def compile(self, text: str | None, tokenizer: Any) -> Grammar | None:
        """The grammar of the answer; None without one.

        Args:
            text: From `read`.
            tokenizer: mlx-lm's TokenizerWrapper.

        Raises:
            GrammarError: It cannot be used.
        """
        if text is None:
            return None
        from ..text.grammar import Grammar

        make = {
            "--json-schema": Grammar.of_json_schema,
            "--grammar": Grammar.of_lark,
            "--regex": Grammar.of_regex,
        }
        return make[self.given()[0]](tokenizer, text)
