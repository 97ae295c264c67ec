#!/usr/bin/env python3
"""Writes src/data/unicode_additions.hpp: code points that HF `tokenizers` knows and Unicode 14 does not.

The regular expressions inside HF `tokenizers` are asked for every code point and category; Python must be one whose
unicodedata is Unicode 14 (3.11), which is what Debian 12's PCRE2 and ICU (nearly) know.
"""
import pathlib
import sys
import unicodedata

from tokenizers import Regex, pre_tokenizers

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sc Sk Sm So".split()
HEADER = """// What newer versions of Unicode added: PCRE2 and ICU of older systems know Unicode 14 or 15, the
// Oniguruma inside HF `tokenizers` knows 16; a newer library has these anyway. Written by
// tests/golden/make_unicode_additions.py.
#pragma once

namespace graphlora {

struct NewCodePoints {
  char32_t first, last;
  char category[3];
};

constexpr NewCodePoints kNewCodePoints[] = {
"""
FOOTER = """};
/// Numbers of Unicode 17: known to Rust's standard library, which splits digits, not to Oniguruma.
constexpr NewCodePoints kNewestNumbers[] = {{0x11DE0, 0x11DE9, "Nd"}, {0x16FF4, 0x16FF6, "Nl"}};

}  // namespace graphlora
"""


def matches(pattern, characters):
    rest = set()  # "Removed" leaves what the pattern does not match
    for word, _ in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(characters):
        rest.update(word)
    return set(characters) - rest


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"this Python knows Unicode {unicodedata.unidata_version}, 14.0.0 is needed (Python 3.11)")
    new = {}
    for begin in range(0, sys.maxunicode + 1, 4096):
        chunk = "".join(chr(c) for c in range(begin, begin + 4096) if not 0xD800 <= c < 0xE000)
        if chunk:
            for category in CATEGORIES:
                for c in matches(rf"\p{{{category}}}", chunk):
                    if unicodedata.category(c) == "Cn":
                        new[ord(c)] = category
    ranges = []
    for c in sorted(new):
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == new[c]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, new[c]])
    body = "".join(f'    {{0x{first:X}, 0x{last:X}, "{category}"}},\n' for first, last, category in ranges)
    path = pathlib.Path(__file__).resolve().parents[2] / "src" / "data" / "unicode_additions.hpp"
    path.write_text(HEADER + body.rstrip(",\n") + FOOTER)
    print(f"{path}: {len(new)} code points in {len(ranges)} ranges")


if __name__ == "__main__":
    main()
