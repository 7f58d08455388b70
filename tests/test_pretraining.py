"""Windows, losses and the n-gram model against values worked out by hand."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.evaluation.language import cloze_accuracy, ngram_bits, token_losses
from rlhf_utils.language.models import new_gpt2
from rlhf_utils.language.tokenizer import answer_ids, to_windows
from rlhf_utils.training import sft
from rlhf_utils.training.plan import Room
from rlhf_utils.training.pretraining import pretrain


def test_windows_hold_all_documents_closed_by_the_end_token(tiny):
    tokenizer = tiny.tokenizer()
    windows = to_windows(tokenizer, ["Cows eat grass."] * 50, 8)
    flat = windows.reshape(-1).tolist()
    one = [*tokenizer("Cows eat grass.")["input_ids"], tokenizer.eos_token_id]
    assert flat == (one * 50)[: len(flat)] and len(flat) > len(one) * 50 - 8


def test_an_untrained_model_is_as_surprised_as_chance(tiny):
    tokenizer = tiny.tokenizer()
    torch.manual_seed(0)
    losses = token_losses(
        new_gpt2(tiny.profile, tokenizer),
        tiny.windows("heldout")[:8],
        replace(tiny.profile, precision="fp32"),
    )
    assert losses.shape == (8, tiny.profile.context - 1)
    assert losses.mean() == pytest.approx(np.log(len(tokenizer)), abs=0.7)


def test_ngram_model_equals_witten_bell_by_hand():
    """Bigrams of a short text, with P(w) and P(w | h) interpolated by the number of kinds that followed."""
    train, test, vocabulary = np.array([[0, 1, 0, 1, 0, 2, 0, 1]]), np.array([[0, 1, 2, 2]]), 3
    # The package reads unigrams from the places where a bigram ends, so the first token is no unigram.
    unigrams = Counter(train[0, 1:].tolist())
    total, kinds = sum(unigrams.values()), len(unigrams)
    bigrams = Counter(zip(train[0].tolist(), train[0, 1:].tolist()))

    def probability(history, word):
        lower = (unigrams[word] + kinds / vocabulary) / (total + kinds)
        followers = {w: c for (h, w), c in bigrams.items() if h == history}
        if not followers:
            return lower
        return (followers.get(word, 0) + len(followers) * lower) / (sum(followers.values()) + len(followers))

    expected = -np.mean([np.log2(probability(h, w)) for h, w in zip(test[0], test[0, 1:])])
    assert ngram_bits(train, test, vocabulary, order=2) == pytest.approx(expected)


@pytest.mark.parametrize("vocabulary", [12, 50_258])
def test_five_grams_equal_counting_with_dictionaries_at_any_vocabulary(vocabulary):
    """50,258⁵ is more than 64 bits hold; each of its histories still counts for itself."""
    rng = np.random.default_rng(0)
    ids = rng.choice(vocabulary, 6, replace=False)
    train, test = (
        ids[rng.integers(0, 6, size=(8, 60)) // rng.integers(1, 3, size=(8, 60))] for _ in range(2)
    )
    flat, probe, order = train.reshape(-1).tolist(), test.reshape(-1).tolist(), 5
    followers: dict[tuple, Counter] = {}
    for end in range(order - 1, len(flat)):
        for n in range(order):
            followers.setdefault(tuple(flat[end - n : end]), Counter())[flat[end]] += 1

    def probability(end):
        value = 1 / vocabulary
        for n in range(order):
            seen = followers.get(tuple(probe[end - n : end]))
            if seen:
                value = (seen[probe[end]] + len(seen) * value) / (seen.total() + len(seen))
        return value

    expected = -np.mean([np.log2(probability(end)) for end in range(order - 1, len(probe))])
    assert ngram_bits(train, test, vocabulary) == pytest.approx(expected)


def test_cloze_of_an_untrained_model_is_near_chance(tiny, world):
    torch.manual_seed(0)
    tokenizer = tiny.tokenizer()
    found = cloze_accuracy(new_gpt2(tiny.profile, tokenizer), tokenizer, world)
    assert 0.1 < found["all"] < 0.5


def test_compiled_pretraining_learns_the_same(tiny, tmp_path, monkeypatch):
    """Traced by torch.compile, but not made into machine code: that needs a C compiler and half a minute."""
    compiled, compile_module = [], torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda module: compiled.append(module) or compile_module(module, backend="aot_eager"),
    )
    weights = []
    for choice in (False, True):
        profile = replace(tiny.profile, pretrain_steps=6, precision="fp32", compiled=choice)
        folder = tmp_path / f"made-{choice}"
        folder.mkdir()
        pretrain(profile, tiny.tokenizer(), tiny.windows()[:100], folder, tmp_path / f"resume-{choice}")
        weights.append(load_file(folder / "model.safetensors"))
    assert len(compiled) == 1 and weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


def test_a_text_shorter_than_a_batch_is_learned_too(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    profile = replace(tiny.profile, pretrain_steps=4, pretrain_batch=32, compiled=True)
    pretrain(profile, tiny.tokenizer(), tiny.windows()[:20], tmp_path, tmp_path / "resume")
    torch.manual_seed(profile.seed)
    fresh, made = new_gpt2(profile, tiny.tokenizer()), load_file(tmp_path / "model.safetensors")
    assert (made["transformer.wte.weight"] - fresh.transformer.wte.weight).abs().max() > 1e-4


def test_losses_are_the_same_however_few_windows_are_read_at_once(tiny, monkeypatch):
    model, windows = tiny.model("pretrain"), tiny.windows("heldout")[:5]
    whole = token_losses(model, windows, replace(tiny.profile, precision="fp32"))
    monkeypatch.setattr("rlhf_utils.evaluation.language.MOST_LOGITS", 1)
    single = token_losses(model, windows, replace(tiny.profile, precision="fp32"))
    assert np.allclose(whole, single, atol=1e-4)


@pytest.mark.parametrize("lora", [0, 2])
def test_fine_tuning_by_trl_s_loss_and_by_the_whole_one_is_the_same(tiny, tmp_path, monkeypatch, lora):
    """Also where a batch is read in two parts."""
    parts, weights, losses = Room(4, False, False), [], []
    usual = sft.training_arguments
    monkeypatch.setattr(sft, "training_arguments", lambda *a, **k: usual(*a, **k) | {"logging_steps": 1})
    for name, most, room in (("pieces", 0, None), ("whole", 2**25, None), ("in parts", 2**25, parts)):
        monkeypatch.setattr(sft, "FEW_LOGITS", most)
        if room:
            monkeypatch.setattr(sft, "room_here", lambda *_, **__: parts)
        profile = replace(tiny.profile, precision="fp32", lora=lora)
        folder = tmp_path / name
        folder.mkdir()
        shown = tiny.prompts("demonstrations")[:40]
        sft.fine_tune(
            profile, tiny.tokenizer(), tiny.folder("pretrain"), shown, tiny.windows(), folder, tmp_path / "r"
        )
        rows = read_jsonl(folder / "metrics.jsonl")
        assert ("entropy" in rows[0]) == (name == "pieces")  # which TRL's own loss measures
        losses.append([row["loss"] for row in rows])
        weights.append(load_file(folder / "model.safetensors"))
    assert len(losses[0]) >= 5
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], abs=1e-4)
        assert all(torch.allclose(weights[0][k], weights[other][k], atol=1e-4) for k in weights[0])


def test_fine_tuning_learns_answers_and_documents_and_only_reads_the_prompts(tiny, tmp_path, monkeypatch):
    """On the labels that the trainer hands to the model."""
    batches = []
    monkeypatch.setattr(
        sft, "run_trainer", lambda trainer, *_, **__: batches.extend(trainer.get_train_dataloader()) or []
    )
    rows, tokenizer = tiny.prompts("demonstrations")[:24], tiny.tokenizer()
    windows = np.full((1, tiny.profile.context), 7)
    profile = replace(tiny.profile, sft_mix=1 / len(rows))
    sft.fine_tune(profile, tokenizer, tiny.folder("pretrain"), rows, windows, tmp_path, tmp_path / "resume")
    learned = Counter()
    for batch in batches:
        for ids, labels in zip(batch["input_ids"], batch["labels"]):
            counted = labels != -100
            assert (labels[counted] == ids[counted]).all()
            learned[tuple(labels[counted].tolist())] += 1
    answers = [tuple(answer_ids(tokenizer, r["completion"], profile.answer_tokens)) for r in rows]
    assert learned == Counter([*answers, tuple(windows[0])])


def test_own_data_is_read_four_times_at_most(tiny, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "rlhf_utils.training.pretraining.run_trainer",
        lambda trainer, *_: trained.append(trainer.args.max_steps) or [],
    )
    windows = tiny.windows()[:10]
    for data, steps in (("", 40), ("mine", 4 * 10 // tiny.profile.pretrain_batch)):
        pretrain(replace(tiny.profile, data=data), tiny.tokenizer(), windows, tmp_path, tmp_path / "resume")
        assert trained.pop() == steps
