"""Tables in documents, rendered from the records in ``results/``.

    python -m benchmarks.tables    # rewrite the tables of README.md and docs/

A table is enclosed by a comment that names its case, such as ``<!-- latency -->``, and ``<!-- end -->``. It shows the
newest records of the case.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.evaluation_tables import curve_table, glance_table, measures_table, published_table, quality_table
from training.evaluation.report import read_report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
DOCUMENTS = (ROOT / "README.md", DOCS / "benchmarks.md", DOCS / "evaluation.md", DOCS / "tensorrt.md")


def newest(case: str) -> dict[str, Any]:
    """Read the latest record of a case; errors as in ``newest_file``."""
    record: dict[str, Any] = json.loads(newest_file(case).read_text(encoding="utf-8"))
    return record


def newest_file(case: str) -> Path:
    """Return the file of the latest record of a case.

    Raises:
        FileNotFoundError: the case has no record.
    """
    found = sorted(RESULTS.glob(f"{case}_*.json"), key=lambda path: path.stem.rsplit("_", 1)[1])
    if not found:
        raise FileNotFoundError(f"{RESULTS} has no record of case {case!r}; make one with: python -m benchmarks.{case}")
    return found[-1]


def latency_table(record: dict[str, Any]) -> str:
    """Render median seconds by step, memory and speed-up of each variant, and the agreement of labels."""
    environment = record["environment"]
    versions = environment["versions"]
    processor = f"{environment['cpu_count']} cores ({environment['cpu']})"
    if record.get("device") == "cuda":
        processor = f"{environment['gpus'][0]}, {processor}"
    lines = [
        f"One image of {record['image_px'][0]} x {record['image_px'][1]} pixels with {record['boxes']} boxes, ViT-B, "
        f"{processor}, onnxruntime {versions['onnxruntime']}, "
        f"PyTorch {versions['torch']}; medians in seconds ({record['command'].split(' --')[0]}, {record['date']}).",
        "",
        "| | encode | detect | decode | total | peak memory | speed-up |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, variant in record["variants"].items():
        times = variant.get("steps_ms") or variant["stages_ms"]  # the name in earlier records
        seconds = [times[step]["p50"] / 1e3 for step in ("encode", "detect", "decode")]
        cells = [f"{value:.1f}" for value in (*seconds, variant["total_ms"]["p50"] / 1e3)]
        memory = f"{variant['peak_mib'] / 1024:.1f} GiB"
        lines.append(f"| {name} | {' | '.join(cells)} | {memory} | {record['speedup'][name]:.2f}x |")
    equal = record["labels_equal_to_baseline_full_masks"]
    lines += ["", f"Labels of the engines with full masks equal the baseline's on {equal:.3%} of the pixels."]
    lines += [
        f"{row['matched']:.0%} of their cells match the baseline's, at a mean IoU of {row['mean_iou']:.4f}."
        for row in record.get("agreement", ())
        if row["against"] == record["baseline"]
    ]
    if "arithmetic_gflop" in record:
        rates = record["matrix_products_gflop_per_s"]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in record["share_of_matrix_product_rate"].items())
        lines.append(
            f"The engines compute {sum(record['arithmetic_gflop'].values()):.0f} GFLOP; this machine multiplies "
            f"matrices at {rates['fp32']:.0f} GFLOP/s in fp32 and {rates['bf16']:.0f} in bf16. Share of that rate, end "
            f"to end: {shares}."
        )
    return "\n".join(lines)


def bench_table(record: dict[str, Any]) -> str:
    """Render the median time of one image by number of cells, throughput, and the agreement of backends."""
    environment = record["environment"]
    sides = sorted({row["side_px"] for row in record["latency"]})
    counts = sorted({row["cells"] for row in record["latency"]})
    lines = [
        f"The built-in model, images of {sides[0]} x {sides[0]} pixels, {environment['cpu_count']} cores "
        f"({environment['cpu']}); median ms of one image by its number of cells ({record['date']}).",
        "",
        f"| backend | {' | '.join(map(str, counts))} | images/s of a stream | megapixels/s |",
        f"|---|{'---:|' * (len(counts) + 2)}",
    ]
    streams = [row for row in record["throughput"] if row["side_px"] == sides[0]]
    rates: dict[str, dict[str, Any]] = {}
    for row in streams:  # the fastest of several numbers of images per call
        known = rates.get(row["backend"], row)
        if row.get("given_cells") is None and row["images_per_s"] >= known["images_per_s"]:
            rates[row["backend"]] = row
    for name in record["chosen_backends"]:
        rows = {r["cells"]: r for r in record["latency"] if (r["backend"], r["side_px"]) == (name, sides[0])}
        times = [f"{rows[count]['total_ms']['p50']:.0f}" for count in counts]
        speed = [f"{rates[name][key]:.2f}" for key in ("images_per_s", "megapixels_per_s")]
        lines.append(f"| {name} | {' | '.join([*times, *speed])} |")
    lines.append("")
    given = max((row["given_cells"] for row in streams if row.get("given_cells") is not None), default=None)
    if given is not None:
        speeds = [
            f"{row['images_per_s']:.1f} ({row['backend']}, {row['images_per_call']} per call)"
            for row in streams
            if row["given_cells"] == given
        ]
        lines += [f"Images/s of a stream with {given} given cells each: {', '.join(speeds)}.", ""]
    lines += [
        f"On the sample images {row['matched']:.1%} of the cells of {row['backend']} and {row['against']} match, at a "
        f"mean IoU of {row['mean_iou']:.3f}."
        for row in record["agreement"]
    ]
    return "\n".join(lines)


def slides_table(record: dict[str, Any]) -> str:
    """Render peak memory by size of the slide, and the time of a square millimetre."""
    environment = record["environment"]
    lines = [
        f"Slides with known cells, a double instead of the model, tiles of at least {record['tile_px']} pixels that "
        f"overlap by at least {record['overlap_px']} ({record['date']}, {environment['cpu_count']} cores, "
        f"{environment['cpu']}).",
        "",
        "| slide, pixels | tiles | cells | peak memory |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['side_px']} x {row['side_px']} | {row['tiles']} | {row['cells']} | {row['peak_mib']:.0f} MiB |"
        for row in record["memory"]
    ]
    if "seconds_per_mm2" in record:
        side, runs = record["speed_runs"][0]["side_px"], len(record["speed_runs"])
        lines += [
            "",
            f"The built-in model takes {record['seconds_per_mm2']:.1f} s per square millimetre at "
            f"{record['pixel_um']} µm per pixel, median of {runs} runs on a slide of {side} x {side} pixels; its tiles "
            f"one by one take {record['share_of_single_tiles']:.2f} times as long.",
        ]
    return "\n".join(lines)


def seams_table(record: dict[str, Any]) -> str:
    """Render the cells at seams, where tiles overlap, beside those that one tile alone sees."""
    ious = " / ".join(record["rows"][0]["inside"]["at_iou"])
    lines = [
        f"F1 at IoU {ious} of cells that one tile alone sees (inside) and of cells in an overlap (at seams). "
        f"Duplicates are cells with several labels; cut cells have less than {record['cut_share']:.0%} of their pixels "
        f"in one label ({record['date']}).",
        "",
        "| segmenter | slide | tile / overlap | cells inside | at seams | F1 inside | at seams | duplicates | cut |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        inside, seam = (row[place] for place in ("inside", "seam"))
        scores = [" / ".join(f"{at['f1']:.4f}" for at in place["at_iou"].values()) for place in (inside, seam)]
        faults = [f"{inside[kind]} + {seam[kind]}" for kind in ("duplicates", "cut")]
        cells = [f"{row['tile_px']} / {row['overlap_px']}", inside["cells"], seam["cells"], *scores, *faults]
        lines.append(f"| {row['segmenter']} | {row['side_px']} | {' | '.join(map(str, cells))} |")
    lines += [
        "",
        f"Duplicates and cut cells: inside + at seams. The edge-blind double loses, cuts, splits or deforms cells "
        f"within {record['reach_px']} pixels of a tile's edge. A cell that the model outlines too small counts as cut.",
    ]
    return "\n".join(lines)


def plans_table(record: dict[str, Any]) -> str:
    """Render kernels, fused attentions, bytes and scratch memory of both forms of each engine."""
    lines = [
        "| model | engine | form | GPUs | kernels | fused attentions | half precision | moved, GB | scratch, GB |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for result in sorted(record["results"], key=lambda found: -found["image_size"]):
        for engine in result["engines"]:
            boxes = engine["engine"] == "mask_decoder"
            moved = engine["moved_bytes"] / 1e9 / (1 if boxes else record["images"])
            of = "" if engine["encoder_attentions"] is None else f" of {engine['encoder_attentions']}"
            lines.append(
                f"| {result['image_size']} px, {result['model']['encoder_depth']} blocks | {engine['engine']} | "
                f"{result['target']} | {result['compute_capability']} | {engine['kernels']} | "
                f"{engine['fused_attentions']}{of} | {engine['half_share']:.0%} | {moved:.2f} | "
                f"{engine['scratch_bytes'] / 1e9:.2f} |"
            )
    lines += [
        "",
        f"TensorRT for RTX {record['tensorrt_rtx']}, {record['date']}. Bytes: encoder and detector, per image in calls "
        f"of {record['images']}; mask decoder, per call of {record['boxes']} boxes of one image. Scratch memory: per "
        "call.",
    ]
    return "\n".join(lines)


def rendered(text: str) -> str:
    """Return a document with updated tables."""
    quality = read_report(newest_file("nano"))
    tables = {
        "latency": latency_table(newest("latency")),
        "bench": bench_table(newest("bench")),
        "slides": slides_table(newest("slides")),
        "seams": seams_table(newest("seams")),
        "plans": plans_table(newest("plans")),
        "glance": glance_table(quality, newest("bench"), newest("latency")),
        "quality": quality_table(quality, read_report(newest_file("baseline_classical"))),
        "measures": measures_table(quality),
        "f1-curves": curve_table(quality),
        "published": published_table(quality),
    }
    for case, table in tables.items():
        place = re.compile(rf"(<!-- {case} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = place.sub(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text, count=1)  # type: ignore[misc]
    return text


def main() -> None:
    """Rewrite the tables of all documents."""
    for path in DOCUMENTS:
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
