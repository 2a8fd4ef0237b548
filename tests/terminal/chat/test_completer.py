"""Tab completion in a chat."""

from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from dflash_mlx.terminal.chat.commands import COMMANDS
from dflash_mlx.terminal.chat.completer import CommandCompleter


def completed(text):
    words = {name: command.words for name, command in COMMANDS.items()}
    completer = CommandCompleter(words)
    found = completer.get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in found]


def test_tab_completes(tmp_path, monkeypatch):
    (tmp_path / "talk.json").touch()
    monkeypatch.chdir(tmp_path)
    assert completed("/re") == ["/reset ", "/retry "]
    assert completed("/set ma") == ["/set max_tokens", "/set markdown"]
    assert completed("/set markdown o") == ["/set markdown on", "/set markdown off"]
    assert completed("/plain of") == ["/plain off"]
    assert completed("/help un") == ["/help undo"]
    assert completed("/load ta") == ["/load talk.json"]
    for text in ("hello", "/set nonesuch ", "/undo ", "/nonesuch ", "/set temp 0"):
        assert completed(text) == []
