"""Encodings: recognised from marks and bytes, given, or refused."""

import pytest

from piste.compare import table
from piste.compare.csv.decoding import read_text
from piste.errors import InvalidValue

ROWS = range(40)
TEXTS = {
    "cp1252": ["Größe;Straße;Preis\n" + "".join(f"{i},5;Hauptstraße {i};{i} €\n" for i in ROWS),
               "x,température (°C),y\n" + "".join(f"{i},{i}.5,{i % 5}\n" for i in ROWS),
               "x,temp,y\n" + "".join(f"{i},{i}.5 °C,{i % 5}\n" for i in ROWS),
               "x,y\n" + "".join(f"{i},{i}.5 m²\n" for i in ROWS),
               "nom,ville,y\n" + "".join(f"a,{'Orléans' if i % 2 else 'Besançon'},{i}\n" for i in ROWS),
               "name,y\n" + "".join(f"a {i} – “b”,£{i}\n" for i in ROWS),
               "x;y\n" + "".join(f"{i}\xa0000,5\xa0€;{i % 5}\n" for i in ROWS)],
    "gb18030": ["姓名,城市,价格\n" + "".join(f"张{i},北京,{i}.5\n" for i in ROWS),
                "价格,面积\n" + "".join(f"{i}.5,{i * 3}\n" for i in ROWS),
                "序号,温度,等级\n" + "".join(f"{i},{i}.5,{'优' if i % 2 else '良好'}\n" for i in ROWS)],
    "big5": ["城市,價格\n" + "".join(f"臺北,{i}\n" for i in ROWS),
             "編號,溫度,等級\n" + "".join(f"{i},{i}.5,{'優' if i % 2 else '良好'}\n" for i in ROWS)],
    "cp932": ["名前,価格\n" + "".join(f"とうきょう{i},{i}\n" for i in ROWS),
              "番号,東京,評価\n" + "".join(f"{i},{i}.5,{'良い' if i % 2 else '普通'}\n" for i in ROWS)],
    "cp949": ["도시,가격,이름\n"
              + "".join(f"{'서울' if i % 2 else '부산'},{i},{'김민수' if i % 3 else '이영희'}\n" for i in ROWS)],
    "cp1251": ["город;цена;площадь\n"
               + "".join(f"{'Москва' if i % 2 else 'Санкт-Петербург'};{i},5;{i}\n" for i in ROWS),
               "city,цена\n" + "".join(f"Омск,{i}\n" for i in ROWS)],
}  # fmt: skip
"""Tables by the encoding that their bytes suggest."""
CASES = [(encoding, text) for encoding, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize(("encoding", "text"), CASES, ids=[f"{e}-{t.split()[0]}" for e, t in CASES])
def test_the_encoding_is_recognised_from_the_bytes(write_table, encoding, text):
    found, said = read_text(write_table(text.encode(encoding)))
    assert found == text
    assert said.startswith(f"The text isn't UTF-8; it is read as {encoding} (")
    assert said.endswith("). --encoding gives another encoding.")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_needs_no_sentence(write_table, encoding):
    text = "größe,city,y\n" + "".join(f"{i},Köln,{i}\n" for i in ROWS)
    assert read_text(write_table(text.encode(encoding))) == (text, "")


def test_the_encoding_is_stated_in_the_report(write_table):
    text = "城市,价格\n" + "".join(f"{'北京' if i % 2 else '上海'},{i}.5\n" for i in ROWS)
    about = table(write_table(text.encode("gbk")), "价格").about
    assert "The text isn't UTF-8; it is read as gb18030 (Chinese, GBK). --encoding gives another encoding." in about
    assert "Read as text: `城市`." in about


def test_a_given_encoding_is_used(write_table):
    text = "miasto;cena\n" + "".join(f"Łódź{i % 5};{i % 7},5\n" for i in ROWS)
    path = write_table(text.encode("cp1250"))
    assert read_text(path, "cp1250") == (text, "")
    assert "isn't UTF-8" not in table(path, "cena", encoding="cp1250").about


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        (b"x,y\n1,2\n\x81\x8d\x9f,3\n", None, "isn't UTF-8 text at line 3: invalid start byte. Help: give its encoding "
         "(--encoding cp1250, encoding= in Python), or save it as UTF-8 (in Excel: Save As, CSV UTF-8)."),
        ("x,y\n1,ü\n".encode("cp1252"), "utf-8", "isn't UTF-8 text at line 2: invalid"),
        (b"x,y\n1,2\n", "utf-99", "unknown encoding `utf-99`. Help: give a name such as utf-8, utf-16, "
         "cp1252 or gb18030."),
        (b"x,y\n1,2\n", "base64", "isn't BASE64 text: "),
        (b"PK\x03\x04\x14", None, "is a workbook of a spreadsheet or another zip archive, not a table in text. "
         "Help: open it and save it as CSV UTF-8."),
        (b"\n<!DOCTYPE html><html>", None, "is a web page, not a table in text."),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", None, "is an old Excel workbook, not a table in text."),
    ],
)  # fmt: skip
def test_files_that_are_no_text_are_rejected_with_the_way_out(write_table, data, encoding, words):
    with pytest.raises(InvalidValue) as caught:
        read_text(write_table(data), encoding)
    assert words in str(caught.value)
