"""Exercises of chapters 00 and 01: what is trained on what, and text in pieces."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from rlhf_utils.course.checks.checking import check


# -- 00 -----------------------------------------------------------------------------------------------------
def comparisons(function: Callable) -> bool:
    """How many pairs does a ranking of K answers hold?"""
    mistakes = {
        "That compares each answer with itself as well, and each pair twice.": lambda k: k * k,
        "You counted each pair twice: A with B and B with A are one.": lambda k: k * (k - 1),
        "You compare each answer with itself, too.": lambda k: k * (k + 1) // 2,
        "That is how many answers there are, not how many pairs.": lambda k: k,
    }
    return check(function, [((2,), 1), ((4,), 6), ((9,), 36), ((1,), 0)], mistakes)


def learns_from(function: Callable) -> bool:
    """What each of the three models is given that people have made."""
    right = {"SFT": "demonstrations", "reward model": "rankings", "PPO": "prompts"}

    def but(**other):
        return lambda model: ({"SFT": "demonstrations", "RM": "rankings", "PPO": "prompts"} | other)[
            "RM" if model == "reward model" else model
        ]

    mistakes = {
        "PPO never sees a ranking: it gets prompts, and scores of its own answers.": but(PPO="rankings"),
        "PPO never sees what people wrote: it answers the prompts itself.": but(PPO="demonstrations"),
        "Nobody writes answers for the reward model: people rank answers of the SFT model.": but(
            RM="demonstrations"
        ),
        "With prompts alone there is nothing to imitate: SFT needs the answers that people wrote.": but(
            SFT="prompts"
        ),
    }
    return check(function, [((model,), data) for model, data in right.items()], mistakes)


def raised_shares(function: Callable) -> bool:
    """Shares in percent, none below a floor, that still sum to 100."""

    def once(shares, floor):
        rest = sum(s for s in shares.values() if s >= floor)
        left = 100 - floor * sum(s < floor for s in shares.values())
        return {k: floor if s < floor else s / rest * left for k, s in shares.items()}

    def scaled(shares, floor):
        raised = {k: max(s, floor) for k, s in shares.items()}
        return {k: 100 * s / sum(raised.values()) for k, s in raised.items()}

    mistakes = {
        "Your shares sum to more than 100: take what you add away from the others.": lambda shares, floor: {
            k: max(s, floor) for k, s in shares.items()
        },
        "You scaled the raised shares back down, below the floor: only the others may shrink.": scaled,
        "When the others shrink, another may fall below the floor: look again until none does.": once,
    }
    cases = [
        (({"a": 95.0, "b": 5.0}, 20.0), {"a": 80.0, "b": 20.0}),
        (({"a": 60.0, "b": 38.0, "c": 2.0}, 10.0), {"a": 55.102041, "b": 34.897959, "c": 10.0}),
        (({"a": 79.0, "b": 10.5, "c": 10.3, "d": 0.2}, 10.0), {"a": 70.0, "b": 10.0, "c": 10.0, "d": 10.0}),
    ]
    return check(function, cases, mistakes)


# -- 01 -----------------------------------------------------------------------------------------------------
def pieces(function: Callable) -> bool:
    """A word in the pieces that BPE's merges make of it, in the order in which they were learned."""

    def merge_all(tokens: list[str], merges: list[tuple[str, str]]) -> list[str]:
        for pair in merges:
            tokens = _merge(tokens, pair)
        return tokens

    def longest(word, merges):
        known, found = {"".join(pair) for pair in merges}, []
        while word:
            length = max([n for n in range(1, len(word) + 1) if word[:n] in known], default=1)
            found.append(word[:length])
            word = word[length:]
        return found

    def once(word, merges):
        tokens = list(word)
        for pair in merges:
            places = [i for i in range(len(tokens) - 1) if tuple(tokens[i : i + 2]) == pair]
            if places:
                tokens[places[0] : places[0] + 2] = ["".join(pair)]
        return tokens

    mistakes = {
        "You take the longest piece there is; BPE applies its merges in the order in which they were "
        "learned.": longest,
        "You begin with the merge that was learned last.": lambda w, m: merge_all(list(w), m[::-1]),
        "A merge joins its pair wherever it stands in the word, not only the first time.": once,
    }
    cases = [
        (("low", []), ["l", "o", "w"]),
        (("lower", [("l", "o"), ("lo", "w"), ("e", "r")]), ["low", "er"]),
        (("there", [("h", "e"), ("t", "h"), ("th", "e")]), ["t", "he", "r", "e"]),
        (("banana", [("a", "n")]), ["b", "an", "an", "a"]),
    ]
    return check(function, cases, mistakes)


def merged(function: Callable) -> bool:
    """Tokens with each occurrence of a pair made one token, from the left."""

    def first_only(tokens, pair):
        for i in range(len(tokens) - 1):
            if (tokens[i], tokens[i + 1]) == tuple(pair):
                return [*tokens[:i], "".join(pair), *tokens[i + 2 :]]
        return tokens

    def overlapping(tokens, pair):
        found = []
        for i, token in enumerate(tokens):
            both = (token, tokens[i + 1]) if i + 1 < len(tokens) else None
            found.append("".join(pair) if both == tuple(pair) else token)
        return found

    def without_last(tokens, pair):
        found, i = [], 0
        while i < len(tokens) - 1:
            both = (tokens[i], tokens[i + 1]) == tuple(pair)
            found.append("".join(pair) if both else tokens[i])
            i += 2 if both else 1
        return found

    mistakes = {
        "You merged the first occurrence only.": first_only,
        "After a merge the second token of the pair is used up: skip it.": overlapping,
        "You lose the last token when it is not part of a pair.": without_last,
    }
    cases = [
        ((["a", "b", "c", "a", "b"], ("a", "b")), ["ab", "c", "ab"]),
        ((["a", "a", "a"], ("a", "a")), ["aa", "a"]),
        ((["x"], ("a", "b")), ["x"]),
    ]
    return check(function, cases, mistakes)


def unknown_share(function: Callable) -> bool:
    """The share of a text's words that a vocabulary does not have."""
    mistakes = {
        "That is the share of words that are known.": lambda words, known: (
            sum(w in known for w in words) / len(words)
        ),
        "You counted each different word once: count every occurrence in the text.": lambda w, known: (
            len(set(w) - set(known)) / len(set(w))
        ),
        "That is the number of unknown words: divide it by the number of words.": lambda words, known: sum(
            w not in known for w in words
        ),
    }
    cases = [
        ((["the", "cow", "the", "yak"], ["the", "cow"]), 0.25),
        ((["a", "a", "b", "c", "c", "c"], ["a"]), 4 / 6),
        ((["a"], ["a"]), 0.0),
    ]
    return check(function, cases, mistakes)


def learned_merges(function: Callable) -> bool:
    """The first merges of BPE on a text that is split into words first, each with the space before it."""

    def learn(pieces: list[list[str]], count: int, anew: bool = True) -> list[tuple[str, str]]:
        def counted():
            return Counter(pair for piece in pieces for pair in pairwise(piece))

        if not anew:
            return [pair for pair, _ in counted().most_common(count)]
        found = []
        for _ in range(count):
            pair = counted().most_common(1)[0][0]
            found.append(pair)
            pieces = [_merge(piece, pair) for piece in pieces]
        return found

    def words(text: str) -> list[list[str]]:
        return [list(word) for word in re.findall(r" ?\S+", text)]

    mistakes = {
        "Your merges run across words: split the text into words first.": lambda t, n: learn([list(t)], n),
        "Count again after a merge: a merged pair makes new pairs.": lambda t, n: learn(words(t), n, False),
        "You counted each different word once: count every occurrence in the text.": lambda t, n: learn(
            [list(w) for w in dict.fromkeys(re.findall(r" ?\S+", t))], n
        ),
    }
    texts = [("low low lower newest", 3), ("the the the cat car can", 2), ("a b a b a b cd", 1)]
    return check(function, [((t, n), learn(words(t), n)) for t, n in texts], mistakes)


def _merge(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    found, i = [], 0
    while i < len(tokens):
        both = tuple(tokens[i : i + 2]) == pair
        found.append("".join(pair) if both else tokens[i])
        i += 2 if both else 1
    return found
