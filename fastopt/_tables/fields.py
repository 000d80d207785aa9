"""What the fields of a file say: a number, a missing value, a date, a word.

- A number is what NumPy writes: no underscores, no thousands separators, ASCII digits.
- A missing value is an empty field or one of a short list of words, as they stand; a caller may add to it.
- Nothing is guessed: what only looks like a number or a date is told apart from words, to be refused.
"""

import re

import numpy as np

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?")
MISSING_ADVICE = "--impute median fills missing values in; or leave the row out"
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE)
WITH_COMMAS = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?", re.ASCII)
WITH_UNIT = re.compile(r"[+-]?[$€£¥] ?[+-]?\d[\d.,]*|[+-]?\d[\d.,]* ?[$€£¥%]", re.ASCII)
_DAY = r"((mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?"
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DATE = re.compile(
    r"(19|20)\d{2}-(0\d|1[0-2])"  # a month, 2024-02
    r"|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?"  # 2024-02-29, also with a time
    r"|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( .*)?"  # 29.02.2024, 2/29/24
    rf"|{_DAY}\d{{1,2}}[. /-]+{_MONTH}[ /-]+\d{{2,4}}([ :].*)?"  # Thu, 29 Feb 2024 10:30
    rf"|{_DAY}{_MONTH}[ -]+\d{{1,2}}(st|nd|rd|th)?,?[ -]+\d{{4}}( .*)?"  # February 29, 2024
    r"|(\d+ days? )?\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?",  # a time of day, or a span of time
    re.ASCII | re.IGNORECASE,
)
POINTS_AND_COMMAS = str.maketrans(".,", ",.")
DATES_ADVICE = "write it as numbers, such as days since one of them, or year and month; or --drop or --categories NAME"


class NotANumberError(ValueError):
    """A field that is neither a number nor missing; `place` is its index."""

    def __init__(self, place):
        super().__init__(place)
        self.place = place


class Fields:
    """How fields are read.

    Parameters
    ----------
    decimal : str
        "." or ",".
    missing : sequence of str
        Words that stand for a missing value besides `MISSING`; those that are numbers do so by value.

    Attributes
    ----------
    added : list of str
        The words that `MISSING` does not have.
    """

    def __init__(self, decimal=".", missing=()):
        self.decimal = decimal
        self.added = [word for word in dict.fromkeys(missing) if word not in MISSING]
        self.missing = frozenset((*MISSING, *missing))
        self.missing_numbers = [float(word) for word in missing if NUMBER.fullmatch(word)]

    def is_number(self, field) -> bool:
        """Whether a field, stripped and not missing, is a number."""
        return NUMBER.fullmatch(self.with_point(field)) is not None

    def with_point(self, text) -> str:
        """Text whose numbers have a decimal point; a point that was none has become a comma, which no number has."""
        return text if self.decimal == "." else text.translate(POINTS_AND_COMMAS)

    def numbers(self, fields) -> np.ndarray:
        """Fields, stripped, in float64, NaN where one is missing; raises `NotANumberError`."""
        missing = self.missing
        plain = [self.with_point("nan" if field in missing else field) for field in fields]
        joined = " ".join(plain)
        if joined.isascii() and "_" not in joined:  # else Python takes for numbers what is none here
            try:
                return self.without_missing(np.fromiter(map(float, plain), np.float64, len(plain)))
            except ValueError:
                pass
        for place, field in enumerate(plain):
            if not NUMBER.fullmatch(field):
                raise NotANumberError(place)
        return self.without_missing(np.array(plain, dtype=np.float64))

    def words(self, fields) -> list[str | None]:
        """Fields, stripped, None where one is missing."""
        missing = self.missing
        return [None if field in missing else field for field in fields]

    def without_missing(self, values) -> np.ndarray:
        """The values, in which those that stand for missing ones have become NaN."""
        for number in self.missing_numbers:
            values[values == number] = np.nan
        return values

    def empty_numbers(self, delimiter) -> re.Pattern:
        """Finds missing values among the fields of lines, to put nan in their place."""
        words = "|".join(re.escape(word) for word in sorted(self.missing, key=len, reverse=True))
        edge = re.escape(delimiter)
        return re.compile(rf"(?:^|(?<={edge}))[^\S\n{edge}]*(?:{words})[^\S\n{edge}]*(?=$|{edge})", re.MULTILINE)

    def why_no_word(self, field) -> str | None:
        """What a field that is no number is instead of a word, with advice; None for a word."""
        if DATE.fullmatch(field):
            return f"a date or time, {field!r}; {DATES_ADVICE}"
        if WITH_COMMAS.fullmatch(self.with_point(field)):
            if self.decimal == ".":
                way_out = "of a decimal comma, say --decimal ,; leave thousands separators out"
                return f"a number with commas, {field!r}; {way_out}"
            return f"a number with points, {field!r}; its decimal sign is a comma, so leave thousands separators out"
        if WITH_UNIT.fullmatch(field):
            return f"a number with its unit, {field!r}; leave the unit out; or --drop or --categories NAME"
        return None

    def no_number(self, where, field) -> ValueError:
        """The error of a field that should be a number."""
        advice = "--missing takes it for a missing value, train --categories for text"
        return ValueError(f"{where}: expected a number, got {self.why_no_word(field) or f'{field!r}; {advice}'}")
