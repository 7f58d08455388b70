"""In which form should the assistant talk? The same base model, three chat templates, all stages after
pretraining.

    python tests/benchmarks/chat_form.py          # about ten minutes on two cores

- *thread*: the form of the web's forums, which the base model knows, and in which PPO-ptx goes on reading
  documents;
- *thread under a system line*: the same under a line that no document has;
- *marks of its own*: "Person>" and "Assistant>", which no document has.

Gold scores on validation prompts that nothing else uses (60 a use case), each model greedy and at
temperature 1, and over the best-prompted base model, each at its best of the two. Prints the figures and
keeps them in `runs/chat_form.json`.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.environment import runs_folder
from rlhf_utils.evaluation.answers import answer_prompts, judge_answers, try_forms
from rlhf_utils.evaluation.statistics import mean_difference, win_rate
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.prompting import choose_forms, form_of
from rlhf_utils.language.tokenizer import CHAT_TEMPLATE, SYSTEM, prompt_ids
from rlhf_utils.pipeline.rank import rank_answers
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.training.reward import train_reward
from rlhf_utils.training.sft import fine_tune
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import USE_CASES, thing_of, write_prompts

PLAIN = CHAT_TEMPLATE.replace(f"{SYSTEM}\n", "")
MARKS = PLAIN.replace("Question: ", "Person> ").replace("Answer:", "Assistant>")
TEMPLATES = {"thread": PLAIN, "thread under a system line": CHAT_TEMPLATE, "marks of its own": MARKS}
assert len(set(TEMPLATES.values())) == 3 and SYSTEM not in PLAIN + MARKS and "Answer:" not in MARKS

profile = load_profile()
store = ensure(("corpus", "tokens", "tokenizer", "pretrain"), profile)
world, judge, windows = load_world(), Judge(load_world()), store.windows()
prompts = write_prompts(world, "validation", dict.fromkeys(USE_CASES, 60), 9)
cases, things = np.array([p["use_case"] for p in prompts]), [thing_of(p) for p in prompts]


def rival() -> dict[float, np.ndarray]:
    """Gold scores of the best-prompted base model by temperature; its forms are chosen on other validation
    prompts.
    """
    base, tokenizer, others = (store.model("pretrain"), store.tokenizer(), store.prompts("validation"))
    found = {}
    for temperature in (0.0, 1.0):
        forms = choose_forms(try_forms(profile, tokenizer, base, others, temperature, judge), others)
        by_form = try_forms(profile, tokenizer, base, prompts, temperature, judge)
        found[temperature] = np.array([by_form[form_of(forms, p)][i] for i, p in enumerate(prompts)])
    return found


def trained(template: str, folder: Path) -> dict[str, dict[float, np.ndarray]]:
    """Gold scores of SFT and PPO-ptx with a chat template, by model and temperature."""
    tokenizer = store.tokenizer()
    tokenizer.chat_template = template
    parts = {name: folder / name for name in ("sft", "rank", "reward", "ppo_ptx")}
    for part in parts.values():
        part.mkdir()
    demonstrations = store.prompts("demonstrations")
    scratch = folder / "scratch"  # for the trainers' own files
    fine_tune(
        profile,
        tokenizer,
        store.folder("pretrain"),
        demonstrations,
        windows,
        parts["sft"],
        scratch / "sft",
        store.root,
    )
    rank_answers(
        profile,
        world,
        tokenizer,
        parts["sft"],
        store.prompts("ranked"),
        store.prompts("validation"),
        parts["rank"],
        store.root,
    )
    rankings, heldout = (read_jsonl(parts["rank"] / f"{n}.jsonl") for n in ("rankings", "heldout_prompts"))
    train_reward(
        profile,
        tokenizer,
        store.folder("pretrain"),
        rankings,
        demonstrations,
        heldout,
        windows,
        parts["reward"],
        scratch / "reward",
        store.root,
    )
    asked = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in store.prompts("ppo")]
    train_ppo(
        profile,
        tokenizer,
        parts["sft"],
        parts["reward"],
        asked,
        windows,
        parts["ppo_ptx"],
        scratch / "ppo_ptx",
        store.root,
        "ppo_ptx",
    )
    return {
        name: {
            t: judge_answers(
                judge, prompts, answer_prompts(profile, tokenizer, load_gpt2(parts[name]), prompts, t, 1, 5)
            )["total"][:, 0]
            for t in (0.0, 1.0)
        }
        for name in ("sft", "ppo_ptx")
    }


def main() -> None:
    base = rival()
    best_base = max(base.values(), key=np.mean)
    found = {
        "profile": profile.name,
        "seed": profile.seed,
        "base_prompted": {str(t): float(g.mean()) for t, g in base.items()},
        "forms": {},
    }
    scores = {}
    for name, template in TEMPLATES.items():
        with tempfile.TemporaryDirectory() as folder:
            gold = scores[name] = trained(template, Path(folder))
        best = max(gold["ppo_ptx"].values(), key=np.mean)
        found["forms"][name] = {
            **{model: {str(t): float(g.mean()) for t, g in rows.items()} for model, rows in gold.items()},
            "two_turns": {model: float(rows[0.0][cases == "chat"].mean()) for model, rows in gold.items()},
            "ppo_ptx_vs_base_prompted": win_rate(best[:, None], best_base[:, None], things),
        }
        print(name, json.dumps(found["forms"][name], indent=1), flush=True)
    for name in TEMPLATES:
        found["forms"][name]["minus_thread"] = {
            f"{model}_{t}": mean_difference(scores[name][model][t], scores["thread"][model][t], things)
            for model in ("sft", "ppo_ptx")
            for t in (0.0, 1.0)
        }
    (runs_folder() / "chat_form.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
