"""The race of several loops, and `make demo`."""

import json
from argparse import Namespace
from contextlib import ExitStack, closing

import pytest

from benchmarks import race
from benchmarks.race_worker import CONTENDERS, timed
from dflash_mlx.bench import demo
from dflash_mlx.store import cache_folder, home


class Scripted:
    """A contender whose tokens arrive at given times; it notes its turns."""

    def __init__(self, name, tokens, times, turns):
        self.name, self.turns = name, turns
        self.script = {"tokens": tokens, "times": times}

    def answer(self, ids, tokens):
        self.turns.append((self.name, ids))
        return self.script


def scripted_race(repeats=2):
    """Results of a slow contender, a fast one, and one with another text."""
    turns = []
    scripts = {
        "mlx-lm": ([1, 2, 3, 4, 5], [1.0, 2.0, 3.0, 4.0, 5.0]),
        "auto": ([1, 2, 3, 4, 5], [0.5, 1.5, 1.5, 1.5, 2.5]),
        "wrong": ([1, 2, 9, 4, 5], [1.0, 2.0, 3.0, 4.0, 5.0]),
    }
    contenders = {
        name: Scripted(name, *script, turns) for name, script in scripts.items()
    }
    results = {name: [[], []] for name in contenders}
    for repeat in range(repeats):
        race.take_turns(contenders, [[7], [8]], 5, results, repeat)
    return results, turns


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(race, "PAUSE", 0)


def test_each_prompt_begins_with_another_contender():
    results, turns = scripted_race()
    rounds = [turns[at : at + 3] for at in range(0, 12, 3)]
    assert [{ids[0] for _, ids in round} for round in rounds] == [{7}, {8}] * 2
    assert [round[0][0] for round in rounds] == ["mlx-lm", "auto", "auto", "wrong"]
    assert all(len({name for name, _ in round}) == 3 for round in rounds)
    assert all(len(answers) == 2 for each in results.values() for answers in each)


def test_the_table_counts_tokens_and_compares_texts():
    results, _ = scripted_race()
    assert race.speed(results["mlx-lm"][0]) == 1  # four tokens in four seconds
    assert race.speed(results["auto"][0]) == 2
    # From the third token on, which came with the fourth: one token in a second.
    assert race.speed(results["auto"][0], half=True) == 1
    _, _, plain, auto, wrong = race.table(results).splitlines()
    assert plain == "| mlx-lm | 1.0 | 1.00 | 1.00 1.00 | 1.00 | yes |"
    assert auto == "| auto | 2.0 | 2.00 | 2.00 2.00 | 0.50 | yes |"
    assert wrong == "| wrong | 1.0 | 1.00 | 1.00 1.00 | 1.00 | NO |"


def test_tokens_of_one_piece_arrive_together():
    answer = timed(iter([[1], [2, 3]]))
    assert answer["tokens"] == [1, 2, 3]
    first, second, third = answer["times"]
    assert 0 <= first < second == third


def test_packages_of_other_contenders_are_looked_up_in_the_interpreter():
    assert race.PACKAGES.keys() < CONTENDERS.keys()
    assert race.available(race.sys.executable, "json")
    assert not race.available(race.sys.executable, "no_such_package")


@pytest.mark.full("programs")
@pytest.mark.parametrize("history", ["kept", "none"])
def test_every_own_contender_runs_in_a_process(tmp_path, history):
    tokenizer = race.write_pair(tmp_path, wide=False)
    options = Namespace(tokens=24, first=False, history=history, python="")
    stable = race.Stable(tmp_path, options, tokenizer)
    stable.prompts = stable.prompts[:2]
    names = ["mlx-lm", "plain", "block 8", "auto", "turning"]
    results = {name: [[], []] for name in names}
    stable.prepare(names)
    costs = cache_folder().relative_to(home()) / "costs.json"
    measured = (tmp_path / "home auto" / costs).read_text()
    assert json.loads(measured)
    with ExitStack() as stack:
        workers = {n: stack.enter_context(closing(stable.open(n))) for n in names}
        race.take_turns(workers, stable.prompts, options.tokens, results)
    for answers in zip(*results.values(), strict=True):
        texts = [answer["tokens"] for [answer] in answers]
        assert texts == [texts[0]] * len(names) and len(texts[0]) == 24
    rounds = {n: len(set(r[0][0]["times"])) - 1 for n, r in results.items()}
    assert rounds["plain"] == rounds["mlx-lm"] == 23
    assert rounds["block 8"] < 23 / 2
    new = sorted(path.name for path in tmp_path.glob("home [0-9]*"))
    assert len(new) == (5 if history == "none" else 0)
    assert all((tmp_path / n / costs).exists() for n in new[3:])


@pytest.mark.full("programs")
def test_the_demo_runs(capsys):
    demo.main()
    out = capsys.readouterr().out
    *_, last = out.strip().splitlines()
    assert last.startswith("All together: ") and "plain decoding" in last
    assert last.endswith("outputs identical.") and out.count("identical\n") == 3
    assert "tokens per round" in out and out.count(" tok/s") == 6
