"""benchmarks/regression_check against what its programs printed once (recorded/, small sizes on a busy machine): bounds that hold, and ones that do not."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
RECORDED = pathlib.Path(__file__).resolve().parent / "recorded"
SHARES: dict[str, float] = {}
LOOPS = sorted(path.stem for path in RECORDED.glob("*.txt"))


class RegressionCheckTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)
        self.outputs = self.scratch / "outputs"
        shutil.copytree(RECORDED, self.outputs)
        self.bounds = {name: {"measured": share, "bound": 0.8 * share} for name, share in self.shares().items()}

    def check(self, bounds: dict, *words) -> subprocess.CompletedProcess:
        path = self.scratch / "bounds.json"
        path.write_text(json.dumps({"loops": bounds}))
        return subprocess.run([sys.executable, SOURCE / "benchmarks/regression_check", "--bounds", path, "--outputs",
                               self.outputs, *words], check=False, text=True, capture_output=True)

    def shares(self) -> dict:
        """Of each loop, as the check reads them; the same in each test."""
        if not SHARES:
            SHARES.update(self.read_shares())
        return SHARES

    def read_shares(self) -> dict:
        lines = self.check({name: {"measured": 1e9, "bound": 0} for name in LOOPS}).stdout.splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines}

    def test_reads_every_loop(self):
        self.assertEqual(sorted(self.shares()), LOOPS)
        # As a person reads the recorded texts.
        expected = {"training_step": 0.053, "evaluation": 0.085, "spmm": 0.09, "embedding_update": 186.08,
                    "shared_prefix": 4.89, "tokenizer": 44.279, "halo": 0.008}
        for name, share in expected.items():
            self.assertAlmostEqual(self.shares()[name], share, places=3, msg=name)

    def test_bounds_that_hold(self):
        done = self.check(self.bounds)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_a_bound_too_high_names_its_loop(self):
        for name in LOOPS:
            done = self.check({**self.bounds, name: {"measured": 1e9, "bound": 1.01 * self.shares()[name] + 0.01}})
            self.assertEqual(done.returncode, 1)
            self.assertEqual([line.split(":")[1].strip() for line in done.stderr.splitlines()], [name])
            self.assertIn("is below its bound", done.stderr)

    def test_a_share_beyond_belief_names_its_loop(self):
        share = self.shares()["spmm"]
        done = self.check({**self.bounds, "spmm": {"measured": 0.4 * share, "bound": 0.3 * share}})
        self.assertEqual(done.returncode, 1)
        self.assertIn("spmm", done.stderr)
        self.assertIn("is implausible", done.stderr)

    def test_a_loop_without_bound_or_output(self):
        del self.bounds["spmm"]
        (self.outputs / "halo.txt").unlink()
        (self.outputs / "tokenizer.txt").write_text("Killed\n")
        done = self.check(self.bounds)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(sorted(line.split(":")[1].strip() for line in done.stderr.splitlines()), ["halo", "spmm", "tokenizer"])

    def test_unknown_loop_and_bounds_that_are_none(self):
        self.assertEqual(self.check(self.bounds, "--only", "spmn").returncode, 2)
        (self.scratch / "none.json").write_text("{}")
        done = self.check(self.bounds, "--bounds", str(self.scratch / "none.json"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("--update", done.stderr)

    def test_the_bounds_kept_are_of_these_loops(self):
        kept = json.loads((SOURCE / "benchmarks/regression_bounds.json").read_text())["loops"]
        self.assertEqual(set(kept), set(LOOPS))
        self.assertIn("training_step", kept)
        for name, one in kept.items():
            self.assertGreater(one["bound"], 0, name)
            self.assertLess(one["bound"], one["measured"], name)


if __name__ == "__main__":
    unittest.main()
