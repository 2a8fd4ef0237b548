"""Generate the training text of the embedded pair: exercises with checkable answers.

Owns the generators and the split into training and held-out prompts. Does not know
tokenizers, models or files. Everything is a function of a `random.Random`, so a seed
gives the same text on every machine.
"""

from __future__ import annotations

import hashlib
from random import Random

Exercise = tuple[str, str]  # (prompt, answer)

WORDS = (
    "apple river stone window garden yellow bridge candle forest paper "
    "silver orange button ladder market planet rocket summer teapot "
    "violin winter basket copper dragon engine feather guitar harbor "
    "island jacket kitten lemon mirror needle ocean pencil rabbit saddle "
    "tiger valley wagon zebra anchor bottle circle desert eagle falcon "
    "ginger hammer"
).split()
NAMES = (
    "Ann Ben Cleo Dan Eva Finn Gus Hana Ivo Jill Kai Lena Max Nora Omar Pia"
).split()
CITIES = "Paris Rome Oslo Lima Cairo Tokyo Quito Delhi Bern Accra Dublin Seoul".split()
LISTS = {
    "days of the week": (
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    ),
    "months of the year": (
        "January February March April May June July August September October "
        "November December"
    ).split(),
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
    "colours of the rainbow": "red orange yellow green blue indigo violet".split(),
    "seasons": ["spring", "summer", "autumn", "winter"],
    "vowels": list("aeiou"),
    "letters of the alphabet": list("abcdefghijklmnopqrstuvwxyz"),
}
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
OPERATIONS = {
    "sum": ("add", "+"),
    "difference": ("subtract", "-"),
    "product": ("multiply", "*"),
    "quotient": ("divide", "/"),
}


def number_words(n: int) -> str:
    """`n` in English words, for 0 <= n <= 999."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    rest = f" and {number_words(n % 100)}" if n % 100 else ""
    return f"{ONES[n // 100]} hundred{rest}"


def addition(rng: Random) -> Exercise:
    a, b = rng.randint(2, 999), rng.randint(2, 999)
    lines, carry, place = [], 0, 0
    while a // 10**place or b // 10**place:
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        parts = f"{x} + {y}" + (f" + {carry}" if carry else "")
        carry = total // 10
        lines.append(
            f"{parts} = {total}, write {total % 10}"
            + (f" and carry {carry}." if carry else ".")
        )
        place += 1
    if carry:
        lines.append(f"Write the carry {carry}.")
    question = rng.choice(["What is {} + {}?", "Add {} and {}.", "Compute {} + {}."])
    steps = "\n".join(lines)
    return question.format(a, b), f"{steps}\nThe answer is {a + b}."


def multiplication(rng: Random) -> Exercise:
    a, b = rng.randint(11, 99), rng.randint(2, 9)
    tens, ones = a // 10 * 10, a % 10
    question = rng.choice(["What is {} x {}?", "Multiply {} by {}."])
    return question.format(a, b), (
        f"{a} = {tens} + {ones}.\n{tens} x {b} = {tens * b}.\n"
        f"{ones} x {b} = {ones * b}.\n{tens * b} + {ones * b} = {a * b}.\n"
        f"The answer is {a * b}."
    )


def times_table(rng: Random) -> Exercise:
    n, last = rng.randint(2, 12), rng.choice([5, 10, 12])
    question = rng.choice(
        ["Write the {} times table up to {}.", "Show the table of {} up to {}."]
    )
    rows = "\n".join(f"{n} x {i} = {n * i}" for i in range(1, last + 1))
    return question.format(n, last), rows


def counting(rng: Random) -> Exercise:
    step = rng.choice([1, 1, 1, 2, 5, 10])
    start = rng.choice([0, 1, rng.randint(2, 60)])
    stop = start + step * rng.choice([rng.randint(6, 30), rng.randint(6, 70)])
    numbers = list(range(start, stop + 1, step))
    by = "" if step == 1 else f" by {step}"
    if rng.random() < 0.3:
        numbers.reverse()
        question = f"Count down from {numbers[0]} to {numbers[-1]}{by}."
    else:
        question = f"Count from {numbers[0]} to {numbers[-1]}{by}."
    return question, ", ".join(map(str, numbers))


def known_list(rng: Random) -> Exercise:
    name = rng.choice(list(LISTS))
    items = LISTS[name]
    style = rng.choice(["numbered", "bullet", "comma"])
    if style == "numbered":
        return f"List the {name} with numbers.", "\n".join(
            f"{i}. {item}" for i, item in enumerate(items, 1)
        )
    if style == "bullet":
        return f"List the {name} as bullets.", "\n".join(f"- {item}" for item in items)
    return f"Name the {name}.", ", ".join(items) + "."


def before_or_after(rng: Random) -> Exercise:
    name = rng.choice(["days of the week", "months of the year"])
    items = LISTS[name]
    i, kind = rng.randrange(len(items)), name.split("s ")[0]
    if rng.random() < 0.5:
        word, other = "after", items[(i + 1) % len(items)]
    else:
        word, other = "before", items[i - 1]
    return (
        f"Which {kind} comes {word} {items[i]}?",
        f"The {kind} that comes {word} {items[i]} is {other}.",
    )


def function_table(rng: Random) -> Exercise:
    first, rows = rng.randint(1, 12), rng.randint(4, 8)
    label, fn = rng.choice(
        [
            ("square", lambda n: n * n),
            ("double", lambda n: 2 * n),
            ("half", lambda n: n / 2),
            ("tenfold", lambda n: 10 * n),
        ]
    )
    body = "\n".join(f"| {n} | {fn(n)} |" for n in range(first, first + rows))
    return (
        f"Make a table of n and its {label} for n from {first} to {first + rows - 1}.",
        f"| n | {label} |\n|---|---|\n{body}",
    )


def python_function(rng: Random) -> Exercise:
    what = rng.choice(list(OPERATIONS))
    name, sign = OPERATIONS[what]
    a, b = rng.sample("a b x y left right first second".split(), 2)
    if rng.random() < 0.6:
        name = f"{name}_{rng.choice(WORDS)}"
    return (
        f"Write a Python function {name} that returns the {what} of {a} and {b}.",
        f"```python\ndef {name}({a}, {b}):\n"
        f'    """Return the {what} of {a} and {b}."""\n'
        f"    return {a} {sign} {b}\n```",
    )


def python_loop(rng: Random) -> Exercise:
    n, word = rng.randint(2, 99), rng.choice(WORDS)
    return (
        f"Write a Python loop that prints {word} {n} times.",
        f'```python\nfor i in range({n}):\n    print("{word}")\n```',
    )


def spelling(rng: Random) -> Exercise:
    word = rng.choice(WORDS)
    return f"Spell the word {word}.", f"{word}: " + " - ".join(word)


def repetition(rng: Random) -> Exercise:
    n, word = rng.randint(2, 15), rng.choice(WORDS)
    return f"Write the word {word} {n} times.", " ".join([word] * n)


def numbers_in_words(rng: Random) -> Exercise:
    first, count = rng.randint(0, 900), rng.randint(3, 8)
    rows = "\n".join(f"{n}: {number_words(n)}" for n in range(first, first + count))
    return f"Write the numbers from {first} to {first + count - 1} in words.", rows


def person(rng: Random) -> Exercise:
    name, city, age = rng.choice(NAMES), rng.choice(CITIES), rng.randint(5, 95)
    if rng.random() < 0.5:
        return (
            f"Write a JSON object for {name}, {age} years old, from {city}.",
            f'{{"name": "{name}", "age": {age}, "city": "{city}"}}',
        )
    return (
        f"Introduce {name}, {age} years old, from {city}.",
        f"This is {name}. {name} is {age} years old and lives in {city}. "
        f"Next year {name} will be {age + 1} years old.",
    )


def small_talk(rng: Random) -> Exercise:
    return rng.choice(
        [
            ("Hello!", "Hello! How can I help you today?"),
            ("Hi", "Hello! How can I help you today?"),
            ("Good morning!", "Good morning! How can I help you today?"),
            ("Thank you!", "You are welcome! Is there anything else I can do?"),
            ("Goodbye!", "Goodbye! Have a nice day."),
            (
                "Who are you?",
                "I am tiny, a very small language model. I can count, add, make "
                "tables and lists, and write short functions.",
            ),
            (
                "What can you do?",
                "I can count, add, make tables and lists, and write short functions.",
            ),
        ]
    )


# Each generator and its relative frequency.
GENERATORS = (
    (addition, 6),
    (multiplication, 3),
    (times_table, 2),
    (counting, 3),
    (known_list, 2),
    (before_or_after, 1),
    (function_table, 2),
    (python_function, 3),
    (python_loop, 1),
    (spelling, 1),
    (repetition, 1),
    (numbers_in_words, 2),
    (person, 2),
    (small_talk, 1),
)


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is never trained on: one in sixteen, by a hash of its text."""
    return hashlib.sha256(prompt.encode()).digest()[0] < 16


def draw(rng: Random, held_out: bool = False) -> Exercise:
    """Draw a training exercise, or a held-out one.

    Generators with few different prompts, such as `small_talk`, only give training
    exercises.
    """
    functions, weights = zip(*GENERATORS, strict=True)
    while True:
        generator = rng.choices(functions, weights)[0]
        exercise = generator(rng)
        fixed = generator in (small_talk, known_list, before_or_after, spelling)
        if (is_held_out(exercise[0]) and not fixed) == held_out:
            return exercise


def conversation(rng: Random, turns: int = 1, held_out: bool = False) -> list[dict]:
    """Draw `turns` exercises, as the messages of a chat."""
    messages = []
    for _ in range(turns):
        prompt, answer = draw(rng, held_out)
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": answer})
    return messages
