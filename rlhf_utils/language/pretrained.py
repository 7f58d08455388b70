"""A pretrained model of one's own in place of the pretraining stage: a folder, or a name on the Hugging Face
Hub.

Any causal language model of transformers that takes positions and a mask of who sees whom (GPT-2, GPT-Neo,
Pythia, Llama, SmolLM2, Qwen, Gemma, Mistral, Phi, OPT and their relatives), in the format of
`save_pretrained`. Only safetensors are read, and no code of a repository is ever run.
"""

import re
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf_utils.environment import CourseError, place
from rlhf_utils.language.base_checks import check_base, json_of, unmade
from rlhf_utils.language.chat_form import read_form
from rlhf_utils.language.device import device
from rlhf_utils.language.models import read_model, save_model
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import answer_logprobs
from rlhf_utils.language.tokenizer import CHAT_TEMPLATE, END, PAD, load_tokenizer, save_tokenizer, wrap
from rlhf_utils.profiles import Profile

# Of a repository: configuration, tokenizer, weights; no code, no pickles.
FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors")


def find_base(base: str) -> Path:
    """The folder of a pretrained model; a name is downloaded into the Hub's cache once."""
    folder = place("The base", base)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(base, allow_patterns=list(FILES)))
    except HFValidationError:
        raise CourseError(
            f"{base!r} is neither a folder nor a name on the Hub (such as openai-community/gpt2)."
        ) from None
    except GatedRepoError:
        raise CourseError(
            f"{base} is gated: accept its terms on its page on the Hub, log in with `hf auth login`, and "
            "try again."
        ) from None
    except RepositoryNotFoundError:
        raise CourseError(
            f"There is no model {base} on the Hub, or it is private: check the name, or log in with `hf "
            "auth login`."
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CourseError(
            f"{base} is not a folder here, and the Hub cannot be reached ({type(error).__name__}). Where "
            f"there is a network, run `hf download {base} "
            "--local-dir FOLDER`, copy that folder to this machine, and name it: --base FOLDER."
        ) from None


@lru_cache
def base_config(profile: Profile) -> PreTrainedConfig:
    """The configuration of the profile's base, found and checked."""
    return check_base(find_base(profile.base), profile)


def planned_config(profile: Profile) -> PreTrainedConfig:
    """The base's configuration as the course will have it at most: with one more token, for padding."""
    config = deepcopy(base_config(profile))
    config.vocab_size, config.num_labels, config.pad_token_id = config.vocab_size + 1, 1, config.vocab_size
    return config


@lru_cache
def weights_of_base(profile: Profile) -> int:
    """How many weights the profile's base has."""
    return sum(weight.numel() for weight in unmade(planned_config(profile)).parameters())


@lru_cache
def sized(profile: Profile) -> Profile:
    """The profile with the sizes of its base's model, if it has one: what a plan must reckon with."""
    if not profile.base:
        return profile
    config = base_config(profile)
    return replace(
        profile,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size + 1,  # and <pad>
    )


def base_folder(profile: Profile) -> Path:
    """The folder of the profile's base, found and checked."""
    folder = find_base(profile.base)
    check_base(folder, profile)
    base_tokenizer(folder)
    return folder


def base_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The model's own tokenizer, with its own form of conversations or, where it has none, the course's, and
    a padding token that is not the end of text.

    In the course's form words after "Answer:" begin with a space: one is put before an answer's first word.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        room, backend = len(loaded), loaded.backend_tokenizer
    except Exception as error:  # of many kinds, and all of them mean the same
        why = str(error).split("\n")[0][:200]
        raise CourseError(
            f"The tokenizer in {folder} cannot be read ({type(error).__name__}: {why})."
        ) from None
    words = json_of(folder / "config.json")["vocab_size"]
    if room > words:
        raise CourseError(f"The tokenizer in {folder} has {room:,} tokens, but its model knows {words:,}.")
    if loaded.chat_template == CHAT_TEMPLATE and loaded.pad_token == PAD:
        return load_tokenizer(folder)  # a model of the course's own
    special = [t.content for t in loaded.added_tokens_decoder.values() if t.special]
    form, template = None, loaded.chat_template
    if isinstance(template, str):
        names = {f"{n}_token": str(getattr(loaded, f"{n}_token") or "") for n in ("bos", "eos", "pad", "unk")}
        form = read_form(template, names, special)
    end = form.end if form else loaded.eos_token or END
    # Padding is never drawn, so it is no token that a conversation needs.
    unused = [loaded.pad_token, *(t for t in special if "pad" in t.lower()), END if END in special else None]
    marks = form.template() if form else ""
    pad = next((t for t in unused if form and t and t != end and t not in marks), PAD)
    if not form and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.no_padding()
    backend.no_truncation()
    backend.add_special_tokens([pad, end])
    return wrap(backend, end, pad, form)


def write_base(folder: Path, tokenizer, target: Path) -> None:
    """Write the model into `target` as a base model of the course: embeddings of the tokenizer's size, no
    dropout.
    """
    model = read_model(AutoModelForCausalLM, folder)
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise CourseError(f"The weights {broken[0]} in {folder} are not all finite numbers.")
    # Dropout would make the ratio of PPO differ from 1 before the first step.
    for name, value in model.config.to_dict().items():
        if re.search("dropout|pdrop", name) and isinstance(value, float):
            setattr(model.config, name, 0.0)
    check_reading(model.to(device()), folder)
    model.cpu()
    if model.get_input_embeddings().num_embeddings != len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.num_labels = 1
    tokens = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    model.config.update(tokens)
    model.generation_config = GenerationConfig(**tokens)
    save_model(model, target, tokenizer)
    save_tokenizer(tokenizer, target)


@torch.no_grad()
def check_reading(model: PreTrainedModel, folder: Path) -> None:
    """Whether answers are read side by side, from packed lines, as each is on its own.

    Architectures differ in what they make of positions and masks: a CourseError for one that ignores them.
    """
    pad, chance = 0, torch.Generator().manual_seed(0)
    words = model.config.vocab_size
    said = torch.randint(1, words, (30,), generator=chance).tolist()
    prompts, answers = (said[:5], said[5:12]), ([said[12:15], said[15:21]], [said[21:30]])
    model.eval()
    try:
        packed = pack(list(zip(prompts, answers)), pad)
        found = answer_logprobs(model, packed, pad)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise CourseError(
            f"{folder}: a {model.config.model_type} model cannot be trained here. It takes no positions or "
            f"no mask ({type(error).__name__}: {str(error)[:200]})."
        ) from None
    alone = [(p, a) for p, own in zip(prompts, answers) for a in own]
    for row, (prompt, answer) in zip(found, alone):
        logits = model(torch.tensor([prompt + answer], device=found.device)).logits[0, len(prompt) - 1 : -1]
        logits[:, pad] = -torch.inf
        exact = logits.float().log_softmax(-1)[range(len(answer)), answer]
        away = float((row[: len(answer)] - exact).abs().max())
        if not away < 1e-3:
            raise CourseError(
                f"{folder}: a {model.config.model_type} model cannot be trained here. It ignores "
                f"positions, or who may see whom: an answer's log-probability is {away:.3f} nats off."
            )
