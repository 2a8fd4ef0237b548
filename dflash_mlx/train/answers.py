"""Training text: conversations whose answers the target writes itself.

Owns the data file's format and the file of written answers, which makes a broken
run resumable. Knows nothing of drafters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.generate import batch_generate
from mlx_lm.sample_utils import make_sampler

from ..errors import DataError, OptionError
from ..pair import Pair
from ..text.chat_template import apply_template
from ..types import require

# Conversations answered together; the file grows by so many at a time.
CHUNK = 64


@dataclass(frozen=True)
class Example:
    """A token sequence and the spans of it that the target wrote.

    Args:
        ids: The whole sequence.
        spans: (start, end) of each answer, its closing token included.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


def read_questions(file: Path) -> list[list[dict[str, str]]]:
    """Read a JSONL file: the user's (and system's) messages of each conversation.

    A line is {"prompt": "..."} or {"messages": [{"role", "content"}, ...]}; what an
    assistant said in it is dropped, since the target answers anew.

    Raises:
        DataError: With the number of the first bad line, or for an empty file.
    """
    if not file.is_file():
        raise DataError(f"There is no file {file}.", "Give --data a JSONL file.")
    questions = []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line} is not valid UTF-8.") from None
    # Not splitlines: JSON text may hold other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            questions.append(parse(line, f"{file}, line {number}"))
    if not questions:
        raise DataError(f"{file} has no conversations.")
    return questions


def parse(line: str, where: str) -> list[dict[str, str]]:
    """One line's messages without the assistant's."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON: {error}.") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object.")
    messages = row.get("messages")
    if messages is None and isinstance(row.get("prompt"), str):
        messages = [{"role": "user", "content": row["prompt"]}]
    if not isinstance(messages, list):
        raise DataError(f"{where} has neither a prompt nor a list of messages.")
    for message in messages:
        fine = isinstance(message, dict) and isinstance(message.get("content"), str)
        if not fine or message.get("role") not in ("system", "user", "assistant"):
            raise DataError(
                f"{where} has a message without a role of system, user or assistant "
                "and text as its content."
            )
    asked = [m for m in messages if m["role"] != "assistant"]
    if not any(m["role"] == "user" for m in asked):
        raise DataError(f"{where} has no user message.")
    return asked


def write_answers(
    pair: Pair,
    tokenizer: Any,
    questions: list[list[dict[str, str]]],
    file: Path,
    *,
    max_tokens: int = 512,
    temp: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """Let the target answer every conversation, turn by turn.

    Answers are appended to `file` chunk by chunk; what stands there already is
    taken as it is, so a run that was stopped goes on where it was.

    Args:
        pair: Whose target answers.
        tokenizer: Its tokenizer, with a chat template.
        questions: From `read_questions`.
        file: JSONL of the token sequences written so far.
        max_tokens: Most tokens of an answer.
        temp: 0 for greedy answers.
        seed: Of sampled answers.
        progress: Called with (conversations done, all).
    """
    require(max_tokens > 0, "max_tokens", "above 0", max_tokens)
    asked = fingerprint(pair, questions, max_tokens, temp, seed)
    done = list(stored(file, asked))
    with file.open("a") as out:
        if not out.tell():
            out.write(json.dumps(asked) + "\n")
        while len(done) < len(questions):
            mx.random.seed(seed + len(done))
            chunk = questions[len(done) : len(done) + CHUNK]
            for example in answer(pair, tokenizer, chunk, max_tokens, temp):
                done.append(example)
                out.write(json.dumps([example.ids, example.spans]) + "\n")
            out.flush()
            if progress:
                progress(len(done), len(questions))
    return done


def fingerprint(pair, questions, max_tokens: int, temp: float, seed: int) -> str:
    """What an answers file was written from: the first line of it.

    Of the model's weights, the first few numbers of each tensor count.
    """
    said = [pair.target.config, questions, max_tokens, temp, seed]
    digest = hashlib.sha256(json.dumps(said, default=str).encode())
    for name, weight in tree_flatten(pair.model.parameters()):
        sample = weight.flatten()[:16].astype(mx.float32).tolist()
        digest.update(json.dumps([name, weight.shape, sample]).encode())
    return digest.hexdigest()


def stored(file: Path, asked: str) -> Iterator[Example]:
    """Examples of an answers file; a half-written last line is cut off.

    Raises:
        OptionError: The file answers other questions, or another model wrote it.
    """
    if not file.is_file():
        return
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    first, *lines = whole.splitlines() or [json.dumps(asked)]
    if json.loads(first) != asked:
        raise OptionError(
            f"{file} holds answers of another model, data or setting.",
            "Repeat those, or choose another --out.",
        )
    for line in lines:
        ids, spans = json.loads(line)
        yield Example(ids, [tuple(span) for span in spans])


def answer(pair, tokenizer, chunk, max_tokens: int, temp: float) -> list[Example]:
    """Answer some conversations, all of the same turn in one batch."""
    chats = [list(turns(messages)) for messages in chunk]
    told: list[list[dict]] = [[] for _ in chunk]
    ids: list[list[int]] = [[] for _ in chunk]
    spans: list[list[tuple[int, int]]] = [[] for _ in chunk]
    end = min(tokenizer.eos_token_ids)
    if tokenizer.eos_token_id is not None:
        end = tokenizer.eos_token_id
    for turn in range(max(map(len, chats))):
        live = [i for i, chat in enumerate(chats) if turn < len(chat)]
        prompts = []
        for i in live:
            told[i] += chats[i][turn]
            prompts.append(apply_template(tokenizer, told[i]))
        said = batch_generate(
            pair.model,
            tokenizer,
            prompts,
            max_tokens=max_tokens,
            sampler=make_sampler(temp),
            return_token_ids=True,
        ).token_ids
        for i, prompt, words in zip(live, prompts, said, strict=True):
            # A template may rewrite earlier turns; spans must still be in place.
            kept = [s for s in spans[i] if prompt[: s[1]] == ids[i][: s[1]]]
            closing = [end] if len(words) < max_tokens else []
            ids[i] = list(prompt) + words + closing
            spans[i] = [*kept, (len(prompt), len(ids[i]))]
            told[i].append({"role": "assistant", "content": tokenizer.decode(words)})
    return [Example(*parts) for parts in zip(ids, spans, strict=True)]


def turns(messages: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Split messages after each user message."""
    part: list[dict[str, str]] = []
    for message in messages:
        part.append(message)
        if message["role"] == "user":
            yield part
            part = []
