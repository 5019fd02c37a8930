"""Data sets as `datasets` and `webdataset` write them: tests/golden/datasets.

    python scripts/golden/dataset_formats.py tests/golden/datasets    # needs datasets webdataset pillow numpy
"""
import io, json, pathlib, sys

import datasets, numpy as np, pyarrow.parquet as pq, webdataset as wds
from PIL import Image

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(11)


def png(i):
    buffer = io.BytesIO()
    array = (np.add.outer(np.arange(12) * (i + 3), np.arange(10) * 7) % 256).astype("u1")
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


rows = [{
    "image": {"bytes": png(i), "path": f"img-{i}.png"}, "report": f"Report {i}. 报告 {i}。", "patient_id": i // 3,
    "study_id": f"s{i // 2}", "label": i % 2,
} for i in range(30)]
features = datasets.Features({
    "image": datasets.Image(), "report": datasets.Value("string"), "patient_id": datasets.Value("int64"),
    "study_id": datasets.Value("string"), "label": datasets.ClassLabel(names=["normal", "effusion"]),
})
whole = datasets.Dataset.from_list(rows, features=features)
# Two files, several row groups, with and without dictionary and compression.
whole.select(range(20)).to_parquet(out / "train-00000-of-00002.parquet", batch_size=7)
table = whole.select(range(20, 30)).with_format("arrow")[:]
pq.write_table(table, out / "train-00001-of-00002.parquet", compression="zstd", use_dictionary=False, row_group_size=4, data_page_size=300)
with wds.TarWriter(str(out / "shard-000000.tar"), mtime=0) as sink:
    for i, row in enumerate(rows[:8]):
        sample = {"__key__": f"dir/{i:05d}", "png": row["image"]["bytes"]}
        if i % 2:
            sample["txt"] = row["report"]
        else:
            sample["json"] = {"report": row["report"], "patient_id": str(row["patient_id"]), "label": "effusion"}
        sink.write(sample)
expected = [{
    "report": r["report"], "patient_id": str(r["patient_id"]), "study_id": r["study_id"],
    "label": ["normal", "effusion"][r["label"]], "pixels": np.asarray(whole[i]["image"]).flatten().tolist(),
} for i, r in enumerate(rows)]
versions = {"datasets": datasets.__version__, "webdataset": wds.__version__}
(out / "golden.json").write_text(json.dumps({"versions": versions, "rows": expected}, ensure_ascii=False))
