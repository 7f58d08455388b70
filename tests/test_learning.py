"""Something real is learned: base < SFT < PPO on held-out prompts, with an interval, in float32."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf_utils.evaluation.answers import BARE, answer_prompts, judge_answers
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import PROFILES
from rlhf_utils.world.prompts import write_prompts

PROFILE = replace(
    PROFILES["laptop"],
    name="learning",
    precision="fp32",
    use_cases=("classification", "other"),
    layers=2,
    width=96,
    heads=4,
    vocabulary=1024,
    corpus_characters=3_000_000,
    heldout_characters=50_000,
    pretrain_steps=700,
    demonstrations=800,
    sft_epochs=3,
    ranked_prompts=800,
    nine_answers=0,
    ppo_prompts=600,
    ppo_updates=20,
    episodes=64,
    minibatches=2,
    reward_epochs=1,
    kl_coefficient=0.4,  # a reward model this small is soon fooled
)


@pytest.mark.learning
@pytest.mark.timeout(1800)
def test_base_below_sft_below_ppo(tmp_path, monkeypatch, world, judge):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store = ensure("ppo", PROFILE, say=lambda text: None)
    tokenizer = store.tokenizer()
    prompts = write_prompts(world, "test", {"classification": 100, "other": 100}, seed=0)
    gold = {}
    for name, stage in (("base", "pretrain"), ("sft", "sft"), ("ppo", "ppo")):
        answers = answer_prompts(
            PROFILE,
            tokenizer,
            load_gpt2(store.folder(stage)),
            prompts,
            1.0,
            4,
            seed=1,
            forms=BARE if name == "base" else None,
        )
        gold[name] = judge_answers(judge, prompts, answers)["total"].mean(1)
    print({name: round(float(np.mean(g)), 3) for name, g in gold.items()})
    assert len(store.prompts("demonstrations")) >= 500
    assert mean_difference(gold["sft"], gold["base"])["low"] > 0
    assert mean_difference(gold["ppo"], gold["sft"])["low"] > 0
