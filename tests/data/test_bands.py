"""Tests of images of other bits and bands. Expected pixels are computed value by value, in plain Python."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stpp.data.bands import as_rgb, read_photo, scaled
from stpp.data.transforms import reseed, strong, weak
from stpp.ingest.inspection import inspect
from stpp.ingest.measuring import reading_of
from stpp.models import build, metadata
from stpp.params.data import Data
from stpp.params.models import Model, Strong, Weak
from stpp.store.files import StppError
from stpp.store.manifest import read_dataset, write_dataset
from stpp.store.reading import Reading, as_json, from_json

RNG = np.random.default_rng(0)
DEEP: NDArray[np.uint16] = RNG.integers(0, 4096, (9, 14, 6)).astype(np.uint16)
TWELVE = ((0.0, 4095.0),)


def expected(values: NDArray[Any], low: float, high: float) -> list[list[int]]:
    return [[min(255, max(0, math.floor((float(v) - low) * 255 / (high - low) + 0.5))) for v in row] for row in values]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32]),
    low=st.integers(-300, 300),
    width=st.integers(1, 70_000),
    seed=st.integers(0, 99),
)
def test_a_range_is_mapped_linearly_rounded_and_clipped(kind: type, low: int, width: int, seed: int) -> None:
    most = np.iinfo(kind) if np.issubdtype(kind, np.integer) else np.iinfo(np.int32)
    span = max(most.min, -70_000), min(most.max, 70_000)
    values = np.random.default_rng(seed).integers(*span, (3, 5), endpoint=True).astype(kind)
    found = scaled(values, (low, low + width))
    exact = [[(2 * 255 * (int(v) - low) + width) // (2 * width) for v in row] for row in values.tolist()]
    assert found.tolist() == np.clip(exact, 0, 255).tolist()


def grey_png(path: Path) -> None:
    Image.fromarray(DEEP[..., 0]).save(path)


def colour(path: Path) -> None:
    cv2.imwrite(str(path), DEEP[..., 2::-1])


def four(path: Path) -> None:
    cv2.imwrite(str(path), DEEP[..., [2, 1, 0, 3]])


def bands_of(**how: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        values = np.moveaxis(DEEP, 2, 0) if how.get("planarconfig") == "separate" else DEEP
        tifffile.imwrite(path, values, photometric="minisblack", **how)

    return write


def array(path: Path) -> None:
    np.save(path, DEEP)


@pytest.mark.parametrize(
    ("name", "write", "bands"),
    [
        ("a.png", grey_png, ()),
        ("a.tif", grey_png, ()),
        *[(f"a.{suffix}", colour, bands) for suffix in ("png", "tif", "ppm") for bands in ((), (3, 1))],
        *[(f"a.{suffix}", four, (4, 3, 2)) for suffix in ("png", "tif")],
        *[
            ("a.tif", bands_of(planarconfig=planar, compression=compression, predictor=predictor), (6, 1, 5, 2))
            for planar in ("contig", "separate")
            for compression, predictor in ((None, None), ("lzw", True), ("zlib", None), ("zstd", None))
        ],
        ("a.tif", bands_of(planarconfig="contig", tile=(16, 16), compression="deflate"), (2, 3, 4)),
        ("a.npy", array, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_the_named_bands_are_read_from_every_kind_of_file(
    name: str, write: Callable[[Path], None], bands: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    photo = read_photo(path, Reading(bands, TWELVE))
    chosen = bands or ((1, 1, 1) if write is grey_png else (1, 2, 3))
    assert photo.pixels.shape[2] == len(chosen)
    for channel, band in enumerate(chosen):
        assert photo.pixels[..., channel].tolist() == expected(DEEP[..., band - 1], 0, 4095)
    assert photo.nodata is None


def test_values_beyond_the_range_are_counted_but_not_where_there_is_no_data(tmp_path: Path) -> None:
    values = np.full((4, 5, 2), 50, np.int16)
    values[0] = -9999
    values[1, :2, 0] = 200
    values[2, 3, 1] = -9999
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    photo = read_photo(tmp_path / "a.tif", Reading((1, 2), ((0, 100),), -9999))
    assert {*photo.counts.values()} == {1, 2, 5} and len(photo.counts) == 3
    assert photo.nodata is not None and photo.nodata.tolist() == (values == -9999).all(2).tolist()
    assert (photo.pixels[0] == 0).all() and photo.pixels[1, 0].tolist() == [255, 128]


def tiff(values: NDArray[Any], **more: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, **({"photometric": "minisblack"} | more))


def pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as out:
        out.write(DEEP[..., 0])
        out.write(DEEP[..., 1])


HOLES = DEEP.astype(np.float32)
HOLES[3, 4, 1] = np.nan
CONTIG = {"planarconfig": "contig"}


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("write", "reading", "said"),
    [
        (tiff(HOLES, **CONTIG), Reading((1, 2), TWELVE), "pixels are NaN or infinite; .* data.nodata"),
        (tiff(DEEP, **CONTIG), Reading((7, 1), TWELVE), "has 6 bands, but data.bands names band 7"),
        (tiff(DEEP, **CONTIG), Reading((), TWELVE), "has 6 bands; name those to read in data.bands"),
        (tiff(DEEP, **CONTIG), Reading((1, 2)), "give data.range"),
        (tiff(DEEP[..., 0] + 1j), Reading((), TWELVE), "complex64 are not supported|complex128 are not supported"),
        (pages, Reading((), TWELVE), r"contains several pictures \(pages\); save each as a separate file"),
        (
            tiff(DEEP[..., :3], photometric="rgb", extratags=[(274, 3, 1, 6, True)]),
            Reading((), TWELVE),
            "stored turned",
        ),
        (lambda path: np.save(path, DEEP[0, 0]), Reading((), TWELVE), "an image is rows x columns x bands"),
        (lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), Reading((), TWELVE), "cannot be read: damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_remedy(
    write: Callable[[Path], None], reading: Reading, said: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.tif")
    with pytest.raises(StppError, match=said) as error:
        read_photo(next(tmp_path.iterdir()), reading)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF")
@pytest.mark.parametrize("how", [{}, {"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}], ids=str)
def test_a_cut_file_of_many_bands_is_never_read(how: dict[str, Any], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "whole.tif", DEEP, photometric="minisblack", planarconfig="contig", **how)
    whole = (tmp_path / "whole.tif").read_bytes()
    end = len(whole)
    with tifffile.TiffFile(tmp_path / "whole.tif") as file:
        page = file.pages.first
        end = max(offset + size for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True))
    for at in range(0, end, 23):
        (tmp_path / "cut.tif").write_bytes(whole[:at])
        with pytest.raises(StppError):
            read_photo(tmp_path / "cut.tif", Reading((1, 2), TWELVE))


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"range": [10, 0]}, "must be below the second"),
        ({"range": [[0, 1], [5, 5], [0, 2]]}, "must be below the second"),
        ({"range": [[0, 1], [0, 2]]}, "has 2 pairs of values for 3 bands"),
        ({"bands": [0]}, "greater than or equal to 1"),
        ({"bands": [2, 2]}, "names a band twice"),
    ],
)
def test_wrong_parameters_are_refused(given_: dict[str, Any], said: str) -> None:
    from_lists = {key: tuple(tuple(o) if isinstance(o, list) else o for o in value) for key, value in given_.items()}
    known = {"name": "n", "kind": "folder", "root": "r", "images": "{a}", "classes": ("a", "b")}
    with pytest.raises(ValueError, match=said):
        Data(**known, **from_lists)
    with pytest.raises(ValueError, match="kind pascal has built-in"):
        Data(name="n", kind="pascal", root="r", bands=(1,))


def folder_of(root: Path, images: list[NDArray[Any]], masks: int, **more: Any) -> Data:
    for at, values in enumerate(images):
        for folder in ("i", "m"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / f"i/{at}.tif", values, photometric="minisblack", planarconfig="contig")
        if at < masks:
            Image.fromarray(np.resize(np.array([0, 1], np.uint8), values.shape[:2])).save(root / f"m/{at}.png")
    known = {"name": "n", "kind": "folder", "root": str(root), "images": "i/{a}.tif", "masks": "m/{a}.png"}
    return Data(**known, classes=("a", "b"), **more)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_ranges_mean_and_deviation_are_those_of_the_pixels_with_data_in_images_with_masks(
    kind: type, tmp_path: Path
) -> None:
    images = [RNG.integers(0, 3000, (11, 13, 4)).astype(kind) for _ in range(4)]
    images[3] *= 2  # has no mask
    images[0][:3] = 9
    data = folder_of(tmp_path, images, 3, bands=(4, 1), range="minmax", nodata=9.0)
    files = [tmp_path / f"i/{at}.tif" for at in range(3)]
    valid = np.concatenate([one[..., [3, 0]].reshape(-1, 2) for one in images[:3]]).astype(float)
    valid = valid[(valid != 9).any(1)]
    for way, low, high in (("minmax", 0, 100), ("percentile", 2, 98)):
        reading, _ = reading_of(data.model_copy(update={"range": way}), files, 2)
        assert reading is not None
        for band, (bottom, top) in zip(valid.T, reading.ranges, strict=True):
            exact = np.sort(band)[
                [math.ceil(len(band) * low / 100) - 1 if low else 0, math.ceil(len(band) * high / 100) - 1]
            ]
            np.testing.assert_allclose((bottom, top), exact, atol=0 if kind is np.uint16 else 0.2)
    dataset, notes, problems = inspect(data, 2)
    assert not problems and dataset.reading is not None
    pixels = np.concatenate([read_photo(file, dataset.reading).pixels.reshape(-1, 2) for file in files]) / 255
    there = np.concatenate([(one[..., [3, 0]].reshape(-1, 2) != 9).any(1) for one in images[:3]])
    np.testing.assert_allclose(dataset.reading.mean, pixels[there].mean(0), atol=1e-6)
    np.testing.assert_allclose(dataset.reading.std, pixels[there].std(0), atol=1e-6)
    assert any("values above data.range" in note and "1 image(s), such as 3" in note for note in notes)


def test_a_value_that_a_file_declares_as_no_data_is_named_unless_it_is_given(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., :3], photometric="rgb", extratags=[(42113, 2, 0, "0", True)])
    assert any("declares 0 as no data" in note for note in read_photo(tmp_path / "a.tif", Reading((), TWELVE)).notes)
    assert read_photo(tmp_path / "a.tif", Reading((), TWELVE, 0.0)).notes == []


def test_images_of_different_band_counts_are_problems_by_name(tmp_path: Path) -> None:
    images = [DEEP[..., :4], DEEP[..., :3], DEEP[::-1, :, :4]]
    _, _, problems = inspect(folder_of(tmp_path, images, 3, bands=(1, 4), range=(0.0, 4095.0)), 2)
    assert len(problems) == 1 and "1.tif: has 3 bands, but data.bands names band 4" in problems[0]


def test_the_reading_is_part_of_the_manifest_and_of_the_identity_of_a_data_set(tmp_path: Path) -> None:
    images = [DEEP[..., :4], DEEP[::-1, :, :4]]
    found = [
        inspect(folder_of(tmp_path / "r", images, 2, bands=(1, 4), range=(0.0, top)), 0)[0] for top in (4095.0, 999.0)
    ]
    assert found[0].digest != found[1].digest
    write_dataset(tmp_path, found[0])
    assert read_dataset(tmp_path).reading == found[0].reading
    assert read_dataset(tmp_path).digest == found[0].digest
    assert found[0].reading is not None and from_json(as_json(found[0].reading)) == found[0].reading
    (tmp_path / "dataset.json").write_text((tmp_path / "dataset.json").read_text().replace("4095", "-1"))
    with pytest.raises(StppError, match="not what `stpp prepare` writes"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_the_augmentations_treat_every_band_alike(channels: int) -> None:
    """Each band of the views is what it is in an image of three equal bands, drawn with the same seed."""
    image = RNG.integers(0, 256, (40, 50, channels)).astype(np.uint8)
    mask = np.zeros((40, 50), np.uint8)
    view = weak(Weak(base=48, crop=32))
    without_colours = strong(Strong(jitter=0, grayscale=0, cutout=0), channels)
    for seed in range(8):
        reseed(view, seed)
        whole = view(image=image, mask=mask)["image"]
        reseed(without_colours, seed)
        blurred = without_colours(image=whole, mask=mask[:32, :32])["image"]
        for band in range(channels):
            reseed(view, seed)
            alone = view(image=np.repeat(image[..., band : band + 1], 3, 2), mask=mask)["image"]
            assert np.abs(whole[..., band].astype(int) - alone[..., 0]).max() <= 1
            reseed(without_colours, seed)
            alone = without_colours(image=np.repeat(whole[..., band : band + 1], 3, 2), mask=mask[:32, :32])["image"]
            assert np.abs(blurred[..., band].astype(int) - alone[..., 0]).max() <= 1


def test_brightness_and_contrast_of_other_bands_are_the_same_for_all_and_keep_the_order_of_values() -> None:
    image = RNG.integers(0, 256, (16, 16, 4)).astype(np.uint8)
    image[..., 3] = image[..., 0]
    view = strong(Strong(jitter=1, blur=0, cutout=0), 4)
    means = []
    for seed in range(20):
        reseed(view, seed)
        changed = view(image=image, mask=np.zeros((16, 16), np.uint8))["image"]
        assert np.array_equal(changed[..., 0], changed[..., 3])
        order = image[..., 1].ravel().argsort(kind="stable")
        assert (np.diff(changed[..., 1].ravel()[order].astype(int)) >= 0).all()
        means.append(changed.mean())
    assert np.ptp(means) > 40


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("channels", [2, 4])
def test_pretrained_first_convolutions_are_adapted_as_timm_does(backbone: str, channels: int, tmp_path: Path) -> None:
    """Equal bands give the features of an image of three such bands."""
    model, reading = Model(backbone=backbone, output_stride=16), Reading((*range(1, channels + 1),))
    by = build.Normalization((0.4,) * channels, (0.2,) * channels)
    torch.manual_seed(0)
    three = build.build(model, 2).eval()
    build.save(tmp_path / "start.safetensors", three.state_dict(), metadata.BackboneMetadata(model))
    network = build.build(model, 2, by).eval()
    build.load_start_weights(network, model, tmp_path / "start.safetensors")
    first = dict(three.named_modules())[build.first_layer(three)].weight.detach()
    adapted = network.get_submodule(build.first_layer(three)).weight.detach()
    for band in range(channels):
        torch.testing.assert_close(adapted[:, band], first[:, band % 3] * 3 / channels)
    about = metadata.CheckpointMetadata(
        model, ("a", "b"), ((0, 0, 0), (1, 1, 1)), metadata.Start(normalization=by), reading
    )
    build.save(tmp_path / "model.safetensors", network.state_dict(), about)
    assert metadata.read_metadata(tmp_path / "model.safetensors") == about
    again = build.load_checkpoint(tmp_path / "model.safetensors", model, 2)[0].eval()
    x = torch.rand(1, channels, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(x), network(x))
    assert again.get_buffer("pixel_mean").flatten().tolist() == pytest.approx([0.4] * channels)


def test_any_bands_are_shown_as_rgb() -> None:
    pixels = RNG.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    assert np.array_equal(as_rgb(pixels), pixels[..., :3]) and np.array_equal(as_rgb(pixels[..., :3]), pixels[..., :3])
    assert np.array_equal(as_rgb(pixels[..., :2]), np.stack([pixels[..., 0]] * 3, 2))
