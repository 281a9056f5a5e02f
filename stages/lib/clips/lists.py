"""Csv files that come with clips, in any usual dialect: read them, or say in one sentence what is wrong and in which line."""

import codecs
import csv
import io
import math
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.lib.params import UserError, require

DELIMITERS = ",;\t|"
FRAMES_PER_SECOND = (0.1, 10_000)       # what is outside cannot be meant
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)                          # as in Excel's "Unicode text"
SEPARATOR = re.compile(r'\A"?sep=.?"?(?=[\r\n])', re.IGNORECASE)            # a line that tells Excel the separator
TEXT_CELL = re.compile(r'\A="([^"]*)"\Z')                                    # as Excel keeps a number as text
SHORTENED = re.compile(r"\s*\d([.,]\d+)?E\+\d+\s*")                          # as Excel saves a number of 12 digits or more


def read(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """The lines of a csv file as text, an empty field being the empty string; the index is the number of the line.

    Commas, semicolons, tabs or bars separate the fields; the encoding is UTF-8, UTF-16 or Windows-1252. Columns without a name,
    as pandas writes its index, are left out, and so are lines without any text.

    Args:
        path: of the file.
        columns: names that the first line must hold, in any order, in small or capital letters, with blanks around them.
        optional: names that it may hold, likewise.

    Returns:
        `columns` and `optional`, as they are spelled here, and all other columns, as they are spelled there. An optional column
        is only there if the file has it.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: no text, no line, a column is missing or there twice, a line does not fit the first one, or a patient
            was shortened.
    """
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(first[:10_000], columns), strict=True)
    try:
        lines = [(reader.line_num, [TEXT_CELL.sub(r"\1", field) for field in fields]) for fields in reader
                 if any(map(str.strip, fields))]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} cannot be read ({error}); put a text that holds a quote or separator "
                        'in quotes, and write "" for a quote in it') from None
    require(bool(lines), f"{path} is empty; its first line must name the columns {', '.join(columns)}")
    names = _names(path, lines[0][1], columns, optional)
    require(len(lines) > 1, f"{path} has no line below the one that names the columns")
    for number, fields in lines[1:]:
        fits = len(fields) >= len(names) and not any(map(str.strip, fields[len(names) :]))
        require(fits, f"{path}, line {number} has {len(fields)} fields, but the first line has {len(names)}; put a text that "
                "holds a separator in quotes")
    content = [fields[: len(names)] for _, fields in lines[1:]]
    table = pd.DataFrame(content, [number for number, _ in lines[1:]], names, dtype=str)
    for number, patient in table.get("patient", pd.Series(dtype=str)).items():
        require(not SHORTENED.fullmatch(patient), f"{path}, line {number}: the patient {patient} is a number that a "
                "spreadsheet shortened, so that patients can look alike: format the column as text, and fill it in again")
    return table.loc[:, [name != "" for name in names]]


def by_key(path: Path, table: pd.DataFrame, key: str) -> dict[str, dict[str, str]]:
    """The lines of a table that `read` gave, without blanks at the ends of their values, by their value in the column `key`.

    Raises:
        UserError: two lines say different things of one key.
    """
    table = table.apply(lambda column: column.str.strip())
    table = table[table[key] != ""].drop_duplicates()
    double = table[key][table[key].duplicated(keep=False)]
    lines = ", ".join(map(str, double.index[double == double.iloc[0]])) if len(double) else ""
    require(not lines, f"{path}, lines {lines} say different things of {''.join(double[:1])}: remove all but the right one")
    return table.set_index(key).to_dict("index")


def file(folder: Path, name: str, place: str) -> Path:
    """The path below `folder` that a line names: as it stands, as a file name may begin with a blank, else without blanks, else
    from Windows, else with accents encoded otherwise, as on a Macintosh.
    """
    require(bool(name.strip()), f"{place} has no path")
    choices = [name, name.strip(), name.strip().replace("\\", "/")]
    choices += [unicodedata.normalize(form, choices[-1]) for form in ("NFC", "NFD")]
    return Path(next((choice for choice in choices if os.path.exists(folder / choice)), name.strip()))


def plain(text: str) -> str:
    """A value without line breaks and needless blanks, its letters in one encoding."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def spellings(names: pd.Series) -> list[list[str]]:
    """Names that differ only in capitals, blanks, leading zeros of their numbers, a final `.0`, how a letter is encoded, or in
    characters that are not seen: those of each group, sorted.
    """
    names = pd.Series(sorted(set(names) - {""}), dtype=object)
    plain = names.map(_seen).str.casefold().str.removesuffix(".0").str.replace(r"(?<![\d.])0+(?=\d)", "", regex=True)
    return [group.tolist() for _, group in names.groupby(plain) if len(group) > 1]


def frame_rate(text: str, place: str) -> float:
    """The number, with a decimal point or comma; NaN if there is none."""
    low, high = FRAMES_PER_SECOND
    require(not re.fullmatch(r"\s*\d{1,3},\d{3}\s*", text), f"{place}: fps is {text!r}; write it without a comma, "
            "which can mean thousands or decimals")
    try:
        rate = float(text.replace(",", ".")) if text.strip() else math.nan
    except ValueError:
        raise UserError(f"{place}: fps is {text!r}; it must be a number, or empty") from None
    require(not text.strip() or low <= rate <= high, f"{place}: fps is {text!r}; it must be {low:g} to {high:g}, or empty")
    return rate


def _seen(name: str) -> str:
    """The letters of a name that are seen, each in one encoding."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", name)
                   if not letter.isspace() and unicodedata.category(letter) != "Cf")


def _text(path: Path) -> str:
    """The decoded file. Windows-1252 is the guess for bytes that are no UTF-8, and the user hears of it."""
    try:
        data = path.read_bytes()
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} must be a csv file that may be read ({os.strerror(error.errno)})") from None
    try:
        text = data.decode(_encoding(data[:2]))
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        print(f"{path} is not in UTF-8; it was read as Windows-1252")
    text = SEPARATOR.sub("", text.lstrip("\ufeff").rstrip("\x1a"))             # more byte order marks; DOS's end of file
    require("\0" not in text, f"{path} is no text file: it holds zero bytes; save it as csv, in UTF-8")
    return text


def _encoding(start: bytes) -> str:
    """UTF-16 or UTF-8, by the first two bytes: a byte order mark, or a letter of the first name with its zero byte."""
    if start in MARKS:
        return "utf-16"
    zeros = [index for index, byte in enumerate(start) if byte == 0]
    return {(0,): "utf-16-be", (1,): "utf-16-le"}.get(tuple(zeros), "utf-8-sig")


def _delimiter(line: str, columns: Sequence[str]) -> str:
    """The separator by which a line holds the most of the names; csv.Sniffer can take a letter for it."""
    wanted = {name.casefold() for name in columns}

    def known(delimiter: str) -> int:
        return len(wanted & {name.strip().casefold() for name in next(csv.reader([line], delimiter=delimiter), [])})

    return max(DELIMITERS, key=known)


def _names(path: Path, header: list[str], columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The names of the columns, '' for one without a name; those that are known as we spell them."""
    spelled = {name.casefold(): name for name in (*columns, *optional)}
    names = [spelled.get(name.strip().casefold(), name.strip()) for name in header]
    while names and not names[-1]:
        names.pop()                                                           # a separator at the end of each line
    missing = [name for name in columns if name not in names]
    require(not missing, f"{path}: the first line must name the columns {', '.join(columns)}, separated by commas; "
            f"{', '.join(missing)} is missing, it reads {', '.join(header)[:200]!r}")
    double = [name for name in names if name and names.count(name) > 1]
    require(not double, f"{path}: the first line names {''.join(double[:1])} more than once; rename or remove the others")
    return names
