"""The plan's arithmetic against real models, and microbatches for cards of any size."""

import re
from dataclasses import replace

import pytest
import torch

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.lineage import BEYOND
from rlhf_utils.environment import CourseError, gpu_fraction
from rlhf_utils.language.device import device
from rlhf_utils.language.models import new_gpt2
from rlhf_utils.profiles import PROFILES, load_profile
from rlhf_utils.training.plan import EFFICIENCY, check_shapes, free_bytes, parameters, plan, room, row_bytes

GPU = PROFILES["gpu"]


def test_parameters_are_counted_as_the_model_has_them(tiny):
    model = new_gpt2(tiny.profile, tiny.tokenizer())
    assert sum(p.numel() for p in model.parameters()) == parameters(
        replace(tiny.profile, vocabulary=len(tiny.tokenizer()))
    )


@pytest.mark.parametrize("name", PROFILES)
def test_a_dry_run_of_every_profile(name):
    check_shapes(PROFILES[name])


def test_a_dry_run_finds_what_does_not_fit():
    with pytest.raises(CourseError, match="do not fit a context of 64"):
        check_shapes(replace(GPU, context=64))


@pytest.mark.parametrize("anew", [False, True])
def test_activations_are_about_what_a_step_keeps(anew):
    """Against what autograd really saves for the backward pass, in bfloat16 with fused attention; also where
    each layer is computed anew (the plan reckons with the one in work besides).
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    sized = replace(
        PROFILES["laptop"], layers=3, width=256, heads=4, vocabulary=512, context=64, precision="bf16"
    )
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=512,
            n_positions=64,
            n_embd=256,
            n_layer=3,
            n_head=4,
            embd_pdrop=0,
            attn_pdrop=0,
            resid_pdrop=0,
            activation_function="gelu",
            attn_implementation="sdpa",
        )
    )
    if anew:
        model.train().activation_checkpointing_enable({"use_reentrant": False})
    owned, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(512, (8, 64))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    weights = sum(2 * p.numel() for p in model.parameters())  # autocast keeps bfloat16 copies
    weights = 2 * 512 * 256 if anew else weights  # the output's alone, outside of the layers
    in_work = row_bytes(replace(sized, layers=1, vocabulary=0), 64) if anew else 0
    assert loss.requires_grad and (sum(kept.values()) - weights) / 8 == pytest.approx(
        row_bytes(sized, 64, anew) - in_work, rel=0.35
    )


@pytest.mark.parametrize("gigabytes", [8, 16, 24, 40, 80])
def test_microbatches_fit_cards_of_8_to_80_gb(gigabytes):
    free = int(gigabytes * 0.95 * 2**30)
    at_once = room(GPU, GPU.pretrain_batch, GPU.context, free).at_once
    assert GPU.pretrain_batch % at_once == 0
    assert 16 * parameters(GPU) + at_once * row_bytes(GPU, GPU.context) <= free
    table = plan(GPU, 1e14, free)
    assert table["GB"].max() < gigabytes and table["minutes"].sum() > 0


def test_what_is_short_of_memory_first_computes_anew_and_then_shares_out(monkeypatch):
    def way(gigabytes: float, **how) -> str:
        return str(room(GPU, 64, GPU.context, int(gigabytes * 2**30), **how))

    assert [way(1.8), way(80)] == ["gradient checkpointing", ""]
    monkeypatch.setattr(processes, "COUNT", 4)
    with pytest.raises(CourseError, match="GB at least"):  # stages that cannot share
        way(1.2)
    found = [way(gigabytes, alone=False) for gigabytes in (0.75, 1.2, 2.1, 80)]
    assert found == ["gradient checkpointing, FSDP", "FSDP", "gradient checkpointing", ""]
    monkeypatch.setenv("RLHF_SHARE_OUT", "1")
    assert way(80, alone=False) == "FSDP"
    table = plan(replace(GPU, pretrain_steps=1), 1e14, 80 * 2**30, ("sft", "reward", "ppo"))
    assert list(table["by"]) == ["FSDP", "FSDP", ""]


def test_more_memory_never_means_smaller_microbatches():
    sizes = [room(GPU, 64, GPU.context, gb * 2**30).at_once for gb in range(3, 81)]
    assert sizes == sorted(sizes) and sizes[-1] == 64 > sizes[0]


def test_a_card_with_too_little_memory_says_how_much_it_takes():
    with pytest.raises(CourseError, match=r"takes 1\.\d GB at least, and 1\.0 GB are free"):
        room(GPU, 64, GPU.context, 2**30)


def test_a_plan_names_the_stages_that_do_not_fit_and_those_that_do():
    with pytest.raises(CourseError, match=r"^ppo: .*GB at least(.|\n)*These fit: sft, rank.*") as error:
        plan(GPU, 1e14, int(2.3 * 2**30), ("sft", "rank", "ppo"))
    assert "sft:" not in str(error.value)


def test_the_plan_is_printed_before_anything_starts(rlhf, tmp_path):
    result = rlhf("run", "--profile", "gpu", "--plan", check=0)
    assert "M parameters" in result.stdout and "ppo_ptx" in result.stdout and not (tmp_path / "gpu").exists()


@pytest.fixture
def card(monkeypatch):
    """A GPU of 40 GB, as far as torch says."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)

    def free(gigabytes):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (gigabytes * 2**30, 40 * 2**30))
        device.cache_clear()
        return taken

    yield free
    device.cache_clear()


def test_a_share_of_the_gpu_is_taken_if_it_is_free(card, monkeypatch):
    monkeypatch.setenv("RLHF_GPU_FRACTION", "0.1")
    taken = card(30)
    assert device().type == "cuda" and taken == [0.1]
    assert free_bytes() == 4 * 2**30


def test_on_a_full_gpu_the_cpu_takes_over_and_says_so(card, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_GPU_FRACTION", "0.1")
    taken = card(3)
    assert device().type == "cpu" and not taken
    assert (
        "3.0 GB are free, but RLHF_GPU_FRACTION=0.1 asks for 4.0 GB. Using the CPU" in capsys.readouterr().out
    )


@pytest.mark.parametrize("text", ["2", "0", "-0.5", "nan", "half"])
def test_shares_that_are_none_are_refused(monkeypatch, text):
    monkeypatch.setenv("RLHF_GPU_FRACTION", text)
    with pytest.raises(CourseError, match="share of the GPU's memory, above 0 and up to 1"):
        gpu_fraction()


@pytest.mark.parametrize(
    "text, why",
    [
        ("65", "is 1 to 64, or 0 for none, not 65"),
        ("-1", "not '-1'"),
        ("eight", "LORA must be .* not 'eight'"),
    ],
)
def test_ranks_that_are_none_are_refused(monkeypatch, text, why):
    monkeypatch.setenv("RLHF_LORA", text)
    with pytest.raises(CourseError, match=why):
        load_profile("tiny")
    monkeypatch.setenv("RLHF_LORA", "4")
    assert load_profile("tiny").lora == 4 and load_profile("tiny", lora=0).lora == 0


def test_a_plan_counts_what_is_missing(tiny, monkeypatch):
    """Of a run that is there, nothing; of one that would be built anew, that and what follows."""
    from rlhf_utils.course.cli import plan_text

    monkeypatch.setenv("RLHF_RUNS", str(tiny.root.parent))
    assert "nothing to do" in plan_text(tiny.profile, ("evaluate",))
    text = plan_text(tiny.profile, ("evaluate",), force="reward")
    assert "To be built: reward, ppo, ppo_ptx, evaluate." in text and "pretrain" not in text
    mine = plan_text(tiny.profile, ("evaluate", "taste_evaluate"))
    assert "To be built: taste, taste_reward, taste_ppo, taste_evaluate." in mine
    with pytest.raises(CourseError, match="no stage"):
        plan_text(tiny.profile, ("nonsense",))
    for stage in BEYOND:
        assert re.search(rf"^{stage} +[0-9.]+ ", plan_text(tiny.profile, (stage,)), re.M)


def test_a_plan_counts_the_documents_that_are_mixed_in():
    """Each window passes once forward and backward through the policy alone, not as often as answers do."""
    laptop = PROFILES["laptop"]
    found = plan(laptop, 1e12, 64 * 2**30)
    windows = laptop.ppo_updates * laptop.ppo_epochs * laptop.minibatches * laptop.ptx_windows
    tokens = found["million tokens"]["ppo_ptx"] - found["million tokens"]["ppo"]
    assert tokens == pytest.approx(windows * laptop.context / 1e6)
    more = (found.minutes["ppo_ptx"] - found.minutes["ppo"]) * 60 * EFFICIENCY * 1e12
    assert more == pytest.approx(6e6 * tokens * parameters(laptop))
    for stage, mixed in (("sft", "sft_mix"), ("reward", "reward_lm")):
        without = plan(replace(laptop, **{mixed: 0.0}), 1e12, 64 * 2**30).minutes
        assert without[stage] < 0.8 * found.minutes[stage]


def test_a_plan_of_other_methods_counts_what_they_draw_and_read():
    found = plan(PROFILES["laptop"], 1e12, 64 * 2**30, (*BEYOND, "ppo", "sft"))
    minutes, memory = found.minutes, found.GB
    assert minutes["reinforce"] < minutes["rloo"] == minutes["grpo"] < minutes["ppo"]
    assert memory["rloo"] < memory["ppo"]
    unmixed = plan(replace(PROFILES["laptop"], sft_mix=0.0), 1e12, 64 * 2**30, ("rejection", "sft")).minutes
    assert unmixed["rejection"] > 2 * unmixed["sft"]
    fewer = plan(replace(PROFILES["laptop"], dpo_pairs=1, best_of=2), 1e12, 64 * 2**30, BEYOND).minutes
    assert fewer["dpo"] == pytest.approx(minutes["dpo"] / 4) and fewer["rejection"] < minutes["rejection"]
    adapted = plan(replace(PROFILES["gpu"], lora=8), 1e12, 64 * 2**30, BEYOND).GB
    assert adapted["dpo"] < plan(PROFILES["gpu"], 1e12, 64 * 2**30, BEYOND).GB["dpo"]
