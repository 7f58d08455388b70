"""Episodes a second of TRL 1.12's PPOTrainer (removed in 1.13); started by `speed.py` with TRL 1.12 on its
path.
"""

import argparse
import gc
import json
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2ForSequenceClassification, GPT2LMHeadModel, TrainerCallback

parser = argparse.ArgumentParser()
for name in ("sft", "reward", "tokenizer", "prompts"):
    parser.add_argument(name)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--ends", action="store_true", help="answers end at the end-of-text token")
parser.add_argument("--freeze", action="store_true", help="spare its garbage collections most of their work")
wanted = parser.parse_args()
torch.set_num_threads(wanted.threads)

from trl.experimental.ppo import PPOConfig, PPOTrainer  # noqa: E402

EPISODES, UPDATES = 64, 5
tokenizer = AutoTokenizer.from_pretrained(wanted.tokenizer, padding_side="left")
with open(wanted.prompts, encoding="utf-8") as file:
    prompts = json.load(file)


class Clock(TrainerCallback):
    """When each update ended."""

    def __init__(self):
        self.times = []

    def on_step_end(self, args, state, control, **_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # launched is not done
        self.times.append(time.perf_counter())


config = PPOConfig(
    output_dir=tempfile.mkdtemp(),
    use_cpu=not torch.cuda.is_available(),
    bf16=False,
    fp16=False,
    gradient_checkpointing=False,
    report_to="none",
    save_strategy="no",
    learning_rate=1e-6,
    lr_scheduler_type="constant",
    per_device_train_batch_size=EPISODES,
    gradient_accumulation_steps=1,
    num_mini_batches=2,
    num_ppo_epochs=2,
    local_rollout_forward_batch_size=EPISODES,
    response_length=32,
    temperature=1.0,
    stop_token="eos" if wanted.ends else None,
    missing_eos_penalty=None,
    num_sample_generations=0,
    kl_coef=0.1,
    total_episodes=EPISODES * UPDATES,
    disable_tqdm=True,
    logging_strategy="no",
)


def scorer():
    return GPT2ForSequenceClassification.from_pretrained(wanted.reward, num_labels=1, dtype=torch.float32)


clock = Clock()
trainer = PPOTrainer(
    args=config,
    processing_class=tokenizer,
    model=GPT2LMHeadModel.from_pretrained(wanted.sft, dtype=torch.float32),
    ref_model=GPT2LMHeadModel.from_pretrained(wanted.sft, dtype=torch.float32),
    reward_model=scorer(),
    value_model=scorer(),
    train_dataset=Dataset.from_dict({"input_ids": prompts}),
    eval_dataset=Dataset.from_dict({"input_ids": prompts[:EPISODES]}),
    callbacks=[clock],
)
if wanted.freeze:
    gc.freeze()
trainer.train()
# The first two updates warm up.
episodes_a_second = 3 * EPISODES / (clock.times[-1] - clock.times[-4])
print(json.dumps({"episodes_a_second": episodes_a_second}))
