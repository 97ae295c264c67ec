"""Ratios of two programs' times with their intervals, and the table of them: what benchmarks/peers reports."""

import dataclasses
import math
import statistics


def median_interval(values: list[float]) -> tuple[float, float] | None:
    """95 % interval of the median by order statistics, whatever the distribution; none for fewer than six values."""
    count = len(values)
    below, rank = 0.0, -1
    for k in range(count // 2):
        below += math.comb(count, k) / 2**count
        if below > 0.025:
            break
        rank = k
    if rank < 0:
        return None
    ordered = sorted(values)
    return ordered[rank], ordered[count - 1 - rank]


@dataclasses.dataclass
class Comparison:
    """A line of the table. `theirs` and `ours` are costs (seconds, rows …) of the same work, taken in pairs and in turns; a
    ratio above 1 is in our favour. With `work`, a cost is shown as a rate. Without costs, `note` says why."""

    peer: str
    what: str
    unit: str = "s"
    theirs: list[float] = dataclasses.field(default_factory=list)
    ours: list[float] = dataclasses.field(default_factory=list)
    work: float | None = None
    note: str = ""

    def ratios(self) -> list[float]:
        if len(self.theirs) != len(self.ours):
            raise ValueError(f"{self.peer}, {self.what}: {len(self.theirs)} costs of theirs, {len(self.ours)} of ours")
        return [theirs / ours for theirs, ours in zip(self.theirs, self.ours)]

    def _shown(self, costs: list[float]) -> str:
        cost = statistics.median(costs)
        value = self.work / cost if self.work else cost
        return f"{value:,.0f} {self.unit}" if value >= 1000 else f"{value:.3g} {self.unit}"

    def to_json(self) -> dict:
        result = dataclasses.asdict(self)
        if self.theirs:
            result["ratio"] = statistics.median(self.ratios())
            result["interval"] = median_interval(self.ratios())
        return result

    def line(self) -> str:
        if not self.theirs:
            return f"| {self.peer} | {self.what} | | | | | {self.note} |"
        ratio = statistics.median(self.ratios())
        interval = median_interval(self.ratios())
        between = f"{interval[0]:.2f} to {interval[1]:.2f}, {len(self.theirs)} pairs" if interval else ""
        verdict = f"**{ratio:.2f}**" if ratio >= 1 else f"{ratio:.2f}"
        return (f"| {self.peer} | {self.what} | {self._shown(self.theirs)} | {self._shown(self.ours)} | {verdict} "
                f"| {between} | {self.note} |")


HEADER = "| peer | what | peer's | graphlora's | ratio | 95 % interval | |\n|---|---|---:|---:|---:|---|---|"


def table(comparisons: list[Comparison]) -> str:
    return "\n".join([HEADER, *(comparison.line() for comparison in comparisons)]) + "\n"
