"""Training text: conversations with answers that the target writes.

Owns the format of the data file, and the file that keeps written answers so that an
interrupted run can continue. Does not know drafters.
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
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_sampler

from ..errors import DataError, OptionError
from ..pair import Pair
from ..text.chat_template import apply_template
from ..types import require

# The number of conversations that are answered, and then saved, together.
CHUNK = 64

Message = dict[str, str]  # {"role", "content"}


@dataclass(frozen=True)
class Example:
    """The tokens of a conversation, and which of them the target wrote.

    Args:
        ids: The whole sequence.
        spans: (start, end) of each answer, including the token that ends it.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


def read_conversations(file: Path) -> list[list[Message]]:
    """Read a JSONL file of conversations.

    Args:
        file: A line is {"prompt": "..."} or {"messages": [{"role", "content"}, ...]}.

    Returns:
        The system and user messages of each conversation. Assistant messages are
        dropped, since the target writes its own.

    Raises:
        DataError: A line is not valid (the message has its number), or there is none.
    """
    if not file.is_file():
        raise DataError(f"There is no file {file}.", "Set --data to a JSONL file.")
    conversations = []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line} is not valid UTF-8.") from None
    # Not splitlines: JSON text may hold other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            conversations.append(parse_line(line, f"{file}, line {number}"))
    if not conversations:
        raise DataError(f"{file} has no conversations.")
    return conversations


def parse_line(line: str, where: str) -> list[Message]:
    """The system and user messages of a line.

    Args:
        line: JSON text.
        where: The file and line number, for error messages.
    """
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
        valid = isinstance(message, dict) and isinstance(message.get("content"), str)
        if not valid or message.get("role") not in ("system", "user", "assistant"):
            raise DataError(
                f"{where} has a message without text content or without one of the "
                "roles system, user and assistant."
            )
    kept = [m for m in messages if m["role"] != "assistant"]
    if not any(m["role"] == "user" for m in kept):
        raise DataError(f"{where} has no user message.")
    return kept


def write_answers(
    pair: Pair,
    tokenizer: Any,
    conversations: list[list[Message]],
    file: Path,
    *,
    max_tokens: int = 512,
    temp: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """Have the target answer every conversation, turn by turn.

    Answers are appended to `file` after every 64 conversations. Those that are in it
    already are not written again, so an interrupted run continues.

    Args:
        pair: The target. Its drafter, if any, is not used.
        tokenizer: The target's, with a chat template.
        conversations: From `read_conversations`.
        file: JSONL file of the answers.
        max_tokens: Maximum number of tokens of an answer.
        temp: Sampling temperature; 0 is greedy.
        seed: Seed of the sampling.
        progress: Called with the numbers of conversations done and in total, before
            the first one too.

    Returns:
        An example for each conversation.

    Raises:
        OptionError: `file` holds answers to other conversations or from other settings.
    """
    require(max_tokens > 0, "max_tokens", "above 0", max_tokens)
    check_end(tokenizer)
    digest = inputs_digest(pair, conversations, max_tokens, temp, seed)
    done = list(read_answers(file, digest))
    with file.open("a") as out:
        if not out.tell():
            out.write(json.dumps(digest) + "\n")
        if progress and len(done) < len(conversations):
            progress(len(done), len(conversations))
        while len(done) < len(conversations):
            mx.random.seed(seed + len(done))
            chunk = conversations[len(done) : len(done) + CHUNK]
            for example in answer_chunk(pair, tokenizer, chunk, max_tokens, temp):
                done.append(example)
                out.write(json.dumps([example.ids, example.spans]) + "\n")
            out.flush()
            if progress:
                progress(len(done), len(conversations))
    return done


def check_end(tokenizer: Any) -> None:
    """Raise OptionError if no token ends an answer, so that none would end."""
    if not tokenizer.eos_token_ids:
        raise OptionError(
            "The model's tokenizer has no token that ends an answer.",
            "Set eos_token in its tokenizer_config.json, or eos_token_id in the "
            "model's config.json.",
        )


def inputs_digest(
    pair: Pair,
    conversations: list[list[Message]],
    max_tokens: int,
    temp: float,
    seed: int,
) -> str:
    """A digest of everything that answers depend on, the first line of their file.

    It covers the first 16 values of each weight.
    """
    inputs = [pair.target.config, conversations, max_tokens, temp, seed]
    digest = hashlib.sha256(json.dumps(inputs, default=str).encode())
    for name, weight in tree_flatten(pair.model.parameters()):
        sample = weight.flatten()[:16].astype(mx.float32).tolist()
        digest.update(json.dumps([name, weight.shape, sample]).encode())
    return digest.hexdigest()


def read_answers(file: Path, digest: str) -> Iterator[Example]:
    """Yield the examples of an answers file, and remove an incomplete last line.

    Args:
        file: From `write_answers`; it may be missing.
        digest: From `inputs_digest`.

    Raises:
        OptionError: The file has another digest.
    """
    if not file.is_file():
        return
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    first, *lines = whole.splitlines() or [json.dumps(digest)]
    if json.loads(first) != digest:
        raise OptionError(
            f"{file} holds answers from another model, other data or other options.",
            "Repeat that command, or choose another --out.",
        )
    for line in lines:
        ids, spans = json.loads(line)
        yield Example(ids, [tuple(span) for span in spans])


def answer_chunk(
    pair: Pair,
    tokenizer: Any,
    chunk: list[list[Message]],
    max_tokens: int,
    temp: float,
) -> list[Example]:
    """Answer some conversations, one turn of all of them in a batch."""
    chats = [list(split_turns(messages)) for messages in chunk]
    histories: list[list[Message]] = [[] for _ in chunk]
    ids: list[list[int]] = [[] for _ in chunk]
    spans: list[list[tuple[int, int]]] = [[] for _ in chunk]
    for turn in range(max(map(len, chats))):
        open_chats = [i for i, chat in enumerate(chats) if turn < len(chat)]
        prompts = []
        for i in open_chats:
            histories[i] += chats[i][turn]
            prompts.append(apply_template(tokenizer, histories[i]))
        answers = generate_batch(pair, tokenizer, prompts, max_tokens, temp)
        for i, prompt, answer in zip(open_chats, prompts, answers, strict=True):
            # Drop the spans of earlier turns that the template has rewritten.
            kept = [s for s in spans[i] if prompt[: s[1]] == ids[i][: s[1]]]
            ids[i] = list(prompt) + answer
            spans[i] = [*kept, (len(prompt), len(ids[i]))]
            ended = answer[-1] in tokenizer.eos_token_ids
            text = tokenizer.decode(answer[:-1] if ended else answer)
            histories[i].append({"role": "assistant", "content": text})
    return [Example(*parts) for parts in zip(ids, spans, strict=True)]


def generate_batch(
    pair: Pair, tokenizer: Any, prompts: list[list[int]], max_tokens: int, temp: float
) -> list[list[int]]:
    """Answer several prompts in a batch.

    Returns:
        The tokens of each answer. The one that ended it is the last, as the target
        chose it: a model may have several.
    """
    for prompt in prompts:
        pair.target.check_ids(prompt)
    generator = BatchGenerator(
        pair.model,
        stop_tokens=[[token] for token in tokenizer.eos_token_ids],
        sampler=make_sampler(temp),
    )
    numbers = generator.insert(prompts, [max_tokens] * len(prompts))
    answers: dict[int, list[int]] = {number: [] for number in numbers}
    while responses := generator.next_generated():
        for response in responses:
            answers[response.uid].append(response.token)
    generator.close()
    return [answers[number] for number in numbers]


def split_turns(messages: list[Message]) -> Iterator[list[Message]]:
    """Split a conversation after each user message."""
    part: list[Message] = []
    for message in messages:
        part.append(message)
        if message["role"] == "user":
            yield part
            part = []
