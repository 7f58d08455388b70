"""Out of the course: a model as a plain folder with a card, which transformers, TRL and others open."""

import shutil
from pathlib import Path

from rlhf_utils.artifacts.lineage import PARENTS, TASTE
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError, place
from rlhf_utils.language.models import save_model
from rlhf_utils.pipeline.taste import EXAMPLE, example_store, has_own_taste
from rlhf_utils.profiles import BEYOND, MODELS, YOURS

LANGUAGE_MODELS = ("pretrain", "sft", "ppo", "ppo_ptx", *BEYOND, YOURS.stage)
SCORERS = ("reward", "taste_reward")
LIMITS = (
    "It was trained as an exercise, and is not a product: it states falsehoods with confidence, and it was "
    "not taught what its rankings did not ask for, above all safety."
)


def export_model(store: Store, stage: str, folder: str | Path) -> Path:
    """Write a stage's model with its tokenizer and a card into a new folder; returns it."""
    known = MODELS | {"taste": YOURS}  # as `rlhf chat` calls them
    stage = known[stage].stage if stage in known else stage.replace("-", "_")
    if stage not in (*LANGUAGE_MODELS, *SCORERS):
        raise CourseError(
            f"{stage!r:.40} is no model. Choose one of: base, sft, ppo, ppo_ptx, {', '.join(BEYOND)}, "
            "reward, taste, taste_reward."
        )
    target = place("The folder", folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CourseError(f"{target} is there already. Name a new folder.")
    example = example_store()
    if stage in TASTE and example.root == store.reference and not store.profile.guideline:
        store = store if has_own_taste(store, stage) else example  # until there are rankings of one's own
    model, tokenizer = store.model(stage), store.tokenizer()
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(model, partial, tokenizer)
    write_card(partial, target.name, stage in SCORERS, made_from(store, stage), figures_of(store, stage))
    if target.is_dir():
        target.rmdir()
    partial.rename(target)
    return target


def made_from(store: Store, stage: str) -> list[str]:
    """What a stage's model has learned from, in words."""
    profile, lineage, queue = store.profile, set(), [stage]
    while queue:
        name = queue.pop()
        lineage.add(name)
        queue += PARENTS[name]
    source = f"the data in {Path(profile.data).name}" if profile.data else "the course's small world"
    begun = f"the pretrained {Path(profile.base).name}" if profile.base else f"documents of {source}"
    said = [f"begun from {begun}" if profile.base else f"pretrained on {begun}"]
    if "sft" in lineage and profile.sft_epochs:
        # The models that come with the course have no corpus beside them.
        shown = len(store.prompts("demonstrations")) if store.find("corpus") else profile.demonstrations
        said.append(f"fine-tuned on {shown:,} demonstrations")
    if "rank" in lineage:
        through = ", through a reward model" if "reward" in lineage else ""
        ranked = len(store.rankings()) if store.find("rank") else profile.ranked_prompts
        said.append(f"{ranked:,} rankings of answers{through}")
    if stage.startswith(("ppo", "taste_ppo")) or stage in BEYOND:
        written = (MODELS | BEYOND | {YOURS.stage: YOURS})[stage].written
        said.append(f"trained by {written}, seed {profile.seed}")
    if stage in TASTE and store.root == store.reference:
        said[-1] = f"steered by the {EXAMPLE}'s rankings"
    return said


def figures_of(store: Store, stage: str) -> list[str]:
    """What `evaluate` measured of a model, if it was run."""
    if not store.find("evaluate"):
        return []
    gold = store.metrics("evaluate").get("gold", {})
    names = [name for name, model in MODELS.items() if model.stage == stage and name in gold]
    return [
        f"{said}: {gold[name][kind]['total']:.3f} by the course's judge, from 0 to 1"
        for name in names
        for kind, said in (("greedy", "greedy"), ("t1", "at temperature 1"))
        if kind in gold[name]
    ]


def write_card(folder: Path, name: str, scores: bool, made: list[str], figures: list[str]) -> None:
    """README.md as the Hub shows it: what it is, what it was trained on, figures, limits, how to open it."""
    task = "classification" if scores else "generation"
    lines = ["---", "library_name: transformers", f"pipeline_tag: text-{task}", "tags: [rlhf]", "---"]
    lines += ["", f"# {name}", ""]
    what = "A language model."
    if scores:
        what = (
            "A reward model: the higher its score, the better an answer by its rankings. The course adds "
            "`likelihood` (config.json) times the answer's log-probability, and a taste's second head."
        )
    lines += [f"{what} Made with the course *Train Your Own ChatGPT*.", "", "## Trained on", ""]
    lines += [f"- {part}" for part in made]
    if figures:
        lines += ["", "## Figures", "", *(f"- {figure}" for figure in figures)]
    lines += ["", "## Limits", "", LIMITS]
    if made[0].startswith("begun from"):
        lines += ["", "The licence of the model that it was begun from also applies to this one."]
    lines += ["", "## Use", "", "```python"]
    if scores:
        lines += [
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            'model = AutoModelForSequenceClassification.from_pretrained("FOLDER")',
        ]
    else:
        lines += [
            "from transformers import pipeline",
            'speak = pipeline("text-generation", model="FOLDER")',
            'speak([{"role": "user", "content": "What is the Moon?"}], max_new_tokens=40)',
        ]
    lines += ["```", ""]
    (folder / "README.md").write_text("\n".join(lines), "utf-8")
