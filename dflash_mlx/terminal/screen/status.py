"""Messages about an answer: its status line, why it was cut off, and /stats.

Owns their wording; all are printed on stderr. Does not know conversations or models.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ...engine import GenerationResponse
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
    """The line below an answer.

    Args:
        last: The answer's last response.
    """
    stats = last.stats
    tokens = "1 token"
    if last.generation_tokens > 1:
        tokens = f"{last.generation_tokens} tokens, {last.generation_tps:.1f} tokens/s"
    prompt_tokens = stats.cached_tokens + stats.prompt_tokens
    return " | ".join(
        [
            tokens,
            engine_summary(stats),
            f"first token {stats.time_to_first_token:.2f} s",
            f"{stats.cached_tokens} of {prompt_tokens} prompt tokens cached",
        ]
    )


def engine_summary(stats: Stats) -> str:
    """The engine of an answer, with its gain, or the reason why it is plain."""
    drafted = stats.engine != "plain"
    engine = stats.engine if drafted else f"plain ({stats.reason})"
    summary = f"{engine}: {stats.tokens_per_round:.2f} tokens per round"
    if drafted and stats.speedup is not None:
        summary += f", about {stats.speedup:.1f} times plain decoding"
    return summary


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
        f"For more, use /set max_tokens {2 * last.generation_tokens} and /retry."
    )


class SessionStats:
    """The statistics of a session's answers.

    Attributes:
        answers: The Stats of each answer, oldest first.
    """

    def __init__(self):
        self.answers: list[Stats] = []
        self._status_line = ""

    def add(self, last: GenerationResponse) -> None:
        """Add an answer by its last response."""
        self.answers.append(last.stats)
        self._status_line = status_line(last)

    def report(self) -> str:
        """The lines of /stats."""
        if not self.answers:
            return "There are no answers yet."
        last = ["Last answer: " + self._status_line, *detail_lines(self.answers[-1:])]
        if len(self.answers) == 1:
            return "\n".join(last)
        session = [session_line(self.answers), *detail_lines(self.answers)]
        return "\n".join([*last, *session])


def session_line(answers: list[Stats]) -> str:
    """The pooled statistics of several answers."""
    pooled, seconds, waited, cached, prompt_tokens = Stats(), 0.0, 0.0, 0, 0
    for stats in answers:
        pooled.add(stats)
        seconds += sum(spent for _, spent in stats.seconds_by_width.values())
        waited += stats.time_to_first_token
        cached += stats.cached_tokens
        prompt_tokens += stats.cached_tokens + stats.prompt_tokens
    return (
        f"Session: {len(answers)} answers, {pooled.tokens} tokens | "
        f"{pooled.tokens_per_round:.2f} tokens per round | {seconds:.2f} s decoding, "
        f"{waited:.2f} s until first tokens | "
        f"{cached} of {prompt_tokens} prompt tokens cached"
    )


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
        shares = " ".join(f"{share:.0%}" for share in pooled.acceptance)
        lines.append(
            f"  drafts accepted: {pooled.accepted} of {pooled.drafted}; by position: "
            f"{shares}"
        )
    if by_width:
        counts = ", ".join(
            f"{rounds} with {width} {'row' if width == 1 else 'rows'} ({seconds:.2f} s)"
            for width, (rounds, seconds) in sorted(by_width.items())
        )
        lines.append(f"  rounds by width: {counts}")
    return lines
