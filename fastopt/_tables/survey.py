"""The first reading of a file to train on: how many rows there are, their targets, and the texts of its columns.

A text is kept once, and a number for each row. A column that holds numbers beside text, dates, or another text in
every row is refused with advice.
"""

import array
from collections import defaultdict

import numpy as np

from fastopt._numbers import LARGEST
from fastopt._tables.columns import CLASSIFY, COUNT, REGRESS, Column
from fastopt._tables.fields import NotANumberError
from fastopt._tables.source import NUMBER, missing_value, some

MOST_TEXTS = 50_000  # different ones of a column
FEW_ROWS = 20  # in so many, texts that all differ say nothing yet
LIMIT = float(np.finfo(np.float32).max)


def target_words(block, place) -> list[str]:
    """The targets of a block, its last words, none of them missing."""
    words = block.words[-1]
    if None in words:
        raise missing_value(block, words.index(None), place, "leave out rows without a target")
    return words


def target_numbers(source, block, place) -> np.ndarray:
    """The targets of a block as finite numbers, none of them missing."""
    words = target_words(block, place)
    try:
        values = source.fields.numbers(words)
    except NotANumberError as error:
        raise source.fields.no_number(block.where(error.place, place), words[error.place]) from None
    bad = ~(np.abs(values) <= LIMIT)
    if bad.any():
        row = int(bad.argmax())
        if np.isnan(values[row]):
            raise missing_value(block, row, place, "leave out rows without a target")
        found = f"expected a finite number within ±{LIMIT:.3g}, got {words[row]}"
        raise ValueError(f"{block.where(row, place)}: {found}")
    return values


def no_counts(values) -> np.ndarray:
    """Where values are no counts, which are whole numbers of at least 0."""
    return (values < 0) | (values != np.floor(values))


class Survey:
    """What has been found in a source.

    Parameters
    ----------
    source : Source
    text : list of int
        Places of the columns of text, the target not among them.
    y_place : int
        The target's.
    y_kind : str
        NUMBER or TEXT.
    codes : set of int
        Places of columns that may hold numbers beside text.
    impute : bool
        Whether texts may be missing.
    """

    def __init__(self, source, text, y_place, y_kind, codes, impute):
        self.source, self.y_place, self.y_is_number = source, y_place, y_kind == NUMBER
        self.whole = self.y_is_number  # whether every target is written as a whole number
        self._texts = {place: _Texts(source, place, place in codes) for place in text}
        labels = _Texts(source, y_place, y_place in codes)
        values = array.array("d")
        for block in source.blocks([], [*text, y_place]):
            for (place, texts), words in zip(self._texts.items(), block.words, strict=False):
                if None in words and not impute:
                    raise missing_value(block, words.index(None), place)
                texts.add(words, block)
            words = block.words[-1]
            if self.y_is_number:
                values.frombytes(target_numbers(source, block, y_place).tobytes())
                self.whole = self.whole and all(word.lstrip("+-").isdigit() for word in words)
            else:
                labels.add(target_words(block, y_place), block)
        self._labels, self._values = labels, np.frombuffer(values) if values else np.empty(0)

    # ---------------------------------------------------------------- the target

    def task(self, told) -> str:
        """What to predict: as told, or by how the targets are written; ValueError if that says nothing."""
        name = self.source.label(self.y_place)
        if told is not None:
            if told != CLASSIFY and not self.y_is_number:
                raise ValueError(f"--task {told}: expected numbers in column {name}, got text; --task classify")
            return told
        if not self.y_is_number:
            return CLASSIFY
        if not self.whole:
            return REGRESS
        present = np.unique(self._values)
        if len(present) == 2 or any(np.array_equal(present, np.arange(len(present)) + first) for first in (0, 1)):
            return CLASSIFY
        shown = some([f"{value:.15g}" for value in present])
        raise ValueError(
            f"column {name}: expected --task classify, regress or count, for its whole numbers may be any of them, "
            f"got none and {shown}"
        )

    def targets(self, task) -> tuple[np.ndarray, list | None]:
        """The target of each row, and the labels of classes, whose numbers the targets are then."""
        name = self.source.label(self.y_place)
        if task != CLASSIFY:
            bad = no_counts(self._values)
            if task == COUNT and bad.any():
                got = self._values[bad.argmax()]
                raise ValueError(f"column {name}: expected counts, whole numbers of at least 0, got {got:g}")
            return self._values, None
        if self.y_is_number:
            if np.abs(self._values).max() >= LARGEST:  # from there on, float64 makes one label of several
                raise ValueError(f"column {name}: expected labels below 2**53, got larger ones; --categories {name}")
            present, y = np.unique(self._values, return_inverse=True)
            labels = [int(label) if label == int(label) else float(label) for label in present.tolist()]
        else:
            words = self._labels.words()
            order = sorted(range(len(words)), key=words.__getitem__)
            labels, y = [words[i] for i in order], np.argsort(order)[self._labels.codes()]
        if len(labels) == len(y) > FEW_ROWS:
            raise ValueError(f"column {name}: expected classes of several rows, got another in each of {len(y)}")
        if len(labels) < 2:
            way_out = "" if not self.y_is_number else "; predict values with --task regress"
            raise ValueError(f"column {name}: expected two classes or more, got {labels[0]} only{way_out}")
        return y, labels

    # ---------------------------------------------------------------- columns of text

    def column(self, place, name, kept, most) -> Column:
        """A column of text: its most frequent categories among the rows `kept`, at most `most` of them."""
        return self._texts[place].column(name, kept, most)

    def set_categories(self, place, column, features, place_of) -> None:
        """Put a 1 into the feature of each row's category, of `features` (n, width), which are those of the column."""
        texts = self._texts[place]
        offset_of = np.array([column.offset(word) for word in texts.words()])
        offsets = offset_of[texts.codes()]
        rows = np.flatnonzero(offsets >= 0)
        features[place_of[rows], offsets[rows]] = 1


class _Texts:
    """The texts of a column as numbers, in the order in which they come."""

    def __init__(self, source, place, told):  # told: a caller has said that these are categories
        self.source, self.place, self.told = source, place, told
        self._index: defaultdict[str | None, int] = defaultdict()
        self._index.default_factory = self._index.__len__
        self._codes = array.array("i")

    def add(self, words, block) -> None:
        known = len(self._index)
        self._codes.extend(map(self._index.__getitem__, words))
        if len(self._index) == known:
            return
        for word in list(self._index)[known:]:
            if word is not None and not self.told:
                self._check(word, words, block)
        if len(self._index) > MOST_TEXTS and not self.told:
            raise self._too_many(f"more than {MOST_TEXTS} different texts")

    def _check(self, word, words, block):
        """Raise ValueError for a date, a number with commas, or a number beside text."""
        where = block.where(words.index(word), self.place)
        if self.source.fields.is_number(word):
            other = next(known for known in self._index if known is not None and known != word)
            way_out = "--categories NAME takes both for text, --missing WORD a word for a missing number"
            raise ValueError(f"{where}: expected text, as in rows before, got both: {other!r} and {word!r}; {way_out}")
        why = self.source.fields.why_no_word(word)
        if why is not None:
            raise ValueError(f"{where}: expected a number or text, got {why}")

    def _too_many(self, what) -> ValueError:
        label = self.source.label(self.place)
        way_out = f"leave it out with --drop {label}, or keep it with --categories {label}"
        return ValueError(f"{self.source.path}: column {label}: expected categories, got {what}; {way_out}")

    def words(self) -> list:
        """Every text, by its number."""
        return list(self._index)

    def codes(self) -> np.ndarray:
        """The number of each row's text."""
        return np.frombuffer(self._codes, np.intc)

    def column(self, name, kept, most) -> Column:
        words, codes = self.words(), self.codes()
        n = len(codes)
        if len(words) == n > max(most, FEW_ROWS) and not self.told:
            raise self._too_many(f"another text in each of {n} rows")
        counts = np.bincount(codes[kept], minlength=len(words))
        order = [i for i in np.argsort(-counts, kind="stable") if counts[i] and words[i] is not None]
        missing = None in self._index and bool(counts[self._index[None]])
        chosen = [words[i] for i in order[:most]]
        return Column(name, chosen, other=len(order) > most, missing=missing)
