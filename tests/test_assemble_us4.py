"""What enters the pretraining set, what does not, and that the audit says so."""


import re

import numpy as np
import pandas as pd
import pytest
from conftest import write_frame_store

from stages import assemble_us4
from stages.lib.clips import store
from stages.lib.params import UserError, checked

CLASSES = {"lung_normal": ["butterfly/Reg"], "lung_abnormal": ["butterfly/Cov", "lusms/b_lines"]}
TASKS = {"pocus": {"classes": ["covid", "regular"], "subsets": ["convex"]}}
SETTINGS = {"seed": 0, "sources": ["butterfly", "lusms"], "held_out_fraction": 0.25, "classes": CLASSES,
            "copy_distance": {"clips": 0.25, "stills": 0.15},
            "extract_frames": {"sources": ["butterfly", "lusms", "pocus"]}, "finetune": {"tasks": ["pocus"]},
            "segment": {"tasks": []}, "tasks": TASKS}
BREAST = {"tasks": SETTINGS["tasks"] | {"breast": {"classes": ["benign", "malignant"], "subsets": []}}}


@pytest.fixture
def sources(workspace):
    """Two sources to pretrain on and one task; three butterfly clips are pocus files under other names."""
    butterfly = [{"clip": f"{number:02d}.mp4", "label": ["Cov", "Reg"][number % 2], "frames_kept": 1 + number % 4,
                  "checksum": f"b{number}"} for number in range(12)]
    butterfly[0]["checksum"], butterfly[1]["checksum"], butterfly[2]["checksum"] = "covid", "viral", "linear"
    butterfly.append({"clip": "broken.mp4", "left_out": "no frame can be read"})
    lusms = [{"clip": f"{number:02d}.mp4", "label": ["b_lines", "new"][number % 2], "patient": f"p{number // 3}",
              "frames_black": number % 2} for number in range(12)]
    pocus = [{"clip": "c.mp4", "label": "covid", "subset": "convex", "checksum": "covid"},
             {"clip": "v.mp4", "label": "viral", "subset": "convex", "checksum": "viral"},
             {"clip": "l.mp4", "label": "covid", "subset": "linear", "checksum": "linear"},
             {"clip": "r.mp4", "label": "regular", "subset": "convex", "checksum": "regular"}]
    for seed, (name, clips) in enumerate({"butterfly": butterfly, "lusms": lusms, "pocus": pocus}.items()):
        write_frame_store(workspace / "data/frames" / name, clips, seed=seed)
    return workspace


def test_frames_and_labels_are_those_of_their_clip(sources):
    assemble_us4.main(**SETTINGS)
    data = store.read("data/us4")
    for clip in data.clip_table.itertuples():
        source, _, name = clip.clip.partition("/")
        origin = store.read(f"data/frames/{source}")
        rows = origin.frame_table.query("clip == @name")["row"]
        assert (data.frames[clip.first : clip.first + clip.frames] == origin.frames[rows]).all()
        assert (data.frame_table["clip"][clip.first : clip.first + clip.frames] == clip.clip).all()
        assert clip.pooled_class == {"Cov": "lung_abnormal", "Reg": "lung_normal", "b_lines": "lung_abnormal", "new": ""}[
            clip.label]


def test_only_clips_that_a_task_evaluates_are_kept_out(sources):
    """The viral and the linear clip are in the task's source, but the task uses neither."""
    assemble_us4.main(**SETTINGS)
    clips = set(store.read("data/us4").clip_table["clip"])
    assert "butterfly/00.mp4" not in clips and {"butterfly/01.mp4", "butterfly/02.mp4"} <= clips


def test_other_clips_of_an_evaluated_patient_are_kept_out(sources):
    """Of the task's source: the linear clip shows the patient of the convex one that is evaluated, the viral clip another."""
    path = sources / "data/frames/pocus/clips.csv"
    store.table(path).assign(patient=["one", "two", "one", "three"]).to_csv(path, index=False)
    assemble_us4.main(**SETTINGS | {"sources": ["lusms", "pocus"]})
    clips = set(store.read("data/us4").clip_table["clip"])
    assert "pocus/v.mp4" in clips and not {"pocus/c.mp4", "pocus/l.mp4"} & clips
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False).set_index("clip")["reason"]
    assert audit["l.mp4"] == "is of a patient that a task is evaluated on"


def test_the_audit_accounts_for_every_clip_and_frame(sources):
    assemble_us4.main(**SETTINGS)
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False)
    assert audit.query("outcome in ['train', 'held_out', 'left_out']")["clips"].sum() == 13 + 12
    assert audit.query("outcome in ['train', 'held_out']")["frames"].sum() == len(store.read("data/us4").frames)
    left_out = audit.query("outcome == 'left_out'").set_index("reason")[["clip", "copy_of", "distance"]].T.to_dict("list")
    assert left_out == {"is an evaluation clip": ["00.mp4", "pocus/c.mp4", ""], "no frame can be read": ["broken.mp4", "", ""]}
    dropped = audit.query("outcome == 'frames_dropped'")
    assert dropped["frames"].tolist() == [1] * 6 and "01.mp4" in set(dropped["clip"])
    entered = store.read("data/us4").clip_table
    for row in audit.query("outcome in ['train', 'held_out']").to_dict("records"):
        clips = entered.query("source == @row['source'] and split == @row['outcome']")
        assert (row["clip"], row["clips"], row["frames"]) == ("", len(clips), clips["frames"].sum())
        assert row["patients"] == len(set(clips["patient"]) - {""})
        labels = dict.fromkeys(label.rpartition(" ")[0] for label in row["labels"].split(", "))
        for label in labels:
            assert f"{label} {(clips['label'] == label.replace('unlabelled', '')).sum()}" in row["labels"].split(", ")
        assert set(labels) == {label or "unlabelled" for label in clips["label"]}


def test_likely_copies_of_evaluation_clips_are_left_out_and_named_with_their_distance(sources):
    """03 is the evaluated clip, brighter and in another file; 07 is the viral clip, which no task uses."""
    def rows(source, clip):
        return store.read(f"data/frames/{source}").frame_table.query("clip == @clip")["row"].to_numpy()

    pocus, butterfly = (np.load(f"data/frames/{source}/frames.npy") for source in ("pocus", "butterfly"))
    butterfly[rows("butterfly", "03.mp4")] = pocus[rows("pocus", "c.mp4")] * 1.1
    butterfly[rows("butterfly", "07.mp4")] = pocus[rows("pocus", "v.mp4")]
    np.save("data/frames/butterfly/frames.npy", butterfly)
    assemble_us4.main(**SETTINGS)
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False)
    row = audit[audit["reason"] == "looks like an evaluation clip"].iloc[0]
    assert (row["source"], row["outcome"], row["clips"], row["frames"]) == ("butterfly", "left_out", 1, 4)
    assert (row["clip"], row["copy_of"]) == ("03.mp4", "pocus/c.mp4") and re.fullmatch(r"0\.[01]\d?", row["distance"])
    clips = set(store.read("data/us4").clip_table["clip"])
    assert "butterfly/03.mp4" not in clips and "butterfly/07.mp4" in clips
    both = {"pocus": TASKS["pocus"] | {"classes": ["covid", "viral"]}}
    assemble_us4.main(**SETTINGS | {"tasks": both})
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False)
    assert audit.loc[audit["reason"] == "looks like an evaluation clip", "copy_of"].tolist() == ["pocus/c.mp4", "pocus/v.mp4"]
    assemble_us4.main(**SETTINGS | {"finetune": {"tasks": []}})
    assert "butterfly/03.mp4" in set(store.read("data/us4").clip_table["clip"])


def test_no_patient_is_on_both_sides_and_every_source_gives_its_share(sources):
    assemble_us4.main(**SETTINGS)
    clips = store.read("data/us4").clip_table
    lusms = clips[clips["source"] == "lusms"]
    assert (lusms.groupby("patient")["split"].nunique() == 1).all()
    assert lusms.groupby("split")["patient"].nunique().to_dict() == {"held_out": 1, "train": 3}
    assert clips[clips["source"] == "butterfly"]["split"].value_counts().to_dict() == {"train": 8, "held_out": 3}


def test_the_fans_geometry_is_passed_on_and_stays_empty_where_it_is_not_known(sources):
    """Of every second butterfly clip, from a store with the columns; the other source's store was made without them."""
    path = sources / "data/frames/butterfly/clips.csv"
    table = store.table(path)
    known = {clip: [0.5, -0.125 * number, 0.01 * number, 0.25, 1.0625] for number, clip in enumerate(table["clip"])}
    known = {clip: known[clip] for clip in table["clip"][1::2]}
    table[store.FAN] = [known.get(clip, [None] * 5) for clip in table["clip"]]
    table.to_csv(path, index=False)
    assemble_us4.main(**SETTINGS)
    clips = pd.read_csv("data/us4/clips.csv", dtype=str, keep_default_na=False).set_index("clip")[store.FAN]
    for name, fields in clips.iterrows():
        source, _, clip = name.partition("/")
        expected = known.get(clip) if source == "butterfly" else None
        assert [float(field) for field in fields if field] == pytest.approx(expected or []), name
    assert (clips != "").all(axis=1).sum() == 6 and (clips == "").all(axis=1).sum() == len(clips) - 6


def copy_frames(target, source):
    """Overwrite the frames of one clip, (source, clip), by those of another."""
    rows = [store.read(f"data/frames/{name}").frame_table.query("clip == @clip")["row"].to_numpy()
            for name, clip in (target, source)]
    from_, to = (np.load(f"data/frames/{name}/frames.npy") for name in (source[0], target[0]))
    to[rows[0]] = from_[np.resize(rows[1], len(rows[0]))]
    np.save(f"data/frames/{target[0]}/frames.npy", to)


def test_copies_inside_the_set_share_a_side_and_lose_their_class_where_classes_differ(sources):
    """lusms/00 (b_lines) is butterfly/05 (Reg: another class) and lusms/03 (new: no class) is butterfly/07 (Reg)."""
    copy_frames(("lusms", "00.mp4"), ("butterfly", "05.mp4"))
    copy_frames(("lusms", "03.mp4"), ("butterfly", "07.mp4"))
    pairs = [("butterfly/05.mp4", "lusms/00.mp4"), ("butterfly/07.mp4", "lusms/03.mp4")]
    sides = set()
    for seed in range(12):
        assemble_us4.main(**SETTINGS | {"seed": seed})
        clips = store.read("data/us4").clip_table.set_index("clip")
        for one, two in pairs:
            assert clips["split"][one] == clips["split"][two], seed
            sides.add(clips["split"][one])
        # the other clips of their patients go with them
        assert clips.loc["lusms/00.mp4":"lusms/02.mp4", "split"].nunique() == 1
        assert clips.loc["lusms/03.mp4":"lusms/05.mp4", "split"].nunique() == 1
    assert sides == {"train", "held_out"}
    assert clips["pooled_class"][list(pairs[0])].tolist() == ["", ""]
    assert clips["pooled_class"][list(pairs[1])].tolist() == ["lung_normal", ""]
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False).query("outcome == 'copy'")
    audit["clip"] = audit["source"] + "/" + audit["clip"]
    named = audit.set_index("clip")[["copy_of", "reason"]].T.to_dict("list")
    assert {clip: values[0] for clip, values in named.items()} == {
        name: other for pair in pairs for name, other in (pair, pair[::-1])}
    assert all(("neither class" in named[clip][1]) == (clip in pairs[0]) for clip in named)


def test_the_same_file_in_two_sources_is_a_copy_even_if_its_frames_say_nothing(sources):
    """Both stores hold black frames of it, which have no hash."""
    for source, clip in (("butterfly", "04.mp4"), ("lusms", "06.mp4")):
        table = store.table(f"data/frames/{source}/clips.csv")
        table.loc[table["clip"] == clip, "checksum"] = "one file"
        table.to_csv(f"data/frames/{source}/clips.csv", index=False)
        rows = store.read(f"data/frames/{source}").frame_table.query("clip == @clip")["row"]
        frames = np.load(f"data/frames/{source}/frames.npy")
        frames[rows] = 0
        np.save(f"data/frames/{source}/frames.npy", frames)
    for seed in range(6):
        assemble_us4.main(**SETTINGS | {"seed": seed})
        split = store.read("data/us4").clip_table.set_index("clip")["split"]
        assert split["butterfly/04.mp4"] == split["lusms/06.mp4"]
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False).query("outcome == 'copy'")
    assert audit[["clip", "copy_of", "distance"]].values.tolist() == [
        ["04.mp4", "lusms/06.mp4", "0.0"], ["06.mp4", "butterfly/04.mp4", "0.0"]]


def test_the_audit_names_uncertain_crops_and_dropped_odd_frames(sources):
    path = sources / "data/frames/lusms/clips.csv"
    table = store.table(path)
    table.loc[table["clip"] == "04.mp4", ["crop_uncertain", "frames_odd"]] = ["2 pictures", 3]
    table.to_csv(path, index=False)
    assemble_us4.main(**SETTINGS)
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False)
    lines = audit[(audit["source"] == "lusms") & (audit["clip"] == "04.mp4")].set_index("outcome")
    assert lines["reason"].to_dict() == {"frames_dropped": "frames unlike the rest of the clip", "uncertain_crop": "2 pictures"}
    assert lines["frames"].to_dict() == {"frames_dropped": 3, "uncertain_crop": 4}


def test_the_audit_names_damage_times_that_were_not_believed_and_names_in_the_picture(sources):
    path = sources / "data/frames/lusms/clips.csv"
    table = store.table(path)
    table.loc[table["clip"] == "04.mp4", ["frames_damaged", "notes", "burned_in"]] = [2, "its time stamps …", "yes"]
    table.to_csv(path, index=False)
    assemble_us4.main(**SETTINGS)
    audit = pd.read_csv("reports/us4_audit.csv", keep_default_na=False)
    lines = audit[(audit["source"] == "lusms") & (audit["clip"] == "04.mp4")].set_index("outcome")
    assert lines["reason"].to_dict() == {
        "frames_damaged": "damaged frames", "noted": "its time stamps …", "burned_in": "its file says so"}
    assert lines["frames"].to_dict() == {"frames_damaged": 2, "noted": 4, "burned_in": 4}


def test_the_seed_decides_the_split(sources):
    splits = []
    for seed in (0, 0, 1, 2):
        assemble_us4.main(**SETTINGS | {"seed": seed})
        splits.append(tuple(store.read("data/us4").clip_table["split"]))
    assert splits[0] == splits[1] and len(set(splits)) > 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sources": []}, "assemble_us4.sources is .*a list of length 1 or more"),
        ({"sources": ["lusms", "butterfly", "lusms"]}, "assemble_us4.sources is .*each value once"),
        ({"sources": ["clust"]}, "needs clust; .*add it to extract_frames.sources"),
        ({"held_out_fraction": 1.0}, "held_out_fraction is 1.0"),
        ({"copy_distance": {"clips": 0.6, "stills": 0.1}}, "copy_distance.clips is 0.6"),
        ({"finetune": {"tasks": ["breast"]}} | BREAST, "needs breast; .*add it to extract_frames.sources"),
        ({"segment": {"tasks": ["breast"]}} | BREAST, "needs breast; .*add it to extract_frames.sources"),
        ({"tasks": {}}, "there is no block tasks.pocus; add it"),
        ({"classes": {"lung": "butterfly/Reg"}}, "assemble_us4.classes.lung is 'butterfly/Reg'; it must be a list"),
        ({"tasks": {"pocus": {"classes": ["covid"], "subsets": []}}}, "name two classes or more"),
        ({"tasks": {"pocus": {"classes": ["covid", "virall"]}}}, "task pocus: no clip of class virall .*the column label has"),
    ],
)
def test_what_cannot_be_assembled_is_one_sentence(sources, change, sentence):
    with pytest.raises(UserError, match=sentence):
        assemble_us4.main(**checked(assemble_us4.main, SETTINGS | change, "assemble_us4"))
    assert not (sources / "data/us4").exists()


def test_a_set_of_evaluation_clips_alone_is_refused(sources):
    tasks = {"pocus": {"classes": ["covid", "viral", "regular"], "subsets": []}}
    with pytest.raises(UserError, match="no clip of pocus is left to pretrain on: .*; name other sources in .*unlabelled"):
        assemble_us4.main(**SETTINGS | {"sources": ["pocus"], "tasks": tasks})
