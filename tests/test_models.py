"""Tokenizer, model helpers and sampling against transformers and against exact probabilities."""

import os
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional as F
from transformers import GPT2LMHeadModel

from rlhf_utils.language import device as device_module
from rlhf_utils.language.device import give_back_memory, glibc
from rlhf_utils.language.models import gpt2_config, load_scorer, new_gpt2, pad_batch, save_model
from rlhf_utils.language.packing import pack
from rlhf_utils.language.sampling import Decoder, LineEnds, generate, line_ends, sample
from rlhf_utils.language.scoring import answer_logprobs, answer_scores
from rlhf_utils.language.tokenizer import (
    END,
    PAD,
    SYSTEM,
    answer_ids,
    load_tokenizer,
    prompt_ids,
    prompt_text,
    save_tokenizer,
    train_tokenizer,
)
from rlhf_utils.profiles import PROFILES
from rlhf_utils.training.reward import scored_ids
from rlhf_utils.training.sft import demonstrations_dataset

TEXTS = [
    "The capital of France is Paris.",
    "Cows eat grass.\nCows live on farms.",
    "Who has the ball? Anna has the ball.",
] * 30


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    model = new_gpt2(PROFILES["tiny"], tokenizer)
    for parameter in model.parameters():  # far from uniform, so that mistakes show
        parameter.data.mul_(1.5)
    return model.eval()


def test_pad_differs_from_end(tokenizer):
    assert (
        tokenizer.pad_token_id
        == tokenizer.convert_tokens_to_ids(PAD)
        != tokenizer.eos_token_id
        == tokenizer.convert_tokens_to_ids(END)
    )


@pytest.mark.parametrize("text", ["Cows eat grass.", "Zürich 東京 🙂", "a\nb", "  two  spaces"])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]).strip() == text.strip()


def test_tokenizer_survives_saving(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "Cows?"}]
    assert prompt_ids(again, messages, 99) == prompt_ids(tokenizer, messages, 99)
    assert again.padding_side == "left" and again.pad_token == PAD


def test_chat_template_ends_where_the_answer_begins(tokenizer):
    messages = [
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    assert prompt_text(tokenizer, messages) == f"{END}{SYSTEM}\nQuestion: A\nAnswer: B\nQuestion: C\nAnswer:"
    whole = tokenizer.apply_chat_template(messages[:2], tokenize=False)
    assert whole == f"{END}{SYSTEM}\nQuestion: A\nAnswer: B{END}"
    ids = tokenizer(whole)["input_ids"]  # prompt and answer join without a seam
    assert ids == prompt_ids(tokenizer, messages[:1], 99) + tokenizer("B")["input_ids"] + [
        tokenizer.eos_token_id
    ]


def test_a_system_line_of_ones_own_takes_the_place_of_the_course_s_and_stays_in_long_conversations(tokenizer):
    system = {"role": "system", "content": "Be brief."}
    turns = [{"role": r, "content": "Cows eat grass."} for r in ("user", "assistant", "user")]
    assert prompt_text(tokenizer, [system, turns[0]]) == f"{END}Be brief.\nQuestion: Cows eat grass.\nAnswer:"
    short = prompt_ids(tokenizer, [system, *turns], len(prompt_ids(tokenizer, [system, turns[0]], 99)))
    assert tokenizer.decode(short) == tokenizer.decode(prompt_ids(tokenizer, [system, turns[0]], 99))


@pytest.mark.parametrize("limit", [2, 3, 12, 32])
def test_one_rule_for_where_an_answer_is_cut(tokenizer, limit):
    """What SFT shows, what the reward model reads and what the sampler may draw are equally long."""
    profile = replace(PROFILES["tiny"], answer_tokens=limit)
    messages, answer = (
        [{"role": "user", "content": "Cows?"}],
        "Cows eat grass and grass and grass and grass and grass and grass.",
    )
    expected = [*tokenizer(answer)["input_ids"][: limit - 1], tokenizer.eos_token_id]
    assert answer_ids(tokenizer, answer, limit) == expected and len(expected) <= limit
    shown = demonstrations_dataset(profile, tokenizer, [{"messages": messages, "completion": answer}])[0]
    assert [i for i, m in zip(shown["input_ids"], shown["completion_mask"]) if m] == expected
    assert scored_ids(profile, tokenizer, messages, answer)[1] == expected
    assert answer_ids(tokenizer, "", limit) == [tokenizer.eos_token_id]


def test_long_conversations_lose_their_first_turns(tokenizer):
    messages = [
        {"role": "user", "content": "Cows eat grass. " * 20},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "Who?"},
    ]
    assert prompt_ids(tokenizer, messages, 20) == prompt_ids(tokenizer, messages[2:], 20)


def test_greedy_equals_transformers_generate(tokenizer, model):
    prompts = [tokenizer(t)["input_ids"] for t in ("Cows eat", "The capital of France", "Who")]
    ours = generate(model, prompts, 12, 0.0, tokenizer.pad_token_id, tokenizer.eos_token_id).tokens
    for prompt, mine in zip(prompts, ours):
        theirs = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=[tokenizer.pad_token_id],
            pad_token_id=tokenizer.pad_token_id,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        )[0, len(prompt) :].tolist()
        assert mine == theirs


@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_plain_attention_is_attention(tokenizer, dtype, close):
    """Output and gradients of what transformers calls eager, padding on the left included; in bfloat16 to its
    rounding.
    """
    torch.manual_seed(0)
    model = new_gpt2(PROFILES["tiny"], tokenizer)
    ids, mask = torch.randint(5, 300, (3, 21)), torch.ones(3, 21, dtype=torch.long)
    mask[1, :6] = mask[2, :20] = 0
    found = {}
    for kind in ("eager", "plain"):
        model.set_attn_implementation(kind)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=mask).logits.float()[mask.bool()]
        logits.logsumexp(-1).sum().backward()
        found[kind] = [logits.detach(), *(p.grad for p in model.transformer.h[0].attn.parameters())]
    assert all(torch.isfinite(x).all() for x in found["plain"])
    for ours, theirs in zip(found["plain"], found["eager"]):
        assert (ours - theirs).norm() < close * theirs.norm()


def test_sampling_follows_the_softmax(tokenizer, model):
    prompt = tokenizer("Cows")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    logits[tokenizer.pad_token_id] = -torch.inf
    expected = F.softmax(logits.double() / 0.8, -1).numpy()
    drawn = generate(
        model,
        [prompt] * 6000,
        1,
        0.8,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        torch.Generator().manual_seed(3),
    )
    counts = np.bincount([t[0] for t in drawn.tokens], minlength=len(expected)).astype(float)
    often = expected * 6000 >= 5
    observed = [*counts[often], counts[~often].sum()]
    wanted = [*(expected[often] * 6000), max(expected[~often].sum() * 6000, 1e-9)]
    assert chisquare(observed, np.array(wanted) * sum(observed) / sum(wanted)).pvalue > 1e-4


@pytest.mark.parametrize("by_layer", [False, True])
def test_the_decoder_has_the_logits_of_a_pass(tokenizer, by_layer):
    """Also of a model that scales its attention otherwise than torch does if nobody says how."""
    torch.manual_seed(0)
    config = gpt2_config(PROFILES["tiny"], tokenizer)
    config.scale_attn_by_inverse_layer_idx = by_layer
    model = GPT2LMHeadModel(config).eval()
    # One prompt twice: it is read once, and then each row goes its own way.
    prompts = [[5], [6, 7, 8], [9, 10], [6, 7, 8]]
    following = [[11, 12, 13], [14, 15, 16], [17, 18, 19], [20, 21, 22]]
    with torch.no_grad():
        decoder = Decoder(model, prompts, tokenizer.pad_token_id, 4)
        for time in range(4):
            for row, (prompt, more) in enumerate(zip(prompts, following)):
                wanted = model(torch.tensor([prompt + more[:time]])).logits[0, -1]
                assert torch.allclose(decoder.logits[row], wanted, atol=1e-4)
            if time < 3:
                decoder.step(torch.tensor([more[time] for more in following]))


def test_nothing_follows_the_end(tokenizer, model):
    drawn = generate(
        model,
        [[5], [6], [7]] * 40,
        20,
        1.0,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        torch.Generator().manual_seed(1),
    )
    for tokens, ended in zip(drawn.tokens, drawn.ended):
        assert tokens.count(tokenizer.eos_token_id) == int(ended)
        assert tokenizer.pad_token_id not in tokens
        assert ended == (tokens[-1] == tokenizer.eos_token_id) and (ended or len(tokens) == 20)


def test_logprobs_do_not_depend_on_padding_or_company(tokenizer, model):
    """Packed in any order and any company, the numbers are those of each sequence alone,
    left-padded or not.
    """
    pad = tokenizer.pad_token_id
    pairs = [
        (tokenizer(t)["input_ids"], [[9, 8, 0]])
        for t in ("Cows eat grass. Cows", "Who", "The capital of France is")
    ] + [([5] * 30, [[11, 0]])]
    with torch.no_grad():
        together = answer_logprobs(model, pack(pairs, pad), pad)
        backwards = answer_logprobs(model, pack(pairs[::-1], pad), pad).flip(0)
        assert torch.allclose(together, backwards, atol=1e-5)
        for row, (prompt, (answer,)) in zip(together, pairs):
            for padding in (0, 7):
                ids = torch.tensor([[pad] * padding + prompt + answer])
                mask = (torch.arange(ids.shape[1]) >= padding).long()[None]
                logits = model(
                    ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
                ).logits[0, -len(answer) - 1 : -1]
                logits[:, pad] = -torch.inf
                exact = logits.log_softmax(-1)[torch.arange(len(answer)), answer]
                assert row[: len(answer)].numpy() == pytest.approx(exact.numpy(), abs=1e-5)
            assert row[len(answer) :].abs().sum() == 0


def test_temperature_divides_the_logits_when_scoring_as_when_sampling(tokenizer, model):
    pad, prompt = tokenizer.pad_token_id, tokenizer("Cows")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
        logits[pad] = -torch.inf
        scored = answer_logprobs(
            model, pack([(prompt, [[k]]) for k in (9, 40, 100)], pad), pad, temperature=0.7
        )
    assert scored[:, 0].tolist() == pytest.approx(
        (logits / 0.7).log_softmax(-1)[[9, 40, 100]].tolist(), abs=1e-5
    )


def test_leaving_the_loop_early_changes_nobody_elses_answer(tokenizer, model):
    prompts = [[5 + i % 7, 9 + i] for i in range(60)]
    chance = torch.rand(60, 20, generator=torch.Generator().manual_seed(4))
    free = generate(
        model, prompts, 20, 0.3, tokenizer.pad_token_id, -1, chance
    ).tokens  # nothing ends an answer
    end = Counter(token for answer in free for token in set(answer)).most_common(1)[0][0]
    drawn = generate(model, prompts, 20, 0.3, tokenizer.pad_token_id, end, chance)
    assert drawn.tokens == [answer[: answer.index(end) + 1] if end in answer else answer for answer in free]
    assert 28 <= sum(drawn.ended) < 60  # so many that rows left (16 or a multiple stay), and others went on


def test_one_line_ends_at_the_first_break_after_a_word(tokenizer, model):
    prompts = [[5 + i % 7, 9 + i] for i in range(60)]
    chance = torch.rand(60, 20, generator=torch.Generator().manual_seed(4))
    common = (model, prompts, 20, 0.3, tokenizer.pad_token_id, -1, chance)
    free = generate(*common).tokens
    often = [t for t, _ in Counter(token for answer in free for token in answer).most_common(6)]
    line = LineEnds(frozenset(), frozenset(often[:2]), frozenset(often))  # nothing but these six is blank

    def cut(answer: list[int]) -> list[int]:
        said = next((i for i, t in enumerate(answer) if t not in often), len(answer))
        return answer[: next((i + 1 for i in range(said, len(answer)) if answer[i] in often[:2]), None)]

    drawn = generate(*common, line)
    assert drawn.tokens == [cut(answer) for answer in free]
    closed = [a[-1] in often[:2] and not {*a} <= {*often} for a in drawn.tokens]
    assert drawn.ended == closed
    assert any(answer[0] in often[:2] and len(answer) > 1 for answer in drawn.tokens)  # a break comes first
    assert 5 < sum(closed) < 60


def test_a_line_break_is_found_in_the_vocabulary(tokenizer):
    ends = line_ends(tokenizer)
    line_break = tokenizer("\n")["input_ids"][-1]
    assert line_break in ends.breaks and line_break in ends.blank
    word = tokenizer("Cows")["input_ids"]
    assert ends.over(word, line_break) and not ends.over([], line_break)
    assert not ends.over([line_break], line_break) and not ends.over(word, word[0])
    assert not ends.over([tokenizer.eos_token_id], line_break)  # which is not read
    assert all(ends.over([], token) for token in ends.closing)


def test_packing_leaves_little_padding_and_mixes_any_shapes(tokenizer):
    rng = np.random.default_rng(0)
    rows = [
        (
            list(rng.integers(2, 99, rng.integers(1, 60))),
            [list(rng.integers(2, 99, rng.integers(0, 20))) for _ in range(rng.integers(1, 10))],
        )
        for _ in range(40)
    ]
    packed = pack(rows, tokenizer.pad_token_id)
    assert sum(len(p) + sum(map(len, a)) for p, a in rows) / packed.ids.numel() > 0.85
    answers = [a for _, found in rows for a in found]
    said = [t for a in answers for t in a]
    assert (
        packed.mask.sum(1).tolist() == [len(a) for a in answers]
        and packed.answer_ids[: len(said)].tolist() == said
    )
    assert (
        len(packed.answer_ids) % 64 == len(packed.before) % 64 == len(packed.read_positions) % 64 == 0
        and len(packed.answer_ids) - len(said) < 64
    )


def test_answers_come_back_in_the_order_of_the_prompts(tokenizer, model):
    prompts = [tokenizer(t)["input_ids"] for t in ("Cows eat grass. Cows eat", "Who", "The capital")]
    answers = sample(model, tokenizer, prompts, 8, 0.0, 0, batch=2)
    assert [a.text for a in answers] == [sample(model, tokenizer, [p], 8, 0.0, 0)[0].text for p in prompts]
    assert all(a.ended == (a.tokens[-1] == tokenizer.eos_token_id) and len(a.tokens) <= 8 for a in answers)


def test_scores_read_the_end_as_transformers_does(tokenizer, model, tmp_path):
    """transformers' own pooling agrees, since <pad> is not the end-of-text token."""
    save_model(model, tmp_path)
    torch.manual_seed(0)
    scorer = load_scorer(tmp_path)
    rows = [([5, 6], [[7, 0]]), ([9], [[0]])]
    ids, mask = pad_batch([p + a for p, (a,) in rows], tokenizer.pad_token_id)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        ours = answer_scores(scorer, pack(rows, tokenizer.pad_token_id))
        assert scorer(input_ids=ids, attention_mask=mask).logits[:, 0].tolist() == pytest.approx(
            ours.tolist(), abs=1e-5
        )


def test_the_likelihood_in_the_score_is_that_of_the_answer_alone(tokenizer, model, tmp_path):
    save_model(model, tmp_path)
    torch.manual_seed(0)
    scorer = load_scorer(tmp_path)
    pairs = [([5, 6, 7], [8, 0]), ([9], [4, 3, 0]), ([5, 5, 5, 5, 5], [0])]
    packed = pack([(prompt, [answer]) for prompt, answer in pairs], tokenizer.pad_token_id)
    with torch.no_grad():
        plain = answer_scores(scorer, packed)
        scorer.config.likelihood = 0.5
        scores = answer_scores(scorer, packed)
        for row, (prompt, answer) in enumerate(pairs):
            logprobs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            by_hand = sum(float(logprobs[len(prompt) + k - 1, token]) for k, token in enumerate(answer))
            assert float(scores[row] - plain[row]) == pytest.approx(0.5 * by_hand, abs=1e-4)


@pytest.mark.skipif(glibc() is None or "LD_PRELOAD" in os.environ, reason="another C library or allocator")
def test_what_a_step_frees_is_kept_for_the_next_until_a_stage_ends():
    def held() -> float:
        return psutil.Process().memory_info().rss / 2**20

    give_back_memory()
    before = held()
    for _ in range(3):
        blocks = [torch.ones(2**21) for _ in range(8)]  # 8 MB each
        del blocks
    assert held() > before + 50
    give_back_memory()
    assert held() < before + 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_whoever_has_tuned_the_memory_has_the_last_word(monkeypatch, name):
    called = []
    monkeypatch.setattr(device_module, "glibc", lambda: SimpleNamespace(mallopt=lambda *a: called.append(a)))
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=131072")
    device_module.keep_memory()
    assert not called


def test_a_c_library_without_thresholds_is_left_alone(monkeypatch):
    """Such as musl, which answers to glibc's name."""
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    glibc.cache_clear()
    try:
        assert glibc() is None
        device_module.keep_memory()
        give_back_memory()
    finally:
        glibc.cache_clear()
