"""The include check finds each kind of fault, and none in a correct tree."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(__file__).with_name("includes.py")


def run(files: dict[str, str]) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"core/error.hpp": "", "data/dataset.hpp": "", "dist/job.hpp": "", **files}.items():
            path = pathlib.Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)


class IncludesTest(unittest.TestCase):
    def test_correct_tree(self):
        result = run({"graph/partition.cpp": '#include <metis.h>\n#include "data/dataset.hpp"\n',
                      "dist/job.cpp": '#include <mpi.h>\n', "cli/main.cpp": '#include "core/error.hpp"\n'})
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_faults(self):
        for name, text in [
            ("core/a.cpp", '#include "data/dataset.hpp"\n'),
            ("data/a.cpp", '#include "dist/job.hpp"\n'),
            ("dist/a.cpp", '#include "data/dataset.hpp"\n'),
            ("graph/shard.cpp", "#include <metis.h>\n"),
            ("graph/a.cpp", "#include <mpi.h>\n"),
            ("core/b.cpp", "  #  include <torch/nn/module.h>\n"),
            ("core/c.cpp", '#include "../core/error.hpp"\n'),
            ("core/d.cpp", '#include "core/missing.hpp"\n'),
        ]:
            with self.subTest(name=name, text=text):
                result = run({name: text})
                self.assertEqual(result.returncode, 1)
                self.assertIn(f"{name}:1:", result.stdout)
                self.assertIn("1 faults", result.stdout)


if __name__ == "__main__":
    unittest.main()
