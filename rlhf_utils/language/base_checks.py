"""Whether a folder holds a pretrained model that the course can start from: quickly, and before anything of
its size is made.
"""

import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from rlhf_utils.environment import CourseError
from rlhf_utils.profiles import Profile

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
    found = json_of(folder / "config.json")
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


def json_of(path: Path):
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
    turns = found.get("attention_types", [])  # GPT-Neo's: kinds of attention, and how often
    often = [t[1] for t in turns if isinstance(t, list) and t[1:]] if isinstance(turns, list) else [None]
    if any(n not in range(201) for n in often):
        raise CourseError(f"{folder}/config.json: `attention_types` has more than 200 layers.")
    try:
        config = kind.from_dict(found)
        for size, most in SIZES.items():  # once more: a file may call it by two names
            if not 1 <= getattr(config, size) <= most:
                raise ValueError(f"{size} is {getattr(config, size)}")
        shared = config.hidden_size % config.num_attention_heads == 0 or hasattr(config, "head_dim")
    except Exception as error:  # of many kinds, and all of them mean the same
        raise CourseError(
            f"{folder}/config.json is not a configuration of a {found['model_type']} model "
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
    found = json_of(index)
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names:
        raise CourseError(f"{index} cannot be read: it has no `weight_map`.")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CourseError(f"{index} names {name!r:.60}, which is not a safetensors file in this folder.")
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
