"""The ten sources: every layout that is promised, made of a handful of files, gives the table that it should."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from stages.lib.clips import catalogue, store
from stages.lib.params import UserError

SOURCES = sorted(path.stem for path in Path(catalogue.__file__).parents[2].glob("sources/*.py"))


def make(folder, files):
    """Files below `folder`: a list of names, or name → content."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name] if isinstance(files, dict) else "")


def table(source, folder, *columns):
    """clip → (label, patient, subset, whether it is left out), and the whole table, which may have more `columns`."""
    clips = import_module(f"stages.sources.{source}").clips(folder)
    assert list(clips.columns) == [*catalogue.COLUMNS, *columns]
    assert list(clips["clip"]) == sorted(clips["clip"])
    columns = zip(clips["clip"], clips["label"], clips["patient"], clips["subset"], clips["left_out"], strict=True)
    return {clip: (label, patient, subset, left_out != "") for clip, label, patient, subset, left_out in columns}, clips


def test_sources_are_the_eleven_of_the_readme():
    assert SOURCES == ["breast", "butterfly", "clust", "covid_blues", "custom", "dicom", "gallbladder",
                       "gallbladder_ba", "liver_fibrosis", "lusms", "pocus"]


@pytest.mark.parametrize("source", SOURCES)
def test_missing_and_empty_folder_name_the_folder_and_the_layout(tmp_path, source):
    module = import_module(f"stages.sources.{source}")
    with pytest.raises(UserError, match=f"{source} is missing: put the data set there, or link it: "):
        module.clips(tmp_path / source)
    (tmp_path / source).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{source} is no folder: put the data set there, or link it: "):
        module.clips(tmp_path / source)
    (tmp_path / source).unlink()
    (tmp_path / source).mkdir()
    with pytest.raises(UserError) as error:
        module.clips(tmp_path / source)
    assert str(error.value) == f"{tmp_path / source} should hold {module.LAYOUT}; it holds nothing"


@pytest.mark.parametrize("source", SOURCES)
def test_a_layout_that_is_not_known_is_said_with_what_is_there(tmp_path, source):
    """As where the archive was unpacked into a folder of its own, or the list has another name."""
    make(tmp_path, [f"{number}.txt" for number in (10, 2, 3, 4, 5, 6)])
    with pytest.raises(UserError, match=r"; it holds 2.txt, 3.txt, 4.txt, 5.txt, 6.txt and 1 more$"):
        import_module(f"stages.sources.{source}").clips(tmp_path)


def test_butterfly(tmp_path):
    make(tmp_path, ["Cov-a b.mp4", "deep/Reg_1.GIF", "Cov_2/1.jpg", "Cov_2/2.jpg", "other.mp4", "README.md", ".a.mp4"])
    clips, data = table("butterfly", tmp_path)
    assert clips == {
        "Cov-a b.mp4": ("Cov", "", "", False),
        "Cov_2": ("Cov", "", "", False),
        "deep/Reg_1.GIF": ("Reg", "", "", False),
        "other.mp4": ("", "", "", True),
    }
    assert list(data["path"]) == [f"{tmp_path}/{clip}" for clip in data["clip"]]
    assert data["fps"].isna().all()


def test_clust(tmp_path):
    make(tmp_path, ["Rb1/CIL-01/Data/00001.png", "Rb1/CIL-01/Annotation/a.txt", "Rb5/MED-02/1.jpg", "Rb6/x/1.png"])
    clips, data = table("clust", tmp_path)
    assert clips == {
        "Rb1/CIL-01": ("Rb1", "CIL-01", "", False),
        "Rb5/MED-02": ("Rb5", "MED-02", "", False),
        "Rb6/x": ("", "x", "", True),
    }
    assert data["path"][0].endswith("Rb1/CIL-01/Data")


def test_liver_fibrosis(tmp_path):
    make(tmp_path, ["F0/a.jpg", "F0/b.JPG", "F2/clip/1.jpg", "F2/clip/2.jpg", "F4/c.mp4", "F5/d.mp4", "e.png"])
    clips, data = table("liver_fibrosis", tmp_path)
    assert {clip: facts[0] for clip, facts in clips.items()} == {
        "F0/a.jpg": "F0", "F0/b.JPG": "F0", "F2/clip": "F2", "F4/c.mp4": "F4", "F5/d.mp4": "", "e.png": ""}
    assert list(data.loc[data["left_out"] != "", "clip"]) == ["F5/d.mp4", "e.png"]


def test_lusms(tmp_path):
    make(tmp_path, ["a_lines/1.mp4", "b_lines/x/1.png", "pleural/2.avi", "other/3.mov", "a-lines/4.mp4", "other/5.dcm"])
    clips, data = table("lusms", tmp_path)
    assert {clip: facts[0] for clip, facts in clips.items() if not facts[3]} == {
        "a_lines/1.mp4": "a_lines", "b_lines/x": "b_lines", "other/3.mov": "other", "other/5.dcm": "other",
        "pleural/2.avi": "pleural"}
    reasons = data.set_index("clip")["left_out"]
    assert reasons["a-lines/4.mp4"] == "label unknown: not in one of the folders a_lines, b_lines, pleural, other"


CATALOGUE = "Filename,Label,Patient ID / Name\nCov-1,COVID,7\npneu_2,x,\nReg 3,y,12a\n"


@pytest.mark.parametrize(("videos", "beside"), [("videos/", False), ("", True)])
def test_pocus(tmp_path, videos, beside):
    folder = tmp_path / "pocus"
    names = ["convex/Cov-1.gif", "convex/pneu_2.MP4", "linear/Reg 3.avi", "linear/Vir_4.mpeg", "linear/new.mp4",
             "linear/label_uncertain/Vir_or_Pneu_5.mp4", "sector/Cov-6.mp4"]
    make(folder, [videos + name for name in names])
    make(tmp_path, {"pocus_metadata.csv" if beside else "pocus/metadata.csv": CATALOGUE})
    clips, _ = table("pocus", folder)
    assert clips == {
        f"{videos}convex/Cov-1.gif": ("covid", "7", "convex", False),
        f"{videos}convex/pneu_2.MP4": ("pneumonia", "", "convex", False),
        f"{videos}linear/Reg 3.avi": ("regular", "12a", "linear", False),
        f"{videos}linear/Vir_4.mpeg": ("viral", "", "linear", False),
        f"{videos}linear/label_uncertain/Vir_or_Pneu_5.mp4": ("uncertain", "", "linear", False),
        f"{videos}linear/new.mp4": ("", "", "linear", True),
        f"{videos}sector/Cov-6.mp4": ("covid", "", "", True),
    }


@pytest.mark.parametrize("content", [None, "", "Name,Patient\na,b\n"])
def test_pocus_without_its_catalogue(tmp_path, content):
    make(tmp_path, ["convex/Cov-1.gif"])
    if content is not None:
        make(tmp_path, {"metadata.csv": content})
    with pytest.raises(UserError, match="metadata.csv"):
        table("pocus", tmp_path)


def test_gallbladder(tmp_path):
    make(tmp_path, ["GBUSV/benign/p3_1.mp4", "GBUSV/malignant/p4_2/1.jpg", "GBUSV/normal/only.avi",
                    "GBCU/imgs/im1.jpg", "GBCU/imgs/im2.jpg", "GBCU/imgs/im3.jpg", "GBCU/imgs/im4.jpg"])
    make(tmp_path, {"GBCU/train.txt": "im1.jpg,0\nim2.jpg,2\ngone.jpg,1\n", "GBCU/test.txt": "im4.jpg,7\n"})
    clips, data = table("gallbladder", tmp_path)
    assert clips == {
        "GBCU/imgs/gone.jpg": ("benign", "", "images", True),                 # listed, but missing
        "GBCU/imgs/im1.jpg": ("normal", "", "images", False),
        "GBCU/imgs/im2.jpg": ("malignant", "", "images", False),
        "GBCU/imgs/im3.jpg": ("", "", "images", True),
        "GBCU/imgs/im4.jpg": ("", "", "images", True),
        "GBUSV/benign/p3_1.mp4": ("benign", "p3", "videos", False),
        "GBUSV/malignant/p4_2": ("malignant", "p4", "videos", False),
        "GBUSV/normal/only.avi": ("normal", "", "videos", False),
    }
    assert "label '7' in test.txt is none of 0, 1, 2" in set(data["left_out"])


def test_gallbladder_videos_alone_and_images_without_a_list(tmp_path):
    make(tmp_path, ["GBUSV/benign/p3_1.mp4"])
    assert len(table("gallbladder", tmp_path)[0]) == 1
    make(tmp_path, ["GBCU/imgs/im1.jpg"])
    with pytest.raises(UserError, match="GBCU/train.txt must name the labels"):
        table("gallbladder", tmp_path)


FINDINGS = ("severity", "a_lines", "b_lines", "pcr")
SEVERITY = """video_file,Severity Score,A-lines,B-lines,comments
patient_10_L1,2.0,yes ,no,"a, b"
patient_3_R2_2,0.0,no, yes,
"""


@pytest.mark.parametrize("videos", ["lus_videos", "videos"])
def test_covid_blues(tmp_path, videos):
    make(tmp_path, [f"{videos}/patient_10_L1.mp4", f"{videos}/patient_3_R2_2.mp4", f"{videos}/odd.mp4", "LICENSE"])
    assert table("covid_blues", tmp_path, *FINDINGS)[0] == {
        f"{videos}/odd.mp4": ("", "", "", False),
        f"{videos}/patient_10_L1.mp4": ("", "10", "", False),
        f"{videos}/patient_3_R2_2.mp4": ("", "3", "", False),
    }


@pytest.mark.parametrize("tests", ["patient_id,cov_test,pat_sex\r\n10,1,0.0\r\n99,0,1.0\r\n", None])
def test_findings_of_covid_blues_are_columns_without_blanks_at_their_ends(tmp_path, tests):
    names = ["odd", "patient_10_L1", "patient_10_L2", "patient_3_R2_2"]
    make(tmp_path, [f"lus_videos/{name}.mp4" for name in names])
    make(tmp_path, {"severity.csv": SEVERITY} | ({"clinical_variables.csv": tests} if tests else {}))
    found = table("covid_blues", tmp_path, *FINDINGS)[1][list(FINDINGS)].to_numpy().tolist()
    pcr = "1" if tests else ""
    assert found == [["", "", "", ""], ["2.0", "yes", "no", pcr], ["", "", "", pcr], ["0.0", "no", "yes", ""]]


def test_lines_that_contradict_each_other_about_one_clip_or_patient_are_named(tmp_path):
    cases = {
        "covid_blues": (["videos/patient_10_L1.mp4"], "clinical_variables.csv", "patient_id,cov_test\n10,1\n9,0\n10,1\n",
                        "10,0\n"),
        "breast": (["original/000001.png"], "DatasetB.csv", "Image,Type\n1,Benign\n2,Benign\n000001,benign\n", "1,Malignant\n"),
    }
    for source, (files, name, lines, wrong) in cases.items():
        make(tmp_path / source, files)
        make(tmp_path / source, {name: lines})
        clips = import_module(f"stages.sources.{source}").clips
        assert clips(tmp_path / source)["left_out"].tolist() == [""]
        make(tmp_path / source, {name: lines + wrong})
        with pytest.raises(UserError, match=f"{name}, lines 2, 5 say different things of .*: remove all but the right one"):
            clips(tmp_path / source)


def test_a_name_of_two_videos_in_the_catalogue_of_pocus_has_no_patient(tmp_path):
    make(tmp_path, ["convex/Cov-a.mp4", "convex/Cov-b.mp4"])
    make(tmp_path, {"metadata.csv": "Filename,Patient ID / Name\nCov-a,A\nCov-b,B\nCov-a ,C\nCov-b,B \n"})
    assert table("pocus", tmp_path)[1]["patient"].tolist() == ["", "B"]


@pytest.mark.parametrize("name", ["severity.csv", "clinical_variables.csv"])
def test_a_csv_of_covid_blues_without_its_columns_is_named(tmp_path, name):
    make(tmp_path, ["videos/patient_10_L1.mp4"])
    make(tmp_path, {name: "video,patient\na,b\n"})
    with pytest.raises(UserError, match=f"{name}: the first line must name the columns "):
        table("covid_blues", tmp_path, *FINDINGS)


def test_findings_stay_text_in_the_frame_store(tmp_path):
    (tmp_path / "clips.csv").write_text("clip,severity,a_lines,pcr\na,2.0,yes,1\nb,,no,\n")
    read = store.table(tmp_path / "clips.csv")
    assert read[["severity", "a_lines", "pcr"]].to_numpy().tolist() == [["2.0", "yes", "1"], ["", "no", ""]]


BREAST = {                                                                    # layout → files; images with their masks
    "beside": {"benign/benign (1).png": ["benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png"],
               "malignant/malignant (1).png": ["malignant/malignant (1)_mask.png"], "normal/normal (2).png": []},
    "apart": {"images/benign/b_001.jpg": ["masks/benign/b_001_0.png", "masks/benign/b_001_1.png"],
              "images/malignant/b_001.jpg": ["masks/malignant/b_001_0.png"], "images/normal/n_002.jpg": []},
    "udiat": {"original/000001.png": ["GT/000001.png"], "original/000012.png": ["GT/000012.png"], "original/000020.png": []},
}
DATASET_B = "Image,Type,Size\n000001.png,Benign,1\n12,Malignant,2\n30,Benign,3\n"


def make_breast(folder, layout):
    files = BREAST[layout]
    make(folder, [*files, *(mask for masks in files.values() for mask in masks)])
    if layout == "udiat":
        make(folder, {"DatasetB.csv": DATASET_B})
    return files


@pytest.mark.parametrize("layout", BREAST)
def test_breast(tmp_path, layout):
    files = make_breast(tmp_path, layout)
    clips, data = table("breast", tmp_path, "masks")
    third = ("", "", "", True) if layout == "udiat" else ("normal", "", "", False)
    assert clips == dict(zip(files, [("benign", "", "", False), ("malignant", "", "", False), third], strict=True))
    masks = {clip: masks.split(";") if masks else [] for clip, masks in zip(data["clip"], data["masks"], strict=True)}
    assert masks == {clip: [f"{tmp_path}/{mask}" for mask in own] for clip, own in files.items()}


@pytest.mark.parametrize("layout", BREAST)
def test_breast_masks_and_images_that_miss_each_other(tmp_path, layout):
    files = make_breast(tmp_path, layout)
    image, (mask, *more) = next(iter(files.items()))
    (tmp_path / image).rename(tmp_path / "kept")
    with pytest.raises(UserError, match=f"{re.escape(mask)} is the mask of no image"):
        table("breast", tmp_path, "masks")
    (tmp_path / "kept").rename(tmp_path / image)
    for path in (mask, *more):
        (tmp_path / path).unlink()
    with pytest.raises(UserError, match=f"{re.escape(image)} is benign but has no mask"):
        table("breast", tmp_path, "masks")
    for path in (path for masks in files.values() for path in masks):
        (tmp_path / path).unlink(missing_ok=True)
    assert (table("breast", tmp_path, "masks")[1]["masks"] == "").all()       # no mask at all: images to classify


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "save DatasetB.xlsx as csv"), ("a,b\n1,2\n", "must name the columns Image, Type")]
)
def test_breast_without_its_labels(tmp_path, content, sentence):
    make(tmp_path, ["original/000001.png"])
    if content:
        make(tmp_path, {"DatasetB.csv": content})
    with pytest.raises(UserError, match=sentence):
        table("breast", tmp_path, "masks")


def test_gallbladder_ba(tmp_path):
    make(tmp_path, ["train/3_0.jpg", "train/4_1.JPG", "test/3_0.jpg", "test/9_0.jpg"])
    make(tmp_path, {"train/label.csv": "3_0.jpg,0\n4_1.JPG,1\n", "test/label.csv": "3_0.jpg,1\n"})
    assert table("gallbladder_ba", tmp_path)[0] == {
        "test/3_0.jpg": ("biliary_atresia", "test_3", "test", False),
        "test/9_0.jpg": ("", "test_9", "test", True),
        "train/3_0.jpg": ("normal", "train_3", "train", False),
        "train/4_1.JPG": ("biliary_atresia", "train_4", "train", False),
    }


def test_custom(tmp_path):
    make(tmp_path, ["a b.mp4", "folder/1.png"])
    make(tmp_path, {"clips.csv": "path,patient,label,fps\na b.mp4,p 1,x,\nfolder,,,12.5\n"})
    clips, data = table("custom", tmp_path)
    assert clips == {"a b.mp4": ("x", "p 1", "", False), "folder": ("", "", "", False)}
    assert data["fps"].isna().tolist() == [True, False]


@pytest.mark.parametrize("content", ["path,patient\na,b\n", "", "path,patient,label,fps\na,b,c,fast\n",
                                     "path,patient,label,fps\na,b,c,0\n"])
def test_custom_list_that_is_none(tmp_path, content):
    make(tmp_path, {"clips.csv": content})
    with pytest.raises(UserError, match="clips.csv"):
        table("custom", tmp_path)


def test_linked_folders_are_followed(tmp_path):
    make(tmp_path / "elsewhere", ["Cov_1.mp4"])
    (tmp_path / "butterfly").mkdir()
    (tmp_path / "butterfly" / "more").symlink_to(tmp_path / "elsewhere")
    assert list(table("butterfly", tmp_path / "butterfly")[0]) == ["more/Cov_1.mp4"]


def test_natural_order():
    names = ["frame 10.png", "frame 2.png", "frame 1.png", "2_frame.png", "Frame.png"]
    ordered = [path.name for path in sorted(map(Path, names), key=catalogue.natural)]
    assert ordered == ["2_frame.png", "Frame.png", "frame 1.png", "frame 2.png", "frame 10.png"]


def test_jpegs_of_any_usual_ending_are_images(tmp_path):
    make(tmp_path, ["a.jpg", "b.JPEG", "c.jfif", "d.jpe"])
    assert [path.name for path in catalogue.images(tmp_path)] == ["a.jpg", "b.JPEG", "c.jfif", "d.jpe"]
