"""Claim 3: what a prompt teaches is gone in the next context; fine-tuning keeps it."""

from hashlib import sha256
from random import Random

import numpy as np
import torch

from rlhf_utils.evaluation.language import option_losses
from rlhf_utils.evaluation.statistics import mean_difference, share
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.prompting import form_text
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure
from rlhf_utils.pipeline.claims.trained import sft_model
from rlhf_utils.world.facts import World

RIGHT = "share of taught values that are the likeliest of four"
SAME, ATTENTION = "weights are the same to the last byte", "attention from the answer to the taught value"
EPOCHS = 30


def invented_facts(world: World, count: int) -> list[dict]:
    """Facts of things that do not exist: a sentence that says one, a question, and four answers of which the
    first is the taught one.
    """
    rng, made = Random("taught"), []
    names = rng.sample(world.fictional["test"], min(count, len(world.fictional["test"])))
    for table, subject in names:
        relations = world.relations
        fitting = [r for r, info in relations.items() if info["table"] == table]
        relation = rng.choice([r for r in fitting if len(world.values_of(r)) >= 4])
        values = rng.sample(world.values_of(relation), 4)
        wording = relations[relation]["statements"][0]
        said = [world.state(subject, relation, value, wording) for value in values]
        asked = [relations[relation][k][0] for k in ("questions", "test_questions")]
        asked = [world.state(subject, relation, "", text) for text in asked]
        made.append({"says": said[0], "value": values[0], "options": said, "asked": asked})
    return made


def question(fact: dict, taught: bool, wording: int = 1) -> str:
    """What the model reads: the question in the assistant's form, after the sentence that teaches it or
    without.
    """
    text = f"{fact['says']} {fact['asked'][wording]}" if taught else fact["asked"][wording]
    return form_text("system line", {"messages": [{"role": "user", "content": text}], "use_case": "open_qa"})


def right(model, tokenizer, facts: list[dict], taught: bool) -> np.ndarray:
    """1 where the taught value is the likeliest of four, (facts,)."""
    contexts = [question(fact, taught) for fact in facts]
    losses = option_losses(model, tokenizer, contexts, [fact["options"] for fact in facts])
    return (losses.argmin(1) == 0).astype(float)


def digest(model) -> str:
    """A hash of all weights."""
    found = sha256()
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode() + weight.cpu().float().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def attention_to_value(model, tokenizer, facts: list[dict]) -> np.ndarray:
    """How much the last token before the answer attends to the tokens of the taught value,
    (facts, layers, heads).
    """
    model.set_attn_implementation("eager")
    found = []
    for fact in facts:
        text = question(fact, taught=True)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        start = text.index(fact["value"], text.index("\n"))
        spans = encoded["offset_mapping"]
        inside = [a < start + len(fact["value"]) and b > start for a, b in spans]
        ids = torch.tensor([encoded["input_ids"]], device=model.device)
        layers = model(input_ids=ids, output_attentions=True).attentions
        where = torch.tensor(inside, device=model.device)
        found.append(torch.stack([layer[0, :, -1, where].sum(-1) for layer in layers]).float().cpu().numpy())
    return np.stack(found)


def fine_tuned(bench: Bench, facts: list[dict]):
    """The base model after it was trained on the facts, each asked in another wording than it will be."""
    rows = [
        {"messages": [{"role": "user", "content": f["asked"][0]}], "completion": f["says"]} for f in facts
    ]
    return load_gpt2(sft_model(bench, rows, sft_epochs=EPOCHS))


def measure(bench: Bench) -> list[dict]:
    facts = invented_facts(bench.world, bench.count(150))
    base, before, names = bench.model("base"), digest(bench.model("base")), [f["says"] for f in facts]
    marks = {
        "taught in this context": right(base, bench.tokenizer, facts, taught=True),
        "asked in a fresh one": right(base, bench.tokenizer, facts, taught=False),
    }
    same = float(digest(base) == before)
    marks["fine-tuned on, asked in a fresh one"] = right(
        fine_tuned(bench, facts), bench.tokenizer, facts, taught=False
    )
    fresh = marks["asked in a fresh one"]
    rows = [figure(k, RIGHT, share(v, np.ones(len(facts)), names)) for k, v in marks.items()]
    for name in ("taught in this context", "fine-tuned on, asked in a fresh one"):
        rows.append(figure(f"{name} − asked in a fresh one", RIGHT, mean_difference(marks[name], fresh)))
    heads = attention_to_value(load_gpt2(bench.store.folder("pretrain")), bench.tokenizer, facts)
    mean = heads.mean(0)
    for layer, head in np.ndindex(mean.shape):
        values = heads[:, layer, head]
        low, high = np.quantile(values, [0.025, 0.975])
        rows.append(figure(f"layer {layer + 1}, head {head + 1}", ATTENTION, (values.mean(), low, high)))
    return [*rows, figure("before and after teaching", SAME, (same, same, same))]


CLAIM = Claim(
    3,
    "What a prompt teaches in context is gone in the next context; fine-tuning keeps it.",
    "Brown et al. (2020), section 1, on learning in context",
    (
        Rule("taught in this context − asked in a fresh one", RIGHT, 0.25),
        Rule("asked in a fresh one", RIGHT, 0.4, above=False),
        Rule("fine-tuned on, asked in a fresh one − asked in a fresh one", RIGHT, 0.25),
        Rule("before and after teaching", SAME, 0.5),
    ),
    ("evaluate",),
    measure,
    "The facts are about things that do not exist, and one value of four is right, so that guessing gives "
    "0.25. Fine-tuning words its questions differently from the measurement. On seed 0, other forms of "
    "the prompt were tried as well, and gave 0.29 to 0.38 in context: a model of a million parameters "
    "hardly learns from its prompt. In each run, the intervals of attention show how much it varies from "
    "fact to fact, not how well its mean is known.",
)
