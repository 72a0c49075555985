"""Check that predictions for image files equal those for arrays: BreastMNIST as PNG and DICOM.

    python -m benchmarks.image_files BACKBONE [--data-home DIR] [--out FILE]

The set is written as folders of files, one folder per class, a checkpoint is fine-tuned on arrays
and on each kind of file with the same seed, and predictions are compared. Prints a table, and
writes it with ``--out``. Needs pydicom.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from sklearn_epee import EPEEImageClassifier, exit_scores
from sklearn_epee.datasets import load_breastmnist, load_image_folder


def write_png(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path.with_suffix(".png"))


def write_png16(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.astype(np.uint16) * 257).save(path.with_suffix(".png"))


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    """Write a secondary capture with 8 bits and inverted brightness."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = (255 - pixels).tobytes()
    data.save_as(path.with_suffix(".dcm"), enforce_file_format=True)


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "PNG, 8 bits": write_png,
    "PNG, 16 bits": write_png16,
    "DICOM, MONOCHROME1": write_dicom,
}


def written(
    folder: Path, images: np.ndarray, labels: np.ndarray, write: Callable[[Path, np.ndarray], None]
) -> tuple[list[str], np.ndarray]:
    """Write images as one folder per class; return the paths in the order of the arrays."""
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        name = str(label).replace(", ", " or ")
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name / f"{i:05}", pixels)
    listed = load_image_folder(folder)
    order = np.argsort([Path(path).stem for path in listed.data])
    return [listed.data[i] for i in order], listed.target[order]


def figures(scores: dict) -> str:
    return f"{scores['accuracy']:.3f} | {scores['mean_exit_layer']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone")
    parser.add_argument("--data-home", default=None)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    X, y = load_breastmnist(subset="train", data_home=args.data_home, return_X_y=True)
    X_test, y_test = load_breastmnist(subset="test", data_home=args.data_home, return_X_y=True)

    def fitted(given, labels):
        start = time.perf_counter()
        model = EPEEImageClassifier(
            args.backbone, image_size=56, max_epochs=args.epochs, tau=0.3, memory=None,
            precision="float32", random_state=0,
        ).fit(given, labels)  # fmt: skip
        return model, time.perf_counter() - start

    model, seconds = fitted(X, y)
    expected = np.stack(list(model.staged_predict_proba(X_test)))
    scores = exit_scores(model, X_test, y_test)
    lines = [
        "| images | fit (s) | accuracy | mean exit layer | largest difference of a probability |",
        "| --- | --- | --- | --- | --- |",
        f"| arrays | {seconds:.0f} | {figures(scores)} | |",
    ]
    with tempfile.TemporaryDirectory() as name:
        for number, (kind, write) in enumerate(WRITERS.items()):
            paths, labels = written(Path(name, str(number), "train"), X, y, write)
            test_paths, test_labels = written(
                Path(name, str(number), "test"), X_test, y_test, write
            )
            model, seconds = fitted(paths, labels)
            found = np.stack(list(model.staged_predict_proba(test_paths)))
            scores = exit_scores(model, test_paths, test_labels)
            lines.append(
                f"| {kind} | {seconds:.0f} | {figures(scores)} | "
                f"{np.abs(found - expected).max():.1e} |"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    text = (
        f"BreastMNIST, {len(X)} training and {len(X_test)} test images at 56 x 56, "
        f"{Path(args.backbone).name}, {args.epochs} epoch(s), float32; peak memory {peak} MiB.\n\n"
        + "\n".join(lines)
    )
    print(text)
    if args.out is not None:
        command = f"Printed by `python -m benchmarks.image_files {Path(args.backbone).name}`."
        args.out.write_text(f"# Image files against arrays\n\n{command}\n\n{text}\n")


if __name__ == "__main__":
    main()
