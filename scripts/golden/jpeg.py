"""JPEG files of each kind of colour and what Pillow (libjpeg-turbo) makes of them, as PNG: tests/golden/jpeg.

    python scripts/golden/jpeg.py tests/golden/jpeg          # needs numpy pillow

Noise is the worst there is for chroma: its neighbours differ most.
"""
import json, pathlib, sys

import numpy as np
import PIL
from PIL import Image, features

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(3)
rows, columns = 43, 50
noise = rng.integers(0, 256, (rows, columns, 4)).astype("u1")
y, x = np.mgrid[0:rows, 0:columns]
smooth = np.stack([60 + 3 * x, 200 - 4 * y, 40 + 2 * (x + y)], -1).astype("u1")


def save(name, array, mode, **options):
    Image.fromarray(array, mode).save(out / f"{name}.jpg", quality=90, **options)
    image = Image.open(out / f"{name}.jpg")
    image = image.convert("RGB") if mode == "CMYK" else image
    image.save(out / f"{name}.png")


save("gray", noise[..., 0], "L")
save("gray_progressive", noise[..., 0], "L", progressive=True)
save("smooth_420", smooth, "RGB", subsampling=2)
for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
    save(f"noise_{name}", np.ascontiguousarray(noise[..., :3]), "RGB", subsampling=subsampling)
save("noise_420_progressive", np.ascontiguousarray(noise[..., :3]), "RGB", subsampling=2, progressive=True)
save("cmyk", noise, "CMYK")
turbo = features.version("libjpeg_turbo")
(out / "golden.json").write_text(json.dumps({"pillow": PIL.__version__, "libjpeg_turbo": turbo, "seed": 3}))
