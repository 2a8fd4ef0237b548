"""What an answer may look like: a JSON schema, a regular expression or a Lark grammar.

Owns the compilation by llguidance and its errors in plain sentences. Does not know how
an answer is followed (matcher.py), models or logits.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from ..errors import GrammarError
from .limits import check_effort, check_size
from .markers import Markers
from .matcher import DEAD_END, Matcher
from .vocabulary import Vocabulary

# White space between two tokens of JSON: a few spaces, or a line break and an indent. A
# model that would repeat line breaks for ever has to go on.
WHITE_SPACE = r"[ \t]{1,4}|\r?\n[ \t]{0,40}"
# llguidance's defaults, but for the states of a lexer, which take about 1.5 kB each.
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar, for the answers of one tokenizer's model.

    It does not change, so that answers can share it.

    Args:
        vocabulary: The tokenizer's.
        base: llguidance's matcher before the first token; only copied.
        markers: Texts that the grammar begins behind; None from the first token on.
    """

    vocabulary: Vocabulary
    base: LLMatcher
    markers: Markers | None = None

    @classmethod
    def of_json_schema(
        cls, tokenizer: Any, schema: dict | str, *, strict: bool = True
    ) -> Grammar:
        """JSON that a schema allows. Properties come in the schema's order.

        Args:
            tokenizer: mlx-lm's TokenizerWrapper, or a Hugging Face tokenizer.
            schema: A JSON schema, as an object or as text.
            strict: Refuse a schema with a keyword that cannot be enforced. False
                ignores such keywords.

        Raises:
            GrammarError: It is no JSON schema, has a keyword that is not supported, or
                is too large.
        """
        options = {"whitespace_pattern": WHITE_SPACE, "lenient": not strict}
        options["coerce_one_of"] = not strict
        text = _schema_text(schema)
        check_size(text, "JSON schema")
        try:
            source = LLMatcher.grammar_from_json_schema(text, overrides=options)
        except ValueError as error:
            raise GrammarError(*_schema_message(str(error))) from None
        return cls._compile(tokenizer, text, "JSON schema", source, _schema_message)

    @classmethod
    def of_json_object(cls, tokenizer: Any) -> Grammar:
        """Any JSON object. Arguments and errors as in `of_json_schema`."""
        return cls.of_json_schema(tokenizer, {"type": "object"})

    @classmethod
    def of_regex(cls, tokenizer: Any, pattern: str) -> Grammar:
        """Text that a regular expression matches as a whole.

        Args:
            tokenizer: As in `of_json_schema`.
            pattern: In the syntax of Rust's crate regex, without look-around.

        Raises:
            GrammarError: It is no such expression, or is too large.
        """
        kind = "regular expression"
        check_size(pattern, kind)
        source = LLMatcher.grammar_from_regex(pattern)
        return cls._compile(tokenizer, pattern, kind, source, _regex_message)

    @classmethod
    def of_lark(cls, tokenizer: Any, text: str) -> Grammar:
        """Text that a grammar in llguidance's variant of Lark describes.

        Args:
            tokenizer: As in `of_json_schema`.
            text: The grammar; its first rule is `start`. Special tokens are written as
                they are: <|im_start|>.

        Raises:
            GrammarError: It is no such grammar, or is too large.
        """
        check_size(text, "grammar")
        source = LLMatcher.grammar_from_lark(text)
        return cls._compile(tokenizer, text, "grammar", source, _lark_message)

    @classmethod
    def _compile(cls, tokenizer, text, kind, source, message_of):
        vocabulary = Vocabulary.of(tokenizer)
        check_effort(text, kind, source)
        failed, messages = LLMatcher.validate_grammar_with_warnings(
            source, vocabulary.tokens, limits=LIMITS
        )
        if failed:
            raise GrammarError(*message_of(messages[0]))
        base = LLMatcher(vocabulary.tokens, source, log_level=0, limits=LIMITS)
        if base.is_error():
            raise GrammarError(*message_of(base.get_error()))
        base.compute_bitmask()  # builds the first states, for all answers
        if DEAD_END in base.get_error():
            raise GrammarError(
                f"The {kind} allows no token of this tokenizer at its beginning."
            )
        if base.is_error():
            raise GrammarError(*message_of(base.get_error()))
        return cls(vocabulary, base)

    def after(self, *markers: str, opening: str = "") -> Grammar:
        """The same grammar, which begins behind one of these texts.

        What comes before is free, and may end the answer. A marker may be one token or
        several, and may begin or end inside one. What a token has behind a marker must
        fit the grammar, but for white space, which is skipped; a token for which it
        does not fit may not end a marker.

        Args:
            markers: For example the end of reasoning, or the beginning of a call.
            opening: A text of one token. If it is given, only an answer that begins
                with it is free up to a marker; any other begins with the grammar.

        Raises:
            GrammarError: There is no marker, or an empty one, or `opening` has several
                tokens.
        """
        if not markers or not all(markers):
            raise GrammarError("A marker must have at least one character.")
        token = self.vocabulary.token_of(opening) if opening else None
        if opening and token is None:
            raise GrammarError(f"{opening!r} is not one token of this tokenizer.")
        found = Markers(self.vocabulary, self.base, markers, token)
        return replace(self, markers=found)

    def start(self) -> Matcher:
        """A Matcher for one answer."""
        return Matcher(self.vocabulary, self.base, self.markers)


def _schema_text(schema):
    """A schema as JSON.

    Raises:
        GrammarError: It is not JSON, or no schema.
    """
    try:
        value = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GrammarError(f"The JSON schema is not JSON: {error}.") from None
    except RecursionError:
        raise GrammarError("The JSON schema is nested too deeply.") from None
    if value is True:
        return "{}"
    if value is False:
        raise GrammarError("The JSON schema is false, which allows nothing.")
    if not isinstance(value, dict):
        raise GrammarError(
            f"A JSON schema must be an object, but is a {type(value).__name__}."
        )
    return text


def _schema_message(error):
    """The sentence and the next step for llguidance's message about a schema."""
    if keys := re.search(r"Unimplemented keys: \[(.*?)\]", error):
        names = [name.strip(' "') for name in keys[1].split(",")]
        verb = "is" if len(names) == 1 else "are"
        return (
            f"{' and '.join(names)} {verb} not supported in a JSON schema.",
            "Leave it out.",
        )
    if form := re.search(r"Unknown format: (.*)", error):
        return f"The format {form[1]} is not supported in a JSON schema.", ""
    if "oneOf constraints" in error:
        return (
            "oneOf is not supported in a JSON schema where its cases overlap.",
            "Use anyOf.",
        )
    if "recursion limit" in error:
        return "The JSON schema is nested too deeply.", ""
    return f"The JSON schema cannot be used: {_one_line(error)}.", ""


def _regex_message(error):
    """As _schema_message, for a regular expression."""
    if found := re.search(r"^error: (.*)$", error, re.MULTILINE):
        return f"The regular expression cannot be used: {found[1]}.", ""
    return f"The regular expression cannot be used: {_one_line(error)}.", ""


def _lark_message(error):
    """As _schema_message, for a Lark grammar."""
    return f"The grammar cannot be used: {_one_line(error)}.", ""


def _one_line(error, most=300):
    """The first line of a message that says something, without a full stop."""
    line = " ".join(error.split("<state>")[0].split())
    return (line if len(line) <= most else line[:most] + "...").rstrip(". ")
