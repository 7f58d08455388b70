"""What the live picture costs: the same updates of PPO-ptx with it and without, in turn, in one kernel.

    python tests/benchmarks/live.py [UPDATES]       # default 24; laptop's models must be there (rlhf run)

Prints the share of the time that drawing took, and the ratio of both times. There is no browser: what it
takes to paint is the browser's, on another core.
"""

import sys
from tempfile import mkdtemp

import nbformat
from nbclient import NotebookClient

CELL = """
import time
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from rlhf_utils.artifacts import live
from rlhf_utils.course import notebook
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.taste import example_store
from rlhf_utils.pipeline.stages import open_store
from rlhf_utils.profiles import load_profile
from rlhf_utils.training import ppo_run
notebook.start()
profile = replace(load_profile("laptop"), ppo_updates=UPDATES)
store = open_store(load_profile("laptop"))
tokenizer = store.tokenizer()
prompts = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in store.prompts("ppo")]
pictures = []
class Kept(live.LivePicture):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.shown = self.shown and shown
        pictures.append(self)
ppo_run.LivePicture = Kept
took = {True: 0.0, False: 0.0}
for shown in (True, False, True, False):
    started = time.monotonic()
    folder = Path(mkdtemp())
    ppo_run.train_ppo(profile, tokenizer, store.folder("sft"), store.folder("reward"), prompts,
                      store.windows(), folder, folder / "resume", name="ppo_ptx")
    took[shown] += time.monotonic() - started
spent = sum(p.spent for p in pictures)
print(f"drawing took {spent / took[True]:.2%} of the time; with / without: {took[True] / took[False]:.3f}")
"""

if __name__ == "__main__":
    updates = sys.argv[1] if len(sys.argv) > 1 else "24"
    cell = nbformat.v4.new_code_cell(CELL.replace("UPDATES", updates, 1))
    book = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(book, timeout=None, resources={"metadata": {"path": mkdtemp()}}).execute()
    told = [o["text"] for o in book.cells[0].outputs if o.output_type == "stream"]
    print("".join(told).strip().splitlines()[-1])
