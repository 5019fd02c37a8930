"""Several images a row in Parquet, as `datasets` and pyarrow write them: tests/golden/datasets/lists-*.parquet.

    python scripts/golden/dataset_lists.py tests/golden/datasets    # needs datasets pillow numpy

Image j of row i is 3 × 2 pixels of shade 20 i + j. Rows have 2, 1, 0, no list, and 5 images, the fourth of which is none.
"""
import io, pathlib, sys

import datasets, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

COUNTS = [2, 1, 0, None, 5, 3]


def png(shade):
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 3), shade, "u1")).save(buffer, "PNG")
    return buffer.getvalue()


out = pathlib.Path(sys.argv[1])
lists = [None if n is None else [None if j == 3 else png(20 * i + j) for j in range(n)] for i, n in enumerate(COUNTS)]
reports = [f"Report {i}." for i in range(len(COUNTS))]
features = datasets.Features({"image": datasets.List(datasets.Image()), "report": datasets.Value("string")})
structs = [None if l is None else [None if b is None else {"bytes": b, "path": None} for b in l] for l in lists]
whole = datasets.Dataset.from_dict({"image": structs, "report": reports}, features=features)
whole.to_parquet(out / "lists-datasets.parquet")
table = pa.table({"image": pa.array(lists, pa.list_(pa.binary())), "report": reports})
small = {"use_dictionary": False, "row_group_size": 4, "data_page_size": 100}
pq.write_table(table, out / "lists-binary.parquet", compression="zstd", **small)
