"""The prompts of a benchmark: built-in classes, padding, data sets."""

import sys
from types import ModuleType

import pytest

from dflash_mlx.bench import data_sets, suites
from dflash_mlx.errors import (
    MissingFilesError,
    MissingPackageError,
    OptionError,
    PromptError,
)


def test_the_built_in_suite_has_every_class(tiny):
    tokenizer = tiny[1]
    found = suites.builtin(tokenizer, context=300)
    counts = {kind: 0 for kind in suites.classes()}
    for prompt in found:
        counts[prompt.kind] += 1
        assert "{" not in prompt.text or prompt.kind in ("tool-json", "random")
    wanted = "chat prose code math summary tool-json non-english long-context"
    assert set(wanted.split()) | {"exercises", "random"} == set(counts)
    assert all(2 <= n <= 3 for n in counts.values())
    assert len({prompt.text for prompt in found}) == len(found)


def test_classes_and_samples_select(tiny):
    found = suites.builtin(tiny[1], ("code", "chat"), samples=1)
    assert [prompt.kind for prompt in found] == ["code", "chat"]
    with pytest.raises(OptionError, match="There is no class 'cod'"):
        suites.builtin(tiny[1], ("cod",))


def test_exercises_were_held_out_from_training():
    from dflash_mlx.train.exercises import is_held_out

    assert all(is_held_out(prompt.text) for prompt in suites.exercise_prompts(5))


def test_random_prompts_are_seeded_and_have_no_special_tokens(tiny):
    tokenizer = tiny[1]
    one, same, other = (suites.random_prompt(tokenizer, seed) for seed in (1, 1, 2))
    assert one == same and one.ids != other.ids and len(one.ids) == 64
    many = suites.random_ids(tokenizer, 3, 5000)
    assert not set(many) & set(tokenizer.all_special_ids) and len(set(many)) > 400


@pytest.mark.parametrize("kind", ("chat", "random"))
def test_padding_reaches_the_context(tiny, kind):
    pair, tokenizer = tiny
    prompt = suites.builtin(tokenizer, (kind,), samples=1)[0]
    long = suites.pad_prompt(tokenizer, prompt, 900)
    ids = suites.prompt_ids(tokenizer, long, {})
    assert 890 <= len(ids) <= 920
    if kind == "chat":
        assert long.text.endswith(prompt.text) and long.text.startswith("Part 1.")
    else:
        assert long.ids[-64:] == prompt.ids and long.endless
    assert suites.pad_prompt(tokenizer, prompt, 10) == prompt
    suites.check_fits(ids, pair.target.context - len(ids), pair.target.context)
    with pytest.raises(PromptError, match="--max-tokens"):
        suites.check_fits(ids, pair.target.context - len(ids) + 1, pair.target.context)


def test_prompts_of_data_sets_are_those_of_the_papers():
    requests = []

    def loader(repo, name, split):
        requests.append((repo, name, split))
        return [
            {"question": f"q{i}", "problem": f"p{i}", "prompt": [f"a{i}", f"b{i}"]}
            for i in range(20)
        ]

    boxed = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    texts = {
        suite: [p.text for p in data_sets.load_prompts(suite, 3, loader)]
        for suite in ("gsm8k", "math500", "aime25", "mt-bench")
    }
    numbers = [text[1:].removesuffix(boxed) for text in texts["gsm8k"]]
    assert texts["gsm8k"] == [f"q{n}{boxed}" for n in numbers]
    assert texts["math500"] == texts["aime25"] == [f"p{n}{boxed}" for n in numbers]
    assert texts["mt-bench"] == [f"a{n}" for n in numbers]
    assert len(set(numbers)) == 3 and numbers != ["0", "1", "2"]
    assert requests[0] == ("openai/gsm8k", "main", "test")
    code = [{"prompt": "def f():"}]
    prompt = data_sets.load_prompts("humaneval", 9, lambda *_: code)[0]
    assert prompt.text == (
        "Write a solution to the following problem and make sure that it passes the "
        "tests:\n```python\ndef f():\n```"
    )
    assert prompt.kind == "humaneval"
    assert data_sets.load_prompts("mbpp", 9, lambda *_: code)[0].text == "def f():"


def test_data_sets_that_cannot_be_loaded(monkeypatch):
    with pytest.raises(OptionError, match="There is no suite 'gsm'"):
        data_sets.load_prompts("gsm", 1)
    with pytest.raises(MissingFilesError, match="without the field 'question'"):
        data_sets.load_prompts("gsm8k", 1, lambda *_: [{"text": ""}])
    with pytest.raises(MissingFilesError, match="no rows"):
        data_sets.load_prompts("gsm8k", 1, lambda *_: [])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dflash-mlx\[bench"):
        data_sets.load_prompts("gsm8k", 1)

    def unreachable(repo, name, split):
        raise ConnectionError(f"Couldn't reach {repo} on the Hub\nmore")

    fake, errors = ModuleType("datasets"), ModuleType("datasets.exceptions")
    fake.load_dataset, errors.DatasetsError = unreachable, RuntimeError
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", errors)
    message = "could not be downloaded: Couldn't.* Hub Check"
    with pytest.raises(MissingFilesError, match=message):
        data_sets.load_prompts("gsm8k", 1)
