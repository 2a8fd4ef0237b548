"""The exercises: right answers, and a split into training and held-out prompts."""

from random import Random

from dflash_mlx.train.exercises import conversation, draw, is_held_out


def test_exercises_are_right_and_split():
    rng = Random(1)
    for _ in range(300):
        prompt, answer = draw(rng)
        assert prompt and answer
        if prompt.startswith("What is ") and "+" in prompt:
            a, b = prompt[8:-1].split(" + ")
            assert answer.endswith(f"The answer is {int(a) + int(b)}.")
    held = {draw(rng, held_out=True)[0] for _ in range(100)}
    assert all(is_held_out(prompt) for prompt in held)
    chat = conversation(rng, 2)
    assert [m["role"] for m in chat] == ["user", "assistant"] * 2
