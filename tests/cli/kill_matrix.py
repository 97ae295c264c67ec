"""kill_matrix.py GRAPHLORA MPIEXEC SOURCE [--runs N] [--seed S] [--report PREFIX]: training runs that are killed,
interrupted and stopped at random moments.

Each run is disturbed once by SIGKILL or SIGSTOP of one rank, or SIGUSR1 to the job, on 1, 2 or 4 ranks, while it
starts, partitions, computes, evaluates or saves. It must end in time and by name, lose no more steps than
--save-every and those made while a step was being written, leave nothing behind, continue with --resume, and end with the metrics and the tensors of the
undisturbed run on as many ranks, to the last bit.

--report writes PREFIX.json (every run) and PREFIX.md (tables). Exits with 1 if a run did what it must not do.
"""

import argparse
import itertools
import json
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import faults  # noqa: E402

SIGNALS = ("SIGKILL", "SIGUSR1", "SIGSTOP")
RANKS = (1, 2, 4)
MOMENTS = ("start", "partition", "step", "evaluation", "save")
LIMIT = 20  # seconds from the disturbance to the end of the job, beyond --comm.timeout where a rank hangs
BIRTH = 0.05  # seconds
PATIENCE = 60  # seconds for a moment to come, and for a run that is left alone
INTERRUPTED, COMMUNICATION = 5, 4


def wait_for(job: faults.Job, condition, what: str):
    end = time.monotonic() + PATIENCE
    while not condition():
        if not job.running():
            raise faults.Failure(f"the job ended with {job.process.returncode} before {what}:\n{job.text()}")
        if time.monotonic() > end:
            job.kill()
            raise faults.Failure(f"{what} did not come within {PATIENCE} s:\n{job.text()}")
        time.sleep(faults.POLL)


def holds(directory: pathlib.Path, prefix: str) -> bool:
    """Whether something in the directory has such a name, also a temporary one."""
    try:
        return any(path.name.startswith(prefix) for path in directory.iterdir())
    except OSError:
        return False


class Matrix:
    def __init__(self, world: faults.World, rng: random.Random, timeout: float):
        self.world, self.rng, self.timeout = world, rng, timeout
        self.references: dict[int, tuple[pathlib.Path, float]] = {}

    def reference(self, ranks: int) -> tuple[pathlib.Path, float]:
        """The undisturbed run, and the seconds until its first step was done."""
        if ranks not in self.references:
            output = self.world.output(f"whole-{ranks}")
            start = time.monotonic()
            job = self.world.train(ranks, output)
            wait_for(job, lambda: faults.last_step(output) > 0, "the first step")
            first = time.monotonic() - start
            code, _ = job.finish(PATIENCE)
            if code != 0:
                raise faults.Failure(f"the undisturbed run on {ranks} ranks ended with {code}:\n{job.text()}")
            self.references[ranks] = output, first
        return self.references[ranks]

    def await_moment(self, job: faults.Job, output: pathlib.Path, moment: str, name: str, victim: int):
        world, rng = self.world, self.rng
        middle = world.steps * 2 // 3
        if moment == "start":
            job.wait_for_rank(victim)
            # A process killed in its first milliseconds is not known to mpirun, which can't name it then.
            earliest = BIRTH if name == "SIGKILL" else 0
            time.sleep(max(earliest, rng.uniform(0, 0.9 * self.reference(job.ranks)[1])))
        elif moment == "partition":
            data = world.partition(job.ranks)
            wait_for(job, lambda: holds(data.parent, data.name), "the partition")
        elif moment == "step":
            step = rng.randrange(1, middle)
            wait_for(job, lambda: faults.last_step(output) >= step, f"step {step}")
            time.sleep(rng.uniform(0, 0.02))
        elif moment == "evaluation":
            step = rng.randrange(world.eval_every, middle + 1, world.eval_every)
            wait_for(job, lambda: faults.last_step(output) >= step, f"step {step}")
            time.sleep(rng.uniform(0, 0.01))
        elif moment == "save":
            step = rng.randrange(world.save_every, middle + 1, world.save_every)
            wait_for(job, lambda: holds(output, f"step-{step:06}"), f"the save of step {step}")
            time.sleep(rng.choice((0, 0, 0.002, 0.01)))

    def disturb(self, job: faults.Job, name: str, victim: int) -> tuple[int, float]:
        """Exit code, and the seconds from the disturbance to the end of the job."""
        number = getattr(signal, name)
        if name == "SIGUSR1":
            job.signal(number)
            return job.finish(LIMIT)
        job.signal(number, victim)
        if name == "SIGSTOP" and job.ranks == 1:
            # Nobody is left to notice: as when a scheduler suspends a job, it goes on later.
            time.sleep(self.timeout + 1)
            job.signal(signal.SIGCONT, victim)
            return job.finish(PATIENCE)
        return job.finish(LIMIT + (self.timeout if name == "SIGSTOP" else 0))

    def judge(self, name: str, moment: str, job: faults.Job, victim: int, code: int) -> list[str]:
        """What is wrong with how the job ended."""
        faults_found = []
        text = job.text()
        if name == "SIGKILL":
            expected = (137,)
        elif name == "SIGSTOP":
            expected = (0,) if job.ranks == 1 else (COMMUNICATION,)
        else:
            # Before the program has begun there is nothing to save, and the signal ends it.
            expected = (INTERRUPTED, 138) if moment == "start" else (INTERRUPTED,)
        if code not in expected:
            faults_found.append(f"exit code {code}, not {' or '.join(map(str, expected))}:\n{text}")
        if job.ranks > 1 and name != "SIGUSR1" and f"rank {victim}" not in text:
            faults_found.append(f"rank {victim} is not named:\n{text}")
        end = time.monotonic() + 5
        while job.left_over() and time.monotonic() < end:
            time.sleep(0.05)
        if job.left_over():
            faults_found.append(f"ranks {job.left_over()} are still there")
            job.kill()
        return faults_found

    def litter(self, output: pathlib.Path) -> list[str]:
        return [str(path) for directory in (output, self.world.root / "dataset")
                for path in directory.iterdir() if ".tmp-" in path.name or ".old-" in path.name]

    def run(self, number: int, name: str, ranks: int, moment: str) -> dict:
        world = self.world
        reference, _ = self.reference(ranks)
        output = world.output(f"run-{number}")
        if moment == "partition":
            shutil.rmtree(world.partition(ranks), ignore_errors=True)
        victim = self.rng.randrange(ranks)
        result = {"run": number, "signal": name, "ranks": ranks, "moment": moment, "victim": victim}
        job = world.train(ranks, output)
        try:
            self.await_moment(job, output, moment, name, victim)
            job.rank_pids()
            code, seconds = self.disturb(job, name, victim)
            found = self.judge(name, moment, job, victim, code)
            reached, saved = faults.last_step(output), faults.latest(output)
            lost = reached - max(saved, 0)
            result.update(code=code, seconds=round(seconds, 3), step=reached, lost_steps=lost)
            # A step that was still being written is lost with it.
            if lost >= 2 * world.save_every:
                found.append(f"{lost} steps are lost, from {saved} to {reached}")
            if code != 0:
                again = world.train(ranks, output)
                code, _ = again.finish(PATIENCE)
                if code != 0:
                    found.append(f"--resume ended with {code}:\n{again.text()}")
            found += faults.differences(output, reference, world.steps)
            found += [f"left behind: {path}" for path in self.litter(output)]
        except faults.Failure as failure:
            found = [str(failure)]
            if job.running():
                job.kill()
        result["faults"] = found
        shutil.rmtree(output, ignore_errors=True)
        return result


def plan(runs: int, rng: random.Random, signals) -> list[tuple[str, int, str]]:
    """The signals in turn, each with every combination of ranks and moment before one comes again."""
    places = {name: [] for name in signals}
    chosen = []
    for number in range(runs):
        name = signals[number % len(signals)]
        if not places[name]:
            places[name] = list(itertools.product(RANKS, MOMENTS))
            rng.shuffle(places[name])
        chosen.append((name, *places[name].pop()))
    return chosen


def table(results: list[dict]) -> str:
    lines = ["| signal | ranks | runs | as they must | seconds until the end: least | median | most | most lost steps |",
             "|---|---|---|---|---|---|---|---|"]
    for name, ranks in itertools.product(SIGNALS, RANKS):
        some = [result for result in results if result["signal"] == name and result["ranks"] == ranks]
        if not some:
            continue
        good = sum(not result["faults"] for result in some)
        seconds = [result["seconds"] for result in some if "seconds" in result]
        lost = max((result["lost_steps"] for result in some if "lost_steps" in result), default=0)
        times = f"{min(seconds):.2f} | {statistics.median(seconds):.2f} | {max(seconds):.2f}" if seconds else "| |"
        lines.append(f"| {name} | {ranks} | {len(some)} | {good} | {times} | {lost} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphlora")
    parser.add_argument("mpiexec")
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--comm-timeout", type=int, default=5, help="--comm.timeout of the runs, seconds")
    parser.add_argument("--signals", default=",".join(SIGNALS))
    parser.add_argument("--report", type=pathlib.Path, help="PREFIX of the reports, PREFIX.json and PREFIX.md")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    names = arguments.signals.split(",")
    if not set(names) <= set(SIGNALS):
        parser.error(f"--signals: choose from {','.join(SIGNALS)}")

    results = []
    with tempfile.TemporaryDirectory() as root:
        world = faults.World(arguments.graphlora, arguments.mpiexec, arguments.source, pathlib.Path(root),
                             more=("--comm.timeout", str(arguments.comm_timeout)))
        matrix = Matrix(world, rng, arguments.comm_timeout)
        for number, (name, ranks, moment) in enumerate(plan(arguments.runs, rng, names), start=1):
            result = matrix.run(number, name, ranks, moment)
            results.append(result)
            print(f"{number:3} {name}, {ranks} rank{'s' if ranks > 1 else ' '}, {moment:<10} code {result.get('code', '-'):>3} after "
                  f"{result.get('seconds', float('nan')):6.2f} s, {result.get('lost_steps', '-')} steps lost: "
                  f"{'good' if not result['faults'] else 'BAD'}", flush=True)
            for fault in result["faults"]:
                print(f"    {fault}", flush=True)
    bad = sum(bool(result["faults"]) for result in results)
    print(f"\n{table(results)}\n{len(results)} runs (seed {arguments.seed}), {bad} bad")
    if arguments.report:
        commit = subprocess.run([arguments.graphlora, "--version"], capture_output=True, text=True, check=True).stdout
        arguments.report.with_suffix(".json").write_text(json.dumps(
            {"version": commit.splitlines(), "seed": arguments.seed, "save_every": world.save_every,
             "comm_timeout": arguments.comm_timeout, "runs": results}, indent=1) + "\n")
        arguments.report.with_suffix(".md").write_text(table(results))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
