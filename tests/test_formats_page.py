"""Every command and every line of Python in docs/formats.md runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.test_readme import ROOT, run_blocks


@pytest.fixture
def files(tmp_path: Path, image: Any) -> Path:
    """Write the files that the page names, from a real image."""
    image = image[:200, :200]
    Image.fromarray(image).save(tmp_path / "cells.png")
    (tmp_path / "plate1" / "well2").mkdir(parents=True)
    for path in (tmp_path / "plate1" / "a.tif", tmp_path / "plate1" / "well2" / "b.tif"):
        tifffile.imwrite(path, image)
    tifffile.imwrite(tmp_path / "rgb_planes.tif", np.stack([image] * 3), photometric="minisblack")
    stack = np.stack([np.stack([image] * 5)] * 2)
    tifffile.imwrite(tmp_path / "stack.ome.tif", stack, photometric="minisblack", metadata={"axes": "TZYX"})
    with tifffile.TiffWriter(tmp_path / "fields.ome.tif", ome=True) as tiff:
        for name in ("field 0", "field 1"):
            tiff.write(image, photometric="minisblack", metadata={"axes": "YX", "Name": name})
    names = ["DAPI", "CD3", "CD8", "PanCK"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "multiplex.ome.tif", np.stack([image] * 4), photometric="minisblack", metadata=metadata)
    plate = zarr.open_group(str(tmp_path / "screen.zarr"), mode="w", zarr_format=2)
    plate.attrs.update({"plate": {"wells": [{"path": "A/1"}]}})
    field = plate.create_group("A/1/0")
    field.create_array("0", data=image)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    field.attrs.update({"multiscales": [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]})
    return tmp_path


def test_formats_page(files: Path) -> None:
    ran = run_blocks(ROOT / "docs" / "formats.md", files)
    assert ran["bash"] >= 12
    assert ran["python"] == 3
    assert (files / "found" / "well2" / "b_labels.tif").is_file()
    assert {path.name for path in (files / "all").glob("multiplex*")} == {
        f"multiplex{ending}"
        for ending in ("_labels.tif", "_cells.csv", "_cells.geojson", "_labels.ome.tif", ".zarr", "_cells.parquet")
    }
    assert {path.name for path in (files / "all").glob("cells*")} >= {"cells_cells.csv", "cells_rois.zip"}
    assert all((files / name).is_file() for name in ("cells_labels.tif", "cells_table.csv", "cells_rois.zip"))
    features = json.loads((files / "all" / "multiplex_cells.geojson").read_text())["features"]
    assert len(features) == tifffile.imread(files / "all" / "multiplex_labels.tif").max() > 3
    assert all("area_um2" in feature["properties"]["measurements"] for feature in features)
