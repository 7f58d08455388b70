"""Byte-pair encoding as in GPT-2, with a chat template and a padding token of its own.

Left out of GPT-2's tokenizer: nothing but size. `<pad>` differs from the end-of-text token, so that the
end of an answer is always learned, scored and counted.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlhf_utils.environment import CourseError
from rlhf_utils.language.chat_form import ChatForm, load_form

END, PAD = "<|endoftext|>", "<pad>"
# The roles are marked as forum threads mark them, so that a base model knows the form already: with new
# special tokens instead, 1,700 demonstrations would go into learning what these mean. A system line above,
# which no document has, tells the assistant from a thread: so what PPO-ptx reads of threads does not pull at
# its answers.
SYSTEM = "Helpful answers"
CHAT_TEMPLATE = (
    "{{ eos_token }}"
    "{% if not messages or messages[0]['role'] != 'system' %}{{ '" + SYSTEM + "\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% else %}{{ 'Question: ' if m['role'] == 'user' else 'Answer: ' }}{{ m['content'] }}{% endif %}"
    "{% if not loop.last %}{{ '\n' }}{% elif m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nAnswer:' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `vocabulary` tokens, special ones included.

    A space is put before the first word, so "France" at the start is the token of " France" within a text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap(tokenizer)


def wrap(
    tokenizer: Tokenizer, end: str = END, pad: str = PAD, form: ChatForm | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers with the course's chat template, or a pretrained model's own `form`; `end`
    closes documents and answers.
    """
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        bos_token=end,
        pad_token=pad,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    return with_form(fast, form)


def with_form(tokenizer, form: ChatForm | None):
    """The tokenizer, which writes conversations in this form; the course's own if it is None."""
    tokenizer.form = form
    tokenizer.chat_template = form.template() if form else CHAT_TEMPLATE
    return tokenizer


def form_of(tokenizer) -> ChatForm | None:
    """A pretrained model's own form of conversations; None is the course's."""
    return getattr(tokenizer, "form", None)


def question_in(tokenizer, ids: list[int]) -> str:
    """What the user asked last, in a prompt's ids, without the template's marks."""
    if form := form_of(tokenizer):
        text = tokenizer.decode(ids, skip_special_tokens=False).removesuffix(form.asked)
        earlier, _, last = text.rpartition(form.to_user)
        if earlier or form.after_system not in text:
            return last.removeprefix(form.before)
        return text.partition(form.after_system)[2]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return text.rpartition("Question:")[2].rpartition("\nAnswer:")[0].strip() or text.strip()


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    if form := form_of(tokenizer):
        form.save(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A stage's tokenizer, with the course's own template or that of a form, whatever else lies beside it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return with_form(tokenizer, load_form(folder))


def same_tokenizer(tokenizer, *models: Path) -> None:
    """Raise CourseError unless the models in these folders were made with this tokenizer."""
    for folder in models:
        if (folder / "tokenizer.json").exists():
            same = load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
        else:
            same = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"] == len(tokenizer)
        if not same:
            raise CourseError(
                f"The model in {folder} was made with another tokenizer: its token ids mean other words. "
                "Train it again with this one."
            )


def text_ids(tokenizer, text: str) -> list[int]:
    """Token ids of somebody's text, in which "<|endoftext|>" is text like any other."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def without_marks(text: str) -> str:
    """A turn's text in which no line begins like a turn: nobody writes somebody else's."""
    return re.sub(r"\n(?=(Question|Answer):)", "\n ", text)


def prompt_text(tokenizer, messages: list[dict]) -> str:
    """Messages as the model reads them, up to where its answer begins."""
    if form := form_of(tokenizer):
        return "".join(text for text, _ in form.pieces(messages))
    turns = [m | {"content": without_marks(m["content"])} for m in messages]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def prompt_ids(tokenizer, messages: list[dict], limit: int) -> list[int]:
    """Token ids of a prompt; leading turns, but not a system line,
    are dropped until it fits `limit` tokens.
    """
    return fitting_prompt(tokenizer, messages, limit)[0]


def conversation_ids(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of messages, up to where the answer begins."""
    if form := form_of(tokenizer):
        pieces = [
            text_ids(tokenizer, text) if said else tokenizer(text, add_special_tokens=False)["input_ids"]
            for text, said in form.pieces(messages)
        ]
        return [token for piece in pieces for token in piece]
    text = prompt_text(tokenizer, messages).removeprefix(tokenizer.eos_token)
    return [tokenizer.eos_token_id, *text_ids(tokenizer, text)]


def fitting_prompt(tokenizer, messages: list[dict], limit: int) -> tuple[list[int], list[dict]]:
    """Token ids of a prompt, as `prompt_ids`, and the messages that are left in it."""
    while True:
        ids = conversation_ids(tokenizer, messages)
        shorter = without_leading_turns(messages)
        if len(ids) <= limit or len(shorter) == len(messages):
            return ids[-limit:], messages
        messages = shorter


def without_leading_turns(messages: list[dict]) -> list[dict]:
    """Messages without what stands before the second user's turn, so that a user still speaks first.

    A system turn at the beginning stays. What has a single user's turn stays as it is.
    """
    system = [m for m in messages[:1] if m["role"] == "system"]
    turns = messages[len(system) :]
    later = [i for i, m in enumerate(turns) if i and m["role"] == "user"]
    return system + turns[later[0] :] if later else messages


def answer_ids(tokenizer, answer: str, limit: int) -> list[int]:
    """Token ids of an answer as a model would have sampled it: at most `limit` tokens, the last of which is
    the end-of-text token.

    The one rule for where an answer is cut, in demonstrations, rankings and evaluation: what SFT shows is
    what PPO lets end.
    """
    tokens = text_ids(tokenizer, answer)[: limit - 1] if answer else []
    return [*tokens, tokenizer.eos_token_id]


def to_windows(tokenizer, texts: list[str], context: int) -> np.ndarray:
    """Documents, each closed by the end-of-text token, packed into windows of (windows, context)."""
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, split_special_tokens=True)[
        "input_ids"
    ]
    flat = np.concatenate([np.array([*i, tokenizer.eos_token_id], dtype=np.int32) for i in ids])
    count = max(len(flat) // context, 1)
    return np.resize(flat[: count * context], (count, context))
