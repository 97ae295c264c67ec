"""benchmarks/peer_report.py: intervals and the table."""

import math
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
from peer_report import Comparison, median_interval, table  # noqa: E402


def coverage(count: int, low: int, high: int) -> float:
    """Probability that the median lies between the low-th and high-th of so many values, from 0."""
    return sum(math.comb(count, k) for k in range(low + 1, high + 1)) / 2**count


class PeerReportTest(unittest.TestCase):
    def test_interval_covers_and_is_the_narrowest(self):
        self.assertIsNone(median_interval([1.0] * 5))
        for count in range(6, 40):
            low, high = median_interval([float(value) for value in reversed(range(count))])
            self.assertEqual(low + high, count - 1)
            self.assertGreaterEqual(coverage(count, int(low), int(high)), 0.95)
            self.assertLess(coverage(count, int(low) + 1, int(high) - 1), 0.95)

    def test_a_ratio_is_of_pairs(self):
        slower_machine = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
        comparison = Comparison("peer", "work", "s", [3 * seconds for seconds in slower_machine], slower_machine)
        self.assertEqual(comparison.to_json()["ratio"], 3.0)
        self.assertEqual(comparison.to_json()["interval"], (3.0, 3.0))
        self.assertIn("| 18 s | 6 s | **3.00** | 3.00 to 3.00, 6 pairs |", comparison.line())

    def test_a_loss_is_shown_as_one(self):
        self.assertIn("| 1 s | 2 s | 0.50 |", Comparison("peer", "work", "s", [1.0], [2.0]).line())

    def test_a_rate(self):
        line = Comparison("peer", "work", "rows/s", [0.001], [0.00025], work=1).line()
        self.assertIn("| 1,000 rows/s | 4,000 rows/s | **4.00** |", line)

    def test_unequal_numbers_of_turns(self):
        with self.assertRaises(ValueError):
            Comparison("peer", "work", "s", [1.0, 2.0], [1.0]).line()

    def test_table_names_what_is_not_there(self):
        text = table([Comparison("DGL", "halo", note="not installed: no wheel"), Comparison("peer", "work", "s", [1.0], [1.0])])
        lines = text.splitlines()
        self.assertEqual(len(lines), 4)
        self.assertEqual({line.count("|") for line in lines}, {8})
        self.assertIn("not installed: no wheel", lines[2])


if __name__ == "__main__":
    unittest.main()
