"""Runs of graphlora that are disturbed on purpose, for tests/cli/kill_matrix.py and benchmarks/soak.

A World holds a small dataset, its pretrained embeddings and the flags of a training run; a Job is one process or
one mpirun of it, whose ranks can be found and signalled.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

# What depends on the clock or the machine.
UNSTABLE = {"step_seconds", "tokens_per_s", "communication_seconds", "exposed_communication_seconds",
            "phase_seconds", "traffic_seconds", "exposed_traffic_seconds", "peak_memory_bytes", "examples_per_s"}
POLL = 0.001  # seconds


class Failure(Exception):
    """The program did what it must not do."""


def environment(ranks: int) -> dict[str, str]:
    """That of test jobs: one thread a rank, more ranks than cores allowed, root allowed."""
    variables = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
                     OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    if ranks > (os.cpu_count() or 1):
        variables["OMPI_MCA_mpi_yield_when_idle"] = "1"
    return variables


class World:
    """What the disturbed runs have in common."""

    def __init__(self, binary: str, mpiexec: str, source: pathlib.Path, root: pathlib.Path, *, users=60, items=30,
                 interactions=1200, steps=60, batch_size=8, save_every=10, eval_every=20, keep=2, more=()):
        self.binary, self.mpiexec, self.root = binary, mpiexec, root
        self.steps, self.save_every, self.eval_every = steps, save_every, eval_every
        templates = root / "templates.txt"
        templates.write_text("[template]\nL {history} {user} T {title} {item} ?\n"
                             "[empty history]\n{user} T {title} {item} ?\n")
        self.flags = ["--data", str(root / "dataset"), "--model", str(source / "tests/golden/tiny_llama"),
                      "--pretrained", str(root / "pretrained"), "--prompt.templates", str(templates),
                      "--prompt.history", "3", "--batch-size", str(batch_size),
                      "--precision", "fp32", "--lora.rank", "2", "--lora.dropout", "0.1", "--optim.warmup", "5",
                      "--save-every", str(save_every), "--eval-every", str(eval_every), "--keep", str(keep), *more]
        self.run("generate", "--users", users, "--items", items, "--interactions", interactions, "--communities", 3,
                 "--split", "user-time", "--output", root / "dataset")
        self.run("pretrain", "--data", root / "dataset", "--output", root / "pretrained", "--pretrain.width", 6,
                 "--pretrain.epochs", 2)

    def run(self, *words):
        result = subprocess.run([self.binary, *map(str, words)], capture_output=True, text=True, timeout=120,
                                env=environment(1), check=False)
        if result.returncode != 0:
            raise Failure(f"{words[0]} ended with {result.returncode}: {result.stderr}")

    def output(self, name: str) -> pathlib.Path:
        return self.root / name

    def train(self, ranks: int, output: pathlib.Path, steps: int | None = None) -> "Job":
        """Starts or continues the run in `output`, up to `steps`."""
        return Job(self, ranks, ["train", *self.flags, "--output", str(output), "--resume",
                                 "--steps", str(steps or self.steps)])

    def partition(self, ranks: int) -> pathlib.Path:
        return self.root / "dataset" / f"partition-{ranks}"


class Job:
    """One start of the program on some ranks, alone or under mpirun."""

    def __init__(self, world: World, ranks: int, words: list[str]):
        self.ranks = ranks
        command = [world.binary, *words]
        if ranks > 1:
            command = [world.mpiexec, "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *command]
        self.program = pathlib.Path(world.binary).resolve()
        # Not a pipe: nobody reads while the job runs.
        self.log = world.root / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=environment(ranks), start_new_session=True)
        self.seen: dict[int, int] = {}

    def running(self) -> bool:
        return self.process.poll() is None

    def rank_pids(self) -> dict[int, int]:
        """Processes of the ranks that are there by now, also those that are gone since."""
        if self.ranks == 1:
            return {0: self.process.pid}
        for child in children_of(self.process.pid):
            if child in self.seen.values():
                continue
            try:
                if pathlib.Path(f"/proc/{child}/exe").resolve() != self.program:
                    continue
                variables = pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:  # gone
                continue
            for variable in variables:
                if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                    self.seen[int(variable.partition(b"=")[2])] = child
        return self.seen

    def wait_for_rank(self, rank: int) -> int:
        """The process of a rank, once it is there."""
        while rank not in self.rank_pids():
            if not self.running():
                raise Failure(f"the job ended with {self.process.returncode} before rank {rank} was there:\n{self.text()}")
            time.sleep(POLL)
        return self.rank_pids()[rank]

    def signal(self, number: int, rank: int | None = None):
        """To one rank, or to the job as a whole: mpirun passes it on."""
        pid = self.process.pid if rank is None else self.wait_for_rank(rank)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def finish(self, limit: float) -> tuple[int, float]:
        """Exit code (128 + number for a signal) and seconds until the end; after `limit` seconds everything is
        killed and it is a Failure."""
        start = time.monotonic()
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"the job had not ended after {limit:.0f} s:\n{self.text()}") from None
        return (code if code >= 0 else 128 - code), time.monotonic() - start

    def kill(self):
        for pid in [*self.rank_pids().values(), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def left_over(self) -> list[int]:
        """Ranks whose processes are still there, apart from those that nobody has waited for."""
        return [rank for rank, pid in self.rank_pids().items() if state_of(pid) not in ("", "Z")]

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def state_of(pid: int) -> str:
    """The kernel's letter for what a process does: R, S, T, Z …; empty where there is none."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def metrics(output: pathlib.Path) -> list[dict]:
    """Whole lines of metrics.jsonl, without what changes from run to run."""
    try:
        text = (output / "metrics.jsonl").read_text()
    except OSError:
        return []
    lines = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            lines.append({key: value for key, value in json.loads(line).items() if key not in UNSTABLE})
    return lines


def last_step(output: pathlib.Path) -> int:
    """The last step that metrics.jsonl tells of; 0 if there is none."""
    try:
        with (output / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            tail = file.read()
    except OSError:
        return 0
    for line in reversed(tail.split(b"\n")[:-1]):
        try:
            return json.loads(line)["step"]
        except ValueError:  # its beginning was cut off
            continue
    return 0


def latest(output: pathlib.Path) -> int:
    """The step that LATEST names; −1 if there is none."""
    try:
        return int((output / "LATEST").read_text().strip().removeprefix("step-"))
    except OSError:
        return -1


def checksums(directory: pathlib.Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's tensors, by path in it."""
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*.safetensors"))}


def differences(output: pathlib.Path, reference: pathlib.Path, steps: int) -> list[str]:
    """How a finished run differs from the undisturbed one: lines of metrics, and the last step's files."""
    found = []
    mine, its = metrics(output), metrics(reference)
    if mine != its:
        first = next((i for i, pair in enumerate(zip(mine, its)) if pair[0] != pair[1]), min(len(mine), len(its)))
        found.append(f"metrics.jsonl: {len(mine)} lines, undisturbed {len(its)}; the first difference is in line "
                     f"{first + 1}: {mine[first:first + 1]} instead of {its[first:first + 1]}")
    step = f"step-{steps:06}"
    files, its_files = checksums(output / step), checksums(reference / step)
    if not its_files:
        found.append(f"{reference / step} holds no tensors")
    if files != its_files:
        unlike = [name for name in {*files, *its_files} if files.get(name) != its_files.get(name)]
        found.append(f"{step}: {', '.join(sorted(unlike))}")
    for name in ("LATEST", "BEST"):
        texts = [(directory / name).read_text() if (directory / name).exists() else "" for directory in (output, reference)]
        if texts[0] != texts[1]:
            found.append(f"{name}: {texts[0].strip()} instead of {texts[1].strip()}")
    return found
