"""What passes between stages: folders with a manifest, written whole or not at all.

`runs/<profile>/<stage>/` holds safetensors and JSON. It is written beside (`.<stage>.partial`) and
renamed into place, so a killed run leaves the old artifact or none. `data/reference/<profile>/` is a
read-only layer under it: models of one finished run, in case you have not trained yours yet.
"""

import hashlib
import json
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors.numpy import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rlhf_utils.artifacts.files import file_hash, peak_memory, read_jsonl, remove, write_whole
from rlhf_utils.artifacts.lineage import KNOBS, PARENTS, RETRY, SETTINGS, TASTE
from rlhf_utils.artifacts.manifest import FORMAT, check_files, read_manifest
from rlhf_utils.artifacts.runs import own_data_digest, run_name
from rlhf_utils.environment import DATA, CourseError, runs_folder, shared_runs, use_reference
from rlhf_utils.language.models import load_model, load_scorer
from rlhf_utils.language.tokenizer import load_tokenizer
from rlhf_utils.profiles import MODELS, Profile


@lru_cache
def warn_once(text: str) -> None:
    """Beside what a command prints, which may be JSON."""
    print(text, file=sys.stderr, flush=True)


class Store:
    """The artifacts of one profile, seed and data folder.

    `outside` says, by stage, what it reads from outside this folder (`pipeline.stages.open_store` adds
    people's rankings): an artifact that was made from something else is out of date.
    """

    def __init__(
        self,
        profile: Profile,
        reference: bool | None = None,
        outside: dict[str, Callable[[Profile], dict]] | None = None,
    ):
        self.profile, self.outside = profile, {"corpus": own_data_digest} | (outside or {})
        name = run_name(profile)
        self.plain = runs_folder() / name
        shared = shared_runs()
        self.shared = shared / name if shared else None
        self.root = runs_folder() / (name + f"-lora{profile.lora}" if profile.lora else name)
        self.reference = (
            DATA / "reference" / name if (use_reference() if reference is None else reference) else None
        )

    def __repr__(self) -> str:
        return f"Store({self.profile.name!r}, seed={self.profile.seed})"

    def _settings(self, stage: str) -> dict:
        settings = self.profile.settings()
        outside = self.outside[stage](self.profile) if stage in self.outside else {}
        return {k: settings[k] for k in ("name", "seed", *SETTINGS[stage])} | outside

    def path(self, stage: str) -> Path:
        """Where a stage is written; models of another guideline stand beside each other."""
        return self.root / (
            f"{stage}-{self.profile.guideline}" if stage in TASTE and self.profile.guideline else stage
        )

    # -- finding and checking ------------------------------------------------------------------------
    def find(self, stage: str) -> Path | None:
        """The folder of a sound artifact, in `runs/` or else in a layer beneath; None if missing.

        Raises CourseError if there is one in `runs/` that cannot be trusted.
        """
        own = self.path(stage)
        if own.is_dir():
            self._check(stage, own)
            return own
        named = own.name
        for folder in (layer / named for layer in self.layers if (layer / named / "manifest.json").is_file()):
            try:
                self._check(stage, folder)
            except CourseError as error:  # made with other settings: of no use here
                if folder.parent == self.shared:
                    told = str(error).split(" Rebuild it")[0]
                    warn_once(f"The shared {stage} cannot be used, so yours will be built. {told}")
                continue
            if not self.stale(stage, folder):
                return folder
        return None

    def folders(self) -> list[Path]:
        """Where an artifact is looked for, in this order; only the first is ever written."""
        return [self.root, *self.layers]

    @property
    def layers(self) -> list[Path]:
        """Read-only folders beneath one's own: with LoRA the stages before it, a class's, and the models that
        come with the course.
        """
        return [layer for layer in (self.plain, self.shared, self.reference) if layer and layer != self.root]

    @property
    def options(self) -> str:
        """What names this run on a command line: " --profile laptop --seed 3"."""
        weight = self.profile.own_weight
        named = {
            "profile": self.profile.name,
            "seed": self.profile.seed,
            "data": self.profile.data,
            "base": self.profile.base,
            "from": "sft" if self.profile.base and not self.profile.sft_epochs else "",
            "lora": self.profile.lora,
            "guideline": self.profile.guideline,
            "own-weight": f"{weight:g}" if weight != Profile("").own_weight else "",
        }
        return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in named.items() if value)

    def _check(self, stage: str, folder: Path) -> None:
        mend = f"Rebuild it with: rlhf run{self.options} --force {stage}"
        try:
            manifest = read_manifest(folder)
        except ValueError as error:
            raise CourseError(f"{error} {mend}") from None
        # An option that did not exist when the artifact was made had its default.
        new = {k: v for k, v in asdict(Profile("")).items() if k in SETTINGS[stage]}
        settings = new | manifest["settings"]
        if manifest["format"] != FORMAT or manifest["stage"] != stage:
            raise CourseError(
                f"{folder} is a {manifest['stage']!r} artifact of format {manifest['format']}, not "
                f"{stage!r} of format {FORMAT}. {mend}"
            )
        expected = json.loads(json.dumps(self._settings(stage)))
        keys = [k for k in expected | settings if expected.get(k) != settings.get(k) and k not in KNOBS]
        if keys:
            found = ", ".join(f"{k} was {settings.get(k)!r}, is {expected.get(k)!r}" for k in keys)
            raise CourseError(f"{folder} was made with other settings: {found}. {mend}")
        try:
            check_files(folder, manifest["files"])
        except ValueError as error:
            raise CourseError(f"{error} {mend}") from None

    def manifest(self, stage: str) -> dict:
        folder = self.find(stage)
        if folder is None:
            raise CourseError(
                f"There is no {stage!r} artifact in {self.root} yet. "
                f"Build it with: rlhf run{self.options} --until {stage}"
            )
        return read_manifest(folder)

    def stale(self, stage: str, folder: Path) -> str:
        """Why an artifact no longer fits what it was made from, or an empty string."""
        manifest = read_manifest(folder)
        for parent, identity in manifest["parents"].items():
            found = self.find(parent)
            beside = folder.parent / self.path(parent).name / "manifest.json"
            if found is None and beside.is_file():
                return f"its {parent} has to be rebuilt"
            if found and read_manifest(found)["id"] != identity:
                if parent == "tokenizer" and folder.parent == self.root:
                    raise CourseError(
                        f"{folder} belongs to another tokenizer than {found}. "
                        f"Rebuild it with: rlhf run{self.options} --force {stage}"
                    )
                return f"its {parent} has changed"
        expected = self._settings(stage)
        changed = [k for k in KNOBS if k in expected and manifest["settings"].get(k) != expected[k]]
        if changed:
            return (
                "the rankings have changed"
                if "rankings" in changed
                else f"{changed[0]} is now {expected[changed[0]]}"
            )
        return ""

    def folder(self, stage: str) -> Path:
        """The folder of an artifact that must be there."""
        self.manifest(stage)
        return self.find(stage)

    # -- reading what is in them: nothing here ever trains ---------------------------------------------
    def prompts(self, name: str) -> list[dict]:
        """Prompts of the corpus: demonstrations, ranked, ppo, validation, test, probes or withheld."""
        return read_jsonl(self.folder("corpus") / f"{name}.jsonl")

    def documents(self, name: str = "train") -> list[dict]:
        """The `train` or `heldout` documents of the corpus, with their sources."""
        return read_jsonl(self.folder("corpus") / f"documents_{name}.jsonl")

    def windows(self, name: str = "train") -> np.ndarray:
        """Token ids of the `train` or `heldout` documents, (windows, context)."""
        return load_file(self.folder("tokens") / "tokens.safetensors")[name]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return load_tokenizer(self.folder("tokenizer"))

    def rankings(self, name: str = "rankings") -> list[dict]:
        """Simulated labelers' `rankings`, which train, or their rankings of validation prompts.

        Of these, `heldout_prompts` are by the same labelers, `heldout_labelers` by others.
        """
        return read_jsonl(self.folder("rank") / f"{name}.jsonl")

    def model(self, name: str) -> PreTrainedModel:
        """The model of a stage (or of a name in `profiles.MODELS`), ready to answer or to score."""
        stage = MODELS[name].stage if name in MODELS else name
        load = load_scorer if stage in ("reward", "taste_reward") else load_model
        return load(self.folder(stage))

    def metrics(self, stage: str) -> dict | list[dict]:
        """What an evaluation measured, or the rows that another stage logged while it trained."""
        folder = self.folder(stage)
        measured = folder / "metrics.json"
        return (
            json.loads(measured.read_text("utf-8"))
            if measured.is_file()
            else read_jsonl(folder / "metrics.jsonl")
        )

    # -- writing ---------------------------------------------------------------------------------------
    @contextmanager
    def write(self, stage: str) -> Iterator[Path]:
        """A folder to write an artifact into; it is renamed into place when the block ends well."""
        self.root.mkdir(parents=True, exist_ok=True)
        target = self.path(stage)
        partial = self.root / f".{target.name}.partial"
        remove(partial)
        partial.mkdir()
        self._drop_foreign_checkpoints(stage)
        # What it is made from is read at the start: what changes meanwhile makes it out of date.
        settings, parents = self._settings(stage), {p: self.manifest(p)["id"] for p in PARENTS[stage]}
        started = time.time()
        yield partial
        mask = os.umask(0)
        os.umask(mask)
        for file in (f for f in partial.rglob("*") if f.is_file()):
            # Safetensors are written for their owner alone, and a class shares them.
            file.chmod(0o666 & ~mask)
        files = {
            f.relative_to(partial).as_posix(): file_hash(f) for f in sorted(partial.rglob("*")) if f.is_file()
        }
        core = {"format": FORMAT, "stage": stage, "settings": settings, "files": files, "parents": parents}
        identity = hashlib.sha256(json.dumps(core, sort_keys=True).encode()).hexdigest()[:16]
        manifest = core | {
            "id": identity,
            "seconds": round(time.time() - started, 1),
            "peak_rss_mb": peak_memory(),
            "versions": {p: version(p) for p in ("torch", "transformers", "trl", "datasets")}
            | {"python": platform.python_version()},
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        old = self.root / f".{target.name}.old"
        remove(old)
        if os.path.lexists(target):
            os.replace(target, old)
        os.replace(partial, target)
        remove(old)
        remove(self.resume_folder(stage))

    def _drop_foreign_checkpoints(self, stage: str) -> None:
        """Checkpoints of a run with other settings or parents are of no use;
        another rate may go on from them.
        """
        settings = {k: v for k, v in self._settings(stage).items() if k not in RETRY}
        made_for = json.dumps([settings, {p: self.manifest(p)["id"] for p in PARENTS[stage]}], sort_keys=True)
        resume = self.resume_folder(stage)
        if resume.is_dir() and (
            not (resume / "made_for").exists() or (resume / "made_for").read_text("utf-8") != made_for
        ):
            remove(resume)
        resume.mkdir(exist_ok=True)
        (resume / "made_for").write_text(made_for, "utf-8")

    def recover(self) -> None:
        """Put back an old artifact if a run died between the two renames."""
        for old in self.root.glob(".*.old"):
            stage = old.name[1:-4]
            if (self.root / stage).exists():
                remove(old)
            else:
                os.replace(old, self.root / stage)

    def reset(self) -> list[Path]:
        """Delete all that was built here, and nothing else: rankings lie beside these folders, or in the
        class's database.
        """
        with self.lock(wait=False):
            gone = [
                f
                for f in sorted(self.root.iterdir())
                if f.is_dir() and (f.name.split("-")[0] in PARENTS or f.name.startswith("."))
            ]
            for folder in gone:
                remove(folder)
        return [f for f in gone if not f.name.startswith(".")]

    def resume_folder(self, stage: str) -> Path:
        """Private checkpoints of a stage that is under way; deleted when it is done."""
        return self.root / f".{self.path(stage).name}.resume"

    @contextmanager
    def lock(self, wait: bool, say=print) -> Iterator[None]:
        """Only one process at a time builds in a folder; the others wait or are told who it is."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        holder = self.root / ".holder.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            try:
                who = json.loads(holder.read_text("utf-8"))
                text = f"process {who['pid']} on {who['host']}, since {who['since']}"
            except (OSError, ValueError, KeyError):
                text = "another process"
            if not wait:
                raise CourseError(
                    f"{self.root} is in use by {text}. Wait until it is done, or set RLHF_RUNS to another "
                    "folder."
                ) from None
            say(f"Waiting for {text}, which is training in {self.root} …")
            lock.acquire()
        try:
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M:%S")}
            write_whole(holder, lambda file: json.dump(who, file))
            self.recover()
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()
