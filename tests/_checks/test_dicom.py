"""DICOM files: scaled as they say, and refused where they hold no single image."""

from __future__ import annotations

import builtins
import io
import sys

import numpy as np
import pytest
from PIL import Image

from sklearn_epee._checks.images import as_images, image_form

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 256, (6, 4), dtype=np.uint8)
TWELVE = RNG.integers(0, 4096, (6, 4), dtype=np.uint16)
SIGNED = RNG.integers(-1024, 3000, (6, 4), dtype=np.int16)
COLOR = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)


def dataset(pixels, photometric="MONOCHROME2", bits_stored=None, **elements):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        found.PlanarConfiguration = 0
    found.PhotometricInterpretation = photometric
    found.BitsAllocated = 8 * pixels.dtype.itemsize
    found.BitsStored = bits_stored or found.BitsAllocated
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


@pytest.fixture
def written(tmp_path):
    def write(data, name="a.dcm"):
        data.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


def read(path):
    (found,) = as_images([path], None)
    form = image_form(as_images(np.full((1, 4, 4, found.shape[-1]), 255, np.uint8), None))
    (lazy,) = as_images([path], None, form)  # described by its header
    assert (lazy.shape, lazy.dtype) == (found.shape, found.dtype)
    np.testing.assert_array_equal(np.asarray(lazy), found)
    return found[..., 0] if found.shape[-1] == 1 else found


def test_eight_bits_are_the_pixels(written):
    np.testing.assert_array_equal(read(written(dataset(EIGHT))), EIGHT)
    assert read(written(dataset(EIGHT), "without a suffix")).dtype == np.uint8
    inverted = read(written(dataset(EIGHT, "MONOCHROME1")))
    np.testing.assert_array_equal(inverted, 255 - EIGHT)


def test_without_a_window_the_full_range_of_the_stored_bits_counts(written):
    found = read(written(dataset(TWELVE, bits_stored=12)))
    np.testing.assert_allclose(found, TWELVE / 4095, atol=1e-6)
    found = read(written(dataset(TWELVE, bits_stored=12, RescaleSlope=2, RescaleIntercept=-9)))
    np.testing.assert_allclose(found, TWELVE / 4095, atol=1e-6)
    found = read(written(dataset(SIGNED)))
    np.testing.assert_allclose(found, (SIGNED + 32768.0) / 65535, atol=1e-6)
    found = read(written(dataset(TWELVE, "MONOCHROME1", bits_stored=12)))
    np.testing.assert_allclose(found, 1 - TWELVE / 4095, atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_first_window_is_applied_to_rescaled_values(written, function, photometric):
    data = dataset(
        SIGNED, photometric, RescaleSlope=1.5, RescaleIntercept=-100,
        WindowCenter=[400, 7], WindowWidth=[1500, 3],
    )  # fmt: skip
    if function:
        data.VOILUTFunction = function
    found = read(written(data))
    values = pydicom.pixels.apply_modality_lut(SIGNED, data)
    theirs = pydicom.pixels.apply_windowing(values, data)
    low, high = (1.5 * end - 100 for end in (-32768, 32767))
    expected = (theirs - low) / (high - low)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tables_of_values_are_applied(written):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (np.arange(256, dtype=np.uint16)[::-1] * 257).tobytes()
    table["LUTData"].VR = "OW"
    table["LUTDescriptor"].VR = "US"
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        found = read(written(dataset(EIGHT, **{name: [table]})))
        np.testing.assert_allclose(found, 1 - EIGHT / 255.0, atol=1e-5)


def test_colors_are_rgb_in_any_plane_order(written):
    np.testing.assert_array_equal(read(written(dataset(COLOR, "RGB"))), COLOR)
    planes = dataset(COLOR, "RGB", PlanarConfiguration=1)
    planes.PixelData = np.moveaxis(COLOR, -1, 0).tobytes()
    np.testing.assert_array_equal(read(written(planes)), COLOR)
    smooth = np.asarray(Image.fromarray(COLOR).resize((32, 32)))
    ycbcr = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    found = read(written(dataset(ycbcr, "YBR_FULL")))
    np.testing.assert_allclose(found.astype(int), smooth.astype(int), atol=3)
    sixteen = read(written(dataset(COLOR.astype(np.uint16) * 257, "RGB")))
    np.testing.assert_allclose(sixteen, COLOR / 255.0, atol=1e-5)


def test_palettes_are_read_as_rgb(written):
    data = dataset(EIGHT, "PALETTE COLOR")
    tables = RNG.integers(0, 2**16, (3, 256), dtype=np.uint16)
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"{name}PaletteColorLookupTableData", table.tobytes())
    found = read(written(data))
    np.testing.assert_allclose(found, np.moveaxis(tables[:, EIGHT], 0, -1) / 65535, atol=1e-5)


def test_compressed_pixels_are_decoded(written):
    data = dataset(TWELVE, bits_stored=12)
    data.compress(RLELossless)
    np.testing.assert_allclose(read(written(data)), TWELVE / 4095, atol=1e-6)
    smooth = np.asarray(Image.fromarray(EIGHT).resize((32, 32)))
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "jpeg", quality=98)
    data = dataset(smooth)
    data.PixelData = encapsulate([buffer.getvalue()])
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    np.testing.assert_allclose(read(written(data)).astype(int), smooth.astype(int), atol=6)


# ---------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_decoded_names_the_syntax_and_the_packages(written):
    data = dataset(EIGHT)
    data.PixelData = encapsulate([b"\xff\xd8 no image \xff\xd9"])
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    message = (
        r"a\.dcm', has pixels with the transfer syntax JPEG-LS Lossless .*1\.2\.840.*pylibjpeg"
    )
    with pytest.raises(ValueError, match=message):
        as_images([written(data)], None)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_is_no_single_image_is_refused(written, tmp_path):
    film = dataset(EIGHT, NumberOfFrames=2)
    film.PixelData = EIGHT.tobytes() * 2
    no_pixels = dataset(EIGHT)
    del no_pixels.PixelData
    short = dataset(EIGHT)
    short.PixelData = EIGHT.tobytes()[:10]
    report = dataset(EIGHT)
    del report.Rows
    lost = dataset(EIGHT)
    del lost.PhotometricInterpretation
    cases = [
        (film, r"a\.dcm', holds 2 frames.*frames can"),
        (no_pixels, r"a\.dcm', holds no pixels: the element PixelData is missing"),
        (short, r"a\.dcm', has pixels .* cannot be decoded"),
        (report, r"a\.dcm', is not a DICOM image: it has no Rows"),
        (lost, r"a\.dcm', has the photometric interpretation ''"),
        (dataset(EIGHT, "CMYK"), r"a\.dcm', has the photometric interpretation 'CMYK'"),
        (dataset(TWELVE, WindowCenter=5, WindowWidth=0), r"a\.dcm', has a window of width 0"),
        (dataset(TWELVE, RescaleSlope="nan", RescaleIntercept=0), "some are NaN or infinite"),
        (dataset(TWELVE, RescaleSlope=0, RescaleIntercept=0), "rescale slope is 0"),
    ]
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            as_images([written(data)], None)
    for content in (b"", b"DICM", b"\0" * 128 + b"DICM" + b"junk" * 9, b"text" * 99):
        (tmp_path / "a.dcm").write_bytes(content)
        with pytest.raises(ValueError, match=r"X\[0\], the file '.*a\.dcm', is not a DICOM"):
            as_images([tmp_path / "a.dcm"], None)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_damaged_bytes_are_read_or_refused_with_the_name_of_the_file(written):
    path = written(dataset(TWELVE, bits_stored=12, WindowCenter=2000, WindowWidth=4000))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8)[: rng.integers(130, len(whole) + 1)].copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            as_images([path], None)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_without_pydicom_the_error_says_what_to_install(written, monkeypatch):
    path = written(dataset(EIGHT))
    imported = builtins.__import__

    def missing(name, *rest, **more):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "pydicom")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"a\.dcm', is a DICOM file.*sklearn_epee\[dicom\]"):
        as_images([path], None)
