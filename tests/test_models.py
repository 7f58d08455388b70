"""Tokenizer, model helpers and sampling against transformers and against exact probabilities."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional as F

from rlhf_utils.models import answer_scores, load_scorer, new_gpt2, pad_answers, pad_batch, save_model, token_scores
from rlhf_utils.profiles import PROFILES
from rlhf_utils.sampling import answer_logprobs, generate, sample_texts
from rlhf_utils.tokenizer import END, PAD, load_tokenizer, prompt_ids, prompt_text, save_tokenizer, train_tokenizer

TEXTS = ["The capital of France is Paris.", "Cows eat grass.\nCows live on farms.", "Who has the ball? Anna has the ball."] * 30


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
    assert tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(PAD) != tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(END)


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
    messages = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]
    assert prompt_text(tokenizer, messages) == f"{END}Question: A\nAnswer: B\nQuestion: C\nAnswer:"
    whole = tokenizer.apply_chat_template(messages[:2], tokenize=False)
    assert whole == f"{END}Question: A\nAnswer: B{END}"
    ids = tokenizer(whole)["input_ids"]  # prompt and answer join without a seam
    assert ids == prompt_ids(tokenizer, messages[:1], 99) + tokenizer("B")["input_ids"] + [tokenizer.eos_token_id]


def test_long_conversations_lose_their_first_turns(tokenizer):
    messages = [{"role": "user", "content": "Cows eat grass. " * 20}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "Who?"}]
    assert prompt_ids(tokenizer, messages, 20) == prompt_ids(tokenizer, messages[2:], 20)


def test_greedy_equals_transformers_generate(tokenizer, model):
    prompts = [tokenizer(t)["input_ids"] for t in ("Cows eat", "The capital of France", "Who")]
    ours = generate(model, prompts, 12, 0.0, tokenizer.pad_token_id, tokenizer.eos_token_id).tokens
    for prompt, mine in zip(prompts, ours):
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, suppress_tokens=[tokenizer.pad_token_id],
            pad_token_id=tokenizer.pad_token_id, attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert mine == theirs


def test_sampling_follows_the_softmax(tokenizer, model):
    prompt = tokenizer("Cows")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    logits[tokenizer.pad_token_id] = -torch.inf
    expected = F.softmax(logits.double() / 0.8, -1).numpy()
    drawn = generate(model, [prompt] * 6000, 1, 0.8, tokenizer.pad_token_id, tokenizer.eos_token_id, torch.Generator().manual_seed(3))
    counts = np.bincount([t[0] for t in drawn.tokens], minlength=len(expected)).astype(float)
    often = expected * 6000 >= 5
    observed = [*counts[often], counts[~often].sum()]
    wanted = [*(expected[often] * 6000), max(expected[~often].sum() * 6000, 1e-9)]
    assert chisquare(observed, np.array(wanted) * sum(observed) / sum(wanted)).pvalue > 1e-4


def test_nothing_follows_the_end(tokenizer, model):
    drawn = generate(model, [[5], [6], [7]] * 40, 20, 1.0, tokenizer.pad_token_id, tokenizer.eos_token_id, torch.Generator().manual_seed(1))
    for tokens, ended in zip(drawn.tokens, drawn.ended):
        assert tokens.count(tokenizer.eos_token_id) == int(ended)
        assert tokenizer.pad_token_id not in tokens
        assert ended == (tokens[-1] == tokenizer.eos_token_id) and (ended or len(tokens) == 20)


def test_logprobs_do_not_depend_on_padding_or_company(tokenizer, model):
    prompts = [tokenizer(t)["input_ids"] for t in ("Cows eat grass. Cows", "Who", "The capital of France is")]
    answers = [[9, 8, 0], [11, 0], [30, 31, 32, 33, 0]]
    with torch.no_grad():
        together, mask, *_ = answer_logprobs(model, prompts, answers, tokenizer.pad_token_id)
        for i, (prompt, answer) in enumerate(zip(prompts, answers)):
            alone, *_ = answer_logprobs(model, [prompt], [answer], tokenizer.pad_token_id)
            assert together[i, : len(answer)] == pytest.approx(alone[0].numpy(), abs=1e-5)
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            logits[:, tokenizer.pad_token_id] = -torch.inf
            exact = logits.log_softmax(-1)[torch.arange(len(answer)), answer]
            assert alone[0].numpy() == pytest.approx(exact.numpy(), abs=1e-5)
    assert mask.sum(1).tolist() == [3, 2, 5]


def test_answers_come_back_in_the_order_of_the_prompts(tokenizer, model):
    prompts = [tokenizer(t)["input_ids"] for t in ("Cows eat grass. Cows eat", "Who", "The capital")]
    texts, _ = sample_texts(model, tokenizer, prompts, 8, 0.0, 0, batch=2)
    assert texts == [sample_texts(model, tokenizer, [p], 8, 0.0, 0)[0][0] for p in prompts]


def test_last_scores_read_the_end_and_ignore_padding(tokenizer, model, tmp_path):
    save_model(model, tmp_path)
    torch.manual_seed(0)
    scorer = load_scorer(tmp_path)
    rows = [[5, 6, 7, 0], [9, 0]]
    for left in (False, True):
        ids, mask = pad_batch(rows, tokenizer.pad_token_id, left)
        with torch.no_grad():
            together = answer_scores(scorer, ids, mask, mask)
            alone = [answer_scores(scorer, *pad_answers([([], r)], 1)).item() for r in rows]
            assert together.tolist() == pytest.approx(alone, abs=1e-5)
            assert token_scores(scorer, ids, mask).shape == ids.shape
    # transformers' own pooling agrees, since <pad> is not the end-of-text token
    ids, mask = pad_batch(rows, tokenizer.pad_token_id)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        assert scorer(input_ids=ids, attention_mask=mask).logits[:, 0].tolist() == pytest.approx(alone, abs=1e-5)


def test_the_likelihood_in_the_score_is_that_of_the_answer_alone(tokenizer, model, tmp_path):
    save_model(model, tmp_path)
    torch.manual_seed(0)
    scorer = load_scorer(tmp_path)
    pairs = [([5, 6, 7], [8, 0]), ([9], [4, 3, 0]), ([5, 5, 5, 5, 5], [0])]
    batch = pad_answers(pairs, tokenizer.pad_token_id)
    with torch.no_grad():
        plain = answer_scores(scorer, *batch)
        scorer.config.likelihood = 0.5
        scores = answer_scores(scorer, *batch)
        for row, (prompt, answer) in enumerate(pairs):
            logprobs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            by_hand = sum(float(logprobs[len(prompt) + k - 1, token]) for k, token in enumerate(answer))
            assert float(scores[row] - plain[row]) == pytest.approx(0.5 * by_hand, abs=1e-4)
        # left-padded prompts and right-padded answers, as PPO has them, give the same scores
        ids, mask = pad_batch([p for p, _ in pairs], tokenizer.pad_token_id, left=True)
        right, right_mask = pad_batch([a for _, a in pairs], tokenizer.pad_token_id)
        whole, both = torch.cat([ids, right], 1), torch.cat([mask, right_mask], 1)
        assert answer_scores(scorer, whole, both, torch.cat([0 * mask, right_mask], 1)).tolist() == pytest.approx(scores.tolist(), abs=1e-4)
