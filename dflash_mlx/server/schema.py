"""The one internal request: what every dialect's JSON becomes.

Owns its fields and the reading of JSON bodies. Does not know any dialect, model or
array.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    ValidationError,
    model_validator,
)

from ..errors import OptionError
from ..types import Sampling
from .errors import RequestError

# Most levels of objects and lists in a body, and most answers to one prompt.
MAX_DEPTH = 64
MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Constraint:
    """What the text of the answer must match.

    Args:
        kind: "json_object", "json_schema", "regex" or "lark".
        value: The schema as an object, or the text of the pattern or grammar.
        strict: Refuse a schema that cannot be enforced completely.
    """

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    value: Any = None
    strict: bool = True


@dataclass(frozen=True)
class ToolChoice:
    """Which tools the model may or must call.

    Args:
        mode: "auto", "none", or "required" for at least one call.
        names: The tools that may be called; empty for all.
        parallel: Whether an answer may have several calls.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()
    parallel: bool = True


@dataclass(frozen=True)
class Request:
    """A request for answers, checked as far as that needs no model.

    Args:
        model: The name in the request; None for the default model.
        messages: In the form of chat templates: "role", "content" as text, and
            "tool_calls", "reasoning_content", "tool_call_id" where they apply.
        text: A prompt for completion, text or token ids, in place of `messages`.
        suffix: Text that follows what is to be filled in, with `text`.
        continue_last: The last message is the beginning of the answer.
        tools: OpenAI's {"type": "function", "function": {...}} objects.
        loaded_tools: Names of tools that the messages define, so that the chat template
            must not define them again.
        tool_choice: Which of them may be called.
        constraint: What the answer must match, or None.
        sampling: The request's own values, by field of Sampling.
        max_tokens: Most tokens of an answer; None for the server's default.
        stop: Strings that end the answer.
        choices: Number of answers.
        logprobs: Number of alternatives per token; None for no logprobs.
        thinking: Whether to reason first; None for the server's default.
        effort: How hard to reason; None for the server's default.
        template_arguments: More variables for the chat template.
        show_drafts: Say which pieces of text were drafted.
        warnings: What was ignored or changed in the request, a sentence each.
    """

    model: str | None = None
    messages: tuple[dict[str, Any], ...] = ()
    text: str | tuple[int, ...] | None = None
    suffix: str | None = None
    continue_last: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    loaded_tools: tuple[str, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    constraint: Constraint | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    logprobs: int | None = None
    thinking: bool | None = None
    effort: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    show_drafts: bool = False
    warnings: tuple[str, ...] = ()


class Body(BaseModel):
    """Base of the dialects' request bodies: null is absent, unknown fields are ignored.

    Every field of a body has a default, so that a missing one is named in a sentence.
    Types are strict: texts are no numbers, and numbers no booleans.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body):
        """Remove fields that are null, also in the bodies within a body. A number
        without a fraction is an integer, however it is written.
        """
        if not isinstance(body, Mapping):
            return body
        return {
            name: int(value) if is_whole(value) else value
            for name, value in body.items()
            if value is not None
        }


def is_whole(value: Any) -> bool:
    """Whether a value is a float without a fraction."""
    return isinstance(value, float) and value.is_integer()


BodyType = TypeVar("BodyType", bound=Body)
# Lists of which only the first wrong item is told: there may be millions.
Texts = Annotated[list[str], FailFast()]
Objects = Annotated[list[dict[str, Any]], FailFast()]


def read_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        RequestError: It is not one, or is nested too deeply.
    """
    try:
        body = json.loads(
            raw.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if SURROGATE.search(raw):  # there may be half of a pair
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RequestError("The body is not valid JSON in UTF-8.") from None
    if not isinstance(body, dict):
        raise RequestError("The body must be a JSON object.")
    if not is_shallow(body, MAX_DEPTH):
        raise RequestError(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return body


def _refuse_constant(name):
    raise ValueError(f"{name} is no number of JSON.")  # NaN, Infinity


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large.")
    return value


def is_shallow(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested at most `levels` deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return levels > 0 and all(is_shallow(each, levels - 1) for each in value)


def parse_body(kind: type[BodyType], body: Mapping[str, Any]) -> BodyType:
    """The fields of a body, checked.

    Raises:
        RequestError: A field has the wrong type; it is named.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"{param or 'The body'} cannot be used: {first['msg']}.", param=param
        ) from None


def require_field(ok: bool, param: str, wanted: str, got: object) -> None:
    """Raise RequestError unless `ok`.

    Args:
        ok: Whether the value is in range.
        param: The field.
        wanted: Its range, to follow "must be".
        got: The value.
    """
    if not ok:
        message = f"{param} must be {wanted}, but is {json.dumps(got)}."
        raise RequestError(message, param=param)


# The fields of Sampling that a request may set, by their names in requests.
SAMPLING_FIELDS = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
}


# Ranges beyond which a model's logits become infinite, or useless.
RANGES = {
    "temperature": (0, 100),
    "top_k": (-(2**31), 2**31 - 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.01, 100),
}
MIN_TEMPERATURE = 1e-5  # below, the likeliest token is all but certain
MAX_BIAS = 100
TOKEN_ID = re.compile("[0-9]{1,9}")


class SamplingFields(Body):
    """The fields of a body that say how tokens are chosen."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    logit_bias: dict[str, Any] | None = None

    def sampling(self) -> dict[str, Any]:
        """The values given, by field of Sampling.

        Raises:
            RequestError: A value is out of its range.
        """
        values = {
            field: getattr(self, name)
            for name, field in SAMPLING_FIELDS.items()
            if getattr(self, name) is not None
        }
        if values.get("top_k", 0) < 0:  # some clients' word for "off"
            values["top_k"] = 0
        if "seed" in values:
            values["seed"] %= 2**32
        for name, (low, high) in RANGES.items():
            if (value := getattr(self, name)) is not None:
                fits = low <= value <= high
                require_field(fits, name, f"{low} to {high}", value)
        for name in ("presence_penalty", "frequency_penalty"):
            if values.get(name) == 0:
                values[name] = None
        if 0 < values.get("temp", 0) < MIN_TEMPERATURE:
            values["temp"] = 0.0
        if self.logit_bias:
            values["logit_bias"] = read_biases(self.logit_bias)
        check_sampling(values)
        return values


def read_biases(biases: Mapping[str, Any]) -> dict[int, float]:
    """The field "logit_bias".

    Raises:
        RequestError: It does not map token ids to numbers from -100 to 100.
    """
    for token, bias in biases.items():
        is_id = TOKEN_ID.fullmatch(token) is not None
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not (is_id and is_number and -MAX_BIAS <= bias <= MAX_BIAS):
            raise RequestError(
                f"logit_bias must map token ids to numbers from -{MAX_BIAS} to "
                f"{MAX_BIAS}, but has {json.dumps({token: bias})}.",
                param="logit_bias",
            )
    return {int(token): float(bias) for token, bias in biases.items()}


def check_sampling(values: Mapping[str, Any]) -> None:
    """Raise RequestError if Sampling refuses a value."""
    names = {field: name for name, field in SAMPLING_FIELDS.items()}
    for name, value in values.items():
        try:
            Sampling(**{name: value})
        except OptionError as error:
            param = names.get(name, name)
            message = error.message.replace(f"{name} must", f"{param} must", 1)
            raise RequestError(message, param=param) from None
