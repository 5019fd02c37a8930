#!/usr/bin/env python3
"""reportclip's reading of volumes beside nibabel + scipy and pydicom + numpy, one core each, in turn, and the ratios.

  volumes.py --python peer-venv/bin/python --reportclip target/release/reportclip [--rounds 5] [--folder DIR] [--case N]
Cases: 0, a chest CT as .nii.gz (256 × 256 × 128, int16, 0.8 × 0.8 × 2.5 mm), brought to 1.5 × 1.5 × 3 mm, lung window;
1, every fourth slice of a CT as .nii (512 × 512 × 256); 2, a DICOM series of 128 slices of 512 × 512, uncompressed; 3 to
6, every fourth frame of a DICOM file of 64 frames of 512 × 512: uncompressed, RLE, JPEG-LS, JPEG 2000 (lossless), the
last two where the peer has pyjpegls or pylibjpeg-openjpeg; else they are left out, which is told.
Both give 8-bit slices hung alike, which are compared (1 of 255) before anything is timed. Files are in the machine's
cache.
The peer's environment needs nibabel, pydicom, scipy; for cases 5 and 6 pyjpegls, pylibjpeg and pylibjpeg-openjpeg.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time

LUNG = (-1350.0, 150.0)
SPACING = (1.5, 1.5, 3.0)
CASES = {
    "nifti gzip, resampled": ("chest.nii.gz", {"window": "lung", "spacing": SPACING}),
    "nifti, every 4th slice": ("large.nii", {"window": "mediastinum", "slices": 64}),
    "dicom series": ("series", {"window": "lung"}),
    "dicom frames, every 4th": ("frames.dcm", {"window": "lung", "slices": 16}),
    "dicom frames, RLE, every 4th": ("frames-rle.dcm", {"window": "lung", "slices": 16}),
    "dicom frames, JPEG-LS, every 4th": ("frames-jls.dcm", {"window": "lung", "slices": 16}),
    "dicom frames, JPEG 2000, every 4th": ("frames-j2k.dcm", {"window": "lung", "slices": 16}),
}


def chest(shape, seed):
    """A chest of sorts: air, a body, lungs, noise as scanners have it; Hounsfield units."""
    import numpy as np
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    lung = ((np.abs(x) - 0.38) / 0.28) ** 2 + (y / 0.42) ** 2 + (z / 0.9) ** 2 < 1
    values = np.where(lung, -850, np.where(body, 40, -1000)).astype(np.float32)
    values += 25 * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(values, -1024, 3000).astype(np.int16)


def make(folder):
    import nibabel as nib
    import numpy as np
    files = [("chest.nii.gz", (256, 256, 128), (0.8, 0.8, 2.5)), ("large.nii", (512, 512, 256), (0.7, 0.7, 1.0))]
    for name, shape, (x, y, z) in files:
        nib.save(nib.Nifti1Image(chest(shape, 1), np.diag([-x, -y, z, 1])), f"{folder}/{name}")
    os.makedirs(f"{folder}/series", exist_ok=True)
    data = chest((512, 512, 128), 2) + 1024
    order = np.random.default_rng(3).permutation(128)
    for place, k in enumerate(order):
        ds = dicom(k + 1)
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0.0, 0.0, 1.25 * float(k)]
        ds.PixelData = np.ascontiguousarray(data[:, :, k].T).astype("<u2").tobytes()
        ds.save_as(f"{folder}/series/{place:04d}.dcm", enforce_file_format=True)
    make_frames(folder, data[:, :, ::2])


def dicom(number):
    """A CT of 512 × 512 without pixels."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.826.0.1.3680043.8.498.{number}"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.Modality, ds.SeriesInstanceUID = "CT", "1.2.826.0.1.3680043.8.498.77"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 512, 512, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelSpacing = 1.0, -1024.0, [0.7, 0.7]
    return ds


def make_frames(folder, data):
    """One file of many frames, in the transfer syntaxes that there are encoders for."""
    import numpy as np
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
    for name, syntax in [("frames", None), ("frames-rle", RLELossless), ("frames-jls", JPEGLSLossless),
                         ("frames-j2k", JPEG2000Lossless)]:
        ds = dicom(1000)
        ds.NumberOfFrames = data.shape[2]
        ds.PixelData = np.ascontiguousarray(data.transpose(2, 1, 0)).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        try:
            if syntax is not None:
                ds.compress(syntax, generate_instance_uid=False)
        except (RuntimeError, NotImplementedError) as e:
            print(f"{name}: no encoder: {e}", file=sys.stderr)
            continue
        ds.save_as(f"{folder}/{name}.dcm", enforce_file_format=True)


def windowed(values, low, high):
    import numpy as np
    return np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)


def gzip_nifti(path):
    import nibabel as nib
    import numpy as np
    from scipy import ndimage
    image = nib.as_closest_canonical(nib.load(path))
    data = image.get_fdata(dtype=np.float32)
    sizes = [max(1, round(n * z / s)) for n, z, s in zip(data.shape, image.header.get_zooms(), SPACING)]
    data = ndimage.zoom(data, [m / n for m, n in zip(sizes, data.shape)], order=1, mode="nearest", grid_mode=True)
    # Hung: the patient's right at the left edge, front on top.
    return windowed(data[::-1, ::-1].transpose(2, 1, 0), *LUNG)


def every_fourth(path):
    import nibabel as nib
    import numpy as np
    image = nib.load(path)
    # As evenly spaced as `slices` takes them: the middle of each of 64 parts. nibabel reads those planes only.
    data = np.asarray(image.dataobj[:, :, 2::4], dtype=np.float32)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    return windowed(data.transpose(2, 1, 0), -160, 240)


def series(path):
    import numpy as np
    import pydicom
    files = [pydicom.dcmread(f"{path}/{name}") for name in os.listdir(path)]
    normal = np.cross(*np.reshape(files[0].ImageOrientationPatient, (2, 3)).astype(float))
    files.sort(key=lambda ds: float(np.dot(normal, np.array(ds.ImagePositionPatient, dtype=float))))
    rescaled = lambda ds: ds.pixel_array.astype(np.float32) * np.float32(ds.RescaleSlope) + np.float32(ds.RescaleIntercept)
    return windowed(np.stack([rescaled(ds) for ds in files]), *LUNG)


def frames(path):
    import numpy as np
    import pydicom
    from pydicom.pixels import iter_pixels
    head = pydicom.dcmread(path, stop_before_pixels=True)
    slope, intercept = np.float32(head.RescaleSlope), np.float32(head.RescaleIntercept)
    # As evenly spaced as `slices` takes them; pydicom decodes those frames only.
    read = iter_pixels(path, indices=list(range(2, int(head.NumberOfFrames), 4)))
    return windowed(np.stack([frame.astype(np.float32) * slope + intercept for frame in read]), *LUNG)


PEERS = {"nifti gzip, resampled": gzip_nifti, "nifti, every 4th slice": every_fourth, "dicom series": series}
PEERS.update({case: frames for case in CASES if case.startswith("dicom frames")})


def peer(case, path, rounds, keep):
    import numpy as np
    read = PEERS[case]
    np.save(keep, read(path))
    rates = []
    for _ in range(int(rounds)):
        started = time.perf_counter()
        read(path)
        rates.append(1 / (time.perf_counter() - started))
    print(json.dumps({"rates": rates, "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def compare(ours, theirs):
    import numpy as np
    a, b = np.load(ours), np.load(theirs)
    assert a.shape == b.shape, f"{a.shape} {b.shape}"
    worst = int(np.abs(a.astype(int) - b).max())
    assert worst <= 1, f"slices differ by {worst} of 255"
    print(json.dumps({"shape": a.shape, "worst": worst, "different": float((a != b).mean())}))


def main():
    parser = argparse.ArgumentParser()
    for name in ["python", "reportclip", "folder", "inner"]:
        parser.add_argument(f"--{name}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", type=int, choices=range(len(CASES)))
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args()
    if args.inner:
        return {"make": make, "compare": compare, "peer": peer}[args.inner](*args.rest)
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    inner = lambda *rest: subprocess.run(
        one_core + [args.python, os.path.abspath(__file__), "--inner", *map(str, rest)], env=alone, check=True,
        capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as own:
        folder = args.folder or own
        os.makedirs(folder, exist_ok=True)
        if not os.path.exists(f"{folder}/frames.dcm"):
            inner("make", folder)
        for number, (case, (name, policy)) in enumerate(CASES.items()):
            if args.case not in (None, number):
                continue
            path, kept = f"{folder}/{name}", [f"{folder}/ours.npy", f"{folder}/theirs.npy"]
            if not os.path.exists(path):
                print(f"{case}: left out, the peer cannot write it", file=sys.stderr)
                continue
            for earlier in filter(os.path.exists, kept):
                os.remove(earlier)
            command = one_core + [args.reportclip, "bench", "volumes", path, "--policy", json.dumps(policy), "--json"]
            said = lambda *more: subprocess.run(command + list(more), check=True, capture_output=True, text=True).stdout
            run = lambda *more: json.loads(said(*more))
            run("--rounds", "1", "--keep", kept[0])
            inner("peer", case, path, 1, kept[1])
            same = json.loads(inner("compare", *kept))
            ours, theirs, memory = [], [], [0, 0]
            for _ in range(args.rounds):
                figures = run("--rounds", "3")
                ours.append(figures["volumes_per_s"]["median"])
                there = json.loads(inner("peer", case, path, 3, kept[1]))
                theirs.append(statistics.median(there["rates"]))
                memory = [max(memory[0], figures["peak_rss_mib"]), max(memory[1], there["peak_rss_mib"])]
            ratios = [a / b for a, b in zip(ours, theirs)]
            different = f"{same['worst']} of 255 at most in {100 * same['different']:.3f} % of pixels"
            print(f"{case}: {same['shape']}, which differ by {different}")
            for who, rates, mib in [("reportclip", ours, memory[0]), ("Python", theirs, memory[1])]:
                spread = f"{statistics.median(rates):.2f} ({min(rates):.2f}–{max(rates):.2f})"
                print(f"  {who}: {spread} volumes/s, {mib} MiB at most")
            print(f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
