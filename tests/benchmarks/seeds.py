"""The learning figures of several seeds pooled: bootstrap by prompt, with seeds as blocks.

    rlhf run --seed 0 && rlhf run --seed 1 && rlhf run --seed 2
    python tests/benchmarks/seeds.py 0 1 2

Prints each goal with what was measured and keeps the JSON in `runs/seeds.json`.
"""

import json
import sys

from rlhf_utils.artifacts import Store
from rlhf_utils.evaluation import pool
from rlhf_utils.profiles import load_profile, runs_folder


def main(seeds: list[int]) -> None:
    stores = [Store(load_profile("laptop", seed)) for seed in seeds]
    for store in stores:
        store.reference = None
    figures = pool([store.folder("evaluate") for store in stores])
    single = [json.loads((s.folder("evaluate") / "metrics.json").read_text("utf-8")) for s in stores]
    figures["single"] = [
        {"seed": m["seed"], "reward_gold": m["reward_accuracy"]["gold"]["accuracy"], "cloze": m["cloze"]["all"], "perplexity": m["perplexity"],
         "bits_per_byte": m["bits_per_byte"], "seconds": m["seconds"]["total"]} for m in single
    ]  # fmt: skip
    (runs_folder() / "seeds.json").write_text(json.dumps(figures, indent=1), "utf-8")
    gold, wins, gains = figures["gold"], figures["win_rate"], figures["difference"]
    show("gold, base", gold["base"]["t1"]["total"], "at most 0.15")
    show("gold, SFT, greedy", gold["sft"]["greedy"]["total"], "at most 0.75")
    show("best of 9 minus SFT at T = 1", figures["best_of_9_minus_t1"], "at least 0.15")
    show("PPO-ptx over SFT, T = 1", wins["ppo_ptx_vs_sft"], "0.75, lower bound 0.70")
    show("PPO-ptx over SFT, each at its best", wins["ppo_ptx_vs_sft_best"], "0.75, lower bound 0.70")
    show("gold, PPO-ptx minus SFT, T = 1", gains["ppo_ptx_t1_total"], "+0.15, lower bound +0.10")
    show("gold, PPO-ptx minus SFT, greedy", gains["ppo_ptx_greedy_total"], "+0.15, lower bound +0.10")
    show("honest, PPO-ptx minus SFT, T = 1", gains["ppo_ptx_t1_honest"], "lower bound above -0.01")
    show("SFT over base", wins["sft_vs_base"], "0.90")
    for i, row in enumerate(figures["each_seed"]):
        show(f"seed {seeds[i]}: PPO-ptx over SFT, T = 1", row["t1"], "lower bound above 0.60")
    cases = figures["gain_by_use_case"]
    print(f"{sum(c['total']['difference'] > 0 for c in cases.values())} of {len(cases)} use cases gain; goal: 8 of 10, none wholly below -0.03")
    for name, row in cases.items():
        show("  " + name, row["total"], "")
    for m in figures["single"]:
        print(m)


def show(name: str, value, goal: str) -> None:
    if isinstance(value, dict):
        text = f"{value.get('decided', value.get('difference')):+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"
    else:
        text = f"{value:.3f}"
    print(f"{name:42} {text:28} {goal}")


if __name__ == "__main__":
    main([int(s) for s in sys.argv[1:]] or [0, 1, 2])
