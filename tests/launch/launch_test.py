"""launch_test.py SOURCE: the launch scripts, with programs that only pretend in front of the real ones."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2]

JUNIT = """<testsuite>
<testcase name="core.np1" status="run"/><testcase name="lint.shell" status="{lint}"/>
</testsuite>"""
LOG = """1/2 Testing: core.np1
[ RUN      ] File.Unwritable
file_test.cpp:146: Skipped
{reason}
[  SKIPPED ] File.Unwritable (0 ms)
[  PASSED  ] 7 tests.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] File.Unwritable
"""


class LaunchTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)
        (self.scratch / "bin").mkdir()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "GRAPHLORA_"))}
        self.environment["PATH"] = f"{self.scratch / 'bin'}:{os.environ['PATH']}"

    def program(self, name: str, text: str):
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/usr/bin/env bash\n" + text)
        path.chmod(0o755)

    def run_command(self, *words, cwd=None, **environment):
        return subprocess.run([str(word) for word in words], cwd=cwd or self.scratch, check=False, text=True,
                              capture_output=True, env={**self.environment, **environment})

    def test_count_tests(self):
        cases = [
            # ctest's status of the lint, why the case was skipped, codes without, with --no-skips, with --gpu too, with
            # --nccl too
            ("run", "root may write everywhere", 0, 0, 0, 0),
            ("run", "needs two ranks", 0, 0, 0, 0),
            ("run", "no SmolLM2 in run/quickstart/model", 0, 1, 1, 1),
            ("run", "needs a GPU: this program was built without CUDA", 0, 0, 1, 1),
            ("run", "needs 4 GPUs, one for each rank", 0, 0, 0, 1),
            ("notrun", "needs two ranks", 0, 1, 1, 1),
            ("fail", "needs two ranks", 1, 1, 1, 1),
        ]
        build = self.scratch / "build"
        (build / "Testing/Temporary").mkdir(parents=True)
        for lint, reason, *codes in cases:
            (build / "tests.xml").write_text(JUNIT.format(lint=lint))
            log = build / "Testing/Temporary/LastTest.log"
            log.write_text(LOG.format(reason=reason) + "[       OK ] Settings/Ring.Sums/cuda_nccl (3 ms)\n")
            for options, code in zip(([], ["--no-skips"], ["--no-skips", "--gpu"], ["--no-skips", "--gpu", "--nccl"]), codes):
                with self.subTest(lint=lint, reason=reason, options=options):
                    result = self.run_command(sys.executable, SOURCE / "launch/count_tests.py", *options, build)
                    self.assertEqual(result.returncode, code, result.stdout + result.stderr)
                    self.assertIn("core.np1 File.Unwritable", result.stdout)
                    self.assertIn(reason, result.stdout)
                    self.assertEqual("lint.shell" in result.stdout, lint == "notrun")
                    passed, failed = 1 + (lint == "run"), int(lint == "fail")
                    self.assertEqual(result.stdout.splitlines()[-1], f"{passed} passed, {failed} failed")

        log.write_text(LOG.format(reason="root may write everywhere"))
        (build / "tests.xml").write_text(JUNIT.format(lint="run"))
        result = self.run_command(sys.executable, SOURCE / "launch/count_tests.py", "--no-skips", "--gpu", "--nccl", build)
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertIn("no case over NCCL was run", result.stdout)

        # Each test that has cases over NCCL must have run one.
        nccl = ("[ RUN      ] Over/Grid.Trains/cuda_nccl\n[       OK ] Over/Grid.Trains/cuda_nccl (3 ms)\n"
                "2/2 Testing: graph.np2\n[ RUN      ] Over/Halo.Moves/cuda_nccl_metis\n")
        for end, code in (("[       OK ] Over/Halo.Moves/cuda_nccl_metis (3 ms)\n", 0),
                          ("halo_test.cpp:3: Skipped\nneeds two ranks\n"
                           "[  SKIPPED ] Over/Halo.Moves/cuda_nccl_metis (0 ms)\n", 1)):
            log.write_text(LOG.format(reason="root may write everywhere") + nccl + end)
            result = self.run_command(sys.executable, SOURCE / "launch/count_tests.py", "--no-skips", "--gpu", "--nccl", build)
            self.assertEqual(result.returncode, code, result.stdout)
            self.assertEqual("no case over NCCL was run; must not be here):\n  build: graph.np2" in result.stdout, bool(code))

    def test_mpirun_options(self):
        self.program("bin/mpirun", 'echo "$*"\n')
        job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}
        cases = [({}, 2, True), (job, 4, False), (job, 8, True), ({"SLURM_JOB_ID": "1"}, 1, False),
                 ({"SLURM_JOB_ID": "1"}, 2, True)]
        for environment, ranks, oversubscribed in cases:
            with self.subTest(environment=environment, ranks=ranks):
                result = self.run_command(SOURCE / "launch/mpirun", "-np", ranks, "true", **environment)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertIn("--bind-to none", result.stdout)
                self.assertEqual("--oversubscribe" in result.stdout, oversubscribed)

    def test_mpirun_asks_the_ranks_to_stop(self):
        self.program("bin/mpirun", 'trap "echo asked; exit 5" USR1\necho ready\nwhile :; do sleep 0.05; done\n')
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number), subprocess.Popen(
                    [SOURCE / "launch/mpirun", "-np", "2", "true"], text=True, env=self.environment,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                self.assertEqual(process.stdout.readline(), "ready\n")
                process.send_signal(number)
                out, err = process.communicate(timeout=30)
                self.assertEqual((process.returncode, out), (5, "asked\n"))
                self.assertIn("asked the ranks to stop", err)

    def test_mpirun_keeps_what_comes_before_the_ranks(self):
        # The script asks for the number of cores before it starts anything.
        self.program("bin/mpirun", "echo started\n")
        for name in ("TERM", "INT", "HUP", "USR1"):
            with self.subTest(name):
                self.program("bin/nproc", f"kill -{name} $PPID\nsleep 0.2\necho 2\n")
                result = self.run_command(SOURCE / "launch/mpirun", "-np", 2, "true")
                self.assertEqual((result.returncode, result.stdout), (5, ""), result.stderr)

    def test_mpirun_repeats_what_it_may_have_lost(self):
        self.program("bin/mpirun", "trap '' USR1\necho ready\nsleep 1\ntrap 'exit 5' USR1\n"
                     "for ((i = 0; i < 300; ++i)); do sleep 0.05; done\n")
        with subprocess.Popen([SOURCE / "launch/mpirun", "-np", "2", "true"], text=True, env=self.environment,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 5, err)
        self.assertEqual(err.count("asked the ranks to stop"), 1)

    def test_a_failed_evaluation_is_not_done(self):
        shutil.copytree(SOURCE / "launch", self.scratch / "launch")
        (self.scratch / "run/quickstart/stamps").mkdir(parents=True)
        (self.scratch / "run/quickstart/stamps/checkpoint.done").write_text("key\n")
        script = ("set -euo pipefail; source launch/pipeline.sh; "
                  "evaluate_variant scores predictions/x.csv seconds 10 checkpoint")
        (self.scratch / "predictions").mkdir()
        (self.scratch / "predictions/x.csv").write_text("of an earlier run\n")
        self.program("launch/mpirun", "echo half\nexit 4\n")
        failed = self.run_command("bash", "-c", script)
        self.assertEqual(failed.returncode, 4, failed.stderr)
        self.assertIn("--fresh", failed.stderr)
        self.assertFalse((self.scratch / "predictions/x.json").exists())
        self.program("launch/mpirun", "echo whole\necho rows >predictions/x.csv\n")
        for said in ("== scores", "-- scores: done before"):
            again = self.run_command("bash", "-c", script)
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertIn(said, again.stderr)
            self.assertEqual((self.scratch / "predictions/x.json").read_text(), "whole\n")

    def test_build_names_what_is_missing(self):
        (self.scratch / "launch").mkdir()
        shutil.copy(SOURCE / "launch/build", self.scratch / "launch")
        for version, code in (("3.9.1", 2), ("3.24.0", 0), ("4.1.2", 0)):
            self.program("bin/cmake", f'[[ $1 == --version ]] && echo "cmake version {version}" || echo "cmake $*"\n')
            for name in ("ninja", "pkg-config"):
                self.program(f"bin/{name}", "")
            result = self.run_command("launch/build", "release", "-DX=1", "target")
            self.assertEqual(result.returncode, code, result.stderr)
            if code:
                self.assertIn(f"cmake 3.24 or later (found: {version})", result.stderr)
            else:
                configure, build = result.stdout.splitlines()
                self.assertIn("-DX=1", configure)
                self.assertTrue(build.endswith("--target target"), build)


if __name__ == "__main__":
    unittest.main()
