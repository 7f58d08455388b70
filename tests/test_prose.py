"""No figure in the prose of pages and chapters without a source: a metrics file, a setting, or a paper."""

import json
import re
from collections.abc import Callable, Iterator

import pytest

from rlhf_utils.environment import DATA, ROOT
from rlhf_utils.pipeline.data_rows import LEAST_TEXT
from rlhf_utils.profiles import PROFILES

LAPTOP = PROFILES["laptop"]
# Decimal numbers, shares, and numbers with thousands: what a measurement would be written as.
NUMBER = r"(?<![\w.])(?:\d+\.\d+|\d+ %|\d+(?:,\d{3})+)"


PAGES = ("README.md", "CONTRIBUTING.md", "docs/manual.md")
# “Gao et al. (2023)” or “Gao et al., 2023”
CITED = r"([A-Z][\w-]+ (?:et al\.|and [A-Z][a-z]+))(?:,| \() ?((?:19|20)\d\d)"
GLOSSARY = ROOT / "docs" / "glossary.md"
PLACE = r"(?:sections?|figure|table|appendix) [A-Z\d][\d.]*"  # in a paper


def reference(name: str) -> dict:
    return json.loads((DATA / "reference" / name).read_text("utf-8"))


def form(name: str) -> dict:
    return reference("chat_form.json")["forms"][name]


def change(found: dict) -> str:
    """ "0.13 of its gold score (0.08 to 0.19)", of a loss."""
    value, low, high = (-found[k] for k in ("difference", "high", "low"))
    return f"{value:.2f} of its gold score ({low:.2f} to {high:.2f})"


def even(found: dict) -> str:
    signed = [f"{round(found[k], 2) + 0.0:.2f}".replace("-", "−") for k in ("difference", "low", "high")]
    return f"{signed[0]} ({signed[1]} to {signed[2]})"


def wins(name: str) -> str:
    return f"{form(name)['ppo_ptx_vs_base_prompted']['decided']:.0%}".replace("%", " %")


def over_seeds(condition: str) -> str:
    """ "0.56 to 0.64", gold of a model over the seeds of the evidence."""
    claim = next(c for c in reference("evidence.json")["claims"] if c["number"] == 10)
    found = [r["value"] for r in claim["rows"] if (r["condition"], r["metric"]) == (condition, "gold")]
    return f"{min(found):.2f} to {max(found):.2f}"


def taught() -> str:
    """What telling a fact in the prompt adds, of claim 3."""
    claim = next(c for c in reference("evidence.json")["claims"] if c["number"] == 3)
    rule = next(r for r in claim["rules"] if r["rule"].split(", ")[1].startswith("taught in this context"))
    value, low, high = (f"{rule[k]:.2f}".replace("-", "−") for k in ("value", "low", "high"))
    return f"{value} more than untold, {low} to {high}"


def turned(condition: str) -> str:
    """Gold before or in a training of claim 32, mean over its runs."""
    claim = next(c for c in reference("evidence.json")["claims"] if c["number"] == 32)
    found = next(f for f in claim["figures"] if (f["condition"], f["metric"]) == (condition, "gold"))
    return f"{found['value']:.2f}"


# Text with {} for what is measured, and where that comes from.
MEASURED: dict[str, Callable[[], str]] = {
    "PPO-ptx at temperature 1 was {}": lambda: over_seeds("ppo_ptx, temperature 1"),
    "over eight runs PPO-ptx has {} at temperature 1": lambda: over_seeds("ppo_ptx, temperature 1"),
    "cost PPO-ptx {}": lambda: change(form("marks of its own")["minus_thread"]["ppo_ptx_0.0"]),
    "the best-prompted base model in {} of decided": lambda: wins("marks of its own"),
    "of decided comparisons instead of {}": lambda: wins("thread"),
    "nothing that could be measured: {}": lambda: even(
        form("thread under a system line")["minus_thread"]["ppo_ptx_0.0"]
    ),
    "course's three (told {})": lambda: taught(),
    "SFT's gold is {}. Over the first": lambda: turned("SFT"),
    "already {} on average. Then it **turns**": lambda: turned("a head and rankings alone, update 16"),
    "At β = {} that costs less": lambda: f"{LAPTOP.kl_coefficient}",
    "300 of the {} steps": lambda: f"{LAPTOP.pretrain_steps:,}",
    "{} subwords": lambda: f"{LAPTOP.vocabulary:,}",
    "{} demonstrations": lambda: f"{LAPTOP.demonstrations:,}",
    "weight of {}, how likely": lambda: f"{LAPTOP.reward_likelihood}",
    "uses β = {}": lambda: f"{LAPTOP.kl_coefficient}",
    "mean token loss times {}": lambda: f"{LAPTOP.ptx_coefficient}",
    "and its weight {}": lambda: f"{LAPTOP.ptx_coefficient}",
    "DPO at β = {}.)": lambda: f"{LAPTOP.dpo_beta}",
    "({} characters or more)": lambda: f"{LEAST_TEXT:,}",
    "{} demonstrations, 4,400": lambda: f"{2 * LAPTOP.demonstrations:,}",
    "{} rankings and 3,100": lambda: f"{LAPTOP.ranked_prompts:,}",
    "rankings and {} prompts": lambda: f"{LAPTOP.ppo_prompts:,}",
}
# Of papers and programs, and numbers that are no measurement; who says so.
GIVEN = {
    "goes 0.8 % of the way": "1 − 0.992, InstructGPT, appendix C.4",
    "1.9 % of 1,700": "InstructGPT, table 1, and the profile",
    "1.3, 6 and 175 billion": "InstructGPT, section 3.5",
    "1.4 trillion tokens and 32,000 pieces": "Touvron et al. (2023), sections 2.1 and 2.3",
    "none is below 6 %": "prompts.training_shares",
    "77.3 ± 1.3 %": "InstructGPT, section 3.4",
    "At 0.7 and 1 they": "the temperatures of the cell above it",
    "a gap of 1 wins 73 %": "1 / (1 + 1/e)",
    "0.69 for a coin's toss": "ln 2",
    "GPT-2's own 0.02": "its configuration, initializer_range",
    "Guessing gives 0.25": "one of four",
    "course's three runs, gave 0.29 to 0.38": "the note of claim 3",
    "128 tokens instead of 2,048": "Brown et al. (2020), section 2.1",
    "agree on 73 %": "InstructGPT, section 3.4",
    "can't be better than 73 %": "the same, as notes have it",
    "probability 0.84": "p of p² + (1 − p)² = 0.73",
    "With η = 0.5, two answers 0.8 apart": "the numbers of the example above it",
    "σ(1) = 73 %": "1 / (1 + 1/e)",
    "Python 3.11 to 3.13": "pyproject.toml",
    "TRL 1.12's": "the version of tests/benchmarks/peer_trl_ppo.py",
    "16 epochs on about 13,000 demonstrations": "InstructGPT, section 3.5 and table 6",
    "mixed in 10 %": "InstructGPT, appendix C.3",
    "10 % pretraining data": "InstructGPT, appendix C.3",
    "72.6 ± 1.5 %": "InstructGPT, section 3.4",
    "about 30 % more time": "notes on InstructGPT, an estimate",
    "GPT-3 of 1.3 B parameters": "InstructGPT",
    "about 73 %": "InstructGPT, section 3.4",
    "γ = 27.8": "InstructGPT, appendix C.4",
    "as in the paper, where it is 0.02": "InstructGPT, appendix C.4",
    "what would γ = 0.95 teach": "the numbers of the example below it",
    "ε = 0.2": "PPO's clip, Schulman et al. (2017)",
    "has them is 1.12": "TRL's releases",
    "some 25 % fewer toxic answers": "InstructGPT, section 1",
    "2.5 and 97.5 hundredths": "the bounds of a middle 95 %",
    "with p = 0.9 would keep": "the number in the cell below it",
    "0.95 is between": "the same λ",
    "between 0.8 and 1.2": "PPO's clip, Schulman et al. (2017)",
    "1 ± 0.2": "PPO's clip, Schulman et al. (2017)",
    "has 0.1 of it": "GPT-2's configuration, attn_pdrop",
    "values 0.5, 0.8 and 1.2": "the numbers of the example beside it",
    "about 1.5 times as fast": "tests/benchmarks/speed.py",
    "2,000 times": "rlhf_utils.evaluation.statistics.DRAWS",
    "95 %": "the intervals of the course",
    "β = 0.6, 0.2, 0.06 (the course's), 0.02": "rlhf_utils.pipeline.claims.penalty.PENALTIES",
    "course's 0.06 has the most gold. With 0.02 the policy": "the same",
    "weight is 0.5. Already": "the profile's ptx_coefficient",
    "from 0 to 0.25": "rlhf_utils.pipeline.claims.tax.WEIGHTS",
    "of 1.3 billion weights": "InstructGPT, section 4.1",
    "72.4 ± 0.4 %": "InstructGPT, section 4.1",
    "69.6 ± 0.9 %": "InstructGPT, section 4.1",
    "two β were tried: at 0.1 it": "tests/benchmarks/frontier.py, VARIANTS",
    "2.3 times as many updates, RLOO 1.9, GRPO 1.7, PPO without a value model 1.6": "the same, LENGTHS",
    "β is 0.1 here": "rlhf_utils.pipeline.english.load_english",
    "budget** of 2.5 nats": "rlhf_utils.training.one_pass.KL_BUDGET",
    "standard error times 4.3": "Student's t with 2 degrees of freedom",
    "2.8 for five": "the same with 4",
    "and 2.4 for eight": "the same with 7",
    "CDLA-Sharing-1.0": "the data set's card",
    "Its licence is Apache-2.0": "the model's card",
    "52,000 | CC BY-NC 4.0": "the data set's card",
    "15,000 | CC BY-SA 3.0": "the data set's card",
    "161,000 | MIT": "the data set's card",
    "61,000 | MIT": "the data set's card",
    "10,000 trees | Apache-2.0": "the data set's card",
    # Data of others that the project does not contain: measured by the commands that stand there.
    "2.2 MB of text, 2,299 pairs": "hh-rlhf's harmless-base test set",
    "5.3 GB": "a run on those pairs",
    "63 % (58 to 67)": "a run on those pairs",
    "78 % (72 to 84)": "a run on those pairs",
}


def prose() -> Iterator[tuple[str, str]]:
    """(file, text) without code, formulas and addresses."""
    texts = [(page, (ROOT / page).read_text("utf-8")) for page in PAGES]
    for file in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        texts += [(file.name, "".join(c["source"])) for c in cells if c["cell_type"] == "markdown"]
    for name, text in texts:
        for pattern in (r"```.*?```", r"`[^`]*`", r"\$[^$]*\$", r"\]\([^)]*\)", r"<img[^>]*>", PLACE):
            text = re.sub(pattern, " ", text, flags=re.DOTALL)
        yield name, re.sub(r"\s+", " ", text)


def known() -> list[str]:
    return [*(text.format(value()) for text, value in MEASURED.items()), *GIVEN]


def unsourced(text: str, sources: list[str]) -> list[str]:
    """Numbers of a text that stand in none of the sources' words, with some words around them."""
    covered = [m.span() for s in sources for m in re.finditer(re.escape(s), text)]
    return [
        text[max(m.start() - 50, 0) : m.end() + 30]
        for m in re.finditer(NUMBER, text)
        if not any(a <= m.start() and m.end() <= b for a, b in covered)
    ]


def test_every_figure_in_prose_has_a_source():
    sources = known()
    missing = [f"{name}: …{found}…" for name, text in prose() for found in unsourced(text, sources)]
    assert not missing, "\n".join(missing)


def test_no_source_is_left_of_prose_that_is_gone():
    whole = " ".join(text for _, text in prose())
    assert [source for source in known() if source not in whole] == []


@pytest.mark.parametrize("text", ["It wins 61 % of them.", "Gold is 0.42.", "Over 12,345 rows"])
def test_a_figure_without_a_source_would_be_found(text):
    assert unsourced(text, known())
    assert not unsourced(text, [text])


def glossary() -> list[tuple[str, str]]:
    """(term, chapter that explains it first)."""
    rows = [line.strip("|\n ").split(" | ") for line in GLOSSARY.read_text("utf-8").splitlines()[6:]]
    return [(row[0], row[-1]) for row in rows]


@pytest.mark.parametrize("term, chapter", glossary())
def test_no_term_is_used_before_the_chapter_that_explains_it(term, chapter):
    pattern = rf"(?<![\w-]){re.escape(term)}s?\b".replace(r"\ ", "[ -]").replace(r"\-", "[ -]")
    used = [name[:2] for name, text in prose() if name not in PAGES and re.search(pattern, text, re.I)]
    assert used and used[0] == chapter


def test_every_paper_that_is_cited_stands_among_the_references():
    listed = {*re.findall(CITED, (ROOT / "docs" / "references.md").read_text("utf-8"))}
    sources = [("docs/claims.md", (ROOT / "docs" / "claims.md").read_text("utf-8"))]
    missing = {(*c, name) for name, text in [*prose(), *sources] for c in re.findall(CITED, text)}
    assert len(listed) > 50 and not {found for found in missing if found[:2] not in listed}
