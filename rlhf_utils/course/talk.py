"""`rlhf chat` in a terminal: one model, or several side by side, and a few commands."""

from collections.abc import Callable

from rlhf_utils.artifacts.store import Store
from rlhf_utils.course.arguments import temperature_of
from rlhf_utils.course.chat import Chat
from rlhf_utils.environment import CourseError, printable

HELP = """/model NAME[,NAME]   talk to another model, or to several side by side; the conversation starts anew
/reset               forget the conversation
/temperature X       0 always takes the likeliest word, 1 draws by the model's own probabilities
/help                show this
/quit                leave (so does Ctrl-D)"""


def open_chats(store: Store, names: str, temperature: float, prompted: bool = False) -> list[Chat]:
    """A conversation with each of the models, whose names are separated by commas."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] or [names]
    return [Chat(store, name, temperature, prompted=prompted) for name in wanted]


def say(chats: list[Chat], text: str) -> None:
    """Every model's answer to a person's text, as it is generated; after its name if there are more."""
    for chat in chats:
        if len(chats) > 1:
            print(f"{chat.written}: ", end="", flush=True)
        for piece in chat.ask(text):
            print(printable(piece), end="", flush=True)
        print()


def obey(command: str, chats: list[Chat], store: Store, prompted: bool) -> list[Chat]:
    """Carry out a command; returns the conversations to go on with."""
    name, _, value = command.partition(" ")
    temperature = chats[0].temperature
    if name == "/help":
        print(HELP)
    elif name == "/model":
        chats = open_chats(store, value, temperature, prompted and value.strip() == "base")
        print(f"You are talking to {' and '.join(chat.written for chat in chats)} now.")
    elif name == "/reset":
        for chat in chats:
            chat.messages.clear()
        print("The conversation starts anew.")
    elif name == "/temperature":
        for chat in chats:
            chat.temperature = temperature_of(value.strip())
        print(f"The temperature is {chats[0].temperature:g} now.")
    else:
        raise CourseError(f"There is no command {name}. The commands are:\n{HELP}")
    return chats


def talk(chats: list[Chat], store: Store, prompted: bool, known: str, ask: Callable = input) -> None:
    """Until /quit or Ctrl-D. What a command cannot do is said, and the conversation goes on."""
    names = " and ".join(chat.written for chat in chats)
    print(f"You are talking to {names}. Ask about {known}. Commands: /help. Leave with Ctrl-D.")
    while True:
        try:
            text = ask("> ").strip()
        except EOFError:
            return print()
        if text.lower() in ("/quit", "/exit", "quit", "exit"):
            return
        try:
            if text.startswith("/"):
                chats = obey(text, chats, store, prompted)
            elif text:
                say(chats, text)
        except (CourseError, ValueError) as error:
            print(printable(str(error)))
