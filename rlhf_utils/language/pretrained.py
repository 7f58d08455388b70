"""A pretrained GPT-2 of one's own in place of the pretraining stage: a folder, or a name on the Hugging Face
Hub.

Any model of GPT-2's architecture with its own tokenizer (GPT-2 of any size, DistilGPT-2 and their
relatives), in the format of `save_pretrained`. Only safetensors are read, and no code of a repository is
ever run.
"""

import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_utils.environment import CourseError, place
from rlhf_utils.language.models import read_model, save_model
from rlhf_utils.language.tokenizer import END, PAD, wrap
from rlhf_utils.profiles import Profile

# Of a repository: configuration, tokenizer, weights; no code, no pickles.
FILES = ("*.json", "*.txt", "*.safetensors")


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
            f"{base!r} is neither a folder nor a name on the Hub, which looks like openai-community/gpt2."
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
            f"{base} is no folder here, and the Hub cannot be reached ({type(error).__name__}). Where there "
            f"is a network, run `hf download {base} "
            "--local-dir gpt2`, copy that folder to this machine, and name it: --base FOLDER."
        ) from None


def check_base(folder: Path, profile: Profile) -> dict:
    """The model's configuration, if the course can start from it;
    a CourseError that says why not otherwise.
    """
    config = _json(folder / "config.json")
    if not isinstance(config, dict):
        raise CourseError(
            f"{folder} has no readable config.json: it is not a model that `save_pretrained` wrote."
        )
    config = {name: getattr(GPT2Config(), name) for name in SIZES} | config  # what it leaves out
    kind, classes = config.get("model_type"), [str(c) for c in config.get("architectures") or []]
    if "auto_map" in config:
        raise CourseError(
            f"{folder} brings code of its own (auto_map in config.json), which is never run here. Choose a "
            "plain GPT-2."
        )
    if kind != "gpt2" or not any(c.endswith("LMHeadModel") for c in classes):
        raise CourseError(
            f"{folder} is a {kind} model ({', '.join(classes) or 'of no class'}), and no causal language "
            "model of GPT-2's architecture."
        )
    if not list(folder.glob("*.safetensors")):
        if not list(folder.glob("*.bin")):
            raise CourseError(f"{folder} has no weights (model.safetensors).")
        raise CourseError(
            f"The weights in {folder} are a pickle, which can run code when it is opened. Convert them "
            'where you trust them: python -c "from '
            "transformers import GPT2LMHeadModel as M; "
            f"M.from_pretrained('{folder}').save_pretrained('converted')\", and copy its tokenizer files, "
            "too."
        )
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise CourseError(
            f"{folder} has no tokenizer (tokenizer.json): save it beside the model with "
            "tokenizer.save_pretrained."
        )
    if (folder / "adapter_config.json").exists():  # transformers would apply it to whatever is loaded
        raise CourseError(f"{folder} holds an adapter (adapter_config.json). Merge it into its model first.")
    check_sizes(folder, config)
    room, needed = config["n_positions"], profile.prompt_tokens + profile.answer_tokens
    if room < needed:
        raise CourseError(
            f"{folder} reads {room} tokens at most, but prompts of {profile.prompt_tokens} and answers of "
            f"{profile.answer_tokens} tokens need {needed}."
        )
    if room < profile.context:
        raise CourseError(
            f"{folder} reads {room} tokens at most, but the profile {profile.name} trains on windows of "
            f"{profile.context}."
        )
    check_weights(folder, config)
    return config


def _json(path: Path):
    """What a JSON file holds; None if it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


SIZES = {"n_layer": 200, "n_embd": 20_000, "n_head": 400, "vocab_size": 1_000_000, "n_positions": 1_000_000}


def check_sizes(folder: Path, config: dict) -> None:
    """Sizes that the configuration names are checked before anything of that size is made."""
    for name, most in SIZES.items():
        value = config[name]
        if type(value) is not int or not 1 <= value <= most:
            raise CourseError(
                f"{folder}/config.json: `{name}` is {str(value)[:40]}, not a whole number of 1 to {most:,}."
            )
    if config["n_embd"] % config["n_head"]:
        raise CourseError(
            f"{folder}/config.json: {config['n_head']} heads cannot share {config['n_embd']} dimensions."
        )


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that would be read: one, or those that an index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return [folder / "model.safetensors"]
    found = _json(index)
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names:
        raise CourseError(f"{index} cannot be read: it has no `weight_map`.")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CourseError(f"{index} names {name!r:.60}, which is no safetensors file of this folder.")
    return [folder / name for name in sorted(set(names.values()))]


def check_weights(folder: Path, config: dict) -> None:
    """Whether the weights are those of the configuration: by names and shapes, which are quickly read."""
    shapes = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {n.removeprefix("transformer."): file.get_slice(n).get_shape() for n in file.keys()}
        except (OSError, SafetensorError) as error:
            raise CourseError(f"{path} cannot be read: {error}.") from None
    shapes.setdefault("wte.weight", shapes.get("lm_head.weight"))  # they are one
    width, layers = config["n_embd"], {int(n.split(".")[1]) for n in shapes if re.match(r"h\.\d+\.", n)}
    expected = {
        "wte.weight": [config["vocab_size"], width],
        "wpe.weight": [config["n_positions"], width],
        "h.0.attn.c_attn.weight": [width, 3 * width],
        "ln_f.weight": [width],
    }
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            raise CourseError(
                f"{folder}: the weights {name} are {shapes.get(name, 'missing')}, config.json says {shape}."
            )
    if layers != set(range(config["n_layer"])):
        raise CourseError(
            f"{folder} has weights of {len(layers)} layers, but config.json says {config['n_layer']}."
        )


@lru_cache
def sized(profile: Profile) -> Profile:
    """The profile with the sizes of its base's model, if it has one: what a plan must reckon with."""
    if not profile.base:
        return profile
    config = check_base(find_base(profile.base), profile)
    return replace(
        profile,
        base="",
        layers=config["n_layer"],
        width=config["n_embd"],
        heads=config["n_head"],
        vocabulary=config["vocab_size"] + 1,  # and <pad>
    )


def base_folder(profile: Profile) -> Path:
    """The folder of the profile's base, found and checked."""
    folder = find_base(profile.base)
    check_base(folder, profile)
    base_tokenizer(folder)
    return folder


def base_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The model's own tokenizer with the course's chat template, and a padding token that is not the end of
    text.

    Words after "Answer:" begin with a space there, so a space is put before an answer's first word.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        room = len(loaded)
    except Exception as error:  # of many kinds, and all of them mean the same
        why = str(error).split("\n")[0][:200]
        raise CourseError(
            f"The tokenizer in {folder} cannot be read ({type(error).__name__}: {why})."
        ) from None
    config = _json(folder / "config.json")
    if room > config["vocab_size"]:
        raise CourseError(
            f"The tokenizer in {folder} has {room:,} tokens, but its model knows {config['vocab_size']:,}."
        )
    backend, end = loaded.backend_tokenizer, loaded.eos_token or END
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.no_padding()
    backend.no_truncation()
    backend.add_special_tokens([PAD, end])
    return wrap(backend, end)


def write_base(folder: Path, tokenizer, target: Path) -> None:
    """Write the model into `target` as a base model of the course: embeddings of the tokenizer's size, no
    dropout.
    """
    model = read_model(GPT2LMHeadModel, folder)
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise CourseError(f"The weights {broken[0]} in {folder} are not all finite numbers.")
    if model.get_input_embeddings().num_embeddings != len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    # Dropout would make the ratio of PPO differ from 1 before the first step.
    model.config.update(
        {
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "summary_first_dropout": 0.0,
            "num_labels": 1,
        }
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
        setattr(model.generation_config, name, getattr(tokenizer, name))
    save_model(model, target, tokenizer)
