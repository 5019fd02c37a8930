"""DICOM files of every kind that is read, and what pydicom makes of them: tests/golden/dicom.

    python scripts/golden/dicom.py tests/golden/dicom          # needs pydicom numpy pillow pylibjpeg pylibjpeg-libjpeg
                                                              # pylibjpeg-openjpeg pyjpegls imagecodecs
    python scripts/golden/dicom.py --real DIR                  # pydicom's own test files, for a run by hand; never committed

Pictures are drawn from a seed. `stored` is pydicom's pixel_array (colour as RGB), `shown` what a viewer shows: modality
table or rescale, first window (else lookup table, else 0.5th to 99.5th percentile), MONOCHROME1 inverted, padding black.
"""
import argparse, copy, json, pathlib, warnings

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

warnings.filterwarnings("ignore")
SYNTAX = {
    "implicit": "1.2.840.10008.1.2", "explicit": "1.2.840.10008.1.2.1", "deflated": "1.2.840.10008.1.2.1.99",
    "big": "1.2.840.10008.1.2.2", "rle": "1.2.840.10008.1.2.5", "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg12": "1.2.840.10008.1.2.4.51", "lossless": "1.2.840.10008.1.2.4.57", "lossless1": "1.2.840.10008.1.2.4.70",
    "jls": "1.2.840.10008.1.2.4.80", "jls_near": "1.2.840.10008.1.2.4.81", "j2k": "1.2.840.10008.1.2.4.90",
    "j2k_lossy": "1.2.840.10008.1.2.4.91", "htj2k": "1.2.840.10008.1.2.4.201",
}


def picture(rng, rows, columns, low, high):
    y, x = np.mgrid[0:rows, 0:columns]
    value = x / columns * 0.5 + y / rows * 0.2 + 0.3 * (np.hypot(x - columns * 0.4, y - rows * 0.5) < rows / 4)
    value = value + 0.02 * rng.standard_normal((rows, columns))
    return np.clip(low + value * (high - low), low, high).round().astype(np.int64)


def base(array, photometric, bits, allocated, signed, samples=1):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.826.0.1.3680043.8.498.1"
    ds.PatientName, ds.PatientID, ds.Modality = "TEST^PHANTOM", "PHANTOM-ID-7", "OT"
    frames = array.shape[0] if array.ndim == 4 or (array.ndim == 3 and samples == 1) else 1
    rows, columns = array.shape[-3:-1] if samples == 3 else array.shape[-2:]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, samples, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    if frames > 1:
        ds.NumberOfFrames = frames
    if samples == 3:
        ds.PlanarConfiguration = 0
    kind = {8: "u1", 16: "u2", 32: "u4"}[allocated].replace("u", "i" if signed else "u")
    ds.PixelData = array.astype("<" + kind).tobytes() + (b"\0" if array.size * allocated // 8 % 2 else b"")
    ds["PixelData"].VR = "OW" if allocated > 8 else "OB"
    return ds


def save(ds, path, syntax):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(SYNTAX[syntax])
    ds.file_meta = meta
    if syntax == "big" and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.dcmwrite(path, ds, little_endian=syntax != "big", implicit_vr=syntax == "implicit", enforce_file_format=True)


def with_frames(ds, frames, fragments=1):
    parts = [f + b"\0" * (len(f) % 2) for f in frames]
    ds.PixelData = encapsulate(parts, fragments_per_frame=fragments, has_bot=True)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def lut(first, bits, entries, signed=False):
    item = Dataset()
    item.add_new(0x00283002, "SS" if signed else "US", [len(entries), first, bits])
    item.add_new(0x00283006, "OW", np.asarray(entries, "<u2").tobytes())
    return item


def group(kinds, i):
    """Functional groups (PS3.3 C.7.6.16) with numbers of their own for each i."""
    item = Dataset()
    if "rescale" in kinds:
        item.PixelValueTransformationSequence = Sequence([Dataset()])
        transform = item.PixelValueTransformationSequence[0]
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1 + i / 2, -100 * i, "US"
    if "window" in kinds:
        item.FrameVOILUTSequence = Sequence([Dataset()])
        item.FrameVOILUTSequence[0].WindowCenter, item.FrameVOILUTSequence[0].WindowWidth = 400 + 300 * i, 700 + 250 * i
    return item


def of_frame(ds, index):
    """The file with a frame's own rescaling and window in it, which pydicom's functions want handed to them."""
    flat = copy.deepcopy(ds)
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = ds.get(name) or []
        item = groups[0 if name.startswith("Shared") else index] if groups else {}
        for kind in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for element in (item[kind][0] if kind in item else []):
                flat.add(element)
    return flat


def cases():
    import imagecodecs as ic
    rng = np.random.default_rng(7)
    u8, u12 = picture(rng, 24, 21, 0, 255), picture(rng, 24, 20, 0, 4095)
    ct = picture(rng, 30, 26, -1024, 2000)
    rgb = np.stack([picture(rng, 20, 24, 0, 255) for _ in range(3)], -1)

    def gray(array, bits, allocated, signed=False, photometric="MONOCHROME2", **elements):
        ds = base(array, photometric, bits, allocated, signed)
        for name, value in elements.items():
            setattr(ds, name, value)
        return ds

    def window(ds, center, width, function=None):
        ds.WindowCenter, ds.WindowWidth = center, width
        if function:
            ds.VOILUTFunction = function
        return ds

    yield "mono2_8", gray(u8, 8, 8), "explicit"
    yield "mono1_8", window(gray(u8, 8, 8, photometric="MONOCHROME1"), 120, 180), "explicit"
    yield "mono2_12", window(gray(u12, 12, 16), 2000, 3000), "implicit"
    yield "mono1_12_percentile", gray(u12, 12, 16, photometric="MONOCHROME1"), "explicit"
    yield "ct_signed", window(gray(ct, 16, 16, True, RescaleSlope=1, RescaleIntercept=-24), [40, -600], [400, 1500]), "explicit"
    yield "ct_12_signed", window(gray(picture(rng, 16, 18, -2048, 2047), 12, 16, True), 0, 1000), "explicit"
    yield "slope", window(gray(u12, 12, 16, RescaleSlope=0.5, RescaleIntercept=10), 900, 1201), "explicit"
    yield "sigmoid", window(gray(u12, 12, 16), 2000, 1500, "SIGMOID"), "explicit"
    yield "exact", window(gray(u12, 12, 16), 2000, 1500, "LINEAR_EXACT"), "explicit"
    yield "step", window(gray(u8, 8, 8), 100, 1), "explicit"
    ds = gray(u12, 12, 16)
    ds.VOILUTSequence = Sequence([lut(300, 12, (np.linspace(0, 1, 3000) ** 0.5 * 4095).astype(int))])
    yield "voi_lut", ds, "explicit"
    ds = window(gray(u8, 8, 8), 30000, 50000)
    ds.ModalityLUTSequence = Sequence([lut(10, 16, (np.linspace(0, 1, 200) ** 2 * 65535).astype(int))])
    ds.ModalityLUTSequence[0].ModalityLUTType = "US"
    yield "modality_lut", ds, "explicit"
    padded = ct.copy()
    padded[:5] = -2000
    ds = gray(padded, 16, 16, True)
    ds.add_new(0x00280120, "SS", -2000)
    yield "padding", ds, "explicit"
    padded[:2] = -1990
    ds = window(gray(padded, 16, 16, True), 0, 2000)
    ds.add_new(0x00280120, "SS", -2000)
    ds.add_new(0x00280121, "SS", -1985)
    yield "padding_range", ds, "implicit"
    yield "bits10", window(gray(picture(rng, 13, 11, 0, 1023), 10, 16), 500, 900), "explicit"
    yield "bits32", gray(picture(rng, 12, 10, 0, 100000), 32, 32), "explicit"
    ds = gray(u8, 8, 8)
    ds.add_new(0x60000010, "US", 24)
    ds.add_new(0x60000011, "US", 21)
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60003000, "OW", b"\xff" * 64)
    yield "overlay", ds, "explicit"
    yield "not_square", gray(u8, 8, 8, PixelAspectRatio=[2, 1]), "explicit"
    frames = np.stack([picture(rng, 16, 14, 0, 255 - 60 * i) for i in range(3)])
    yield "frames", gray(frames, 8, 8), "explicit"
    yield "big_endian", window(gray(ct, 16, 16, True), 40, 400), "big"
    yield "big_endian_8", gray(picture(rng, 20, 24, 0, 255), 8, 8), "big"
    yield "deflated", window(gray(u12, 12, 16), 2000, 3000), "deflated"
    yield "rgb", base(rgb, "RGB", 8, 8, False, 3), "explicit"
    ds = base(rgb, "RGB", 8, 8, False, 3)
    ds.PlanarConfiguration, ds.PixelData = 1, rgb.transpose(2, 0, 1).astype("u1").tobytes()
    yield "rgb_planar", ds, "explicit"
    yield "ybr", base(rgb, "YBR_FULL", 8, 8, False, 3), "explicit"
    ds = base(rgb[..., 0], "PALETTE COLOR", 8, 8, False)
    for name, power in [("Red", 1), ("Green", 2), ("Blue", 0.5)]:
        entries = (np.linspace(0, 1, 256) ** power * 65535).astype("<u2")
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", entries.tobytes())
    yield "palette", ds, "explicit"

    for name, ds in [("rle_8", gray(u8, 8, 8)), ("rle_16", window(gray(ct, 16, 16, True), 40, 400)),
                     ("rle_rgb", base(rgb, "RGB", 8, 8, False, 3)), ("rle_frames", gray(frames, 8, 8))]:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(UID(SYNTAX["rle"]), generate_instance_uid=False)
        yield name, ds, "rle"
    split = [ic.jpeg8_encode(f.astype("u1"), level=90, lossless=False) for f in frames]
    yield "jpeg_8", with_frames(gray(u8, 8, 8), [ic.jpeg8_encode(u8.astype("u1"), level=90)]), "jpeg"
    yield "jpeg_fragments", with_frames(gray(frames, 8, 8), split, 2), "jpeg"
    yield "jpeg_ybr", with_frames(base(rgb, "YBR_FULL_422", 8, 8, False, 3), [ic.jpeg8_encode(rgb.astype("u1"), level=95, colorspace="RGB", outcolorspace="YCBCR", subsampling="422")]), "jpeg"
    for name, array, bits, kind in [("ljpeg_8", u8, 8, "u1"), ("ljpeg_12", u12, 12, "u2"), ("ljpeg_16", ct + 1024, 16, "u2")]:
        ds = gray(array, bits, 8 if bits == 8 else 16)
        yield name, with_frames(ds, [ic.ljpeg_encode(array.astype(kind), bitspersample=bits)]), "lossless1"
    for name, array, bits, kind, level in [("jls_8", u8, 8, "u1", 0), ("jls_12", u12, 12, "u2", 0), ("jls_16", ct + 1024, 16, "u2", 0), ("jls_near", u8, 8, "u1", 3)]:
        ds = gray(array, bits, 8 if bits == 8 else 16)
        yield name, with_frames(ds, [ic.jpegls_encode(array.astype(kind), level=level)]), "jls_near" if level else "jls"
    for name, array, bits, signed, kind in [("j2k_8", u8, 8, False, "u1"), ("j2k_12", u12, 12, False, "u2"), ("j2k_16_signed", ct, 16, True, "i2")]:
        ds = gray(array, bits, 8 if bits == 8 else 16, signed)
        yield name, with_frames(ds, [ic.jpeg2k_encode(array.astype(kind), codecformat="j2k", reversible=True, level=0, bitspersample=bits)]), "j2k"
    yield "j2k_lossy", with_frames(gray(u12, 12, 16), [ic.jpeg2k_encode(u12.astype("u2"), codecformat="j2k", level=55, reversible=False, bitspersample=12)]), "j2k_lossy"
    yield "j2k_rgb", with_frames(base(rgb, "YBR_RCT", 8, 8, False, 3), [ic.jpeg2k_encode(rgb.astype("u1"), codecformat="j2k", reversible=True, level=0, mct=True)]), "j2k"
    for name, per_frame, shared in [("enhanced_frames", ["rescale", "window"], []), ("enhanced_shared", ["window"], ["rescale"]),
                                    ("enhanced_top", [], ["rescale"])]:
        ds = gray(np.stack([picture(rng, 16, 14, 0, 3000 - 700 * i) for i in range(3)]), 12, 16)
        if name == "enhanced_top":
            window(ds, 900, 1500)
        if per_frame:
            ds.PerFrameFunctionalGroupsSequence = Sequence([group(per_frame, i) for i in range(3)])
        ds.SharedFunctionalGroupsSequence = Sequence([group(shared, 5)])
        yield name, ds, "explicit"


def stored(ds, index):
    frames = getattr(ds, "NumberOfFrames", 1) or 1
    array = pixel_array(ds, index=index if frames > 1 else None)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut
        array = apply_color_lut(array, ds)
    return array.astype(np.int64)


def shown(ds, array):
    """0 … 255 of a gray array, and the rule that made it."""
    first = lambda v: v[0] if isinstance(v, (list, pydicom.multival.MultiValue)) else v
    values = apply_modality_lut(array, ds)
    padding = np.zeros(array.shape, bool)
    if "PixelPaddingValue" in ds:
        ends = [ds.PixelPaddingValue, ds.get("PixelPaddingRangeLimit", ds.PixelPaddingValue)]
        padding = (array >= min(ends)) & (array <= max(ends))
    if ds.get("WindowCenter") not in (None, "") and ds.get("WindowWidth") not in (None, ""):
        rule = "window"
        center, width = float(first(ds.WindowCenter)), float(first(ds.WindowWidth))
        function = ds.get("VOILUTFunction", "LINEAR") or "LINEAR"
        x = values.astype(float)
        if function == "LINEAR":
            c, w = center - 0.5, width - 1
            level = np.where(x <= c - w / 2, 0.0, np.where(x > c + w / 2, 1.0, (x - c) / max(w, 1e-9) + 0.5))
        elif function == "LINEAR_EXACT":
            level = np.clip((x - center) / width + 0.5, 0, 1)
        else:
            level = 1 / (1 + np.exp(-4 * (x - center) / width))
        theirs = apply_windowing(values, ds).astype(float)
        low, high = window_range(ds)
        if width > 1 or function != "LINEAR":
            assert np.abs((theirs - low) / (high - low) - level).max() < 1e-6, "our reading of PS3.3 is not pydicom's"
    elif "VOILUTSequence" in ds and len(ds.VOILUTSequence):
        rule = "lut"
        bits = ds.VOILUTSequence[0].LUTDescriptor[2]
        level = apply_voi(values.astype(np.int64), ds) / (2**bits - 1)
    else:
        rule = "percentile"
        seen = values[~padding]
        low, high = np.percentile(seen, [0.5, 99.5]) if seen.size else (0, 0)
        level = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        level = 1 - level
    return np.where(padding, 0, np.rint(np.clip(level, 0, 1) * 255)).astype("u1"), rule


def window_range(ds):
    """The range that pydicom's apply_windowing spreads its result over."""
    bits = ds.BitsStored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.PixelRepresentation else (0, 2**bits - 1)
    if "ModalityLUTSequence" in ds:
        low, high = 0, 2 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    elif ds.get("RescaleSlope") is not None and ds.get("RescaleIntercept") is not None:
        low, high = low * ds.RescaleSlope + ds.RescaleIntercept, high * ds.RescaleSlope + ds.RescaleIntercept
    return float(low), float(high)


def record(path, index):
    ds = pydicom.dcmread(path)
    array = stored(ds, index)
    line = {
        "syntax": str(ds.file_meta.TransferSyntaxUID), "frame": index, "rows": int(ds.Rows), "columns": int(ds.Columns),
        "photometric": ds.PhotometricInterpretation, "bits": int(ds.BitsStored), "stored": array.flatten().tolist(),
    }
    if ds.PhotometricInterpretation.startswith("MONOCHROME") and array.ndim == 2:
        level, rule = shown(of_frame(ds, index), array)
        line |= {"rule": rule, "shown": level.flatten().tolist()}
    return line


def golden(out):
    out.mkdir(parents=True, exist_ok=True)
    lines, failed = [], []
    for name, ds, syntax in cases():
        path = out / f"{name}.dcm"
        save(ds, path, syntax)
        for index in range(int(getattr(ds, "NumberOfFrames", 1) or 1)):
            lines.append({"file": path.name} | record(path, index))
    head = {"pydicom": pydicom.__version__, "numpy": np.__version__, "seed": 7}
    (out / "golden.json").write_text(json.dumps({"versions": head, "cases": lines}))
    print(len(lines), "cases", sum(f.stat().st_size for f in out.iterdir()) // 1024, "KiB")


def real(out):
    """Files that pydicom ships, with what it makes of each one's first frame."""
    out.mkdir(parents=True, exist_ok=True)
    import pydicom.data
    roots = [pathlib.Path(pydicom.data.__file__).parent / "test_files"]
    try:
        import data_store
        roots.append(pathlib.Path(data_store.__file__).parent / "data")
    except ImportError:
        pass
    counts = {}
    with open(out / "golden.jsonl", "w") as f:
        for path in sorted(p for root in roots for p in root.rglob("*") if p.is_file()):
            try:
                ds = pydicom.dcmread(path)
                if "PixelData" not in ds or ds.BitsAllocated > 32 or not path.read_bytes()[128:132] == b"DICM":
                    continue
                line = record(path, 0)
                values = {k: line.pop(k) for k in ("stored", "shown") if k in line}
                number = sum(counts.values())
                for k, v in values.items():
                    np.asarray(v, "<i4").tofile(out / f"{number}.{k}")
                line["number"] = number
            except Exception as e:
                if b"DICM" == path.open("rb").read(132)[128:] and "PixelData" in getattr(locals().get("ds"), "keys", list)():
                    print("pydicom cannot:", path.name, type(e).__name__, str(e)[:80])
                continue
            counts[line["syntax"]] = counts.get(line["syntax"], 0) + 1
            f.write(json.dumps({"path": str(path)} | line) + "\n")
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--real", action="store_true")
    args = parser.parse_args()
    (real if args.real else golden)(args.out)
