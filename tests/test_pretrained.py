"""Starting from a pretrained GPT-2: folders in the Hub's format, made here, and everything that must be
refused.
"""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_utils.environment import CourseError
from rlhf_utils.language.base_checks import check_base
from rlhf_utils.language.packing import pack
from rlhf_utils.language.pretrained import find_base, sized
from rlhf_utils.language.scoring import answer_logprobs
from rlhf_utils.language.tokenizer import END, PAD, SYSTEM, prompt_ids
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.plan import SHARE, check_shapes, parameters, plan, row_bytes

TEXTS = [
    "The capital of France is Paris.",
    "Cows eat grass.",
    "Question: Who has the ball?\nAnswer: Anna has the ball.",
] * 50


def hub_folder(folder, layers=2, width=32, heads=2, vocabulary=400, positions=256):
    """What `openai-community/gpt2` looks like: bare names of weights, GPT-2's dropout and activation, a
    tokenizer without padding.
    """
    folder.mkdir(parents=True)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_positions=positions,
        bos_token_id=vocabulary - 1,
        eos_token_id=vocabulary - 1,
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    weights = {k.removeprefix("transformer."): v for k, v in load_file(folder / "model.safetensors").items()}
    for layer in range(layers):
        weights[f"h.{layer}.attn.bias"] = torch.ones(positions, positions).tril()[None, None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocabulary - 1, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_tokens([f"<unused{i}>" for i in range(bpe.get_vocab_size(), vocabulary - 1)])
    bpe.add_special_tokens([END])
    assert bpe.token_to_id(END) == vocabulary - 1
    bpe.save(str(folder / "tokenizer.json"))
    bpe.model.save(str(folder))  # vocab.json and merges.txt
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": positions}))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return hub_folder(tmp_path_factory.mktemp("hub") / "my-gpt2")


@pytest.fixture(scope="module")
def store(base, tmp_path_factory):
    """A whole tiny run from that folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_RUNS", str(tmp_path_factory.mktemp("runs")))
        return ensure("evaluate", load_profile("tiny", 0, base=base), say=lambda text: None)


def test_every_stage_runs_from_a_folder(store):
    assert re.fullmatch("tiny-my-gpt2-[0-9a-f]{6}", store.root.name)
    assert store.metrics("evaluate")["gold"]
    assert store.metrics("pretrain") == []


def test_a_plan_reckons_with_the_base_and_not_with_the_profile(store, base):
    """The profile's model has 2 layers of width 32 and another vocabulary."""
    profile = load_profile("tiny", 0, base=base)
    model = store.model("base")
    planned = sized(profile)
    assert parameters(planned) == sum(p.numel() for p in model.parameters())
    check_shapes(profile)
    table = plan(profile, 1e12, free=2**33)
    assert "pretrain" not in table.index and table["microbatch"]["ppo"] > 0
    # Enough for a sequence of SFT, and not for one of PPO, which has four models of this size.
    few = int((28 * parameters(planned) + row_bytes(planned, profile.context)) / SHARE)
    with pytest.raises(CourseError, match="GB at least"):
        plan(profile, 1e12, free=few)


def test_the_model_is_the_one_of_the_folder_with_one_more_token(store, base):
    ours, theirs = store.model("pretrain"), GPT2LMHeadModel.from_pretrained(base).eval()
    ids = torch.tensor([[5, 9, 30, 200, 7]])
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits[..., :400], theirs(ids).logits, atol=1e-5)
    assert ours.config.vocab_size == 401 == len(store.tokenizer()) and ours.config.resid_pdrop == 0


def test_its_tokenizer_gets_padding_of_its_own_and_the_chat_template(store):
    tokenizer = store.tokenizer()
    assert (tokenizer.eos_token, tokenizer.pad_token) == (
        END,
        PAD,
    ) and tokenizer.pad_token_id == 400 != tokenizer.eos_token_id
    ids = prompt_ids(tokenizer, [{"role": "user", "content": "Who has the ball?"}], 99)
    whole = tokenizer(f"{END}{SYSTEM}\nQuestion: Who has the ball?\nAnswer: Anna has it.{END}")["input_ids"]
    # Prompt and answer join without a seam.
    assert whole == ids + tokenizer("Anna has it.")["input_ids"] + [tokenizer.eos_token_id]
    assert tokenizer.decode(tokenizer("Cows eat grass.")["input_ids"]).strip() == "Cows eat grass."


def test_packing_knows_its_activation(store):
    """GPT-2's own activation is a tanh; sampling and scoring must use it, too."""
    from rlhf_utils.language.sampling import generate

    model, pad, end = store.model("sft"), 400, 399
    assert model.config.activation_function == "gelu_new"
    drawn = generate(model, [[5, 9, 30], [7]], 8, 0.0, pad, end).tokens
    with torch.no_grad():
        for prompt, answer in zip([[5, 9, 30], [7]], drawn):
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            logits[:, pad] = -torch.inf
            assert logits.argmax(-1).tolist() == answer
            exact = logits.log_softmax(-1)[range(len(answer)), answer]
            assert torch.allclose(
                answer_logprobs(model, pack([(prompt, [answer])], pad), pad)[0], exact, atol=1e-5
            )


def harm_config(**change):
    def harm(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return harm


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder):
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    "harm, message",
    [
        (
            harm_config(model_type="bert", architectures=["BertModel"]),
            "is a bert model .BertModel., and no causal language model",
        ),
        (harm_config(architectures=["GPT2ForSequenceClassification"]), "no causal language model"),
        (harm_config(auto_map={"AutoModelForCausalLM": "evil.Model"}), "code of its own"),
        (
            harm_config(n_positions=64),
            "reads 64 tokens at most, but prompts of 96 and answers of 24 tokens need 120",
        ),
        (
            harm_config(n_positions=124),
            "reads 124 tokens at most, but the profile tiny trains on windows of 128",
        ),
        (only_a_pickle, "are a pickle.*Convert them"),
        (no_tokenizer, "has no tokenizer"),
        (lambda folder: (folder / "config.json").unlink(), "no readable config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(base, tmp_path, harm, message):
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    harm(folder)
    with pytest.raises(CourseError, match=message):
        check_base(folder, load_profile("tiny", 0))


def response(status: int):
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    "error, message",
    [
        (
            lambda: errors.RepositoryNotFoundError("no", response=response(404)),
            "no model some/model on the Hub",
        ),
        (lambda: errors.GatedRepoError("no", response=response(403)), "is gated: accept its terms"),
        (lambda: errors.LocalEntryNotFoundError("no"), "the Hub cannot be reached.*hf download some/model"),
        (lambda: ConnectionError("no"), "the Hub cannot be reached"),
    ],
)
def test_names_that_cannot_be_had_say_why_and_what_to_do(monkeypatch, error, message):
    def fail(*_, **__):
        raise error()

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CourseError, match=message):
        find_base("some/model")


def test_without_a_network_a_name_fails_at_once(rlhf, rlhf_process):
    words = ("run", "--until", "pretrain", "--base", "some-owner/some-gpt2")
    result = rlhf_process(*words, check=2, HF_HUB_OFFLINE="1")  # which is read when it is imported
    assert (
        "the Hub cannot be reached" in result.stderr
        and "--base FOLDER" in result.stderr
        and "Traceback" not in result.stderr
    )
    result = rlhf("run", "--until", "pretrain", "--base", "./no/such/folder", check=2)
    assert "neither a folder nor a name" in result.stderr


def test_lora_stands_on_the_stages_of_the_plain_run(store):
    """`--lora` trains SFT and PPO in a folder of its own, and takes what comes before from the plain one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_RUNS", str(store.root.parent))
        adapted = ensure("ppo_ptx", replace(store.profile, lora=4), say=lambda text: None)
    assert adapted.root.name == f"{store.root.name}-lora4"
    assert adapted.folder("pretrain") == store.folder("pretrain")
    for stage in ("sft", "ppo_ptx"):
        assert (
            adapted.folder(stage).parent == adapted.root
            and (adapted.folder(stage) / "adapter" / "adapter_model.safetensors").is_file()
        )
    assert (
        adapted.plain == store.root
        and (store.root / "sft").is_dir()
        and not (store.root / "sft" / "adapter").exists()
    )
