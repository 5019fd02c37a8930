"""What nibabel and scipy make of volumes: tests/golden/volumes.json.

    python scripts/golden/volumes.py tests/golden/volumes.json        # needs nibabel scipy pydicom

`real`: nibabel's own test files (in its package) but those that hold NaN, as digests: sums of |v| and of v times a ramp, and values at a few
places, after as_closest_canonical. The test that reads them is told of their folder by REPORTCLIP_NIBABEL.
`drawn`: files of a few voxels, in base64, of every type of voxels, both byte orders, orientations of all kinds, with and
without scaling, as sform, as qform, and without either: nibabel's values after as_closest_canonical.
`resampled`: a volume of smooth values resampled to spacings, by scipy.ndimage.zoom(order=1, mode="nearest",
grid_mode=True), and windowed. `series`: folders of one DICOM series whose files are in no order, and the same as one
enhanced file, each slice rescaled in its own way, by numpy. `arrays`: .npy and .npz. `loops`: files of several frames that
do not say where they lie, gray and in colour, as pydicom reads them. `broken`: nibabel's files that hold NaN.
"""
import base64, gzip, io, json, pathlib, sys

import nibabel as nib
import numpy as np
import pydicom
import scipy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy import ndimage

SEED = 27
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def digest(array):
    array = np.asarray(array, dtype=np.float64)
    ramp = np.cos(np.arange(array.size)).reshape(array.shape, order="F")
    return {"shape": list(array.shape), "sum": float(np.abs(array).sum()), "ramp": float((array * ramp).sum())}


def canonical(image):
    return nib.as_closest_canonical(image)


def real():
    folder = pathlib.Path(nib.__file__).parent / "tests" / "data"
    names = ["example4d.nii.gz", "anatomical.nii", "example_nifti2.nii.gz", "functional.nii", "standard.nii.gz",
             "reoriented_anat_moved.nii"]
    found = []
    for name in names:
        image = canonical(nib.load(folder / name))
        data = image.get_fdata()
        times = data.shape[3] if data.ndim == 4 else 1
        data = data.reshape(data.shape[:3] + (times,))
        found.append({"name": name, "times": times, "spacing": [float(z) for z in image.header.get_zooms()[:3]],
                      "first": digest(data[..., 0].astype(np.float32)), "last": digest(data[..., -1].astype(np.float32))})
    return found


def axes_of(rng, kind):
    """An affine: a signed permutation, turned a little."""
    order, signs = rng.permutation(3), rng.choice([-1, 1], 3)
    turn = np.eye(3)
    if kind != "plain":
        a, b = rng.uniform(-0.4, 0.4, 2)
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    rotation = turn @ np.eye(3)[:, order] * signs
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.5, 4, 3)
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    if kind == "sheared":
        affine[0, 1] += 0.3
    return affine


def drawn(rng):
    found = []
    for number, (kind, order, form) in enumerate((t, o, f) for t in TYPES for o in "<>" for f in ("sform", "qform", "none")):
        shape = tuple(int(n) for n in rng.integers(2, 5, 3))
        if number % 7 == 3:
            shape += (2,)
        info = np.iinfo(kind) if kind[0] != "f" else None
        low, high = (max(info.min, -30000), min(info.max, 30000)) if info else (-1000, 1000)
        data = (rng.uniform(low, high, shape)).astype(order + kind)
        second, scaled = number % 2 == 1, number % 3 == 0
        affine = axes_of(rng, "sheared" if form == "sform" and number % 4 == 0 else "turned" if number % 2 else "plain")
        Header, Image = (nib.Nifti2Header, nib.Nifti2Image) if second else (nib.Nifti1Header, nib.Nifti1Image)
        header = Header(endianness=order)
        header.set_data_dtype(data.dtype)
        image = Image(data, affine, header)
        image.header.set_data_dtype(data.dtype)
        if form == "none":
            image.set_sform(None, 0), image.set_qform(None, 0)
            image.header["pixdim"][1:4] = rng.uniform(0.5, 4, 3)
        elif form == "qform":
            image.set_sform(None, 0), image.set_qform(affine, 1)
        else:
            image.set_sform(affine, 2), image.set_qform(None, 0)
        if scaled:
            image.header.set_slope_inter(0.5, -3)
        # The numbers as they are, behind the header as it is.
        head = image.header.copy()
        head["vox_offset"] = 544 if second else 352
        head["magic"] = b"n+2" if second else b"n+1"
        out = io.BytesIO()
        head.write_to(out)
        out.write(b"\0" * (int(head["vox_offset"]) - out.tell()))
        out.write(data.tobytes(order="F"))
        raw = out.getvalue()
        read = canonical(Image.from_bytes(raw))
        values = read.get_fdata()
        values = values.reshape(values.shape[:3] + (-1,))
        found.append({"name": f"{kind} {order} {form}", "file": base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode(),
                      "shape": list(values.shape), "spacing": [float(z) for z in np.linalg.norm(read.affine[:3, :3], axis=0)],
                      "first": [float(np.float32(v)) for v in values[..., -1].ravel(order="F")]})
    return found


def smooth(shape):
    x, y, z = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return np.round(400 * np.sin(x / 3) + 300 * np.cos(y / 4 + z / 2) - 200 * (z % 3)).astype(np.int16)


def resampled():
    shape, spacing = (13, 10, 7), (0.8, 1.1, 3.0)
    data = smooth(shape)
    found = []
    for target in [(1.0, 1.0, 1.0), (0.8, 1.1, 1.5), (2.0, 0.5, 3.0), (5.0, 5.0, 9.0)]:
        sizes = [max(1, int(np.floor(n * s / t + 0.5))) for n, s, t in zip(shape, spacing, target)]
        out = ndimage.zoom(data.astype(np.float64), [m / n for m, n in zip(sizes, shape)], order=1, mode="nearest",
                           grid_mode=True)
        assert list(out.shape) == sizes
        level = np.rint(255 * np.clip((out + 160) / 400, 0, 1)).astype(np.uint8)
        found.append({"spacing": list(target), "shape": sizes, "bytes": base64.b64encode(level.tobytes(order="F")).decode()})
    low, high = np.percentile(data, [0.5, 99.5])
    level = np.rint(255 * np.clip((data - low) / (high - low), 0, 1)).astype(np.uint8)
    percentile = base64.b64encode(level.tobytes(order="F")).decode()
    return {"shape": shape, "file_spacing": spacing, "cases": found, "percentile": percentile}


def packed(raw):
    return base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode()


def written(ds):
    out = io.BytesIO()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def image(rows, columns, number):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.826.0.1.3680043.8.498.{number}"
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "TEST^PHANTOM", "PHANTOM-ID-7"
    ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.77", "1.2.826.0.1.3680043.8.498.78"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    return ds


def frame_groups(spacing, directions, position, slope, intercept):
    measures, orientation, plane, transform, group = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, orientation.ImageOrientationPatient = spacing, directions
    plane.ImagePositionPatient = position
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = slope, intercept, "HU"
    group.PixelMeasuresSequence, group.PlaneOrientationSequence = [measures], [orientation]
    group.PlanePositionSequence, group.PixelValueTransformationSequence = [plane], [transform]
    return group


def series(rng):
    """The same volume as a folder of files in no order, and as one enhanced file; values as RAS."""
    rows, columns, count, spacing = 6, 8, 5, [0.75, 1.25]
    cases = []
    for name, directions in [("axial", [1, 0, 0, 0, 1, 0]), ("coronal", [1, 0, 0, 0, 0, -1]),
                             ("oblique", [0.8, 0.6, 0, -0.6, 0.8, 0]), ("feet first", [-1, 0, 0, 0, 1, 0])]:
        normal = np.cross(directions[:3], directions[3:])
        stored = rng.integers(-500, 2000, (count, rows, columns)).astype("<i2")
        slopes, intercepts = 1 + 0.5 * np.arange(count), -1024.0 + 10 * np.arange(count)
        values = stored * slopes[:, None, None] + intercepts[:, None, None]
        positions = [np.array([10.0, -20.0, 5.0]) + 2.5 * k * normal for k in range(count)]
        files = {}
        for place, k in enumerate(rng.permutation(count)):
            ds = image(rows, columns, 100 + int(k))
            ds.ImagePositionPatient, ds.ImageOrientationPatient = [float(v) for v in positions[k]], directions
            ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = spacing, float(slopes[k]), float(intercepts[k])
            ds.InstanceNumber, ds.PixelData = place + 1, stored[k].tobytes()
            files[f"IM{place}.dcm"] = packed(written(ds))
        many = image(rows, columns, 200)
        many.SOPClassUID, many.NumberOfFrames, many.PixelData = "1.2.840.10008.5.1.4.1.1.2.1", count, stored[::-1].tobytes()
        many.PerFrameFunctionalGroupsSequence = [
            frame_groups(spacing, directions, [float(v) for v in positions[k]], float(slopes[k]), float(intercepts[k]))
            for k in reversed(range(count))]
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = np.array(directions[:3]) * spacing[1], np.array(directions[3:]) * spacing[0]
        affine[:3, 2], affine[:3, 3] = 2.5 * normal, positions[0]
        affine = np.diag([-1, -1, 1, 1]) @ affine
        read = canonical(nib.Nifti1Image(values.transpose(2, 1, 0), affine))
        cases.append({"name": name, "files": files, "enhanced": packed(written(many)), "shape": list(read.shape),
                      "spacing": [float(z) for z in np.linalg.norm(read.affine[:3, :3], axis=0)],
                      "first": [float(np.float32(v)) for v in read.get_fdata().ravel(order="F")]})
    return cases


def arrays(rng):
    found = []
    for number, kind in enumerate(["<f4", ">f4", "<f2", "<f8", "<i2", ">i2", "<u1", "<i8"]):
        array = rng.integers(0, 200, (3, 4, 5)).astype(kind)
        kept = [array, np.asfortranarray(array), array[None, None]][number % 3]
        out = io.BytesIO()
        [np.save, np.savez, np.savez_compressed][number // 2 % 3](out, kept)
        values = array[:, ::-1, ::-1].transpose(2, 1, 0)
        found.append({"name": kind, "end": "npy" if number // 2 % 3 == 0 else "npz", "shape": list(values.shape),
                      "file": packed(out.getvalue()), "first": [float(v) for v in values.ravel(order="F")]})
    return found


def loops(rng):
    """Frames in the file's order: gray rescaled, as all others by one line, and colours as they are."""
    frames, rows, columns = 4, 5, 7
    found = []
    for kind in ["gray", "colour", "planes"]:
        ds = image(rows, columns, 300 + len(found))
        ds.SOPClassUID, ds.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.3.1", frames
        if kind == "gray":
            ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 12, 11, 0, 2.0, -100.0
            stored = rng.integers(0, 4096, (frames, rows, columns)).astype("<u2")
        else:
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", int(kind == "planes")
            shape = (frames, 3, rows, columns) if kind == "planes" else (frames, rows, columns, 3)
            stored = rng.integers(0, 256, shape).astype("u1")
        ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
        raw = written(ds)
        pixels = pydicom.dcmread(io.BytesIO(raw)).pixel_array
        values = pixels * 2.0 - 100 if kind == "gray" else pixels
        found.append({"name": kind, "file": packed(raw), "shape": [frames, rows, columns], "values": [float(v) for v in values.ravel()]})
    return found


def broken():
    folder = pathlib.Path(nib.__file__).parent / "tests" / "data"
    names = ["reoriented_anat_moved.nii", "resampled_anat_moved.nii"]
    return [name for name in names if np.isnan(nib.load(folder / name).get_fdata()).any()]


def main():
    rng = np.random.default_rng(SEED)
    versions = {"nibabel": nib.__version__, "numpy": np.__version__, "scipy": scipy.__version__,
                "pydicom": pydicom.__version__}
    golden = {"seed": SEED, "versions": versions, "real": real(), "drawn": drawn(rng), "resampled": resampled(),
              "series": series(rng), "arrays": arrays(rng), "loops": loops(rng), "broken": broken()}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(golden, separators=(",", ":"), allow_nan=False))


main()
