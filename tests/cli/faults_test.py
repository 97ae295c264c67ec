"""What tests/support/faults.py takes for a difference between two runs, and how it finds and ends processes."""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import faults  # noqa: E402


def write_run(output: pathlib.Path):
    step = output / "step-000003"
    (step / "adapter").mkdir(parents=True)
    (step / "adapter/adapter_model.safetensors").write_bytes(b"adapter")
    (step / "optimizer.safetensors").write_bytes(b"moments")
    lines = [{"step": step, "loss": 0.5 / step, "step_seconds": 0.1} for step in (1, 2, 3)]
    lines.append({"step": 3, "split": "valid", "auc": 0.75, "examples_per_s": 10})
    (output / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("LATEST", "BEST"):
        (output / name).write_text("step-000003\n")


class DifferencesTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.mine, self.reference = pathlib.Path(scratch.name) / "mine", pathlib.Path(scratch.name) / "reference"
        for output in (self.mine, self.reference):
            write_run(output)

    def found(self):
        return faults.differences(self.mine, self.reference, 3)

    def edit_metrics(self, old: str, new: str):
        path = self.mine / "metrics.jsonl"
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new, 1))

    def test_alike_runs(self):
        self.edit_metrics('"step_seconds": 0.1', '"step_seconds": 0.9')
        self.assertEqual(self.found(), [])
        self.assertEqual((faults.last_step(self.mine), faults.latest(self.mine)), (3, 3))

    def test_another_loss(self):
        self.edit_metrics("0.25", "0.2500000000000001")
        self.assertEqual(len(self.found()), 1)

    def test_a_lost_and_a_doubled_step(self):
        path = self.mine / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        for wrong in (lines[:1] + lines[2:], lines[:2] + lines[1:]):
            path.write_text("".join(wrong))
            self.assertEqual(len(self.found()), 1)

    def test_another_or_a_missing_tensor(self):
        path = self.mine / "step-000003/adapter/adapter_model.safetensors"
        path.write_bytes(b"adaptes")
        self.assertIn("adapter/adapter_model.safetensors", self.found()[0])
        path.unlink()
        self.assertIn("adapter/adapter_model.safetensors", self.found()[0])

    def test_another_latest(self):
        (self.mine / "LATEST").write_text("step-000002\n")
        self.assertEqual(self.found(), ["LATEST: step-000002 instead of step-000003"])

    def test_no_checkpoints_at_all_are_not_alike(self):
        for output in (self.mine, self.reference):
            for path in output.rglob("*.safetensors"):
                path.unlink()
        self.assertEqual(len(self.found()), 1)

    def test_half_a_line_is_not_one(self):
        with (self.mine / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')
        self.assertEqual(faults.last_step(self.mine), 3)
        self.assertEqual(self.found(), [])


class ProcessTest(unittest.TestCase):
    def test_children_and_states(self):
        with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as process:
            children = []
            while not children:
                children = faults.children_of(process.pid)
            self.assertIn(faults.state_of(children[0]), ("S", "R", "D"))
            subprocess.run(["kill", "-KILL", str(children[0])], check=True)
            process.send_signal(signal.SIGKILL)
        self.assertEqual(faults.children_of(process.pid), [])
        self.assertEqual(faults.state_of(process.pid), "")


if __name__ == "__main__":
    unittest.main()
