"""How alike are questions? Keys that ignore typesetting, shared n-grams, and MinHash.

Everything here is a pure function of texts: no seed but fixed ones, no order of threads, so the
same texts give the same findings on every machine.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PERMUTATIONS, BANDS = 128, 32
SHINGLE = 3  # words of which MinHash compares the sets
_CHUNK = 4096  # texts whose hashes are in memory at one time
_TYPESET = re.compile(
    r"\\(?:left|right|displaystyle|limits|quad|qquad|text|mathrm|textbf|mathbf|mbox|textit)"
    r"(?![a-z])|\\(?=[dt]?frac(?![a-z]))|\\[,;:!]"
)
_FRACTION = re.compile(r"(?<![a-z])[dt]frac(?![a-z])")
# Between digits: of thousands, ignored; other commas and points tell 1.5 from 15. A point with
# spaces ends a sentence.
_THOUSANDS = re.compile(r"(?<=\d)[\s{}$\\]*,[\s{}$\\]*(?=\d{3}(?!\d))")
_SEPARATOR = re.compile(r"(?<=\d)(?:[{}$]*(\.)[{}$]*|[\s{}$\\]*[,;][\s{}$\\]*)(?=\d)")
# Of \frac12 and \binom{3}{2}, where one part ends and the next begins.
_PARTS = re.compile(r"frac\s*(?:(\d)|\{\s*(\d+)\s*\})[\s{]*(?=\d)|(?<=\d)\s*\}[\s}]*\{[\s{]*(?=\d)")
_IGNORED = re.compile(r"(?!(?<=\d)[.,](?=\d))[^\w+\-*/=<>^!|%]|_")
_WORD = re.compile(r"[^\W_]+")


def question_key(text: str) -> str:
    r"""A question without case, spaces, punctuation and what typesetting adds; signs stay.

    So do points and commas between digits, but not those of thousands, and the parts of fractions.

    >>> question_key(r"Find $\dfrac{1}{2} + x$.") == question_key(r"find \frac12+x")
    True
    >>> question_key("3 + 4") == question_key("3 - 4")
    False
    >>> question_key("1.5"), question_key("(1, 23)"), question_key("1,000")
    ('1.5', '1,23', '1000')
    >>> question_key(r"\frac{1}{23}"), question_key(r"\frac{12}3")
    ('frac1,23', 'frac12,3')
    """
    text = _TYPESET.sub("", unicodedata.normalize("NFKC", text).lower())
    text = _THOUSANDS.sub("", _FRACTION.sub("frac", text))
    text = _SEPARATOR.sub(lambda found: found.group(1) or ",", text)
    text = _PARTS.sub(_told_apart, text)
    return _IGNORED.sub("", text)


def _told_apart(found: re.Match) -> str:
    above = found.group(1) or found.group(2)
    return f"frac{above}," if above else ","


def letters_and_digits(text: str) -> str:
    """A text's letters and digits, in lower case: by these DeepScaleR has 7 of MATH-500."""
    return "".join(_WORD.findall(text.lower()))


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Pair:
    """A training question that is like an evaluation problem.

    Attributes:
        row: Row of the training set.
        against: Row of the evaluation set.
        score: How much alike, from 0 to 1.
    """

    row: int
    against: int
    score: float


def exact(questions: Sequence[str], problems: Sequence[str]) -> list[Pair]:
    """Pairs that are the same in letters and digits. Problems without any are left out."""
    known = defaultdict(list)
    for number, problem in enumerate(problems):
        key = letters_and_digits(problem)
        if key:
            known[key].append(number)
    return [
        Pair(row, number, 1.0)
        for row, question in enumerate(questions)
        for number in known.get(letters_and_digits(question), ())
    ]


class Hashes:
    """The words of texts as numbers of 64 bits, text after text.

    Attributes:
        values: [W] the words of all texts.
        starts: [N + 1] where each text's begin.
    """

    def __init__(self, texts: Sequence[str], known: dict[str, int] | None = None) -> None:
        """Hash the words of texts; `known` keeps hashes of words from one call to the next."""
        known = {} if known is None else known
        values: list[int] = []
        starts = [0]
        for text in texts:
            for word in words(text):
                value = known.get(word)
                if value is None:
                    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                    value = known[word] = int.from_bytes(digest, "little")
                values.append(value)
            starts.append(len(values))
        self.values = np.array(values, np.uint64)
        self.starts = np.array(starts, np.int64)

    def grams(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of each text's different runs of `length` words, and the text each is of.

        A text of fewer words has none.
        """
        count = max(0, len(self.values) - length + 1)
        text = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        rolled = np.zeros(count, np.uint64)
        for place in range(length):  # sum of word * odd constant ^ place, modulo 2^64
            rolled = rolled * _ODD + self.values[place : place + count]
        inside = text[:count] == text[length - 1 :] if count else np.zeros(0, bool)
        found = np.stack([text[:count][inside].astype(np.uint64), rolled[inside]])
        unique = np.unique(found, axis=1) if found.size else found
        return unique[1], unique[0].astype(np.int64)


_ODD = np.uint64(0x9E3779B97F4A7C15)


def shared_grams(
    questions: Sequence[str], problems: Sequence[str], length: int, share: float
) -> list[Pair]:
    """Pairs where at least `share` of the problem's n-grams of words stand in the question.

        score = |grams(question) and grams(problem)| / |grams(problem)|

    Problems of fewer than `length` words have no n-gram: `exact` finds those.
    """
    hashes, of = Hashes(problems).grams(length)
    sizes = np.bincount(of, minlength=len(problems))
    order = np.argsort(hashes, kind="stable")
    hashes, of = hashes[order], of[order]
    pairs, known = [], {}
    for start in range(0, len(questions), _CHUNK):
        grams, text = Hashes(questions[start : start + _CHUNK], known).grams(length)
        low, high = np.searchsorted(hashes, grams), np.searchsorted(hashes, grams, side="right")
        shared: dict[tuple[int, int], int] = defaultdict(int)
        for place in np.flatnonzero(high > low):
            for number in of[low[place] : high[place]]:
                shared[start + int(text[place]), int(number)] += 1
        pairs += [
            Pair(row, number, float(count / sizes[number]))
            for (row, number), count in sorted(shared.items())
            if count >= share * sizes[number]
        ]
    return pairs


def near_duplicates(
    questions: Sequence[str], problems: Sequence[str], similarity: float
) -> list[Pair]:
    """Pairs whose sets of word triples have a Jaccard similarity of at least `similarity`.

        J(a, b) = |a and b| / |a or b|

    MinHash with 128 permutations in 32 bands of 4 gives the candidates, of which J is then
    computed. A pair of J = 0.8 is missed with a chance of (1 - 0.8^4)^32 < 1e-7.

    Source:
        Broder 1997, "On the resemblance and containment of documents".
    """
    signatures, sets, order = _signatures(problems, {})
    bands: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(BANDS)]
    for number, bucket in zip(order, _buckets(signatures), strict=True):
        for band, value in enumerate(bucket.tolist()):
            bands[band][value].append(number)
    known_values = [np.array(sorted(band), np.uint64) for band in bands]
    pairs, known = [], {}
    for start in range(0, len(questions), _CHUNK):
        signatures, mine, numbers = _signatures(questions[start : start + _CHUNK], known)
        buckets = _buckets(signatures)
        candidates: set[tuple[int, int]] = set()
        for band, values in enumerate(known_values):
            for place in np.flatnonzero(np.isin(buckets[:, band], values)):
                for other in bands[band][int(buckets[place, band])]:
                    candidates.add((numbers[place], other))
        for row, other in sorted(candidates):
            score = _jaccard(mine[row], sets[other])
            if score >= similarity:
                pairs.append(Pair(start + row, other, score))
    return pairs


def _signatures(
    texts: Sequence[str], known: dict[str, int]
) -> tuple[np.ndarray, Mapping[int, np.ndarray], list[int]]:
    """Of texts with a triple: signatures [n, PERMUTATIONS], sets of triples by row, and rows."""
    grams, of = Hashes(texts, known).grams(SHINGLE)
    present, firsts = np.unique(of, return_index=True)
    if not len(present):
        return np.zeros((0, PERMUTATIONS), np.uint64), {}, []
    random = np.random.Generator(np.random.PCG64(0))
    factors = random.integers(0, 2**63, PERMUTATIONS, np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = random.integers(0, 2**63, PERMUTATIONS, np.uint64)
    signature = np.empty((len(present), PERMUTATIONS), np.uint64)
    for column, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
        mixed = (grams * factor + offset) >> np.uint64(32)
        signature[:, column] = np.minimum.reduceat(mixed, firsts)
    rows = present.tolist()
    return signature, dict(zip(rows, np.split(grams, firsts[1:]), strict=True)), rows


def _buckets(signatures: np.ndarray) -> np.ndarray:
    """[n, BANDS] one number for the values of each band."""
    rows = PERMUTATIONS // BANDS
    banded = signatures.reshape(-1, BANDS, rows)
    mixed = np.zeros(banded.shape[:2], np.uint64)
    for place in range(rows):
        mixed = mixed * _ODD + banded[:, :, place]
    return mixed


def _jaccard(left: np.ndarray, right: np.ndarray) -> float:
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)
