"""The formats in which people share demonstrations and preferences, each recognised by its fields.

    hh-rlhf             chosen, rejected: whole dialogues as one text
    TRL                 prompt, completion · prompt, chosen, rejected · messages, as texts or as messages;
                        chosen, rejected that begin alike (UltraFeedback, binarized); a label
    Alpaca              instruction, input, output, also with instances (self-instruct)
    Dolly               instruction, context, response
    UltraFeedback       instruction, completions with an overall_score: a ranking
    OpenAssistant       trees of messages with ranks: a ranking of each message's replies
    ShareGPT            conversations of from, value, also with chosen, rejected
    SHP                 history, human_ref_A, human_ref_B, labels
    summaries           info, summaries, choice (OpenAI's)
    question, answer · query, response · input, output

A function for each takes a row and gives rows of `prompt` and, as far as there, `completion`, `chosen` and
`rejected`, or `answers` with their `ranks` (1 is best, equal ranks are ties); ValueError says what is wrong.
"""

import re
from collections.abc import Callable, Iterable, Iterator

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


def parse_dialogue(text: str) -> list[dict] | None:
    """hh-rlhf's "\\n\\nHuman: … \\n\\nAssistant: …" as messages."""
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if len(parts) < 3 or parts[0].strip():
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [{"role": roles[r], "content": c.strip()} for r, c in zip(parts[1::2], parts[2::2])]
    alternate = all(m["role"] == ("user", "assistant")[i % 2] for i, m in enumerate(messages))
    return messages if alternate and all(m["content"] for m in messages) else None


def answered(messages, what: str) -> tuple[list[dict], str]:
    """A conversation that the assistant ends, as what came before and the answer."""
    good = isinstance(messages, list) and len(messages) > 1 and all(isinstance(m, dict) for m in messages)
    if not good or messages[-1].get("role") != "assistant":
        raise ValueError(f"{what} must end with the assistant's turn")
    return messages[:-1], messages[-1].get("content")


def hh_rlhf(row: dict) -> list[dict]:
    texts = [str(row.get(key, "")) for key in ("chosen", "rejected")]
    chosen, rejected = map(parse_dialogue, texts)
    if texts[0].rpartition("\n\nAssistant:")[0] != texts[1].rpartition("\n\nAssistant:")[0]:
        raise ValueError("chosen and rejected answer different prompts")
    if chosen is None or rejected is None:
        raise ValueError("an empty turn, or not a dialogue")
    if chosen[-1]["role"] != "assistant":
        raise ValueError("the dialogue does not end with an answer")
    last, other = chosen[-1]["content"], rejected[-1]["content"]
    return [{"prompt": chosen[:-1], "completion": last, "chosen": last, "rejected": other}]


def begin_alike(row: dict) -> list[dict]:
    """TRL's implicit prompt: what two conversations share; only their last turn differs."""
    (prompt, chosen), (other, rejected) = (
        answered(row["chosen"], "`chosen`"),
        answered(row["rejected"], "`rejected`"),
    )
    if prompt != other:
        raise ValueError("chosen and rejected answer different prompts")
    return [{"prompt": prompt, "completion": chosen, "chosen": chosen, "rejected": rejected}]


def instruction(row: dict) -> list[dict]:
    found = []
    for case in row.get("instances") or [row]:
        output = case.get("output") or case.get("response") if isinstance(case, dict) else None
        if not str(output or "").strip():
            raise ValueError("empty output")
        extra = str(case.get("input") or case.get("context") or "").strip()
        prompt = f"{row['instruction']}\n{extra}" if extra else str(row["instruction"])
        found.append({"prompt": prompt, "completion": str(output)})
    return found


def ranked(prompt, answers: list, values: list, where: str) -> dict:
    """A ranking from a value of each answer, the highest first."""
    if not all(isinstance(v, int | float) and v == v for v in values):
        raise ValueError(f"{where} that is not a number")
    ranks = [1 + sum(other > value for other in values) for value in values]
    best = answers[ranks.index(1)] if ranks else None
    return {"prompt": prompt, "completion": best, "answers": answers, "ranks": ranks}


def scored_completions(row: dict) -> list[dict]:
    cases = row["completions"]
    if not all(isinstance(c, dict) and "response" in c for c in cases) or not cases:
        raise ValueError("a completion without a response")
    scores = [c.get("overall_score", c.get("fine-grained_score")) for c in cases]
    return [ranked(row["instruction"], [c["response"] for c in cases], scores, "an overall_score")]


def tree(row: dict) -> list[dict]:
    """OpenAssistant's: replies of the assistant that people ranked (0 is best); one reply alone is shown."""
    found = list(_branches(row["prompt"] if isinstance(row.get("prompt"), dict) else row, []))
    if not found:
        raise ValueError("a message without a reply")
    return found


def _branches(message: dict, before: list[dict]) -> Iterator[dict]:
    role = ROLES.get(str(message.get("role")))
    so_far = [*before, {"role": role or "user", "content": message.get("text")}]
    replies = [m for m in message.get("replies") or [] if isinstance(m, dict)]
    if so_far[-1]["role"] == "user" and replies:
        given = [m for m in replies if isinstance(m.get("rank"), int | float) and m["rank"] == m["rank"]]
        if len(given) > 1:
            yield ranked(so_far, [m.get("text") for m in given], [-m["rank"] for m in given], "a rank")
        else:
            yield {"prompt": so_far, "completion": replies[0].get("text")}
    for reply in replies:
        yield from _branches(reply, so_far)


def grown(messages: Iterable[dict]) -> Iterator[dict]:
    """Trees from OpenAssistant's other form, a message a row that names its parent."""
    rows = (m for m in messages if isinstance(m, dict) and "message_id" in m)
    kept = {str(m["message_id"]): m | {"replies": []} for m in rows}
    for message in kept.values():
        parent = kept.get(str(message.get("parent_id")))
        if parent is not None and parent is not message:
            parent["replies"].append(message)
    yield from (m for m in kept.values() if not m.get("parent_id"))


def turns_of(row: dict) -> list[dict]:
    """ShareGPT's turns as messages."""
    found = []
    for turn in row["conversations"]:
        role = ROLES.get(str(turn.get("from", turn.get("role")))) if isinstance(turn, dict) else None
        if role is None:
            raise ValueError("a turn by an unknown speaker (from: human or gpt)")
        found.append({"role": role, "content": turn.get("value", turn.get("content"))})
    return found


def share_gpt(row: dict) -> list[dict]:
    messages = turns_of(row)
    if "chosen" not in row:
        prompt, completion = answered(messages, "`conversations`")
        return [{"prompt": prompt, "completion": completion}]
    pair = [row[k].get("value", row[k].get("content")) if isinstance(row[k], dict) else row[k] for k in PAIR]
    return [{"prompt": messages, "completion": pair[0], "chosen": pair[0], "rejected": pair[1]}]


def shp(row: dict) -> list[dict]:
    answers = [row["human_ref_A"], row["human_ref_B"]]
    chosen, rejected = answers if row.get("labels") == 1 else answers[::-1]
    return [{"prompt": row["history"], "completion": chosen, "chosen": chosen, "rejected": rejected}]


def summaries(row: dict) -> list[dict]:
    info, choice = row.get("info"), row.get("choice")
    texts = [s.get("text") for s in row["summaries"] if isinstance(s, dict)]
    if not isinstance(info, dict) or choice not in (0, 1) or len(texts) != 2:
        raise ValueError("summaries without a post and a choice of 0 or 1")
    post = info.get("post") or info.get("article")
    chosen, rejected = texts[choice], texts[1 - choice]
    return [{"prompt": post, "completion": chosen, "chosen": chosen, "rejected": rejected}]


def messages(row: dict) -> list[dict]:
    prompt, completion = answered(row["messages"], "`messages`")
    return [{"prompt": prompt, "completion": completion}]


def trl(row: dict) -> list[dict]:
    row = dict(row)
    if "messages" in row and not {"completion", "chosen", "answers"} & set(row):
        return messages(row)  # the prompt stands in them once more
    if row.get("label") is False:
        raise ValueError("labelled as not good")
    if all(isinstance(row.get(k), list) and len(row[k]) > 1 for k in PAIR):
        return begin_alike(row)
    if "chosen" in row and "completion" not in row:
        row["completion"] = row["chosen"]
    if "answers" in row and "completion" not in row and isinstance(row.get("ranks"), list) and row["ranks"]:
        row["completion"] = dict(zip(row["ranks"], row["answers"])).get(min(row["ranks"]))
    return [row]


def pair_of(prompt: str, completion: str) -> Callable[[dict], list[dict]]:
    return lambda row: [{"prompt": row[prompt], "completion": row[completion]}]


PAIR = ("chosen", "rejected")
# Fields that a row has → what it is; the first that fits.
FORMATS: tuple[tuple[tuple[str, ...], Callable[[dict], list[dict]]], ...] = (
    (("message_tree_id",), tree),
    (("replies",), tree),
    (("instruction", "completions"), scored_completions),
    (("instruction",), instruction),
    (("conversations",), share_gpt),
    (("history", "human_ref_A", "human_ref_B"), shp),
    (("summaries", "choice"), summaries),
    (("prompt",), trl),
    (("messages",), messages),
    (("chosen", "rejected"), lambda row: (begin_alike if isinstance(row["chosen"], list) else hh_rlhf)(row)),
    (("chosen",), hh_rlhf),
    (("question", "answer"), pair_of("question", "answer")),
    (("query", "response"), pair_of("query", "response")),
    (("input", "output"), pair_of("input", "output")),
)


def normal_rows(row, names: dict[str, str] | None = None) -> list[dict]:
    """A row of any known format as rows with `prompt` and, as far as there, `completion`, `chosen`,
    `rejected`, or `answers` and `ranks`. `names` calls fields otherwise first: {"prompt": "Q"}.

    Raises ValueError with the reason if the row is bad.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if names:
        row = {ours: row[theirs] for ours, theirs in names.items() if theirs in row}
    for fields, read in FORMATS:
        if all(field in row for field in fields):
            return read(row)
    raise ValueError(f"unknown format (fields {', '.join(map(str, list(row)[:5]))})")
