"""Tiny sources, each in the published layout of its dataset."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter

SIZE_HW = (60, 72)


def scene(seed: int, size_hw: tuple[int, int] = SIZE_HW, *, cells: int = 6) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an image (H, W) uint8 of round cells on a mottled background, and its labels (H, W) uint16."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    labels = np.zeros(size_hw, np.uint16)
    for index in range(1, cells + 1):
        y, x = rng.uniform(4, size_hw[0] - 4), rng.uniform(4, size_hw[1] - 4)
        labels[((rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(3, 6) ** 2) & (labels == 0)] = index
    ground = gaussian_filter(rng.normal(size=size_hw), 2)  # smooth, so that it continues from tile to tile
    image = 70 + gaussian_filter(120.0 * (labels > 0), 1.5) + 150 * ground
    return np.clip(image, 1, 255).astype(np.uint8), labels


def save(path: Path, array: NDArray[Any]) -> None:
    """Write an array in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        Image.fromarray(array).save(path)


def tissuenet(root: Path) -> None:
    for seed, (split, count) in enumerate({"train": 3, "val": 1, "test": 2}.items()):
        scenes = [scene(10 * seed + i) for i in range(count)]
        images = np.stack([np.stack((image[::-1], image), -1) for image, _ in scenes]).astype(np.float32)
        labels = np.stack([np.stack((cells, cells > 0), -1) for _, cells in scenes]).astype(np.int32)
        meta = np.array([["filename", "specimen"], ["a", "b"]], dtype=object)
        np.savez_compressed(root / f"tissuenet_v1.1_{split}.npz", X=images, y=labels, meta=meta)


def deepbacs(root: Path) -> None:
    forms = {
        "mixed/training": ("source", "target"),
        "mixed/test": ("source", "target"),
        "ecoli/train": ("brightfield", "masks_RoiMap"),
        "ecoli/test": ("brightfield", "masks_RoiMap"),
        "saureus/fluorescence_dataset/train/full_images": ("fluorescence", "masks"),
        "saureus/fluorescence_dataset/train/patches": ("fluorescence", "masks"),
    }
    for seed, (directory, (images, masks)) in enumerate(forms.items()):
        image, labels = scene(seed)
        save(root / directory / images / "pos1.tif", image)
        save(root / directory / masks / "pos1.tif", labels)
    save(root / "ecoli/train/masks_binary/pos1.tif", scene(2)[1] > 0)


def nifti(plane: NDArray[np.float32], *, order: str = "<") -> bytes:
    """Write a NIfTI-1 file of one float32 plane like oro.nifti: 348-byte header, four bytes, values."""
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, plane.shape[1], plane.shape[0], 1, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, 16, 32)
    struct.pack_into(f"{order}f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return bytes(header) + plane.astype(f"{order}f4").tobytes()


def brifiseg(root: Path) -> None:
    for seed, (part, number) in enumerate((("Tr", "001"), ("Tr", "002"), ("Ts", "003"))):
        image, labels = scene(seed, cells=4)
        centre = binary_erosion(labels > 0, iterations=1)
        classes = np.where(centre, 1, np.where(labels > 0, 2, 0)).astype(np.float32)
        for kind, name, plane in (("images", f"A549_{number}_0000", image), ("labels", f"A549_{number}", classes)):
            path = root / "Task001_A549" / f"{kind}{part}" / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(nifti(plane.astype(np.float32))))


def cellpose(root: Path) -> None:
    for seed, name in enumerate(("train/000", "train/001", "test/000", "train_cyto2/000")):
        image, labels = scene(seed)
        blue = np.zeros_like(image)
        rgb = np.stack((image,) * 3 if name == "train/001" else (image[::-1], image, blue), -1)
        save(root / f"{name}_img.png", rgb)
        save(root / f"{name}_masks.png", labels)


def omnipose(root: Path) -> None:
    names = ("bact_phase/train_sorted/caulo/a", "bact_phase/test_sorted/caulo/b", "bact_fluor/train_sorted/vibrio/c")
    for seed, name in enumerate((*names, "worm/train/d")):
        image, labels = scene(seed)
        save(root / f"{name}.tif", image)
        save(root / f"{name}_masks.tif", labels)
        save(root / f"{name}_flows.tif", np.zeros((5, *SIZE_HW), np.float32))


def yeastnet(root: Path) -> None:
    for index in (0, 1, 50, 51, 101, 102, 152):  # DSDataset: 51 time points in three focal planes
        image, labels = scene(index)
        _, labels = scene(index % 51)
        save(root / f"Datasets/DSDataset/Images/im{index:03d}.tif", image)
        save(root / f"Datasets/DSDataset/Masks/mask{index:03d}.npy", labels.astype(np.int64))
    for index in range(10):
        image, labels = scene(200 + index)
        save(root / f"Datasets/YITDataset3/Images/im{index:03d}.tif", image)
        save(root / f"Datasets/YITDataset3/Masks/mask{index:03d}.npy", labels.astype(np.int64))


def yeaz(root: Path) -> None:
    _, labels = scene(0)
    for exposure in (1, 5):  # the same cells at two exposures
        image, _ = scene(0)
        save(root / f"gold-standard-BF-V-1/BF_{exposure}_im.tif", image // exposure)
        save(root / f"gold-standard-BF-V-1/BF_{exposure}_mask.tif", labels)
    for seed, name in ((10, "wt"), (20, "clb")):
        frames = [scene(seed + t) for t in range(3)]
        save(root / f"gold-standard-PhC-plus-2/{name}_im.tif", np.stack([image for image, _ in frames]))
        save(root / f"gold-standard-PhC-plus-2/{name}_mask.tif", np.stack([cells for _, cells in frames]))


def dsb2018(root: Path) -> None:
    field, field_labels = scene(109, (SIZE_HW[0], 2 * SIZE_HW[1]), cells=14)
    halves = [(field[:, : SIZE_HW[1]], field_labels[:, : SIZE_HW[1]]), (field[:, SIZE_HW[1] :], field_labels[:, 72:])]
    for number, (image, labels) in enumerate([*halves, *(scene(seed) for seed in range(8))]):
        directory = root / "stage1_train" / f"{number:064x}"
        opaque = np.full_like(image, 255)
        tint = (image, image // 2, image) if number == 9 else (image,) * 3
        save(directory / "images" / f"{directory.name}.png", np.stack((*tint, opaque), -1))
        for value in np.unique(labels[labels > 0]):
            save(directory / "masks" / f"{value:064x}.png", ((labels == value) * 255).astype(np.uint8))


def phase400(root: Path) -> None:
    for seed, name in enumerate(("train/HeLa/a", "train/HeLa/b", "val/HeLa/c", "test/RAW264/d")):
        image, labels = scene(seed)
        save(root / f"{name}_img.tif", image)
        save(root / f"{name}_masks.tif", labels)


def livecell(root: Path) -> None:
    square = [4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0]
    shifted = [v + 14 * (i % 2 == 0) for i, v in enumerate(square)]  # overlaps the square by a few columns
    inside = [8.0, 8.0, 14.0, 8.0, 14.0, 14.0, 8.0, 14.0]  # covered, so it is dropped
    names = {
        "train": ("livecell_train_val_images/A172", "A172_Phase_A7_1_00d00h00m_1.tif"),
        "val": ("livecell_train_val_images/A172", "A172_Phase_A7_1_00d04h00m_1.tif"),
        "test": ("livecell_test_images/BV2", "BV2_Phase_B4_2_00d00h00m_3.tif"),
    }
    for seed, (split, (directory, name)) in enumerate(names.items()):
        save(root / "images" / directory / name, scene(seed)[0])
        image = {
            "id": 7,
            "file_name": name,
            "height": SIZE_HW[0],
            "width": SIZE_HW[1],
            "url": "",
            "original_filename": "",
        }
        annotations = [
            {"id": i, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [], "segmentation": [outline]}
            for i, outline in enumerate((square, shifted, inside))
        ]
        again = {**image, "id": 8}  # annotated twice: the first id counts
        coco: dict[str, Any] = {"images": [image, again], "annotations": annotations, "categories": []}
        if split == "test":
            coco["annotations"] = {str(a["id"]): a for a in annotations}
        (root / f"livecell_coco_{split}.json").write_text(json.dumps(coco))


def folder(root: Path, *, count: int = 4, dataset: str = "nuclei", split: str = "") -> None:
    for seed in range(count):
        image, labels = scene(seed)
        save(root / split / dataset / f"{seed:02d}_img.png", image)
        save(root / split / dataset / f"{seed:02d}_mask.png", labels)
