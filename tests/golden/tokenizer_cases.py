"""What tokenizers are compared on: random and nasty strings, and variants of a tokenizer.json."""
import copy
import random
import sys

WORDS = """the of and Toy Story (1995) Star Wars: A New Hope naïve café Les Misérables Amélie 七人の侍 千と千尋の神隠し
Война и мир 기생충 الرسالة रंग दे बसंती don't can't I'll we've you're he'd I'm 'Twas O'Brien 3.14159 1,000,000 12:30pm
e-mail@example.com https://example.com/?q=a%20b&c=[1] C++ #hashtag $9.99 50% naïveté co-operate ﬁne ﬀ ſ 'ſ 'S 'LL 'Re
\u212a ½ ² ③ Ⅷ ٣ ௧ 一二三 \U0001d7d8 \U0001f600 \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea é é 각 각 ǅ ʰ ª º _ __init__
""".split()
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\u00a0", "\u0085", "\u2003", "\u3000", "\u2028", "\u180e", "\u200b",
          "\ufeff", "\x0b", "\x0c", "\x1c", "\x1f", "\u1680", "\u202f"]
PUNCTUATION = ["'", '"', "’", "“", "”", "—", "…", "!", "?!", "...", ",", ", ", ";", "(", ")", "[", "]", "{", "}", "<", ">", "|", "/",
               "\\", "\x00", "\x04", "\x06", "\x7f", "\u0300", "\u0301", "\u20dd", "\ufe0f", "\u200d", "\ufffd", "\ue000", "\U000f0000",
               "\U0010ffff", "\u0378", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'"]


def code_point(rng):
    """A code point of any plane, no surrogate; mostly assigned ones."""
    kind = rng.random()
    if kind < 0.25:
        return chr(rng.randrange(0x80))
    if kind < 0.45:
        return chr(rng.randrange(0x80, 0x600))
    if kind < 0.8:
        c = rng.randrange(0x600, 0x10000 - 0x800)
        return chr(c if c < 0xD800 else c + 0x800)
    if kind < 0.95:
        return chr(rng.randrange(0x10000, 0x20000))
    return chr(rng.randrange(0x10000, sys.maxunicode + 1))


def string(rng, special=()):
    """One string."""
    pieces = []
    style = rng.random()
    for _ in range(rng.choice([0, 1, 1, 2, 3, 4, 6, 8, 12, 20, 40]) if style < 0.99 else rng.randrange(100, 400)):
        kind = rng.random()
        if style < 0.3:  # prose
            pieces.append(rng.choice(WORDS) + rng.choice([" ", " ", " ", ", ", "\n", ". ", "  "]))
        elif kind < 0.2:
            pieces.append(rng.choice(WORDS))
        elif kind < 0.4:
            pieces.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 3, 7]))
        elif kind < 0.6:
            pieces.append(rng.choice(PUNCTUATION) * rng.choice([1, 1, 1, 2, 3, 9]))
        elif kind < 0.7:
            pieces.append(str(rng.randrange(10 ** rng.randrange(1, 9))))
        elif kind < 0.78:
            pieces.append("".join(rng.choice("abcdeinorst") for _ in range(rng.randrange(1, 30))))
        elif kind < 0.83 and special:
            token = rng.choice(special)
            pieces.append(token if rng.random() < 0.7 else token[: rng.randrange(len(token))])
        elif kind < 0.85:
            pieces.append(code_point(rng) * rng.randrange(1, 80))
        else:
            pieces.append("".join(code_point(rng) for _ in range(rng.randrange(1, 6))))
    return "".join(pieces)


def strings(count, seed, special=()):
    """`count` strings; equal for equal arguments and Python version."""
    rng = random.Random(seed)
    return [string(rng, special) for _ in range(count)]


def varied_strings(count, seed, special=(), titles=(), lines=()):
    """`count` strings: a half as strings() makes them, the others real titles in quotes and in lists, lines of code and
    prose, random bytes as UTF-8, long runs, and special tokens' texts between all that."""
    rng = random.Random(seed)

    def title():
        return f'"{rng.choice(titles)}"' if titles else string(rng, special)

    def one():
        kind = rng.randrange(12)
        if kind < 6:
            return string(rng, special)
        if kind < 8:
            return ", ".join(title() for _ in range(rng.choice([1, 1, 1, 2, 5]))) if rng.random() < 0.9 else ", " + title()
        if kind == 8:
            return "\n".join(rng.choice(lines) for _ in range(rng.randrange(1, 4))) if lines else string(rng, special)
        if kind == 9:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(40))).decode(errors=rng.choice(["replace", "ignore"]))
        if kind == 10:
            runs = (rng.choice([" ", "\u2581", "a", "ab", "\n", "-", "=", "0", "\u00e9", "the", " a"]) * rng.randrange(1, 70)
                    for _ in range(rng.randrange(1, 4)))
            return "".join(runs)
        return "".join(rng.choice([rng.choice(special) if special else "<s>", title(), " ", "", string(rng, special)])
                       for _ in range(rng.randrange(1, 6)))

    return [one() for _ in range(count)]


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def byte_level(add_prefix_space=False, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def merge_patch(base, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def variants(base):
    """{name: merge patch of the tokenizer.json `base`}: everything that our reader supports."""
    # (content, flags): HF gives a known token the vocabulary's id, another one the next free id.
    contents = [("Toy", 1), ("'s", 2), ("ab", 4), ("é", 8), ("st", 8 + 7), ("ing", 1 + 8), ("<|im", 6), ("e\u0301e", 8 + 6),
                ("the", 16 + 7), ("\n\n", 16)]
    vocabulary, added = base["model"]["vocab"], list(base["added_tokens"])
    for content, flags in contents:
        free = max(len(vocabulary) - 1, *(token["id"] for token in added)) + 1
        added.append({"id": vocabulary.get(content, free), "content": content, "single_word": flags & 1 > 0,
                      "lstrip": flags & 2 > 0, "rstrip": flags & 4 > 0, "normalized": flags & 8 > 0,
                      "special": flags & 16 > 0})
    result = {
        "as is": {},
        "as GGUF": {"normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": byte_level(),
                    "model": {"byte_fallback": True},
                    "decoder": {"type": "Sequence", "decoders": [
                        {"type": "ByteFallback"}, {"type": "Fuse"},
                        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, byte_level(True)]}},
        "digit runs": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level(True))},
        "no regex": {"pre_tokenizer": byte_level(use_regex=False)},
        "llama 3": {"pre_tokenizer": sequence(split({"Regex": LLAMA3}), byte_level(use_regex=False)),
                    "model": {"ignore_merges": True}},
        "qwen 2": {"pre_tokenizer": sequence(split({"Regex": LLAMA3.replace("{1,3}", "")}), byte_level(use_regex=False)),
                   "normalizer": {"type": "NFC"}},
        "added tokens": {"added_tokens": added, "normalizer": {"type": "NFD"}},
        "no unknown": {"model": {"unk_token": None, "fuse_unk": False}},
        "unfused": {"model": {"fuse_unk": False, "byte_fallback": False}, "pre_tokenizer": byte_level(use_regex=False)},
    }
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            pattern = {"String": "e"} if invert else {"Regex": r"[aeiou\s]"}
            result[f"{behavior} {invert}"] = {"pre_tokenizer": sequence(split(pattern, behavior, invert), byte_level())}
    return result


def metaspace(scheme, split_words):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split_words}


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def sentencepiece_variants(base):
    """The same for a tokenizer.json in SentencePiece's manner, as HF's converter makes it."""
    added = [token | {"normalized": True, "lstrip": True, "single_word": token["id"] == 2} for token in base["added_tokens"]]
    always = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "as is": {},
        "first": {"normalizer": None, "pre_tokenizer": metaspace("first", False)},
        "always": {"normalizer": None, "pre_tokenizer": metaspace("always", True), "decoder": always},
        "never": {"normalizer": None, "pre_tokenizer": metaspace("never", True), "decoder": always | {"prepend_scheme": "never"}},
        "behind a split": {"normalizer": None, "pre_tokenizer": sequence(
            split({"String": "a"}, "MergedWithPrevious"), metaspace("first", False))},
        "gemma": {"normalizer": replace({"String": " "}, "▁"), "pre_tokenizer": split({"String": " "}, "MergedWithPrevious")},
        "runs": {"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, replace({"Regex": " {2,}"}, "▁"), {"type": "Prepend", "prepend": "▁"}]}},
        "normalized": {"added_tokens": added},
        "no bytes": {"model": {"byte_fallback": False}},
        "no bytes, unfused": {"model": {"byte_fallback": False, "fuse_unk": False}},
        "ignore merges": {"pre_tokenizer": metaspace("always", True), "normalizer": None, "model": {"ignore_merges": True}},
    }
