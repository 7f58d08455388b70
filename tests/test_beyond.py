"""Methods beyond PPO: their pieces by hand and against TRL's trainers, and what each refuses."""

import math
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.lineage import BEYOND, descendants
from rlhf_utils.environment import CourseError
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import answer_logprobs
from rlhf_utils.language.tokenizer import END, PAD, answer_ids, prompt_ids
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.training.beyond import (
    GRADIENTS,
    GRPO,
    RLOO,
    Reinforce,
    WithoutValue,
    group_loss,
    group_normalised,
    leave_one_out,
    sequence_loss,
)
from rlhf_utils.training.offline import dpo_loss, preference_pairs, train_dpo, train_rejection
from rlhf_utils.training.one_pass import OnePass
from rlhf_utils.training.ppo_run import restore, save, train_ppo
from rlhf_utils.training.reward import NO_ANSWER, rewards, scored_ids

PAPER = {"use_bias_correction_kl": False}  # TRL weighs the KL term by the ratio, by default
REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])


def test_the_baseline_leaves_an_answer_out():
    assert leave_one_out(REWARDS)[0].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert leave_one_out(REWARDS)[1].tolist() == [0, 0, 0, 0]


def test_a_group_is_measured_in_its_own_deviations():
    # Mean ¼ and, of four, a deviation of ½.
    assert group_normalised(REWARDS)[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert group_normalised(100 * REWARDS)[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert group_normalised(REWARDS)[1].tolist() == [0, 0, 0, 0]  # all alike: nothing to learn, and no NaN


def test_at_ratio_one_the_gradient_is_that_of_reinforce():
    logprobs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    advantages = torch.tensor([1.0, -2.0, 0.5])
    sequence_loss(logprobs, logprobs.detach(), advantages, mask)[0].backward()
    assert torch.allclose(logprobs.grad, -advantages[:, None] * mask / 3)


def test_a_token_of_a_long_answer_counts_less_with_grpo():
    logprobs = torch.zeros(2, 4, requires_grad=True)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0]])
    zero = torch.zeros(2, 4)
    group_loss(logprobs, zero, zero, torch.ones(2), mask, beta=0.0)[0].backward()
    assert logprobs.grad[0].tolist() == pytest.approx([-1 / 8] * 4) and logprobs.grad[1, 0] == -1 / 2


def test_dpo_starts_at_log_two_and_asks_for_less_the_surer_it_is():
    at_start = dpo_loss(*(torch.tensor([-3.0]), torch.tensor([-5.0])) * 2, beta=0.1)
    assert at_start.item() == pytest.approx(math.log(2))
    farther = dpo_loss(
        torch.tensor([-2.0]), torch.tensor([-6.0]), torch.tensor([-3.0]), torch.tensor([-5.0]), 0.1
    )
    assert farther.item() == pytest.approx(math.log(1 + math.exp(-0.2)))


# -- TRL's trainers on a prompt with four answers ------------------------------------------------------------
@pytest.fixture(scope="module")
def four(tiny):
    """A prompt with four answers, as packed and padded as TRL has them, and what two models say of them."""
    tokenizer, policy = tiny.tokenizer(), tiny.model("ppo").eval()
    sft = tiny.model("sft").eval()
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": "What do cows eat?"}], 40)
    answers = [
        answer_ids(tokenizer, text, 24) for text in ("Grass.", "Cows eat grass.", "No.", "Fish, I think.")
    ]
    packed = pack([(prompt, [answer]) for answer in answers], tokenizer.pad_token_id)
    with torch.no_grad():
        now, old = (answer_logprobs(m, packed, tokenizer.pad_token_id) for m in (policy, sft))
    width = max(map(len, answers))
    ids = torch.tensor([a + [tokenizer.pad_token_id] * (width - len(a)) for a in answers])
    mask = torch.tensor([[1] * len(a) + [0] * (width - len(a)) for a in answers])
    inputs = {
        "prompt_ids": torch.tensor([prompt] * 4),
        "prompt_mask": torch.ones(4, len(prompt), dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": mask,
    }
    return policy, tokenizer, packed, now, old, inputs


def trainer(kind, config, four, tmp_path, **settings):
    policy, tokenizer = four[:2]
    arguments = config(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        num_generations=4,
        per_device_train_batch_size=4,
        gradient_checkpointing=False,
        max_completion_length=24,
        **settings,
    )
    return kind(
        policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["What do cows eat?"] * 4}),
        processing_class=tokenizer,
    )


def as_theirs(monkeypatch, theirs, inputs, *logprobs):
    """Log-probabilities as wide as TRL has them, the first of which it takes for the policy's own: its count
    <pad>, which is never drawn, and ours do not.
    """
    width = inputs["completion_ids"].shape[1]
    padded = [torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in logprobs]
    monkeypatch.setattr(
        theirs, "_get_per_token_logps_and_entropies", lambda *_, **__: (padded[0], 0 * padded[0], None)
    )
    return padded


def test_the_loss_of_rloo_is_that_of_trl(four, tmp_path, monkeypatch):
    policy, _, packed, now, old, inputs = four
    advantages = leave_one_out(torch.tensor([[0.3, 1.0, -0.5, -0.2]])).flatten()
    theirs = trainer(RLOOTrainer, RLOOConfig, four, tmp_path)
    as_theirs(monkeypatch, theirs, inputs, now)
    given = inputs | {"old_logps": old.sum(1), "advantages": advantages}
    found = theirs._compute_loss(policy, given)
    assert sequence_loss(now, old, advantages, packed.mask)[0].item() == pytest.approx(found.item(), abs=1e-6)


def test_the_loss_of_grpo_is_that_of_trl(four, tmp_path, monkeypatch):
    policy, _, packed, now, old, inputs = four
    advantages = group_normalised(torch.tensor([[0.3, 1.0, -0.5, -0.2]])).flatten()
    theirs = trainer(GRPOTrainer, GRPOConfig, four, tmp_path, loss_type="grpo", beta=10.0, **PAPER)
    theirs.current_gradient_accumulation_steps = 1
    _, padded = as_theirs(monkeypatch, theirs, inputs, now, old)
    given = inputs | {"old_per_token_logps": padded, "ref_per_token_logps": padded, "advantages": advantages}
    found = theirs._compute_loss(policy, given)
    ours = group_loss(now, old, old, advantages, packed.mask, 10.0)[0]  # so that KL weighs something
    assert ours.item() == pytest.approx(found.item(), abs=1e-6)


def test_the_loss_of_dpo_and_its_tokens_are_those_of_trl(four, tiny, tmp_path):
    policy, tokenizer, _, now, old, _ = four
    messages = [{"role": "user", "content": "What do cows eat?"}]
    ranking = {"messages": messages, "answers": ["Cows eat grass.", "No."], "ranks": [1, 2]}
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
        beta=0.3,
        per_device_train_batch_size=1,
        max_length=tiny.profile.context,
    )
    rows = Dataset.from_list(preference_pairs([ranking], 4))
    reference = load_gpt2(tiny.folder("sft"))
    theirs = DPOTrainer(policy, reference, args=arguments, train_dataset=rows, processing_class=tokenizer)
    row = theirs.train_dataset[0]
    assert row["prompt_ids"] == prompt_ids(tokenizer, messages, 40)
    assert row["chosen_ids"] == answer_ids(tokenizer, "Cows eat grass.", 24)
    found = theirs.compute_loss(policy, theirs.data_collator([row]))
    ours = dpo_loss(now[1:2].sum(1), now[2:3].sum(1), old[1:2].sum(1), old[2:3].sum(1), 0.3)
    assert ours.item() == pytest.approx(found.item(), abs=1e-4)


# -- whole methods -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", BEYOND)
def test_each_method_is_a_stage(stage, tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny.root, tmp_path / "tiny")
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store = ensure(stage, tiny.profile, say=lambda text: None)
    before, after = (dict(store.model(name).named_parameters()) for name in ("sft", stage))
    assert any((before[name] != weight).any() for name, weight in after.items())
    assert read_jsonl(store.folder(stage) / "metrics.jsonl")
    assert not list(store.root.glob(".*[a-z]*/"))  # no trainer leaves a folder behind
    assert stage in descendants("sft")  # another SFT model makes it anew


def test_dpo_goes_on_from_a_policy_and_with_adapters(tiny, tmp_path):
    """SFT stays the reference, so a policy that is not SFT starts at another loss than log 2."""

    def trained(name: str, start=None, **changes):
        made = tmp_path / name
        made.mkdir()
        profile = replace(tiny.profile, dpo_rate=1e-2, **changes)
        told = tiny.tokenizer(), tiny.folder("sft"), preference_pairs(tiny.rankings(), 4)
        train_dpo(profile, *told, made, tmp_path / f"{name}-resume", start=start)
        return made, read_jsonl(made / "metrics.jsonl")[0]["loss"]

    plain, begins = trained("plain")
    assert begins == pytest.approx(math.log(2), abs=1e-4)
    assert trained("again", plain)[1] != pytest.approx(math.log(2), abs=1e-3)
    adapted, begins = trained("adapted", lora=2)
    assert begins == pytest.approx(math.log(2), abs=1e-4) and (adapted / "adapter").is_dir()
    before, after = (load_gpt2(f).state_dict() for f in (tiny.folder("sft"), adapted))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("attn" in name or "mlp" in name for name in moved)


def test_adapters_of_dpo_stand_on_adapters_of_sft(tiny, tmp_path, monkeypatch):
    """A plain run's DPO is not taken for that of a run with LoRA, whose SFT is another."""
    shutil.copytree(tiny.root, tmp_path / "tiny")
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    plain = ensure("dpo", tiny.profile, say=lambda text: None).folder("dpo")
    adapted = ensure("dpo", replace(tiny.profile, lora=2), say=lambda text: None)
    assert adapted.folder("dpo") != plain and (adapted.folder("dpo") / "adapter").is_dir()
    assert adapted.folder("sft").parent == adapted.folder("dpo").parent == tmp_path / "tiny-lora2"


@pytest.mark.parametrize("learner", GRADIENTS.values())
def test_a_first_step_is_taken_where_the_answers_were_drawn(learner, tiny):
    profile = tiny.profile
    tokenizer = tiny.tokenizer()
    own = learner(profile, tokenizer, tiny.folder("sft"), tiny.folder("reward"))
    rows = tiny.prompts("ppo")[: profile.episodes // own.group]
    prompts = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in rows]
    answers = own.sample([p for p in prompts for _ in range(own.group)])
    minibatches = own.rollout([p for p in prompts for _ in range(own.group)], answers)
    logged = own.step(minibatches[0], profile.ppo_rate)
    assert logged["step_kl"] == pytest.approx(0, abs=1e-6) and logged["clip_fraction"] == 0
    credit = torch.cat([part.advantages.flatten() for m in minibatches for part in m])
    assert credit.sum().abs() < 1e-3 * max(
        credit.abs().sum(), 1
    )  # what is above the baseline is also below it
    assert own.value is None


@pytest.mark.parametrize("learner", [RLOO, WithoutValue])
def test_each_answer_gets_the_credit_that_is_its_own(learner, tiny):
    """Rewards by place among the four answers to a prompt, and minibatches in parts of three."""
    profile, tokenizer = tiny.profile, tiny.tokenizer()
    own = learner(
        profile,
        tokenizer,
        tiny.folder("sft"),
        tiny.folder("reward"),
        verify=lambda prompts, answers: [float(i % 4) for i in range(len(answers))],
    )
    own.at_once = 3
    prompts = [prompt_ids(tokenizer, p["messages"], 40) for p in tiny.prompts("ppo")[:4] for _ in range(4)]
    answers = own.sample(prompts)
    parts = [part for minibatch in own.rollout(prompts, answers) for part in minibatch]
    assert max(len(part.scores) for part in parts) <= 3
    for part in parts:
        for i, tokens in enumerate(part.packed.answers()):
            places = {place % 4 for place, drawn in enumerate(answers.tokens) if drawn == tokens}
            assert int(part.scores[i]) in places
            if learner is RLOO:  # at the start nothing is tolled, so 0, 1, 2, 3 less the mean of the others
                assert part.advantages[i].item() == pytest.approx(
                    (int(part.scores[i]) - 1.5) * 4 / 3, abs=1e-4
                )
            else:  # the reward falls on the last token, and all of the answer comes before it
                assert part.rewards[i].sum().item() == pytest.approx(part.scores[i].item(), abs=1e-4)


def test_answers_to_one_prompt_share_it_and_have_the_same_numbers(tiny):
    profile = replace(tiny.profile, precision="fp32", group=4)
    own = RLOO(profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"))
    own.minibatches = 1
    asked = [prompt_ids(own.tokenizer, p["messages"], 40) for p in tiny.prompts("ppo")[:3] for _ in range(4)]
    answers = own.sample(asked)
    ((part,),) = own.rollout(asked, answers)
    assert part.packed.answers() == answers.tokens  # in their order
    assert len(part.packed.starts) < len(asked)
    width = part.mask.shape[1]
    for number in range(len(asked)):
        alone = own.score(asked, answers, [number])
        assert part.scores[number].item() == pytest.approx(alone.scores[0].item(), abs=1e-4)
        row = torch.nn.functional.pad(alone.logprobs[0], (0, width - alone.logprobs.shape[1]))
        assert torch.allclose(part.logprobs[number], row, atol=1e-4)


def test_a_policy_beyond_its_budget_gets_back_the_weights_that_were_within(tiny, tmp_path):
    """Those which wrote the answers of the update before; then it is slower. Without a brake, no budget."""
    profile = replace(tiny.profile, lora=2, group=2, ppo_rate=1e-3)
    stages = tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward")
    own = OnePass(profile, *stages)
    asked = [prompt_ids(own.tokenizer, p["messages"], 40) for p in tiny.prompts("ppo")[:4] for _ in range(2)]
    first = own.weights()
    logged, _ = own.update(asked, 1e-3)
    assert logged["kl_k1"] <= own.budget and own.at_once <= 8
    second = own.weights()
    assert any(not torch.equal(a, b) for a, b in zip(first, second))
    assert not logged["taken_back"]
    own.budget = -100.0
    logged, _ = own.update(asked, 1e-3)
    assert logged["taken_back"] and own.pace == 0.5
    assert all(torch.equal(a, b) for a, b in zip(first, own.weights()))
    save(own, tmp_path, 20, [])  # a run that is resumed goes on at that pace
    again = OnePass(profile, *stages)
    restore(again, tmp_path)
    assert again.pace == 0.5 and all(torch.equal(a, b) for a, b in zip(first, again.within))
    assert OnePass(replace(profile, kl_coefficient=0.0), *stages).budget == math.inf


def test_a_check_stands_in_for_the_reward_model(tiny):
    asked, of_the_reward_model = [], []

    def verify(prompts, answers):
        asked.extend(answers)
        of_the_reward_model.extend(own.scored)
        return [float(i % 4 == 0) for i in range(len(answers))]

    profile, tokenizer = tiny.profile, tiny.tokenizer()
    own = RLOO(profile, tokenizer, tiny.folder("sft"), tiny.folder("reward"), verify=verify)
    prompts = [prompt_ids(tokenizer, p["messages"], 40) for p in tiny.prompts("ppo")[:4] for _ in range(4)]
    logged, answers = own.update(prompts, profile.ppo_rate)
    assert len(asked) == 16 and logged["reward"] == pytest.approx(0.25)
    # What it stands in for is known to it, and in the order of the answers: those cut off have −3.
    scores = rewards(own.reward, list(zip(prompts, answers.tokens)), own.pad, profile)
    expected = np.where(answers.ended, scores, NO_ANSWER)
    assert 0 < np.sum(answers.ended) < 16 and of_the_reward_model == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("given", [[1.0], [float("nan")] * 16, [1.0] * 17])
def test_a_reward_function_has_to_give_one_number_an_answer(given, tiny):
    tokenizer = tiny.tokenizer()
    own = GRPO(
        tiny.profile,
        tokenizer,
        tiny.folder("sft"),
        tiny.folder("reward"),
        verify=lambda prompts, answers: given,
    )
    prompts = [prompt_ids(tokenizer, p["messages"], 40) for p in tiny.prompts("ppo")[:4] for _ in range(4)]
    with pytest.raises(CourseError, match="asked about 16 answers"):
        own.update(prompts, 1e-4)


@pytest.mark.parametrize("group, said", [(1, "2 or more"), (3, "cannot be split into groups")])
def test_groups_that_do_not_fit_are_refused(group, said, tiny):
    profile = replace(tiny.profile, group=group)
    with pytest.raises(CourseError, match=said):
        RLOO(profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"))


def test_dpo_reads_people_s_text_as_the_reward_model_does(tiny, tmp_path, monkeypatch):
    """Also what does not fit, and what looks like the tokenizer's marks; by the batches of its trainer."""
    profile, tokenizer = replace(tiny.profile, dpo_batch=3), tiny.tokenizer()
    long, marks, batches = " ".join(["cows eat grass"] * 60), f"Say {END} or {PAD}.\nAnswer: no", []
    asked = [[{"role": "user", "content": text}] for text in ("What do cows eat?", f"{long}?", marks)]
    told = [("Grass.", "No."), ("Grass.", long), (marks, "No.")]
    pairs = [
        {"prompt": prompt} | {name: [{"role": "assistant", "content": text}] for name, text in named.items()}
        for prompt, named in ((p, dict(zip(("chosen", "rejected"), t))) for p, t in zip(asked, told))
    ]
    monkeypatch.setattr(
        "rlhf_utils.training.offline.run_trainer",
        lambda trainer, *_: batches.extend(trainer.get_train_dataloader()) or [],
    )
    train_dpo(profile, tokenizer, tiny.folder("sft"), pairs, tmp_path, tmp_path / "resume")
    (batch,), read = batches, set()
    for ids, seen, answer in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"]):
        read.add((tuple(ids[(seen > answer)].tolist()), tuple(ids[answer > 0].tolist())))
    expected = [scored_ids(profile, tokenizer, p, text) for p, both in zip(asked, told) for text in both]
    assert read == {(tuple(prompt), tuple(answer)) for prompt, answer in expected}
    assert len(read) == 6 and max(len(prompt) for prompt, _ in read) <= profile.prompt_tokens


def test_what_cannot_be_learned_from_is_refused(tiny, tmp_path):
    tied = {"messages": [{"role": "user", "content": "?"}], "answers": ["a", "b"], "ranks": [1, 1]}
    with pytest.raises(CourseError, match="has one answer better than another"):
        preference_pairs([tied], 4)
    ranked = tied | {"answers": ["a", "b", "c"], "ranks": [2, 1, 1]}
    pairs = [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in preference_pairs([ranked], 9)]
    assert sorted(pairs) == [("b", "a"), ("c", "a")]
    none = replace(tiny.profile, best_of=0)
    paths = tiny.folder("sft"), tiny.folder("reward")
    with pytest.raises(CourseError, match="1 or more, not 0"):
        train_rejection(none, tiny.tokenizer(), *paths, [], tiny.windows(), tmp_path, tmp_path / "resume")


def test_a_run_draws_whole_groups(tiny, tmp_path):
    profile, tokenizer = replace(tiny.profile, ppo_updates=1), tiny.tokenizer()
    prompts = [prompt_ids(tokenizer, p["messages"], 40) for p in tiny.prompts("ppo")]
    asked = []

    def gold(chosen, answers):
        asked.append(chosen)
        return 0.0

    (tmp_path / "made").mkdir()
    for learner in (partial(RLOO), Reinforce, WithoutValue):
        train_ppo(
            profile,
            tokenizer,
            tiny.folder("sft"),
            tiny.folder("reward"),
            prompts,
            None,
            tmp_path / "made",
            tmp_path / "resume",
            gold=gold,
            method=learner,
        )
    assert [len(set(chosen)) for chosen in asked] == [4, 16, 16] and len(asked[0]) == profile.episodes
