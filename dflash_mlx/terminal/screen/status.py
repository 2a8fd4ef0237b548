"""Messages about an answer: its status line, why it was cut off, and /stats.

Owns their wording; all are printed on stderr. Does not know conversations or models.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ...responses import GenerationResponse
from ...stats import Stats
from .region import escape_controls

DIM = "dim"
ERROR = "red"


def print_message(text: str, style: str = "") -> None:
    """Print lines on stderr; a terminal wraps them, and styles them if it has colours.

    Args:
        text: The lines; control characters are replaced.
        style: A rich style.
    """
    console = Console(stderr=True, highlight=False)
    style = "" if console.no_color else style
    text = Text(escape_controls(text), style)
    console.print(text, soft_wrap=not console.is_terminal)


def status_line(last: GenerationResponse) -> str:
    """The line below an answer: its tokens, their speed, and the gain of drafting.

    Args:
        last: The answer's last response.
    """
    parts = [f"{last.generation_tokens} tok"]
    if last.generation_tokens > 1:
        parts.append(f"{speed(last.generation_tps)} tok/s")
    if last.stats.engine == "plain":
        parts.append("plain")
    elif (gain := last.stats.shown_speedup) is not None:
        parts.append(f"{gain:.1f}x")
    return "  ".join(parts)


def speed(per_second: float) -> str:
    """Tokens per second, with a decimal if there are few."""
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.1f}"


def cutoff_notice(last: GenerationResponse, context: int | None) -> str:
    """Why an answer was cut off, and what to do; empty if it was not.

    Args:
        last: The answer's last response.
        context: The length of the model's context in tokens, if it is limited.
    """
    if last.finish_reason != "length":
        return ""
    stats = last.stats
    rows = stats.cached_tokens + stats.prompt_tokens + last.generation_tokens
    if context is not None and rows >= context:
        return (
            f"The answer was cut off: the model's context of {context} tokens is full. "
            "Use /undo to remove this turn, or /reset to start over."
        )
    return (
        f"The answer was cut off at max_tokens ({last.generation_tokens}). "
        "/continue continues it; "
        f"/set max_tokens {2 * last.generation_tokens} allows longer answers."
    )


class SessionStats:
    """The statistics of a session's answers.

    Attributes:
        answers: The Stats of each answer, oldest first.
    """

    def __init__(self):
        self.answers: list[Stats] = []
        self._speed = 0.0
        self._seed: int | None = None

    def add(self, last: GenerationResponse, seed: int | None = None) -> None:
        """Add an answer.

        Args:
            last: Its last response.
            seed: The seed that it was sampled with.
        """
        self.answers.append(last.stats)
        self._speed, self._seed = last.generation_tps, seed

    def report(self, tables: bool = False) -> str:
        """The lines of /stats.

        Args:
            tables: Add the figures by position and by width.
        """
        if not self.answers:
            return "There are no answers yet."
        last = answer_lines(self.answers[-1], self._speed, tables)
        if self._seed is not None:
            last.append(f"Seed {self._seed}; /set seed {self._seed} uses it again.")
        lines = ["Last answer", *indented(last)]
        if len(self.answers) > 1:
            lines += [
                f"All {len(self.answers)} answers",
                *indented(session_lines(self.answers, tables)),
            ]
        return "\n".join(lines)


def indented(lines: list[str]) -> list[str]:
    """The lines below a heading."""
    return [f"  {line}" for line in lines]


def answer_lines(stats: Stats, per_second: float, tables: bool) -> list[str]:
    """Sentences about one answer.

    Args:
        stats: Its statistics.
        per_second: Tokens per second after the first one.
        tables: Add the figures by position and by width.
    """
    how = f" at {speed(per_second)} tokens/s" if stats.tokens > 1 else ""
    lines = [f"{count(stats.tokens, 'token')}{how}."]
    if stats.engine == "plain":
        lines.append(f"Plain decoding: {stats.reason}.")
    lines += guess_lines([stats])
    if stats.engine != "plain":
        lines.append(gain_sentence(stats))
    lines += prompt_lines([stats])
    return [*lines, *detail_lines([stats])] if tables else lines


def session_lines(answers: list[Stats], tables: bool) -> list[str]:
    """Sentences about several answers together."""
    tokens = sum(stats.tokens for stats in answers)
    seconds = sum(s for stats in answers for _, s in stats.seconds_by_width.values())
    lines = [f"{count(tokens, 'token')}, {seconds:.1f} s of decoding."]
    lines += guess_lines(answers)
    compared = [stats for stats in answers if stats.shown_speedup is not None]
    if compared and (saved := sum(map(saved_seconds, compared))) >= 0.1:
        lines.append(f"About {saved:.1f} s saved.")
    lines += prompt_lines(answers)
    return [*lines, *detail_lines(answers)] if tables else lines


def guess_lines(answers: list[Stats]) -> list[str]:
    """How many drafts were right; no line if there were none."""
    drafted = sum(stats.drafted for stats in answers)
    accepted = sum(stats.accepted for stats in answers)
    if not drafted:
        return []
    right = f"{accepted:,} of {count(drafted, 'guess', 'guesses')} right"
    rounds = sum(stats.rounds for stats in answers)
    made = sum(stats.tokens - stats.answers for stats in answers)
    return [f"{right}; {made / rounds:.2f} tokens per pass."]


def gain_sentence(stats: Stats) -> str:
    """What drafting gained or lost in one answer."""
    gain = stats.shown_speedup
    if gain is None:
        return "Too short to compare with plain decoding."
    saved = saved_seconds(stats)
    effect = f"{abs(saved):.1f} s {'saved' if saved >= 0 else 'lost'}"
    return f"About {gain:.1f} times the speed of plain decoding, {effect}."


def saved_seconds(stats: Stats) -> float:
    """Seconds that drafting saved over plain decoding, by the measured costs."""
    return (stats.plain_seconds or 0.0) - stats.compared_seconds


def prompt_lines(answers: list[Stats]) -> list[str]:
    """The wait for first tokens, and where the tokens of the prompts came from."""
    cached = sum(stats.cached_tokens for stats in answers)
    whole = cached + sum(stats.prompt_tokens for stats in answers)
    waited = sum(stats.time_to_first_token for stats in answers)
    first = "First token" if len(answers) == 1 else "First tokens"
    return [
        f"{first} after {waited:.2f} s.",
        f"{cached:,} of {count(whole, 'prompt token')} came from the cache.",
    ]


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def detail_lines(answers: list[Stats]) -> list[str]:
    """The pooled acceptance by position and rounds by width."""
    pooled, by_width = Stats(), {}
    for stats in answers:
        pooled.add(stats)
        for width, (rounds, seconds) in stats.seconds_by_width.items():
            total = by_width.setdefault(width, [0, 0.0])
            total[0] += rounds
            total[1] += seconds
    lines = []
    if pooled.drafted:
        lines.append("position  guesses  right")
        for i, share in enumerate(pooled.acceptance):
            lines.append(f"{i + 1:8}  {pooled.drafted_at[i]:7,}  {share:5.0%}")
    if by_width:
        lines.append("rows  passes  seconds")
        for width, (rounds, seconds) in sorted(by_width.items()):
            lines.append(f"{width:4}  {rounds:6,}  {seconds:7.2f}")
    return lines
