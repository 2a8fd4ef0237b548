"""What is told beside an answer: the line below it, why it ended, /stats.

Owns the words; everything goes to stderr. Knows counters, no conversation.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ...engine import GenerationResponse
from ...stats import Stats
from .region import visible

QUIET = "dim"
WRONG = "red"


def say(text: str, style: str = "") -> None:
    """Lines on stderr, wrapped and styled on a terminal that can."""
    console = Console(stderr=True, highlight=False)
    style = "" if console.no_color else style
    console.print(Text(visible(text), style), soft_wrap=not console.is_terminal)


def status(last: GenerationResponse) -> str:
    """The line below an answer, from its last response."""
    stats = last.stats
    parts = ["1 token"]
    if last.generation_tokens > 1:
        rate = f"{last.generation_tps:.1f} tokens/s"
        parts = [f"{last.generation_tokens} tokens, {rate}"]
    parts.append(speculation(stats))
    parts.append(f"first token {stats.time_to_first_token:.2f} s")
    whole = stats.cached_tokens + stats.prompt_tokens
    parts.append(f"{stats.cached_tokens} of {whole} prompt tokens cached")
    return " | ".join(parts)


def speculation(stats: Stats) -> str:
    """Which engine answered, and what it gained, or why it is plain."""
    drafted = stats.engine != "plain"
    engine = stats.engine if drafted else f"plain ({stats.reason})"
    told = f"{engine}: {stats.tokens_per_round:.2f} tokens per round"
    if drafted and stats.speedup is not None:
        told += f", about {stats.speedup:.1f} times plain"
    return told


def ending(last: GenerationResponse, context: int | None) -> str:
    """What to do about an answer that ended before its end; empty if it did not.

    Args:
        last: Its last response.
        context: Most tokens of the model's context, if there is such a limit.
    """
    if last.finish_reason != "length":
        return ""
    stats = last.stats
    rows = stats.cached_tokens + stats.prompt_tokens + last.generation_tokens
    if context is not None and rows >= context:
        return (
            f"The answer is cut: the model's context of {context} tokens is full. "
            "/undo takes this turn back, /reset starts anew."
        )
    return (
        f"The answer is cut at max_tokens, {last.generation_tokens}. "
        f"/set max_tokens {2 * last.generation_tokens} and /retry give more."
    )


class Tally:
    """The counters of a session's answers."""

    def __init__(self):
        self.answers: list[Stats] = []
        self.line = ""

    def add(self, last: GenerationResponse) -> None:
        """Count an answer by its last response."""
        self.answers.append(last.stats)
        self.line = status(last)

    def report(self) -> str:
        """Lines for /stats."""
        if not self.answers:
            return "Nothing was answered yet."
        last = ["Last answer: " + self.line, *details(self.answers[-1:])]
        if len(self.answers) == 1:
            return "\n".join(last)
        return "\n".join([*last, session(self.answers), *details(self.answers)])


def session(answers: list[Stats]) -> str:
    """Answers pooled, in a line."""
    pooled, seconds, waited, cached, prompted = Stats(), 0.0, 0.0, 0, 0
    for stats in answers:
        pooled.add(stats)
        seconds += sum(spent for _, spent in stats.seconds_by_width.values())
        waited += stats.time_to_first_token
        cached += stats.cached_tokens
        prompted += stats.cached_tokens + stats.prompt_tokens
    return (
        f"Session: {len(answers)} answers, {pooled.tokens} tokens | "
        f"{pooled.tokens_per_round:.2f} tokens per round | {seconds:.2f} s decoding, "
        f"{waited:.2f} s to first tokens | {cached} of {prompted} prompt tokens cached"
    )


def details(answers: list[Stats]) -> list[str]:
    """Acceptance by position and rounds by width, pooled."""
    pooled, widths = Stats(), {}
    for stats in answers:
        pooled.add(stats)
        for width, (rounds, seconds) in stats.seconds_by_width.items():
            spent = widths.setdefault(width, [0, 0.0])
            spent[0] += rounds
            spent[1] += seconds
    lines = []
    if pooled.drafted:
        kept = " ".join(f"{share:.0%}" for share in pooled.acceptance)
        lines.append(
            f"  drafts kept: {pooled.accepted} of {pooled.drafted}; by position {kept}"
        )
    if widths:
        told = ", ".join(
            f"{rounds} of {width} ({seconds:.2f} s)"
            for width, (rounds, seconds) in sorted(widths.items())
        )
        lines.append(f"  rounds by rows: {told}")
    return lines
