"""Counts the last ctest run of each build folder given, from its tests.xml (ctest --output-junit).

usage: count_tests.py BUILD…

Prints the GoogleTest cases, and as the last line the ctest tests of all folders: "N passed, M failed".
"""

import pathlib
import re
import sys
import xml.etree.ElementTree


def main() -> int:
    passed = failed = skipped = cases = case_failures = 0
    for folder in map(pathlib.Path, sys.argv[1:]):
        try:
            suite = xml.etree.ElementTree.parse(folder / "tests.xml").getroot()
            log = (folder / "Testing" / "Temporary" / "LastTest.log").read_bytes()
        except (OSError, xml.etree.ElementTree.ParseError) as error:
            sys.exit(f"{folder}: no result of ctest: {error}")
        states = [test.get("status") for test in suite.iter("testcase")]
        passed += states.count("run")
        skipped += states.count("notrun") + states.count("disabled")
        failed += states.count("fail")
        cases += sum(int(n) for n in re.findall(rb"^\[  PASSED  \] (\d+) tests?\.", log, re.MULTILINE))
        case_failures += sum(int(n) for n in re.findall(rb"^\[  FAILED  \] (\d+) tests?, listed below", log, re.MULTILINE))
    print(f"GoogleTest cases (each once per rank count): {cases} passed, {case_failures} failed")
    if skipped:
        print(f"not run (a tool is missing, or skipped): {skipped}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
