"""The text of a file: by its byte order mark, as UTF-8, in a given encoding, or in the encoding its bytes suggest."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ...errors import InvalidValue, did_you_mean

TABLES = (".csv", ".tsv")
OTHERS = (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".json", ".jsonl", ".txt", ".dat", ".gz", ".zip")
"""Other ways to store a table, which are recognised so that the refusal can say how to save them."""
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = {
    b"pk\x03\x04": "a workbook of a spreadsheet or another zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"par1": "a Parquet file",
    b"%pdf": "a PDF document",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML document",
}
"""The beginnings, in lower case, of files that are no text table whatever their names."""
_USUAL = {
    "cp1252": rb"(?<![\x80-\xff])[\x80\x91-\x97\xa0\xa3\xa7\xab\xb0\xb2\xb3\xb5\xb7\xbb\xc0-\xff]{1,3}(?![\x80-\xff])",
    "cp1251": rb"[\xa8\xb8\xc0-\xff]{2,}|(?<![\x80-\xff])[\xc0-\xff](?![\x80-\xff])",
    "gb18030": rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]",
    "cp949": rb"[\xb0-\xc8][\xa1-\xfe]",
    "big5": rb"[\xa1\xa4-\xc6][\x40-\x7e\xa1-\xfe]",
    "cp932": rb"\x81[\x40-\xac]|\x82[\x4f-\xf1]|\x83[\x40-\x96]|[\x88-\x97][\x40-\x7e\x80-\xfc]",
}
"""The frequent characters beyond ASCII in each encoding that is recognised."""
_NAMES = {
    "cp1252": "Western European",
    "cp1251": "Cyrillic",
    "gb18030": "Chinese, GBK",
    "cp949": "Korean",
    "big5": "Chinese, Big5",
    "cp932": "Japanese, Shift JIS",
}
_MIN_USUAL_SHARE = 0.9
"""The share of the bytes beyond ASCII that frequent characters must cover."""
_MIN_HANGUL = 12
"""Distinct characters that are frequent in GBK and in Korean alike are Korean from this number on: a third of the
Chinese ones would lie outside."""
_SAMPLE = 200_000
"""The number of bytes that the encoding is recognised from, from the first byte beyond ASCII on."""


def read_text(path: Path, encoding: str | None = None) -> tuple[str, str]:
    """Read the file as text.

    Args:
        path: A .csv or .tsv file.
        encoding: The encoding; None takes that of the byte order mark, else UTF-8, else the one that the bytes suggest.

    Returns:
        The text, and a sentence about the encoding where it was recognised from the bytes ("" elsewhere).

    Raises:
        InvalidValue: There is no such file, or it isn't text in the encoding; with the line.
    """
    if path.suffix.lower() not in TABLES:
        raise InvalidValue(f"a table is a .csv or .tsv file; received {path}. Help: save or export it as CSV.")
    data = _read_bytes(path)
    for start, form in _OTHER_FILES.items():
        if data[:64].lstrip().lower().startswith(start):
            raise InvalidValue(f"{path} is {form}, not a table in text. Help: open it and save it as CSV UTF-8.")
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise InvalidValue(
                f"unknown encoding `{encoding}`. Help: give a name such as utf-8, utf-16, cp1252 or gb18030."
            ) from None
        return _decode(data, encoding, path, "give another encoding, or save the file as UTF-8"), ""
    known = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None) or _utf16(data)
    try:
        return data.decode(known or "utf-8"), ""
    except UnicodeDecodeError:
        suggested = None if known else _suggest(data)
    if suggested is None:
        help_ = "give its encoding (--encoding cp1250, encoding= in Python), or save it as UTF-8 (in Excel: Save As, "
        return _decode(data, known or "utf-8", path, f"{help_}CSV UTF-8)"), ""
    said = f"The text isn't UTF-8; it is read as {suggested} ({_NAMES[suggested]}). --encoding gives another encoding."
    return data.decode(suggested), said


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        neighbours = [p.name for p in path.parent.glob("*") if p.suffix.lower() in TABLES]
        hint = f" {did_you_mean(path.name, neighbours)}" if neighbours else ""
        raise InvalidValue(f"there is no file {path}.{hint}") from None
    except OSError as error:
        raise InvalidValue(f"{path} can't be read: {error.strerror}.") from error


def _decode(data: bytes, encoding: str, path: Path, advice: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidValue(
            f"{path} isn't {encoding.upper()} text at line {line}: {error.reason}. Help: {advice}."
        ) from error
    except (LookupError, UnicodeError) as error:  # a codec for other things than text, or a missing byte order mark
        raise InvalidValue(f"{path} isn't {encoding.upper()} text: {error}. Help: {advice}.") from error


def _utf16(data: bytes) -> str | None:
    """UTF-16 without a byte order mark, recognised by the zero bytes of its ASCII characters."""
    sample = data[:4096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) > len(sample) / 4 and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    return None


def _suggest(data: bytes) -> str | None:
    """Return the encoding whose frequent characters cover most of the bytes beyond ASCII; None if none covers enough.

    Recognised by the bytes of a table, which are too few for the statistics of languages.
    """
    start = re.search(rb"[\x80-\xff]", data)
    assert start is not None  # else it would be UTF-8
    sample = data[start.start() : start.start() + _SAMPLE]
    total = len(re.findall(rb"[\x80-\xff]", sample))
    shares = {}
    for encoding, usual in _USUAL.items():
        found = b"".join(re.findall(usual, sample))
        shares[encoding] = len(re.findall(rb"[\x80-\xff]", found)) / total
    best = max(shares, key=shares.__getitem__)
    hangul = len(set(re.findall(_USUAL["cp949"], sample)))
    if best == "gb18030" and shares["cp949"] == shares[best] and hangul >= _MIN_HANGUL:
        best = "cp949"
    try:
        data.decode(best)
    except UnicodeDecodeError:
        return None
    return best if shares[best] >= _MIN_USUAL_SHARE else None
