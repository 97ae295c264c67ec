"""Counts the last ctest run of each build folder given, from its tests.xml (ctest --output-junit).

usage: count_tests.py [--no-skips [--gpu [--nccl]]] BUILD…

Prints the GoogleTest cases, the tests and cases that were skipped, and as the last line the ctest tests
of all folders: "N passed, M failed". With --no-skips a skip for another reason than those below fails;
with --gpu one for want of a GPU fails too, with --nccl one for want of a GPU for each rank, and so does
a test none of whose cases over NCCL was run, or a run without any.
"""

import collections
import pathlib
import re
import sys
import xml.etree.ElementTree

# Reasons that lie in the run itself (ranks, user, device), not in something that is not installed.
ALLOWED = (r"needs \w+ ranks|runs on one rank|one process is enough|missing pieces would be waited for"
           r"|root may write|tmpfs|NCCL leaves this undefined"
           r"|needs a machine without a GPU|needs a build without NCCL|cannot share a replica"
           r"|on CUDA only|of compute capability|four ranks hold all grids|a sanitizer's allocator|of one process"
           r"|measures with tensors in maps of their own|this CPU has no matrix unit")
SHARED_GPU = r"|needs \d+ GPUs, one for each rank"
WITHOUT_GPU = r"|needs a GPU|needs NCCL"
SHOWN = 4  # cases named of one test; all are in the log
SECTION = re.compile(r"^\d+/\d+ Testing: (.*)$")
STARTED = re.compile(r"^\[ RUN      \] ")
SKIPPED_CASE = re.compile(r"^\[  SKIPPED \] (\S+)(?:, where .*)? \(\d+ ms\)$")
NCCL_CASE = re.compile(r"^\[ (RUN     |      OK) \] \S*cuda_nccl")


def skipped_cases(log: str):
    """Yields (reason, ctest test, case) of every GoogleTest case that was skipped."""
    test, reason, lines = "", "", iter(log.splitlines())
    for line in lines:
        if match := SECTION.match(line):
            test = match[1]
        elif STARTED.match(line):
            reason = "no reason given"
        elif line.endswith(": Skipped"):
            reason = next(lines, "")
        elif match := SKIPPED_CASE.match(line):
            yield reason, test, match[1]


def passed_over_nccl(log: str):
    """{ctest test: cases over NCCL that passed} of every test that has such cases."""
    test, passed = "", {}
    for line in log.splitlines():
        if match := SECTION.match(line):
            test = match[1]
        elif match := NCCL_CASE.match(line):
            passed[test] = passed.get(test, 0) + match[1].endswith("OK")
    return passed


def main() -> int:
    no_skips = "--no-skips" in sys.argv
    allowed = ALLOWED + ("" if "--nccl" in sys.argv else SHARED_GPU) + ("" if "--gpu" in sys.argv else WITHOUT_GPU)
    allowed_reasons = re.compile(allowed)
    passed = failed = cases = case_failures = 0
    skipped = collections.defaultdict(list)
    for folder in (pathlib.Path(argument) for argument in sys.argv[1:] if not argument.startswith("--")):
        try:
            suite = xml.etree.ElementTree.parse(folder / "tests.xml").getroot()
            log = (folder / "Testing" / "Temporary" / "LastTest.log").read_text(encoding="utf-8", errors="replace")
        except (OSError, xml.etree.ElementTree.ParseError) as error:
            sys.exit(f"{folder}: no result of ctest: {error}")
        states = [test.get("status") for test in suite.iter("testcase")]
        passed += states.count("run")
        failed += states.count("fail")
        cases += sum(int(n) for n in re.findall(r"^\[  PASSED  \] (\d+) tests?\.", log, re.MULTILINE))
        case_failures += sum(int(n) for n in re.findall(r"^\[  FAILED  \] (\d+) tests?, listed below", log, re.MULTILINE))
        for test in suite.iter("testcase"):
            if test.get("status") in ("notrun", "disabled"):
                skipped["not run: a tool or package is missing"].append((f"{folder.name}: {test.get('name')}", ""))
        if "--nccl" in sys.argv:
            for test, count in (passed_over_nccl(log) or {"all": 0}).items():
                if count == 0:
                    skipped["no case over NCCL was run"].append((f"{folder.name}: {test}", ""))
        for reason, test, case in skipped_cases(log):
            skipped[reason].append((f"{folder.name}: {test}", case))
    print(f"GoogleTest cases (each once per rank count): {cases} passed, {case_failures} failed")
    refused = 0
    for reason, names in sorted(skipped.items()):
        is_allowed = allowed_reasons.search(reason) is not None
        refused += 0 if is_allowed else len(names)
        print(f"skipped ({reason}{'; must not be here' if no_skips and not is_allowed else ''}):")
        cases_of = collections.defaultdict(list)
        for test, case in names:
            cases_of[test].append(case)
        for test, skipped_here in cases_of.items():
            more = f" and {len(skipped_here) - SHOWN} more" if len(skipped_here) > SHOWN else ""
            print(f"  {test} {' '.join(skipped_here[:SHOWN])}{more}".rstrip())
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed or (no_skips and refused) else 0


if __name__ == "__main__":
    sys.exit(main())
