"""A pretrained model of one's own in place of the pretraining stage: a folder, or a name on the Hugging Face
Hub.

Any causal language model of transformers that takes positions and a mask of who sees whom (GPT-2, GPT-Neo,
Pythia, Llama, SmolLM2, Qwen, Gemma, Mistral, Phi, OPT and their relatives), in the format of
`save_pretrained`. Only safetensors are read, and no code of a repository is ever run.
"""

import json
import re
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto import modeling_auto

from rlhf_utils.environment import CourseError, place
from rlhf_utils.language.chat_form import read_form
from rlhf_utils.language.models import read_model, save_model
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import answer_logprobs
from rlhf_utils.language.tokenizer import END, PAD, save_tokenizer, wrap
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
            f"{base!r} is neither a folder nor a name on the Hub, which looks like HuggingFaceTB/SmolLM2-135M."
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
            "--local-dir FOLDER`, copy that folder to this machine, and name it: --base FOLDER."
        ) from None


CAUSAL = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
SCORED = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
# What sizes are called in most configurations, and the largest that are believed.
SIZES = {
    "num_hidden_layers": 200,
    "hidden_size": 20_000,
    "num_attention_heads": 400,
    "vocab_size": 1_000_000,
    "max_position_embeddings": 20_000_000,
}


def check_base(folder: Path, profile: Profile) -> PreTrainedConfig:
    """The model's configuration, if the course can start from it;
    a CourseError that says why not otherwise.
    """
    found = _json(folder / "config.json")
    if not isinstance(found, dict):
        raise CourseError(
            f"{folder} has no readable config.json: it is not a model that `save_pretrained` wrote."
        )
    check_kind(folder, found)
    config = configuration(folder, found)
    check_files(folder)
    room, needed = config.max_position_embeddings, profile.prompt_tokens + profile.answer_tokens
    if room < needed:
        raise CourseError(
            f"{folder} reads {room} tokens at most, but prompts of {profile.prompt_tokens} and answers of "
            f"{profile.answer_tokens} tokens need {needed}."
        )
    if min(room, window_of(config)) < profile.context:
        raise CourseError(
            f"{folder} reads {min(room, window_of(config))} tokens at most, but the profile {profile.name} "
            f"trains on windows of {profile.context}."
        )
    check_weights(folder, config)
    return config


def check_kind(folder: Path, found: dict) -> None:
    """Whether it is a causal language model of transformers' own."""
    kind, classes = found.get("model_type"), [str(c) for c in found.get("architectures") or []]
    if "auto_map" in found:
        raise CourseError(
            f"{folder} brings code of its own (auto_map in config.json), which is never run here. Choose a "
            "model that transformers knows."
        )
    causal = isinstance(kind, str) and kind in CAUSAL and kind in SCORED and kind in CONFIG_MAPPING
    if not causal or not any(c.endswith(("LMHeadModel", "ForCausalLM")) for c in classes):
        raise CourseError(
            f"{folder} is a {str(kind)[:40]} model ({', '.join(classes)[:100] or 'of no class'}), and no "
            "causal language model that the course can train. GPT-2, Pythia, SmolLM2, Llama, Qwen, Gemma and "
            "Mistral are some."
        )


def check_files(folder: Path) -> None:
    if not list(folder.glob("*.safetensors")):
        if not list(folder.glob("*.bin")):
            raise CourseError(f"{folder} has no weights (model.safetensors).")
        raise CourseError(
            f"The weights in {folder} are a pickle, which can run code when it is opened. Convert them "
            'where you trust them: python -c "from '
            "transformers import AutoModelForCausalLM as M; "
            f"M.from_pretrained('{folder}').save_pretrained('converted')\", and copy its tokenizer files, "
            "too."
        )
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise CourseError(
            f"{folder} has no tokenizer (tokenizer.json): save it beside the model with "
            "tokenizer.save_pretrained."
        )
    if (folder / "adapter_config.json").exists():  # transformers would apply it to whatever is loaded
        raise CourseError(f"{folder} holds an adapter (adapter_config.json). Merge it into its model first.")


def _json(path: Path):
    """What a JSON file holds; None if it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def configuration(folder: Path, found: dict) -> PreTrainedConfig:
    """A configuration of transformers, with what it leaves out.

    Sizes are checked before anything of that size is made.
    """
    kind = CONFIG_MAPPING[found["model_type"]]
    usual, names = kind(), {size: kind.attribute_map.get(size, size) for size in SIZES}
    for size, most in SIZES.items():
        value = found.get(names[size], getattr(usual, size, None))
        if type(value) is not int or not 1 <= value <= most:
            raise CourseError(
                f"{folder}/config.json: `{names[size]}` is {str(value)[:40]}, not a whole number of 1 to "
                f"{most:,}."
            )
    try:
        config = kind.from_dict(found)
        shared = config.hidden_size % config.num_attention_heads == 0 or hasattr(config, "head_dim")
    except Exception as error:  # of many kinds, and all of them mean the same
        raise CourseError(
            f"{folder}/config.json is no configuration of a {found['model_type']} model "
            f"({type(error).__name__}: {str(error)[:200]})."
        ) from None
    if not shared:
        raise CourseError(
            f"{folder}/config.json: {config.num_attention_heads} heads cannot share {config.hidden_size} "
            "dimensions."
        )
    return config


def window_of(config: PreTrainedConfig) -> int:
    """How many tokens the narrowest layer looks back."""
    if config.model_type == "gpt_neo":
        return config.window_size if "local" in config.attention_layers else config.max_position_embeddings
    sliding = getattr(config, "sliding_window", None)
    if not sliding or not getattr(config, "use_sliding_window", True):
        return config.max_position_embeddings
    return sliding


def unmade(config: PreTrainedConfig, kind=AutoModelForCausalLM) -> PreTrainedModel:
    """A model of a configuration without memory for its weights (on the meta device)."""
    with torch.device("meta"):
        return kind.from_config(config)


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


LAYER = re.compile(r"^(?:model\.|decoder\.)*(?:h|layers|blocks)\.(\d+)\.")


def check_weights(folder: Path, config: PreTrainedConfig) -> None:
    """Whether the weights are those of the configuration: by names and shapes, which are quickly read."""
    try:
        model = unmade(config)
    except Exception as error:
        raise CourseError(
            f"{folder}/config.json describes no model ({type(error).__name__}: {str(error)[:200]})."
        ) from None
    prefix, shapes = f"{model.base_model_prefix}.", {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {n.removeprefix(prefix): file.get_slice(n).get_shape() for n in file.keys()}
        except (OSError, SafetensorError) as error:
            raise CourseError(f"{path} cannot be read: {error}.") from None
    layers = {int(found.group(1)) for name in shapes if (found := LAYER.match(name))}
    if layers and layers != set(range(config.num_hidden_layers)):
        raise CourseError(
            f"{folder} has weights of {len(layers)} layers, but config.json says {config.num_hidden_layers}."
        )
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    one = {n.removeprefix(prefix) for n, w in model.named_parameters(remove_duplicate=False) if w is inputs}
    if inputs is outputs and (kept := next((shapes[n] for n in one if n in shapes), None)):
        shapes |= dict.fromkeys(one, kept)  # input and output are one, under either name
    expected = {n.removeprefix(prefix): list(w.shape) for n, w in model.named_parameters()}
    # transformers renames a few weights when it reads them: what is missing may have another name.
    others = len(set(shapes) - set(expected))
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape or name not in shapes and not others:
            raise CourseError(
                f"{folder}: the weights {name} are {shapes.get(name, 'missing')}, config.json says {shape}."
            )


@lru_cache
def base_config(profile: Profile) -> PreTrainedConfig:
    """The configuration of the profile's base, found and checked."""
    return check_base(find_base(profile.base), profile)


def planned_config(profile: Profile) -> PreTrainedConfig:
    """The base's configuration as the course will have it: with one more token, for padding."""
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

    In the course's form words after "Answer:" begin with a space, so one is put before an answer's first word.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        room, backend = len(loaded), loaded.backend_tokenizer
    except Exception as error:  # of many kinds, and all of them mean the same
        why = str(error).split("\n")[0][:200]
        raise CourseError(
            f"The tokenizer in {folder} cannot be read ({type(error).__name__}: {why})."
        ) from None
    words = _json(folder / "config.json")["vocab_size"]
    if room > words:
        raise CourseError(f"The tokenizer in {folder} has {room:,} tokens, but its model knows {words:,}.")
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
    check_reading(model, folder)
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
            f"{folder}: a {model.config.model_type} model cannot be trained here, since it takes no positions "
            f"or no mask ({type(error).__name__}: {str(error)[:200]})."
        ) from None
    alone = [(p, a) for p, own in zip(prompts, answers) for a in own]
    for row, (prompt, answer) in zip(found, alone):
        logits = model(torch.tensor([prompt + answer], device=found.device)).logits[0, len(prompt) - 1 : -1]
        logits[:, pad] = -torch.inf
        exact = logits.float().log_softmax(-1)[range(len(answer)), answer]
        away = float((row[: len(answer)] - exact).abs().max())
        if not away < 1e-3:
            raise CourseError(
                f"{folder}: a {model.config.model_type} model cannot be trained here. It takes no notice of "
                f"positions or of who may see whom: an answer's log-probability is {away:.3f} nats off."
            )
