"""Lists of clips as people and programs write them: read, or refused with the line and what was expected."""

import codecs
import re
import unicodedata

import pandas as pd
import pytest

from stages.lib.clips import lists, store
from stages.lib.params import UserError
from stages.sources import custom

NAMES = ["a.mp4", "b.mp4", "c.mp4"]
PLAIN = "path,patient,label\na.mp4,p1,covid\nb.mp4,p2,regular\nc.mp4,,\n"
EXPECTED = [["a.mp4", "p1", "covid"], ["b.mp4", "p2", "regular"], ["c.mp4", "", ""]]
DIALECTS = {
    "plain": PLAIN,
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "a comma ends each line": PLAIN.replace("\n", ",\n"),
    "a comma ends each line but the first": PLAIN.replace("\n", ",\n").replace("label,", "label"),
    "Windows": PLAIN.replace("\n", "\r\n"),
    "mixed line ends": PLAIN.replace("label\n", "label\r").replace("covid\n", "covid\r\n"),
    "old Macintosh": PLAIN.replace("\n", "\r"),
    "capitals": PLAIN.replace("path,patient,label", "PATH,Patient,LABEL"),
    "blanks in the first line": PLAIN.replace("path,patient,label", " path, patient , label"),
    "another order": "label,path,patient\ncovid,a.mp4,p1\nregular,b.mp4,p2\n,c.mp4,\n",
    "numbered lines": ",path,patient,label\n0,a.mp4,p1,covid\n1,b.mp4,p2,regular\n2,c.mp4,,\n",
    "empty lines": "\n" + PLAIN.replace("\n", "\n\n,,\n"),
    "quotes": PLAIN.replace("covid", '"covid"').replace("b.mp4", '"b.mp4"'),
    "blanks around the values": PLAIN.replace("p1", " p1 ").replace("covid", " covid "),
    "a blank behind the path": PLAIN.replace(".mp4", ".mp4 "),
    "paths from Windows": PLAIN.replace("a.mp4", ".\\a.mp4"),
    "paths from here": PLAIN.replace("a.mp4", "./a.mp4"),
    "no line break at the end": PLAIN.rstrip(),
    "a second byte order mark": "\ufeff\ufeff" + PLAIN,
    "Ctrl-Z at the end": PLAIN + "\x1a",
    "a line for Excel with the separator": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "the same in quotes": '"sep=;"\n' + PLAIN.replace(",", ";"),
    "the same of tabs": "SEP=\t\n" + PLAIN.replace(",", "\t"),
    "cells that Excel must not take for numbers": PLAIN.replace("p1", '="p1"').replace("covid", '"=""covid"""'),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark", "utf-16-le", "utf-16-be"]


def encoded(text, encoding):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
    name, _, marked = encoding.partition(" with ")
    return (mark[name] if marked else b"") + text.encode(name)


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).touch()
    return tmp_path


def listed(folder, content, encoding="utf-8"):
    """The source's table, for a list of this content."""
    (folder / "clips.csv").write_bytes(encoded(content, encoding))
    return custom.clips(folder)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_table(folder, dialect, encoding):
    table = listed(folder, DIALECTS[dialect], encoding)
    assert table[["clip", "patient", "label"]].to_numpy().tolist() == EXPECTED
    assert table["path"].tolist() == [f"{folder}/{name}" for name in NAMES]
    assert not table["left_out"].any()


def test_letters_of_windows_are_read_and_told_of(folder, capsys):
    table = listed(folder, PLAIN.replace("p1", "Müller é"), "cp1252")
    assert table["patient"][0] == "Müller é"
    assert "clips.csv is not in UTF-8; it was read as Windows-1252" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_letters_of_all_scripts_stay(folder, encoding, capsys):
    assert listed(folder, PLAIN.replace("p1", "患者 Ü ß"), encoding)["patient"][0] == "患者 Ü ß"
    assert capsys.readouterr().out == ""


SENTENCES = {
    "": "clips.csv is empty; its first line must name the columns path, patient, label",
    "\n\n": "clips.csv is empty",
    ",,\n": "clips.csv is empty",
    "path,patient,label\n": "has no line below the one that names the columns",
    "path,patient\na,b\n": "must name the columns path, patient, label, separated by commas; label is missing, it reads "
                           "'path, patient'",
    "a.mp4,p1,covid\n": "path, patient, label is missing, it reads 'a.mp4, p1, covid'",
    "path patient label\na b c\n": "it reads 'path patient label'",
    "path,patient,label,label\na.mp4,p,x,y\n": "the first line names label more than once",
    "path,patient,Label,label\na.mp4,p,x,y\n": "the first line names label more than once",
    "path,patient,label\na.mp4,p,x,y\n": "line 2 has 4 fields, but the first line has 3",
    "path,patient,label\na.mp4,p,x\nb.mp4,p\n": "line 3 has 2 fields, but the first line has 3",
    'path,patient,label\na.mp4,p,"x\nb.mp4,p,y\n': "cannot be read (unexpected end of data)",
    "path,patient,label\n ,p,x\n": "line 2 has no path",
    "path,patient,label,fps\na.mp4,p,x,fast\n": "line 2: fps is 'fast'; it must be a number, or empty",
    "path,patient,label,fps\na.mp4,p,x,\nb.mp4,p,x,0\n": "line 3: fps is '0'; it must be 0.1 to 10000, or empty",
    "path,patient,label,fps\na.mp4,p,x,inf\n": "line 2: fps is 'inf'; it must be 0.1 to 10000",
    "path,patient,label,fps\na.mp4,p,x,nan\n": "line 2: fps is 'nan'; it must be 0.1 to 10000",
    "path,patient,label,fps\na.mp4,p,x,-3\n": "line 2: fps is '-3'",
    "path,patient,label,fps\na.mp4,p,x,0.001\n": "line 2: fps is '0.001'",
    'path,patient,label,fps\na.mp4,p,x,"1,000"\n': "line 2: fps is '1,000'; write it without a comma",
    "path,patient,label\na.mp4,1.23457E+11,x\n": "line 2: the patient 1.23457E+11 is a number that a spreadsheet shortened",
    "path;Patient;label\na.mp4;1,23457E+11;x\n": "the patient 1,23457E+11 is a number that a spreadsheet shortened",
    "path,patient,label,clip\na.mp4,p,x,same\nb.mp4,q,y,same\n": "have the same clip id",
    "path,patient,label\na.mp4,p\0,x\n": "it holds zero bytes",
    "path,patient,label,frames_kept,Group\na.mp4,p,x,3,1\n": "the pipeline fills in itself; rename frames_kept",
    "path,patient,label,rows\ngone.mp4,p,x,3\n": "rename rows",
}


@pytest.mark.parametrize("content", SENTENCES)
def test_what_cannot_be_read_is_named(folder, content):
    with pytest.raises(UserError, match=re.escape(SENTENCES[content])) as error:
        listed(folder, content)
    assert "clips.csv" in str(error.value) or "clip id" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "rate"), [("12.5", 12.5), ("12,5", 12.5), ("500", 500), (" 25 ", 25)])
def test_frame_rates_with_point_or_comma(folder, text, rate):
    assert listed(folder, f"path;patient;label;fps\na.mp4;p;x;{text}\n")["fps"].tolist() == [rate]


@pytest.mark.parametrize("labels", [["001", "1", "01"], ["NA", "None", "nan"], ["true", "false", "yes"], ["0", "1.0", "2"]])
def test_labels_stay_the_texts_that_they_are(folder, labels):
    lines = "".join(f"{name},p{name},{label}\n" for name, label in zip(NAMES, labels, strict=True))
    table = listed(folder, "path,patient,label\n" + lines)
    assert table["label"].tolist() == labels
    table.to_csv(folder / "store.csv", index=False)
    assert store.table(folder / "store.csv")["label"].tolist() == labels


def test_text_with_separators_quotes_and_line_breaks(folder):
    table = listed(folder, 'path,patient,label,clip\na.mp4,"<b>""p"";\n2</b>","b lines, ""many""","x\n../y"\n')
    assert table[["patient", "label", "clip"]].to_numpy().tolist() == [['<b>"p"; 2</b>', 'b lines, "many"', "x ../y"]]


SPELLINGS = [
    (["p1", "P1", "p2"], "P1; p1"),
    (["007", "7", "8"], "007; 7"),
    (["3", "3.0", "4"], "3; 3.0"),
    (["case 01", "Case 1", "case 10"], "Case 1; case 01"),
    (["case 1", "case1", "case 2"], "case 1; case1"),
    (["p\u200b1", "p1", "p2"], "p1; p\u200b1"),
    (["１", "1", "2"], "1; １"),
]


@pytest.mark.parametrize("column", ["patient", "label"])
@pytest.mark.parametrize(("names", "alike"), SPELLINGS)
def test_names_that_are_likely_one_are_told_of_once(folder, capsys, names, alike, column):
    lines = "".join(f"{clip},{name}\n" for clip, name in zip(NAMES, names, strict=True))
    other = {"patient": "label", "label": "patient"}[column]
    table = listed(folder, f"path,{column},{other}\n" + lines.replace("\n", ",x\n"))
    assert table[column].tolist() == names
    said = capsys.readouterr().out
    sentence = "differ only in capitals, blanks, leading zeros, '.0' or how a letter is encoded, and count as different"
    assert said.count(f"these {column}s {sentence}: {alike};") == 1
    assert said.count("\n") == 1


def test_names_that_differ_in_more_are_not(folder, capsys):
    listed(folder, "path,patient,label\na.mp4,p10,x\nb.mp4,p1,y\nc.mp4,1.05,z\n")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("word", ["nan", "Unknown", "None", "n/a", "NULL", "NA", "-", "#N/A", "Anonymous"])
def test_words_for_an_unknown_patient(folder, capsys, word):
    table = listed(folder, f"path,patient,label\na.mp4,p,x\nb.mp4,{word},x\nc.mp4,{word},x\n")
    assert table["patient"].tolist() == ["p", "", ""]
    assert f"2 clips have the patient {word}, which counts as unknown" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["", "unknown"])
def test_no_patient_at_all_is_said(folder, capsys, word):
    listed(folder, f"path,patient,label\na.mp4,{word},x\nb.mp4,{word},x\n")
    assert "clips.csv names no patient: each clip counts as a patient of its own" in capsys.readouterr().out


@pytest.mark.parametrize("again", ["a.mp4", "./a.mp4", ".\\a.mp4", "link.mp4", "{folder}/a.mp4", "../{name}/a.mp4"])
def test_a_file_that_is_listed_twice(folder, again):
    (folder / "link.mp4").symlink_to("a.mp4")
    again = again.format(folder=folder.resolve(), name=folder.name)
    head = "path,patient,label,clip\nb.mp4,p,x,1\na.mp4,p,x,2\n"

    def reasons(line):
        return listed(folder, f"{head}{again},{line},3\n")["left_out"].tolist()

    assert reasons("p,x") == ["", "", "the same file is listed twice: the first line stays"]
    assert reasons("p,y") == ["", *2 * ["one file with label 'x' and 'y': which is right is unknown"]]
    assert reasons("q,x") == ["", *2 * ["one file with patient 'p' and 'q': which is right is unknown"]]


def test_a_file_that_is_not_there(folder):
    table = listed(folder, f"path,patient,label\na.mp4,p,x\ngone.mp4,p,x\n{'n' * 4000}.mp4,p,x\n")
    assert table.set_index("clip")["left_out"].to_dict() == {
        "a.mp4": "", "gone.mp4": "the file is missing, or its folder may not be read",
        f"{'n' * 4000}.mp4": "the file is missing, or its folder may not be read"}


def test_further_columns_go_with_the_clips(folder):
    table = listed(folder, "path,patient,label,FOLD,Severity,masks\na.mp4,p,x,1,mild,m 1.png;m 2.png\nb.mp4,q,y,2, severe ,\n")
    assert table[["fold", "Severity"]].to_numpy().tolist() == [["1", "mild"], ["2", "severe"]]
    assert table["masks"].tolist() == [f"{folder}/m 1.png;{folder}/m 2.png", ""]


def test_a_list_can_leave_clips_out(folder):
    table = listed(folder, "path,patient,label,left_out\na.mp4,p,x,\nb.mp4,q,y,blurred\n")
    assert table["left_out"].tolist() == ["", "blurred"]


def test_a_column_can_be_wanted_under_any_spelling(folder):
    (folder / "x.csv").write_text("Filename;patient id / NAME\nCov;7\n")
    read = lists.read(folder / "x.csv", ["Filename", "Patient ID / Name"])
    assert read.to_dict("list") == {"Filename": ["Cov"], "Patient ID / Name": ["7"]}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_encoded_otherwise_in_the_list_than_on_disk(folder, form):
    """macOS takes letters and accents apart."""
    (folder / unicodedata.normalize(form, "é.mp4")).touch()
    for written in ("NFC", "NFD"):
        text = unicodedata.normalize(written, "path,patient,label\né.mp4,Zoé,x\na.mp4,Zo\u00e9,x\n")
        table = listed(folder, text)
        assert not table["left_out"].any() and table["patient"].tolist() == ["Zo\u00e9"] * 2


def test_masks_may_be_written_as_paths_from_windows(folder):
    (folder / "m").mkdir()
    (folder / "m/1.png").touch()
    assert listed(folder, "path,patient,label,masks\na.mp4,p,x,.\\m\\1.png\n")["masks"].tolist() == [f"{folder}/m/1.png"]


FORMULAS = ["=cmd|' /C calc'!A0", "@SUM(1+1)*cmd|' /C calc'!A0", "+cmd|' /C calc'!A0", '-HYPERLINK("http://x","y")']


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("column", ["clip", "patient", "label", "severity"])
def test_no_name_is_a_formula_for_a_spreadsheet(folder, formula, column):
    line = {"path": "a.mp4", "clip": "1", "patient": "p", "label": "x", "severity": "-1.5"} | {column: formula}
    found = listed(folder, pd.DataFrame([line]).to_csv(index=False)).to_dict("records")[0]
    assert {name: found[name] for name in line} == line | {"path": f"{folder}/a.mp4", column: "'" + formula}


@pytest.mark.parametrize("name", ["-1.5", "+", "-", "-ve", "=", "a=b(c)", "@home"])
def test_other_names_stay(folder, name):
    assert listed(folder, f"path,patient,label\na.mp4,p,{name}\n")["label"].tolist() == [name]


def test_a_folder_or_a_file_that_may_not_be_read_is_no_list(folder, monkeypatch):
    (folder / "clips.csv").mkdir()
    with pytest.raises(UserError, match="clips.csv must be a csv file that may be read .Is a directory."):
        custom.clips(folder)

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(UserError, match="clips.csv must be a csv file that may be read .Permission denied."):
        custom.clips(folder)
