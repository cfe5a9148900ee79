"""Archives in the published layouts, made here, through the command, `prepare`'s eyes, and hostile ones."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from stpp.data.mask_pixels import read_mask, to_classes
from stpp.ingest import archives
from stpp.ingest.archives import import_archive
from stpp.ingest.catalog import list_images
from stpp.ingest.known_layouts import layout
from stpp.params.data import Data
from stpp.store.files import StppError

Files = dict[str, bytes]


def picture(kind: str, array: np.ndarray, palette: list[int] | None = None) -> bytes:
    image = Image.fromarray(array)
    if palette:
        image.putpalette(bytes(palette))
    out = io.BytesIO()
    image.save(out, format=kind)
    return out.getvalue()


PHOTO = np.full((6, 8, 3), 90, dtype=np.uint8)
BORDERED = np.array([[0, 15, 255, 7]] * 3, dtype=np.uint8)
"""Background, person, void border, car."""


def voc() -> Files:
    palette = [v for i in range(256) for v in (i, 255 - i, i // 2)]
    files = {f"VOCdevkit/VOC2012/JPEGImages/2007_00000{i}.jpg": picture("JPEG", PHOTO) for i in range(3)}
    files["VOCdevkit/VOC2012/SegmentationClass/2007_000000.png"] = picture("PNG", BORDERED, palette)
    files["VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"] = b"2007_000000\n"
    files["VOCdevkit/VOC2012/Annotations/2007_000000.xml"] = b"<annotation/>"
    return files


def sbd_mat(mask: np.ndarray) -> bytes:
    out = io.BytesIO()
    categories = np.array([[1]], dtype=np.uint8)
    savemat(out, {"GTcls": {"Segmentation": mask, "CategoriesPresent": categories, "Boundaries": np.zeros((1, 1))}})
    return out.getvalue()


def sbd() -> Files:
    files = {f"benchmark_RELEASE/dataset/cls/2007_00000{i}.mat": sbd_mat(np.full((3, 4), i, np.uint8)) for i in (0, 1)}
    return files | {"benchmark_RELEASE/dataset/img/2007_000001.jpg": picture("JPEG", PHOTO)}


def cityscapes() -> tuple[Files, Files]:
    images, masks = {}, {}
    for place in ("train/aachen/aachen_000000_000019", "val/lindau/lindau_000001_000019", "test/bonn/bonn_000000_1"):
        images[f"leftImg8bit/{place}_leftImg8bit.png"] = picture("PNG", PHOTO)
        ids = np.array([[7, 0, 26, 33]] * 3, dtype=np.uint8)
        masks[f"gtFine/{place}_gtFine_labelIds.png"] = picture("PNG", ids)
        masks[f"gtFine/{place}_gtFine_color.png"] = picture("PNG", PHOTO)
        masks[f"gtFine/{place}_gtFine_polygons.json"] = b"{}"
    return images, masks


def as_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def as_folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


WAYS: list[Callable[[Path, Files], Path]] = [as_zip, as_tar, as_folder]


@pytest.mark.parametrize("way", WAYS)
def test_voc_with_sbd_becomes_the_augmented_set(tmp_path: Path, way: Callable[[Path, Files], Path]) -> None:
    out = tmp_path / "data"
    first = import_archive(way(tmp_path / "VOCtrainval_11-May-2012.tar", voc()), out)
    assert first.counts == {"VOC 2012 images": 3, "VOC 2012 masks": 1}
    assert first.left_out == 2
    second = import_archive(way(tmp_path / "benchmark.tgz", sbd()), out)
    assert second.counts == {"SBD masks": 2}

    data = Data(name="voc", kind="pascal", root=str(out))
    found, problems, _ = list_images(data, layout(data))
    assert not problems
    assert {name: bool(f.mask) for name, f in found.items()} == {
        "2007_000000": True,
        "2007_000001": True,
        "2007_000002": False,
    }
    assert found["2007_000000"].mask == "SegmentationClass/2007_000000.png", "where VOC has a mask, it is that one"
    of_voc = to_classes(read_mask(out / found["2007_000000"].mask), layout(data).values)
    assert of_voc.tolist() == BORDERED.tolist(), "ids behind the palette, void border ignored"
    assert to_classes(read_mask(out / found["2007_000001"].mask), layout(data).values).tolist() == [[1] * 4] * 3


def test_the_common_zip_of_augmented_masks_is_taken_as_it_is(tmp_path: Path) -> None:
    files = {"SegmentationClassAug/2007_000001.png": picture("PNG", BORDERED)}
    files |= {"__MACOSX/SegmentationClassAug/._2007_000001.png": b"\0\5\26\7"}
    found = import_archive(as_zip(tmp_path / "SegmentationClassAug.zip", files), tmp_path / "data")
    assert found.counts == {"augmented masks": 1}
    assert (tmp_path / "data/SegmentationClassAug/2007_000001.png").read_bytes() == picture("PNG", BORDERED)


@pytest.mark.parametrize("way", WAYS)
def test_cityscapes_keeps_train_and_val_and_its_label_ids_become_train_ids(
    tmp_path: Path, way: Callable[[Path, Files], Path]
) -> None:
    images, masks = cityscapes()
    out = tmp_path / "data"
    assert import_archive(way(tmp_path / "leftImg8bit_trainvaltest.zip", images), out).left_out == 1
    assert import_archive(way(tmp_path / "gtFine_trainvaltest.zip", masks), out).counts == {"Cityscapes masks": 2}
    data = Data(name="cityscapes", kind="cityscapes", root=str(out))
    known = layout(data)
    found, problems, _ = list_images(data, known)
    assert not problems
    assert len(found) == 2
    mask = to_classes(read_mask(out / next(iter(found.values())).mask), known.values)
    assert mask[0].tolist() == [0, 255, 13, 18], "road, unlabeled, car, bicycle"


@pytest.mark.parametrize("way", WAYS)
def test_a_data_set_of_no_known_layout_keeps_its_names(tmp_path: Path, way: Callable[[Path, Files], Path]) -> None:
    files = {f"{part}/0001.png": picture("PNG", BORDERED) for part in ("trainannot", "valannot")}
    files |= {"train/0001.jpg": picture("JPEG", PHOTO), "train.txt": b"train/0001.jpg\n", "setup.exe": b"MZ"}
    files |= {"test/0001.webp": picture("WEBP", PHOTO)}
    files |= {"test/.0002.png": b"", "test/@eaDir/0001.jpg": b"", "test/Thumbs.db": b""}
    found = import_archive(way(tmp_path / "camvid.zip", files), tmp_path / "data")
    assert found.counts == {"images and masks": 4, "lists": 1}
    assert found.left_out == 4
    there = {p.relative_to(tmp_path / "data").as_posix() for p in (tmp_path / "data").rglob("*") if p.is_file()}
    assert there == set(files) - {"setup.exe", "test/.0002.png", "test/@eaDir/0001.jpg", "test/Thumbs.db"}


def test_importing_again_changes_nothing_and_other_content_is_never_overwritten(tmp_path: Path) -> None:
    archive = as_tar(tmp_path / "voc.tar", voc())
    import_archive(archive, tmp_path / "data")
    image = tmp_path / "data/JPEGImages/2007_000000.jpg"
    before = image.stat().st_mtime_ns
    import_archive(archive, tmp_path / "data")
    assert image.stat().st_mtime_ns == before
    image.write_bytes(b"mine")
    with pytest.raises(StppError, match="already exists with different content"):
        import_archive(archive, tmp_path / "data")
    assert image.read_bytes() == b"mine"


def test_counts_that_are_not_the_published_ones_are_said(tmp_path: Path) -> None:
    warnings = import_archive(as_tar(tmp_path / "voc.tar", voc()), tmp_path / "data").warnings
    assert warnings == [
        "3 VOC 2012 images, but the published archive holds 17125",
        "1 VOC 2012 masks, but the published archive holds 2913",
    ]


@pytest.mark.parametrize("way", [as_zip, as_tar])
@pytest.mark.parametrize(
    "name", ["../outside.png", "/tmp/outside.png", "a/../../outside.png", "..\\outside.png", "a\\..\\..\\outside.png"]
)
def test_a_name_that_leads_outside_is_left_out(tmp_path: Path, way: Callable[[Path, Files], Path], name: str) -> None:
    files = {name: picture("PNG", BORDERED), "good.png": picture("PNG", BORDERED)}
    out = tmp_path / "a" / "data"
    assert import_archive(way(tmp_path / "evil.zip", files), out).left_out == 1
    assert {p.name for p in tmp_path.rglob("*.png")} == {"good.png"}
    assert not Path("/tmp/outside.png").exists()


def test_links_and_devices_in_a_tar_are_left_out(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "voc.tar", voc())
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("VOCdevkit/VOC2012/JPEGImages/2007_000009.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    import_archive(path, tmp_path / "data")
    assert not (tmp_path / "data/JPEGImages/2007_000009.jpg").exists()


def test_links_in_a_zip_are_left_out(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "voc.zip", voc())
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("VOCdevkit/VOC2012/JPEGImages/2007_000009.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    import_archive(path, tmp_path / "data")
    assert len(list((tmp_path / "data/JPEGImages").iterdir())) == 3


@pytest.mark.parametrize("way", [as_zip, as_tar])
def test_a_cut_archive_is_an_error_that_names_it_wherever_it_is_cut(
    tmp_path: Path, way: Callable[[Path, Files], Path]
) -> None:
    whole = way(tmp_path / "voc.tgz", voc()).read_bytes()
    for part in (0.0, 0.3, 0.6, 0.9):
        (tmp_path / "cut.tgz").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(StppError, match=r"cut\.tgz"):
            import_archive(tmp_path / "cut.tgz", tmp_path / f"data {part}")


@pytest.mark.parametrize("suffix", ["zip", "tgz", "txz"])
def test_a_changed_byte_is_an_error_that_names_the_archive_or_changes_nothing_that_is_read(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"voc.{suffix}"
    files = {name: content for name, content in voc().items() if name.endswith((".jpg", ".png"))}
    if suffix == "zip":
        as_zip(path, files)
    else:
        with tarfile.open(path, "w:gz" if suffix == "tgz" else "w:xz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    whole = bytearray(path.read_bytes())
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        changed = bytearray(whole)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        try:
            import_archive(path, tmp_path / f"{at}")
        except StppError as error:
            assert path.name in str(error)
            refused += 1
    assert refused > 5


def test_a_folder_that_cannot_be_written_is_not_called_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="data"):
        import_archive(as_tar(tmp_path / "voc.tar", voc()), tmp_path / "data")


@pytest.mark.parametrize("mask", [np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4), np.float64)])
def test_a_mat_of_sbd_whose_mask_is_none_is_an_error(tmp_path: Path, mask: np.ndarray) -> None:
    archive = as_zip(tmp_path / "benchmark.zip", {"benchmark_RELEASE/dataset/cls/2007_000001.mat": sbd_mat(mask)})
    with pytest.raises(StppError, match="its mask is"):
        import_archive(archive, tmp_path / "data")


def test_a_mat_of_sbd_may_hold_wider_integers_but_no_class_that_voc_has_not(tmp_path: Path) -> None:
    name = "benchmark_RELEASE/dataset/cls/2007_000001.mat"
    wide = np.array([[0, 20], [255, 3]])
    import_archive(as_zip(tmp_path / "a.zip", {name: sbd_mat(wide)}), tmp_path / "data")
    assert (read_mask(tmp_path / "data/SegmentationClassAug/2007_000001.png") == wide).all()
    with pytest.raises(StppError, match="class 77"):
        import_archive(as_zip(tmp_path / "b.zip", {name: sbd_mat(np.full((2, 2), 77))}), tmp_path / "other")


@pytest.mark.parametrize("record", ["{}", "3", "[1]", "nonsense"])
def test_a_record_that_is_none_of_an_import_stops_it_before_anything_is_written(tmp_path: Path, record: str) -> None:
    from stpp.stages.data import import_

    out = tmp_path / "data"
    out.mkdir()
    (out / "imported.json").write_text(record)
    with pytest.raises(StppError, match=r"imported\.json"):
        import_(as_zip(tmp_path / "voc.zip", voc()), out)
    assert [path.name for path in out.iterdir()] == ["imported.json"]


@pytest.mark.parametrize("content", [b"", b"hello", b"MATLAB 5.0 MAT-file" + b"\0" * 200])
def test_a_mat_that_is_none_of_sbd_is_an_error(tmp_path: Path, content: bytes) -> None:
    archive = as_zip(tmp_path / "benchmark.zip", {"benchmark_RELEASE/dataset/cls/2007_000001.mat": content})
    with pytest.raises(StppError, match=r"benchmark\.zip: .*not a \.mat of SBD"):
        import_archive(archive, tmp_path / "data")


def test_an_archive_of_other_things_and_a_path_that_is_not_there_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StppError, match="contains neither images nor"):
        import_archive(as_zip(tmp_path / "x.zip", {"readme.md": b"hello"}), tmp_path / "data")
    with pytest.raises(StppError, match="no such file or folder"):
        import_archive(tmp_path / "nowhere.tar", tmp_path / "data")


def test_the_remedy_fits_what_is_wrong_with_an_archive(tmp_path: Path) -> None:
    whole = as_tar(tmp_path / "voc.tgz", voc()).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "login.zip").write_text("<html>log in to download</html>" * 50)
    plain = as_zip(tmp_path / "plain.zip", {"a.png": b"x"}).read_bytes()
    entry = plain.index(b"PK\1\2")  # of a.png in the list at the end of a zip
    for name, at, value in (("locked.zip", 8, 1), ("large.zip", 27, 32)):  # bit 0 of the flags; 512 MiB
        (tmp_path / name).write_bytes(plain[: entry + at] + bytes([value]) + plain[entry + at + 1 :])
    mat = {"benchmark_RELEASE/dataset/cls/2007_000001.mat": sbd_mat(np.full((2, 2), 77))}
    as_zip(tmp_path / "sbd.zip", mat)
    as_folder(tmp_path / "sbd", mat)
    for name, said in {
        "cut.tgz": "damaged: .*; download it again",
        "login.zip": "neither a zip nor a tar; unpack it yourself, and import the folder, or download it again",
        "locked.zip": ".* encrypted.*; unpack it yourself, and import the folder",
        "large.zip": "a.png: 512 MB .*; unpack it yourself, and import the folder without this file",
        "sbd.zip": ".*/2007_000001.mat: .* class 77.*; use the published archive of SBD",
        "sbd": ".*/2007_000001.mat: .* class 77.*; use the published archive of SBD",
    }.items():
        with pytest.raises(StppError, match=rf"/{name}: {said}$"):
            import_archive(tmp_path / name, tmp_path / "data")


def test_what_was_imported_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpp.stages.data import import_

    monkeypatch.chdir(tmp_path)
    for name, files in (("voc.tar", voc()), ("benchmark.tgz", sbd()), ("voc.tar", voc())):
        import_(as_tar(tmp_path / name, files), Path("data"))
    record = json.loads((tmp_path / "data/imported.json").read_text())
    assert [one["archive"] for one in record] == ["benchmark.tgz", "voc.tar"]
    assert all(len(one["sha256"]) == 64 for one in record)

    other = as_tar(tmp_path / "elsewhere.tar", sbd()).rename(tmp_path / "benchmark.tgz")
    import_(other, Path("data"))
    record = json.loads((tmp_path / "data/imported.json").read_text())
    assert sorted(one["archive"] for one in record) == ["benchmark.tgz", "benchmark.tgz", "voc.tar"]


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inner.png", picture("PNG", PHOTO))
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name, content in (("PK/a.png", picture("PNG", PHOTO)), ("extra.zip", inner.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    import_archive(tmp_path / "all.tar", tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").rglob("*.png")] == ["a.png"]


def test_what_macos_adds_is_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for name in ("images/1.png", "__MACOSX/images/._1.png", "images/._1.png"):
            archive.writestr(name, picture("PNG", PHOTO))
    found = import_archive(tmp_path / "mine.zip", tmp_path / "out")
    assert [f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*.png")] == ["images/1.png"]
    assert found.left_out == 2


@pytest.mark.parametrize("inside", [".", "data", "a/b"])
def test_a_folder_is_not_imported_into_itself(tmp_path: Path, inside: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/1.png").write_bytes(picture("PNG", PHOTO))
    with pytest.raises(StppError, match="lies in"):
        import_archive(tmp_path / "mine", tmp_path / "mine" / inside)
    assert len(list((tmp_path / "mine").rglob("*.png"))) == 1


def test_a_folder_is_recorded_by_its_content(tmp_path: Path) -> None:
    digests = []
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(picture("PNG", np.full((2, 2), value, np.uint8)))
        digests.append(import_archive(tmp_path / name, tmp_path / f"out_{name}").sha256)
    assert len(digests[0]) == 64
    assert digests[0] == digests[1] != digests[2]


def test_a_mask_of_sbd_is_shown_in_the_colours_of_voc_border_and_all(tmp_path: Path) -> None:
    mat = sbd_mat(np.array([[0, 1, 15, 255]] * 2, dtype=np.uint8))
    import_archive(as_zip(tmp_path / "sbd.zip", {"b/dataset/cls/2007_000001.mat": mat}), tmp_path / "out")
    with Image.open(tmp_path / "out/SegmentationClassAug/2007_000001.png") as image:
        assert np.asarray(image).tolist() == [[0, 1, 15, 255]] * 2
        shown = np.asarray(image.convert("RGB"))[0].tolist()
    assert shown == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]


def test_a_killed_import_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    files = {f"VOC2012/JPEGImages/{i:05}.jpg": picture("JPEG", content) for i in range(4000)}
    archive, out = as_tar(tmp_path / "voc.tar", files), tmp_path / "data"
    command = [sys.executable, "-m", "stpp", "data", "import", str(archive), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("JPEGImages/*.jpg"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = [path.read_bytes() for path in out.glob("JPEGImages/*.jpg")]
    assert 20 <= len(there) < 4000
    assert set(there) == set(files.values())
    assert not (out / "imported.json").exists()

    (out / f".import.{process.pid}.partial").write_bytes(b"what a kill in the middle of a file leaves")
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(out.glob("JPEGImages/*.jpg"))) == 4000
    assert {path.name for path in out.iterdir()} == {"JPEGImages", "imported.json"}


def test_the_beginning_of_a_file_as_a_power_cut_leaves_it_is_completed(tmp_path: Path) -> None:
    archive = as_tar(tmp_path / "voc.tar", voc())
    import_archive(archive, tmp_path / "data")
    image = tmp_path / "data/JPEGImages/2007_000000.jpg"
    whole = image.read_bytes()
    for size in (0, 9):
        image.write_bytes(whole[:size])
        import_archive(archive, tmp_path / "data")
        assert image.read_bytes() == whole


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_an_archive_that_unpacks_to_many_times_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(archives, "MOST", 2**20)
    way = as_zip if suffix == "zip" else as_tar
    archive = way(tmp_path / f"bomb.{suffix}", {f"{i}.png": bytes(2**22) for i in range(20)})
    with pytest.raises(StppError, match=rf"bomb\.{suffix}: .*more than 1 GiB and 200 times its size"):
        import_archive(archive, tmp_path / "data")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.png")) <= 200 * archive.stat().st_size


def test_a_mat_that_is_larger_than_any_of_sbd_is_not_opened(tmp_path: Path) -> None:
    content = b"MATLAB 5.0 MAT-file" + bytes(2**21)
    archive = as_zip(tmp_path / "benchmark.zip", {"benchmark_RELEASE/dataset/cls/2007_000001.mat": content})
    with pytest.raises(StppError, match=r"too large \(2 MB\)"):
        import_archive(archive, tmp_path / "data")


def test_imports_into_one_folder_at_once_are_both_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpp.stages import data

    first, second = as_tar(tmp_path / "voc.tar", voc()), as_tar(tmp_path / "benchmark.tgz", sbd())

    def slowly(source: Path, out: Path) -> archives.Imported:
        monkeypatch.undo()
        data.import_(second, out)
        return import_archive(source, out)

    monkeypatch.setattr(data, "import_archive", slowly)
    data.import_(first, tmp_path / "data")
    record = json.loads((tmp_path / "data/imported.json").read_text())
    assert {one["archive"] for one in record} == {"voc.tar", "benchmark.tgz"}
