"""slurm_test.py BINARY SOURCE [TEST…]: the shipped Slurm scripts, with the real program, on a private Slurm of
four nodes on this host. A run that was disturbed must end with the losses and weights of one that was not.

Needs root, Debian's slurm-wlm and munge, and Open MPI; where something is missing it says what and exits with 77.
KEEP=1 keeps the scratch folder.
"""

import concurrent.futures
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BINARY = pathlib.Path(sys.argv.pop(1)).resolve()
SOURCE = pathlib.Path(sys.argv.pop(1)).resolve()
SCRIPTS = SOURCE / "slurm"
HERE = SOURCE / "tests" / "slurm"

STEPS = 60
SAVE_EVERY = 5
MODEL = SOURCE / "tests" / "golden" / "tiny_llama"
# Fields of metrics.jsonl that must be the same whatever happened in between.
SAME = ("step", "loss", "lr", "grad_norm", "graph_ratio", "examples", "tokens")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
LAUNCHERS = ("srun", "mpirun")
# States that a job stays in; SIGNALING, STOPPED and the like pass.
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL",
         "DEADLINE")


def why_not() -> str:
    """What is missing for a private Slurm; empty: nothing."""
    if os.geteuid() != 0:
        return "needs root, for slurmd and for nodes with names of their own"
    for program in ("slurmctld", "slurmd", "munged", "sbatch", "srun", "mpirun"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            return f"there is no {program} (Debian's slurm-wlm, munge and openmpi-bin: launch/setup --slurm)"
    if subprocess.run(["unshare", "--uts", "true"], check=False, capture_output=True).returncode != 0:
        return "needs CAP_SYS_ADMIN, for nodes with names of their own (unshare --uts fails)"
    return ""


def clean_environment() -> dict:
    of_jobs = ("SLURM", "SBATCH_", "SRUN_", "GRAPHLORA_", "OMPI_", "PMIX_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(of_jobs)}
    kept["PATH"] += ":/usr/sbin:/sbin"
    return kept


def processes_with(text: str) -> list:
    """Processes whose command line or environment has the text, but for this one and its parents' shells."""
    found = []
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            words = (folder / "cmdline").read_bytes()
            if text.encode() in words or text.encode() in (folder / "environ").read_bytes():
                found.append(f"{folder.name} {words.replace(bytes(1), b' ').decode(errors='replace')}")
        except OSError:
            pass  # it has ended
    return found


class Cluster:
    """Four nodes with two CPUs and two gpus (of which the program knows nothing) each."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        started = subprocess.run([HERE / "start", folder, "4", "2", "2"], check=False, text=True, capture_output=True,
                                 env=clean_environment())
        if started.returncode != 0:
            raise RuntimeError(started.stdout + started.stderr)
        self.environment = {**clean_environment(), "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *words, check=True, **options) -> str:
        result = subprocess.run([str(word) for word in words], check=False, text=True, capture_output=True,
                                env=self.environment, timeout=60, **options)
        if check and result.returncode != 0:
            raise RuntimeError(f"{words}: {result.returncode}: {result.stdout}{result.stderr}")
        return result.stdout

    def start_node(self, node: str):
        self.call(HERE / "start-node", self.folder, node)

    def kill_node(self, node: str):
        """As if its power failed: slurmd, and all that runs under the node's host name."""
        slurmd = (self.folder / f"slurmd-{node}.pid").read_text().strip()
        name = os.readlink(f"/proc/{slurmd}/ns/uts")
        for folder in pathlib.Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and os.readlink(folder / "ns/uts") == name:
                    os.kill(int(folder.name), signal.SIGKILL)
            except OSError:
                pass  # it has ended

    def stop(self):
        keep = {**self.environment, "KEEP": "1"}
        subprocess.run([HERE / "stop", self.folder], check=False, env=keep, timeout=120)


class SlurmTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="graphlora-slurm-"))
        cls.scratch.chmod(0o755)
        cls.addClassCleanup(cls.remove_scratch)
        for folder in ("tmp", "shm", "work"):
            (cls.scratch / folder).mkdir()
        cls.work = cls.scratch / "work"
        cls.cluster = Cluster(cls.scratch / "cluster")
        cls.addClassCleanup(cls.stop_cluster)
        cls.environment = {
            **cls.cluster.environment,
            "GRAPHLORA_BIN": str(BINARY),
            "OMP_NUM_THREADS": "1",
            # Nodes of one host talk over the loopback, and ranks outnumber cores.
            "OMPI_MCA_btl_tcp_if_include": "lo",
            "OMPI_MCA_oob_tcp_if_include": "lo",
            "OMPI_MCA_mpi_yield_when_idle": "1",
            # What a killed rank leaves goes with the scratch folder.
            "TMPDIR": str(cls.scratch / "tmp"),
            "OMPI_MCA_btl_vader_backing_directory": str(cls.scratch / "shm"),
        }
        cls.run_program("generate", "--users", "60", "--items", "40", "--interactions", "900", "--communities", "3",
                        "--seed", "1", "--output", "data")
        cls.run_program("generate", "--users", "60", "--items", "40", "--interactions", "900", "--communities", "3",
                        "--seed", "1", "--as", "csv", "--output", "raw")
        cls.run_program("pretrain", "--data", "data", "--output", "pretrained", "--pretrain.epochs", "2",
                        "--pretrain.width", "16")

    @classmethod
    def remove_scratch(cls):
        if os.environ.get("KEEP"):
            print(f"kept: {cls.scratch}", file=sys.stderr)
        else:
            shutil.rmtree(cls.scratch, ignore_errors=True)

    @classmethod
    def stop_cluster(cls):
        cls.cluster.stop()
        deadline = time.monotonic() + 20
        while (left := processes_with(str(cls.scratch))) and time.monotonic() < deadline:
            time.sleep(0.2)
        if left:
            raise RuntimeError(f"left behind: {left}")

    @classmethod
    def run_program(cls, *words):
        result = subprocess.run([BINARY, *words], check=False, text=True, capture_output=True, cwd=cls.work,
                                env=cls.environment)
        if result.returncode != 0:
            raise RuntimeError(f"{words}: {result.stderr}")
        return result.stdout

    @classmethod
    def train_words(cls, output: str, *more) -> list:
        return ["--data", "data", "--model", str(MODEL), "--pretrained", "pretrained", "--output", output, "--steps",
                str(STEPS), "--batch-size", "8", "--save-every", str(SAVE_EVERY), "--keep", "2", "--eval-every", "0",
                "--prompt.history", "3", "--device", "cpu", *more]

    one_reference = threading.Lock()

    @classmethod
    def undisturbed(cls, *more) -> pathlib.Path:
        """The output of the same training on two ranks without Slurm."""
        with cls.one_reference:
            return cls.run_undisturbed(*more)

    @classmethod
    @functools.cache
    def run_undisturbed(cls, *more) -> pathlib.Path:
        output = f"undisturbed{'-'.join(more)}"
        subprocess.run([SOURCE / "launch/mpirun", "-np", "2", BINARY, "train", *cls.train_words(output, *more)],
                       check=True, capture_output=True, cwd=cls.work, env=cls.environment)
        return cls.work / output

    def submit(self, *words, **variables) -> str:
        """The number of the job that a program submits."""
        result = subprocess.run([str(word) for word in words], check=False, text=True, capture_output=True,
                                cwd=self.work, env={**self.environment, **variables}, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def train(self, output: str, *options, more=(), **variables) -> str:
        """Submits train.sbatch on two nodes; its log is OUTPUT.log."""
        variables.setdefault("GRAPHLORA_ARGS", " ".join(self.train_words(output, *more)))
        return self.submit("sbatch", "--parsable", f"--output={output}.log", *TWO_NODES, *options,
                           SCRIPTS / "train.sbatch", **variables)

    def at_once(self, check, *cases):
        """check(case) for all cases at the same time, for most of it is waiting for Slurm."""
        with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
            for result in [pool.submit(check, case) for case in cases]:
                result.result()

    def program(self, name: str, text: str) -> str:
        """A program for GRAPHLORA_BIN."""
        path = self.scratch / name
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)
        return str(path)

    def waits(self) -> str:
        """The program, but for a first start that only waits for a signal."""
        return self.program("waits", f'((${{SLURM_RESTART_COUNT:-0}})) || exec sleep 100\nexec "{BINARY}" "$@"\n')

    def warn(self, job: str):
        """What --signal=B:USR1@120 does, at once."""
        self.cluster.call("scancel", "--batch", "--signal=USR1", job)

    def site(self) -> pathlib.Path:
        path = self.work / "site.ini"
        path.write_text("partition = test\nnodes = 2\ntasks-per-node = 1\ntime = 10:00\ngpus-per-node = 2\n"
                        "gpu-request = gres\nlog = site.log\nprologue = \"echo prologue on $SLURMD_NODENAME\"\n")
        return path

    def record(self, job: str) -> dict:
        text = self.cluster.call("scontrol", "--oneliner", "show", "job", job).splitlines()[0]
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait_for(self, what: str, condition, limit=180):
        deadline = time.monotonic() + limit
        while not (value := condition()):
            if time.monotonic() > deadline:
                logs = "".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
                               for path in sorted(self.work.glob("*.log")) if path.stat().st_mtime > time.time() - 120)
                self.fail(f"waited {limit} s for {what}\n{self.cluster.call('squeue', '--all')}{logs}")
            time.sleep(0.1)
        return value

    def wait_for_end(self, job: str, limit=180) -> dict:
        def ended():
            record = self.record(job)
            return record if record["JobState"] in ENDED else None
        return self.wait_for(f"job {job} to end", ended, limit)

    def wait_for_save(self, output: str, after=-1) -> int:
        """The step that LATEST names, once that is later than `after`."""
        def saved():
            try:
                step = int((self.work / output / "LATEST").read_text().strip().removeprefix("step-"))
            except (OSError, ValueError):
                return None
            return step if step > after else None
        return self.wait_for(f"{output} to save", saved)

    def log(self, output: str) -> str:
        path = self.work / f"{output}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def metrics(self, output: pathlib.Path) -> list:
        with (output / "metrics.jsonl").open() as file:
            return [{name: line[name] for name in SAME} for line in map(json.loads, file) if "loss" in line]

    def assert_undisturbed(self, output: str, *more):
        """Losses and weights are those of the run that nothing has happened to, bit by bit."""
        reference = self.undisturbed(*more)
        self.assertEqual(self.metrics(self.work / output), self.metrics(reference))
        step = f"step-{STEPS:06}"
        for file in ("adapter/adapter_model.safetensors", "graphlora.safetensors", "optimizer.safetensors"):
            self.assertEqual((self.work / output / step / file).read_bytes(), (reference / step / file).read_bytes(),
                             file)

    def assert_completed(self, job: str, output: str, restarts: int, more=(), limit=180):
        record = self.wait_for_end(job, limit)
        self.assertEqual((record["JobState"], record["ExitCode"]), ("COMPLETED", "0:0"), self.log(output))
        self.assertEqual(int(record["Restarts"]), restarts, self.log(output))
        self.assert_undisturbed(output, *more)


class Submit(SlurmTest):
    """Jobs that nothing happens to, and those that can't run."""

    def test_two_nodes_by_srun_and_by_mpirun(self):
        def check(launcher):
            output = f"plain-{launcher}"
            job = self.train(output, GRAPHLORA_LAUNCHER=launcher)
            self.assert_completed(job, output, 0)
            log = self.log(output)
            self.assertIn(", 2 task(s), srun" if launcher == "auto" else ", 2 task(s), mpirun", log)
            self.assertRegex(log, r"ranks 0 on n[1-4], 1 on n[1-4]: cpu, cores? [0-9]")
        self.at_once(check, "auto", "mpirun")

    def test_words_are_read_as_a_shell_reads_them(self):
        output = "it's \"quoted\" $HOME"
        arguments = [word if word != output else "it\\'s\\ \\\"quoted\\\"' $HOME'" for word in self.train_words(output)]
        job = self.submit("sbatch", "--parsable", "--output=quoted.log", *TWO_NODES, SCRIPTS / "train.sbatch",
                          GRAPHLORA_ARGS=" ".join(arguments))
        self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED", self.log("quoted"))
        self.assert_undisturbed(output)

    def test_what_cannot_run_says_so_and_deletes_nothing(self):
        kept = self.work / "kept"
        (kept / "step-000001").mkdir(parents=True)
        (kept / "LATEST").write_text("step-000001\n")
        arguments = " ".join(self.train_words("kept"))
        cases = [
            ({"GRAPHLORA_MAX_RESTARTS": "0"}, "GRAPHLORA_MAX_RESTARTS='0': must be a number from 1 on"),
            ({"GRAPHLORA_MAX_RESTARTS": "-3"}, "GRAPHLORA_MAX_RESTARTS='-3': must be"),
            ({"GRAPHLORA_BIN": "/nonexistent/graphlora"}, "there is no program '/nonexistent/graphlora'"),
            ({"GRAPHLORA_LAUNCHER": "ssh"}, "must be auto, srun or mpirun"),
            ({"GRAPHLORA_ARGS": "--output 'kept"}, "GRAPHLORA_ARGS: an unmatched quote"),
            ({"GRAPHLORA_SWEEP": "sweep.txt"}, "GRAPHLORA_SWEEP is for array jobs")]
        jobs = [self.submit("sbatch", "--parsable", f"--output=wrong-{number}.log", SCRIPTS / "train.sbatch",
                            **{"GRAPHLORA_ARGS": arguments, **variables})
                for number, (variables, _) in enumerate(cases)]
        for number, (job, (_, said)) in enumerate(zip(jobs, cases)):
            with self.subTest(said):
                record = self.wait_for_end(job)
                self.assertEqual((record["JobState"], record["ExitCode"], record["Restarts"]), ("FAILED", "2:0", "0"))
                self.assertIn(said, self.log(f"wrong-{number}"))
        self.assertEqual(sorted(path.name for path in kept.iterdir()), ["LATEST", "step-000001"])

    def test_a_run_that_fails_at_once_is_not_requeued(self):
        job = self.train("at-once", more=("--optim.lr", "fast"))
        record = self.wait_for_end(job)
        self.assertEqual((record["JobState"], record["Restarts"]), ("FAILED", "0"))
        self.assertIn("not requeued", self.log("at-once"))

    def test_outside_slurm(self):
        for script in ("train.sbatch",):
            result = subprocess.run([SCRIPTS / script], check=False, text=True, capture_output=True,
                                    env=self.environment)
            self.assertEqual(result.returncode, 2)
            self.assertIn("this is no Slurm job: submit the script with sbatch", result.stderr)
        without = {**self.environment, "PATH": str(self.scratch / "bin")}
        (self.scratch / "bin").mkdir()
        for program in ("bash", "dirname"):
            (self.scratch / "bin" / program).symlink_to(shutil.which(program))
        for driver in ("sweep", "pipeline", "scaling"):
            result = subprocess.run([shutil.which("bash"), SCRIPTS / driver], check=False, text=True,
                                    capture_output=True, env=without)
            self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
            self.assertIn("there is no sbatch here", result.stderr)


class Interrupted(SlurmTest):
    """Signals: the run saves, goes back into the queue and ends as if nothing had happened."""

    def test_the_warning_before_the_time_limit(self):
        def check(launcher):
            output = f"warned-{launcher}"
            job = self.train(output, GRAPHLORA_LAUNCHER=launcher)
            self.wait_for_save(output)
            self.warn(job)
            self.assert_completed(job, output, 1)
            self.assertIn("was interrupted; requeued (restart 1 of at most 100)", self.log(output))
        self.at_once(check, *LAUNCHERS)

    def test_a_warning_before_the_ranks_are_there(self):
        job = self.train("early", GRAPHLORA_BIN=self.waits(), GRAPHLORA_LAUNCHER="mpirun")
        self.wait_for("the launch", lambda: ": train on " in self.log("early"))
        self.warn(job)
        self.assert_completed(job, "early", 1)

    def test_two_warnings_and_the_restart_limit(self):
        job = self.train("limited", GRAPHLORA_MAX_RESTARTS="1")
        first = self.wait_for_save("limited")
        self.warn(job)
        self.wait_for("the restart", lambda: self.record(job)["Restarts"] == "1")
        self.wait_for_save("limited", after=first + SAVE_EVERY)
        self.warn(job)
        record = self.wait_for_end(job)
        self.assertEqual((record["JobState"], record["ExitCode"], record["Restarts"]), ("FAILED", "5:0", "1"))
        self.assertIn("not requeued after 1 restarts (GRAPHLORA_MAX_RESTARTS)", self.log("limited"))
        # What it has saved stands, and a person may go on.
        self.assert_completed(self.train("limited"), "limited", 0)

    def test_the_second_signal_ends_ranks_that_do_not_stop(self):
        deaf = self.program("deaf", "((${SLURM_RESTART_COUNT:-0})) && exit\ntrap '' USR1\necho ready\nexec sleep 100\n")

        def check(launcher):
            output = f"deaf-{launcher}"
            job = self.train(output, GRAPHLORA_BIN=deaf, GRAPHLORA_LAUNCHER=launcher)
            self.wait_for("the ranks", lambda: self.log(output).count("ready") == 2)
            for said in ("asking the ranks to save", "USR1: ending the ranks"):
                self.warn(job)
                self.wait_for(said, lambda said=said: said in self.log(output))
            record = self.wait_for_end(job)
            self.assertEqual((record["JobState"], record["Restarts"]), ("COMPLETED", "1"), self.log(output))
            self.assertIn("was asked to stop", self.log(output))
        self.at_once(check, *LAUNCHERS)

    def test_stops_for_good_after_a_save(self):
        # Slurm may be told so at the submission or later.
        def check(told):
            output = f"for-good-{told}"
            job = self.train(output, *(["--no-requeue"] if told == "early" else []))
            self.wait_for_save(output)
            if told == "late":
                self.cluster.call("scontrol", "update", f"JobId={job}", "Requeue=0")
            self.warn(job)
            record = self.wait_for_end(job)
            self.assertEqual((record["JobState"], record["ExitCode"]), ("FAILED", "5:0"))
            self.assertIn("Slurm refuses to requeue it", self.log(output))
        self.at_once(check, "early", "late")

    def test_starts_that_save_nothing_are_not_repeated_for_ever(self):
        ready = self.program("ready", "echo ready\nexec sleep 100\n")

        def check(saved):
            output = f"idle-{saved}"
            if saved:
                job = self.train(output, "--no-requeue")
                self.wait_for_save(output)
                self.warn(job)
                self.wait_for_end(job)
            job = self.train(output, GRAPHLORA_BIN=ready)
            for start in (1, 2, 3):
                self.wait_for("the ranks", lambda start=start: self.log(output).count("ready\n") == 2 * start)
                self.warn(job)
            record = self.wait_for_end(job)
            self.assertEqual((record["JobState"], record["Restarts"]), ("FAILED", "2"), self.log(output))
            self.assertIn("not requeued, since 3 starts in a row saved no step", self.log(output))
            self.assert_completed(self.train(output), output, 0)
        self.at_once(check, False, True)


class Ended(SlurmTest):
    """What ends all processes of a job at once."""

    def test_by_scancel_for_good(self):
        def check(launcher):
            output = f"cancelled-{launcher}"
            job = self.end(output, launcher, "scancel")
            record = self.wait_for_end(job)
            self.assertEqual((record["JobState"], record["Restarts"]), ("CANCELLED", "0"))
            self.assert_saved(output, launcher)
            self.assertEqual(self.record(job)["JobState"], "CANCELLED")
            self.assertLess(len(self.metrics(self.work / output)), STEPS)
            self.assert_completed(self.train(output), output, 0)
        self.at_once(check, *LAUNCHERS)

    def test_requeued_by_the_operator(self):
        def check(launcher):
            output = f"requeued-{launcher}"
            job = self.end(output, launcher, "scontrol", "requeue")
            self.assert_completed(job, output, 1)
            self.assert_saved(output, launcher)
        self.at_once(check, *LAUNCHERS)

    def end(self, output: str, launcher: str, *words) -> str:
        job = self.train(output, GRAPHLORA_LAUNCHER=launcher)
        self.wait_for_save(output)
        self.cluster.call(*words, job)
        return job

    def assert_saved(self, output: str, launcher: str):
        """Ranks of srun have ended by themselves, and 5 says that they have saved; mpirun kills them."""
        said = re.compile(r"ended from outside \(code (\d+)\)")
        code = self.wait_for("the script to end", lambda: said.search(self.log(output)))
        self.assertEqual(code[1] == "5", launcher == "srun", self.log(output))


class TimeLimit(SlurmTest):
    """Slurm's own warning and end. It looks every half minute, and knows no limit under a minute."""

    def test_all(self):
        self.at_once(lambda check: check(), self.warned, lambda: self.ends("srun"), lambda: self.ends("mpirun"),
                     self.ends_what_cannot_be_continued)

    def warned(self):
        job = self.train("late", "--signal=B:USR1@1", "--time=1", GRAPHLORA_BIN=self.waits())
        self.assert_completed(job, "late", 1, limit=300)
        self.assertIn("USR1: asking the ranks to save and to end", self.log("late"))
        self.assertIn("was asked to stop (code 138); requeued", self.log("late"))

    def ends(self, launcher: str):
        # As ranks that still save when the time is up, for longer than Slurm waits.
        hangs = self.program(f"hangs-{launcher}", f'((${{SLURM_RESTART_COUNT:-0}})) && exec "{BINARY}" "$@"\n'
                             "trap '' TERM USR1\nwhile kill -0 $PPID; do sleep 1; done\n")
        output = f"over-{launcher}"
        job = self.train(output, "--signal=B:USR1@1", "--time=1", GRAPHLORA_BIN=hangs, GRAPHLORA_LAUNCHER=launcher)
        self.assert_completed(job, output, 1, limit=300)
        self.assertIn("reached its time limit; requeued", self.log(output))

    def ends_what_cannot_be_continued(self):
        job = self.train("pretrain", "--time=1", GRAPHLORA_COMMAND="pretrain",
                         GRAPHLORA_BIN=self.program("sleeps", "exec sleep 300\n"))
        record = self.wait_for_end(job, limit=300)
        self.assertEqual((record["JobState"], record["Restarts"]), ("TIMEOUT", "0"))
        said = "reached its time limit, and pretrain can't be continued: not requeued"
        self.wait_for(said, lambda: said in self.log("pretrain"), limit=20)


class Preempted(SlurmTest):
    """A job of another partition takes the nodes away."""

    def preempt(self, launcher: str):
        output = f"preempted-{launcher}"
        nodes = "n1,n2" if launcher == "srun" else "n3,n4"
        job = self.train(output, f"--nodelist={nodes}", GRAPHLORA_LAUNCHER=launcher)
        self.wait_for_save(output)
        urgent = self.submit("sbatch", "--parsable", "--partition=urgent", "--output=/dev/null", f"--nodelist={nodes}",
                             "--nodes=2", "--ntasks-per-node=2", "--wrap=sleep 1")
        self.assertEqual(self.wait_for_end(urgent)["JobState"], "COMPLETED")
        self.assert_completed(job, output, 1)
        # By srun the ranks have the grace; by mpirun the last step stands.
        self.assertRegex(self.log(output), "interrupted after step" if launcher == "srun" else
                         "was preempted|was asked to stop")

    def test_both(self):
        self.at_once(self.preempt, *LAUNCHERS)


class Failed(SlurmTest):
    """Ranks and nodes that die."""

    def ranks_of(self, output: str) -> list:
        """Process numbers of the ranks of a training run."""
        found = []
        for folder in pathlib.Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(bytes(1)) if folder.name.isdigit() else []
                if words and os.readlink(folder / "exe") == str(BINARY) and output.encode() in words:
                    found.append(int(folder.name))
            except OSError:
                pass  # it has ended
        return sorted(found)

    def test_a_rank_is_killed(self):
        def check(launcher):
            output = f"killed-{launcher}"
            job = self.train(output, GRAPHLORA_LAUNCHER=launcher)
            self.wait_for_save(output)
            ranks = self.ranks_of(output)
            self.assertEqual(len(ranks), 2)
            os.kill(ranks[1], signal.SIGKILL)
            self.assert_completed(job, output, 1)
            self.assertRegex(self.log(output), r"failed with code \d+, after it had saved step \d+; requeued")
        self.at_once(check, *LAUNCHERS)

    def test_a_rank_is_killed_in_a_job_that_slurm_does_not_call_running(self):
        # It is STOPPED from here on, as it is SIGNALING for a moment at each of Slurm's signals.
        job = self.train("stopped", GRAPHLORA_LAUNCHER="srun")
        self.wait_for_save("stopped")
        self.cluster.call("scancel", "--signal=STOP", job)
        self.wait_for("the stop", lambda: self.record(job)["JobState"] == "STOPPED")
        os.kill(self.ranks_of("stopped")[1], signal.SIGKILL)
        self.assert_completed(job, "stopped", 1)

    def test_a_node_dies(self):
        def check(launcher):
            output = f"node-{launcher}"
            job = self.train(output, "--nodelist=" + ("n1,n2" if launcher == "srun" else "n3,n4"),
                             GRAPHLORA_LAUNCHER=launcher)
            self.wait_for_save(output)
            # Under srun that of the script.
            node = self.record(job)["BatchHost"] if launcher == "srun" else "n4"
            self.cluster.kill_node(node)
            self.wait_for("the restart", lambda: int(self.record(job)["Restarts"]) == 1, limit=90)
            self.cluster.start_node(node)
            self.assert_completed(job, output, 1, limit=240)
        self.at_once(check, *LAUNCHERS)


class Sweep(SlurmTest):
    """Array jobs."""

    def test_sweep(self):
        (self.work / "rates.txt").write_text("--optim.lr 1e-3\n--optim.lr 2e-3\n")
        job = self.submit(SCRIPTS / "sweep", "rates.txt", "--output=sweep-%a.log", *TWO_NODES,
                          GRAPHLORA_ARGS=" ".join(self.train_words("sweep-%a")))
        self.wait_for_save("sweep-2")
        # A restart keeps the options of the submission.
        (self.work / "rates.txt").write_text("--seed 7\n--seed 8\n")
        self.warn(f"{job}_2")
        for task, rate in ((1, "1e-3"), (2, "2e-3")):
            self.assert_completed(f"{job}_{task}", f"sweep-{task}", int(task == 2), more=("--optim.lr", rate))

    def test_sweep_refuses_what_would_collide(self):
        (self.work / "none.txt").write_text("")
        (self.work / "gap.txt").write_text("--seed 1\n\n--seed 3\n")
        (self.work / "rates-only.txt").write_text("--seed 1\n")
        for words, said in ((("none.txt",), "is empty"), (("gap.txt",), "gap.txt:2: an empty line"),
                            (("absent.txt",), "can't be read"), ((), "usage"),
                            (("rates-only.txt",), "outputs of their own")):
            result = subprocess.run([SCRIPTS / "sweep", *words], check=False, text=True, capture_output=True,
                                    cwd=self.work, env={**self.environment, "GRAPHLORA_ARGS": "--output one"})
            self.assertEqual((result.returncode, result.stdout), (2, ""))
            self.assertIn(said, result.stderr)


class Chain(SlurmTest):
    """Jobs that wait for others."""

    def pipeline(self, prepare: str, **variables) -> list:
        return self.submit(
            SCRIPTS / "pipeline", "--output=chain.log", "--time=10", GRAPHLORA_WORK="chain", GRAPHLORA_NODES="2",
            **variables,
            GRAPHLORA_PREPARE_ARGS=prepare, GRAPHLORA_MODEL=str(MODEL),
            GRAPHLORA_PRETRAIN_ARGS="--pretrain.epochs 2 --pretrain.width 16",
            GRAPHLORA_TRAIN_ARGS="--steps 10 --batch-size 8 --eval-every 0").split()

    def test_pipeline(self):
        (self.work / "chain.sbatch").write_text(
            self.run_program("slurm", "--site", str(self.site()), "--tasks-per-node", "2", "--dry-run"))
        jobs = self.pipeline("--input raw/ratings.csv --format csv --csv.time timestamp --csv.titles raw/items.csv",
                             GRAPHLORA_SCRIPT="chain.sbatch")
        self.assertEqual(len(jobs), 5)
        for job in jobs:
            self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED", self.log("chain"))
        result = json.loads((self.work / "chain/evaluate.json").read_text())
        self.assertEqual(result["split"], "test")
        self.assertGreater(result["rows"], 0)
        self.assertTrue((self.work / "chain/dataset/partition-2").is_dir())

    def test_a_failed_stage_cancels_those_behind_it(self):
        jobs = self.pipeline("--input nowhere --format csv")
        states = [self.wait_for_end(job)["JobState"] for job in jobs]
        self.assertEqual(states, ["FAILED"] + ["CANCELLED"] * 4)

    def test_scaling(self):
        jobs = self.submit(SCRIPTS / "scaling", "weak", "--partition=test", GRAPHLORA_WORK="study",
                           GRAPHLORA_SCALING_NODES="1 2", GRAPHLORA_SCALING_STEPS="12", GRAPHLORA_SCALING_BATCH="4",
                           GRAPHLORA_ARGS=f"--data data --model {MODEL} --pretrained pretrained").split()
        self.assertEqual(len(jobs), 3)
        for job in jobs:
            self.assertEqual(self.wait_for_end(job)["JobState"], "COMPLETED")
        summary = json.loads((self.work / "study/weak/summary.json").read_text())
        self.assertEqual([(run["series"], run["ranks"], run["batch_size"]) for run in summary["runs"]],
                         [(["weak"], 1, 4), (["weak"], 2, 8)])
        for run in summary["runs"]:
            step = next(m for m in run["measurements"] if m["name"] == "step")
            self.assertEqual([len(seconds) for seconds in step["seconds"]], [9] * run["ranks"])
            self.assertEqual(run["environment"]["slurm"]["SLURM_NTASKS"], str(run["ranks"]))
        first, second = summary["scaling"]
        self.assertAlmostEqual(second["efficiency"], second["tokens_per_s"] / first["tokens_per_s"] / 2)
        self.assertIn("<svg", (self.work / "study/weak/report.html").read_text())
        again = self.submit(SCRIPTS / "scaling", "weak", "--partition=test", GRAPHLORA_WORK="study",
                            GRAPHLORA_SCALING_NODES="1 2", GRAPHLORA_SCALING_STEPS="12", GRAPHLORA_SCALING_BATCH="4",
                            GRAPHLORA_ARGS=f"--data data --model {MODEL} --pretrained pretrained").split()
        self.assertEqual(len(again), 1, "both runs are there: only the summary")
        self.assertEqual(self.wait_for_end(again[0])["JobState"], "COMPLETED")


class Site(SlurmTest):
    """Scripts that `graphlora slurm` writes."""

    def test_a_literal_script(self):
        arguments = " ".join(self.train_words("literal"))
        script = self.run_program("slurm", "--site", str(self.site()), f"--args={arguments}", "--dry-run")
        lines = [line for line in script.splitlines() if line.startswith("#SBATCH")]
        self.assertIn("#SBATCH --gres=gpu:2", lines)
        self.assertFalse([line for line in lines if "$" in line])
        (self.work / "literal.sbatch").write_text(script)
        environment = {name: value for name, value in self.environment.items() if not name.startswith("GRAPHLORA_")}
        job = subprocess.run(["sbatch", "--parsable", "literal.sbatch"], check=True, text=True, capture_output=True,
                             cwd=self.work, env=environment).stdout.strip()
        self.wait_for_save("literal")
        self.warn(job)
        self.assert_completed(job, "literal", 1)
        self.assertEqual(len(re.findall(r"^prologue on n[1-4]$", self.log("site"), re.MULTILINE)), 2)

    def assert_completed(self, job, output, restarts, more=(), limit=180):
        if not (self.work / f"{output}.log").exists():
            (self.work / f"{output}.log").symlink_to("site.log")
        super().assert_completed(job, output, restarts, more, limit)

    def test_submitted_by_the_program(self):
        arguments = " ".join(self.train_words("submitted"))
        # Flags win over what the user's shell has of an earlier job.
        said = self.submit(BINARY, "slurm", "--site", self.site(), f"--args={arguments}", "--log", "submitted.log",
                           GRAPHLORA_ARGS="--output elsewhere", GRAPHLORA_BIN="/nonexistent/graphlora",
                           GRAPHLORA_MAX_RESTARTS="0")
        self.assertRegex(said, r"^submitted job \d+$")
        self.assert_completed(said.split()[-1], "submitted", 0)

    def test_every_example_site_is_understood_by_sbatch(self):
        for path in sorted((SOURCE / "configs/sites").glob("*.ini")):
            with self.subTest(path.name):
                script = self.run_program("slurm", "--site", str(path), "--dry-run")
                # Only what this cluster can't have is left out.
                for option in ("partition", "account", "qos", "constraint", "nodes", "ntasks-per-node", "cpus-per-task",
                               "mem", "gpus-per-node", "gres"):
                    script = re.sub(rf"#SBATCH --{option}=.*\n", "", script)
                result = subprocess.run(["sbatch", "--test-only"], input=script, check=False, text=True,
                                        capture_output=True, cwd=self.work, env=self.environment)
                self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    if reason := why_not():
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main(verbosity=2)
