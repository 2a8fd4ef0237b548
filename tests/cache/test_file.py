"""Caches in files: every kind is restored, and other files are refused."""

import json
import os
import struct

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache, save_prompt_cache

from benchmarks.examine import cached_arrays, greedy, text_without_near_ties
from dflash_mlx import (
    Pair,
    PromptCache,
    decode,
    load,
)
from dflash_mlx.cache.file import check
from dflash_mlx.cache.file import load as load_file
from dflash_mlx.cache.file import save as save_file
from dflash_mlx.errors import CacheFileError
from dflash_mlx.types import KVBits
from tests.equipment import architectures
from tests.equipment.scripted import Script
from tests.equipment.tiny import (
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)
from tests.equipment.turns import CheckedChat

FAMILIES = ("qwen3", "gemma3_text", "qwen3_next", "llama4", "falcon_h1", "mamba")


@pytest.fixture
def saved(tmp_path):
    """A pair, a file with its cache, and the text in the cache."""
    pair = Pair.of(make_model("llama"), make_drafter(window=10))
    cache, prompt = PromptCache(pair), some_prompt(20)
    text = prompt + run(pair, cache.reuse(prompt, (9,)), 8, prompt_cache=cache)
    save_file(cache, tmp_path / "talk.bin")
    return pair, tmp_path / "talk.bin", text


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_continues_from_a_file(tmp_path, family):
    model = architectures.build(family)
    prompt, answer = text_without_near_ties(model, 60)
    script = Script(prompt + answer, [2, 0, 5, 1, 99])
    pair, file = Pair.of(model, script), tmp_path / "cache.safetensors"
    cache = PromptCache(pair)
    rest = cache.reuse(prompt, (7, 15))
    answered = run(pair, rest, 30, prompt_cache=cache)
    save_file(cache, file)
    again = load_file(file, pair)
    assert again.tokens + again.tail == prompt + answered
    for ours, theirs in zip(cached_arrays(again.target), cached_arrays(cache.target)):  # noqa: B905
        # Rows of a chunk that no later row can see are not saved.
        held = ours.shape[2] if family == "llama4" else None
        assert mx.array_equal(ours, theirs[:, :, -held:] if held else theirs)
    rows = [snapshot.rows for snapshot in again.snapshots.all]
    assert rows == [snapshot.rows for snapshot in cache.snapshots.all]
    # Continue at the end of the text, ...
    assert run(pair, [], 20, prompt_cache=again) == answer[30:50]
    # ... and from a mark.
    again = load_file(file, pair)
    edited = prompt[:15] + [1 + prompt[15] % 90, 3, 5]
    rest = again.reuse(edited)
    assert len(rest) == 3
    wanted = greedy(model, edited, 9)
    script.text = edited + wanted
    assert run(pair, rest, 9, prompt_cache=again) == wanted


@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("start", (0, 22))
def test_quantized_caches(tmp_path, bits, start):
    model, prompt = make_model("llama"), some_prompt(30)
    pair, kv = Pair.of(model, make_drafter()), KVBits(bits, 32, start)
    cache = PromptCache(pair)
    text = prompt + run(pair, cache.reuse(prompt), 9, prompt_cache=cache, kv=kv)
    save_file(cache, tmp_path / "cache")
    again = load_file(tmp_path / "cache", pair)
    assert again.quantized_from == start
    wanted = run(pair, [], 9, prompt_cache=cache, kv=kv)
    assert run(pair, [], 9, prompt_cache=again, kv=kv) == wanted
    again = load_file(tmp_path / "cache", pair)
    assert len(again.reuse(text[:20])) == (1 if start == 0 else 20)


@pytest.mark.slow
def test_bounded_caches(tmp_path):
    model, prompt = make_model("qwen3"), some_prompt(30)
    pair = Pair.of(model, make_drafter())
    wanted = reference(model, prompt, 40, max_kv_size=24)
    cache = PromptCache(pair, 24)
    assert run(pair, cache.reuse(prompt), 20, prompt_cache=cache) == wanted[:20]
    save_file(cache, tmp_path / "cache")
    again = load_file(tmp_path / "cache", pair)
    assert again.max_kv_size == 24
    assert run(pair, [], 20, prompt_cache=again) == wanted[20:]
    with pytest.raises(CacheFileError, match="max_kv_size 24, not 32"):
        load_file(tmp_path / "cache", pair, 32)


def test_a_drafters_context_is_restored(saved):
    pair, file, text = saved
    again = load_file(file, pair)
    fresh = PromptCache(pair)
    list(decode(pair, text, prompt_cache=fresh, max_tokens=1))
    for ours, theirs in zip(again.drafter, fresh.drafter, strict=True):
        assert ours.offset == theirs.offset - 1  # the last token was not passed
        assert ours.positions()[1:].tolist() == theirs.positions()[:-1].tolist()


def test_the_file_is_not_needed_after_it_is_read(saved):
    pair, file, text = saved
    again = load_file(file, pair)
    save_file(PromptCache(pair), file)
    file.unlink()
    assert run(pair, [], 9, prompt_cache=again) == reference(pair.model, text, 9)
    assert list(file.parent.iterdir()) == []


def test_an_empty_cache(tmp_path):
    pair = Pair.of(make_model("llama"), make_drafter())
    save_file(PromptCache(pair), tmp_path / "empty")
    again = load_file(tmp_path / "empty", pair)
    prompt = some_prompt(9)
    rest = again.reuse(prompt)
    assert rest == prompt
    wanted = reference(pair.model, prompt, 5)
    assert run(pair, rest, 5, prompt_cache=again) == wanted


def test_a_file_of_another_pair(saved):
    pair, file, _ = saved
    same = Pair.of(make_model("llama"), make_drafter(window=10))
    assert load_file(file, same).tokens
    others = {
        "model": Pair.of(make_model("llama", seed=1), make_drafter(window=10)),
        "drafter": Pair.of(pair.model, make_drafter(window=12)),
    }
    for what, other in others.items():
        with pytest.raises(CacheFileError, match=f"made with another {what}"):
            load_file(file, other)
    with pytest.raises(CacheFileError, match="another drafter"):
        load_file(file, Pair.of(pair.model))
    with pytest.raises(CacheFileError, match="another model"):
        load_file(file, Pair.of(make_model("llama", "4bit"), pair.drafter))


def test_one_changed_value_makes_another_model(saved):
    pair, file, _ = saved
    weight = pair.model.layers[1].mlp.down_proj.weight
    weight[0, 0] = weight[0, 0] + 1
    with pytest.raises(CacheFileError, match="another model"):
        load_file(file, pair)


@pytest.mark.parametrize("size", (0, 5, 8, 200, -4000, -1))
def test_a_truncated_file(saved, size):
    pair, file, _ = saved
    whole = file.read_bytes()
    assert len(whole) > 4000
    file.write_bytes(whole[:size])
    with pytest.raises(CacheFileError, match="broken|truncated"):
        load_file(file, pair)
    file.write_bytes(whole + b"more")
    with pytest.raises(CacheFileError, match="more data than its header"):
        load_file(file, pair)
    file.write_bytes(whole)
    assert load_file(file, pair).tokens


def rewrite_header(file, change):
    """Change the header of a file."""
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    change(header)
    header = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + length :])


def change_contents(**changes):
    def change(header):
        about = json.loads(header["__metadata__"]["cache"])
        header["__metadata__"]["cache"] = json.dumps(about | changes)

    return change


def change_shape(header):
    header["0"]["shape"][2] += 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda header: header["__metadata__"].update(version="9"), "in format 9"),
        (lambda header: header.pop("__metadata__"), "is not a prompt cache"),
        (lambda header: header["__metadata__"].pop("cache"), "is broken"),
        (change_contents(tokens=[1, 2, 3]), "3 tokens, but another number of rows"),
        (change_contents(target=[]), "is broken"),
        (change_contents(drafter=7), "is broken"),
        (change_shape, "size of a tensor does not match its shape"),
    ],
)
def test_a_file_with_a_wrong_header(saved, change, word):
    pair, file, _ = saved
    rewrite_header(file, change)
    with pytest.raises(CacheFileError, match=word):
        load_file(file, pair)


def test_files_that_are_not_prompt_caches(saved, tmp_path):
    pair, _, _ = saved
    theirs = tmp_path / "theirs.safetensors"
    cache = make_prompt_cache(pair.model)
    pair.model(mx.array([[1, 2, 3]]), cache=cache)
    save_prompt_cache(str(theirs), cache, {"model": "m", "tokenizer_config": "{}"})
    with pytest.raises(
        CacheFileError, match=r"mlx_lm\.cache_prompt.* not save the token ids"
    ):
        load_file(theirs, pair)
    (tmp_path / "text").write_text("A text that is long enough to have a length.")
    with pytest.raises(CacheFileError, match="broken, or not a prompt cache"):
        load_file(tmp_path / "text", pair)
    for name, word in (("missing", "No such file"), (".", "Is a directory")):
        with pytest.raises(CacheFileError, match=word):
            load_file(tmp_path / name, pair)


def test_a_failed_write_keeps_the_old_file(saved, monkeypatch):
    pair, file, text = saved
    cache = load_file(file, pair)
    with pytest.raises(CacheFileError, match="cannot be written"):
        save_file(cache, file.parent / "nowhere" / "file")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    run(pair, [], 3, prompt_cache=cache)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheFileError, match="No space left"):
        save_file(cache, file)
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    assert load_file(file, pair).tokens == text[:-1]


def test_an_incomplete_write_keeps_the_old_file(saved, monkeypatch):
    pair, file, text = saved
    cache, stock = load_file(file, pair), mx.save_safetensors

    def short(path, *arguments):
        stock(path, *arguments)
        os.truncate(path, os.path.getsize(path) - 1)

    monkeypatch.setattr(mx, "save_safetensors", short)
    with pytest.raises(CacheFileError, match="cannot be written.*truncated"):
        save_file(cache, file)
    assert load_file(file, pair).tokens == text[:-1]


def test_a_broken_cache_is_not_saved(tmp_path):
    cache = PromptCache(Pair.of(make_model("llama")))
    cache.broken = True
    with pytest.raises(CacheFileError, match="interrupted"):
        save_file(cache, tmp_path / "file")


def test_saving_closes_a_suspended_decoding(tmp_path):
    pair = Pair.of(architectures.build("qwen3_next"))
    cache, prompt = PromptCache(pair), some_prompt(9)
    rounds = decode(pair, prompt, prompt_cache=cache)
    answered = [token for _ in range(3) for token in next(rounds).tokens]
    save_file(cache, tmp_path / "file")
    again = load_file(tmp_path / "file", pair)
    assert again.tokens + again.tail == prompt + answered


def test_versions_are_recorded(saved):
    metadata = check(saved[1])
    assert metadata["mlx"] and metadata["mlx_lm"]


@pytest.mark.slow
def test_the_embedded_pair_and_its_chat(tmp_path):
    pair, tokenizer = load("tiny")
    chat = CheckedChat("gemma3_text", "thinking", [2, 0])
    for question in ("What-is-this?", "Where?"):
        chat.send(question)
    save_file(chat.cache, tmp_path / "file")
    chat.cache = load_file(tmp_path / "file", chat.pair)
    passed, new = chat.send("Tell-more.")
    assert passed == new
    with pytest.raises(CacheFileError, match="another model"):
        load_file(tmp_path / "file", pair)
