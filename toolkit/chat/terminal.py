"""The conversation as a person leads it: a prompt, commands that begin with a slash, Ctrl-C for the answer and Ctrl-D for the end."""

from __future__ import annotations

import signal
from contextlib import closing

from toolkit import console
from toolkit.chat.conversation import Conversation
from toolkit.chat.screen import Screen, plain
from toolkit.engines import Answer
from toolkit.errors import ThinkshipError

COMMANDS = {"/think": "show the last thinking", "/clear": "forget the conversation", "/help": "this list", "/quit": "end, as Ctrl-D does"}


def converse(conversation: Conversation, fold: bool) -> None:
    """Answer questions until the person ends it; an error is told and the conversation goes on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell without job control starts us with the signal ignored
    endpoint = conversation.chat.endpoint
    console.say(f"{endpoint.model} at {endpoint.url}\nCtrl-C stops an answer, Ctrl-D ends, /help lists the commands")
    while True:
        try:
            line = console.ask("> ").strip()
        except KeyboardInterrupt:
            console.say("\nCtrl-D or /quit ends")
            continue
        except EOFError:
            console.say()
            return
        if line == "/quit":
            return
        if line.startswith("/"):
            _obey(line, conversation)
        elif line:
            _answer(line, conversation, fold)


def _obey(command: str, conversation: Conversation) -> None:
    match command:
        case "/think":
            thought = plain(conversation.last.reasoning).strip() if conversation.last else ""
            console.piece(f"{thought or 'there was no thinking'}\n", "dim")
        case "/clear":
            conversation.clear()
            console.say("forgotten")
        case _:
            console.say("\n".join(f"{name:8} {meaning}" for name, meaning in COMMANDS.items()))


def _answer(question: str, conversation: Conversation, fold: bool) -> None:
    screen = Screen(fold, conversation.chat.think)
    try:
        screen.end(show(question, conversation, screen))
    except KeyboardInterrupt:
        console.piece("(stopped)\n", "dim")
    except ThinkshipError as error:
        console.error(error)


def show(question: str, conversation: Conversation, screen: Screen) -> Answer:
    """Ask, show the answer as it comes, and return it whole; errors as `Conversation.ask`."""
    answer: Answer | None = None
    try:
        with closing(conversation.ask(question)) as growing:
            for answer in growing:
                screen.take(answer)
    except BaseException:
        screen.stop()
        raise
    assert answer is not None  # a stream without a chunk is an error already
    return answer
