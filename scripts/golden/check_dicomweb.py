"""Puts DICOM files into Orthanc on loopback, and embeds them through its DICOMweb and from their files: the same
numbers, bit for bit, and nothing in Orthanc changed.

python3 check_dicomweb.py REPORTCLIP FOLDER   (apt-get install orthanc orthanc-dicomweb; FOLDER is searched for files)"""

import base64
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from tiny_run import CONFIG

NAME, PASSWORD = "reader", "orthancsecret"


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Orthanc:
    def __init__(self, place):
        self.url = f"http://127.0.0.1:{port()}"
        config = {"Name": "check", "StorageDirectory": str(place / "storage"), "IndexDirectory": str(place / "storage"),
                  "HttpPort": int(self.url.rsplit(":", 1)[1]), "DicomServerEnabled": False,
                  "RemoteAccessAllowed": False, "AuthenticationEnabled": True, "RegisteredUsers": {NAME: PASSWORD},
                  "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"], "DicomWeb": {"Enable": True}}
        (place / "orthanc.json").write_text(json.dumps(config))
        program = "Orthanc" if os.path.exists("/usr/sbin/Orthanc") else "orthanc"
        with open(place / "orthanc.log", "w") as log:
            self.process = subprocess.Popen([f"/usr/sbin/{program}", "orthanc.json"], cwd=place, stdout=log, stderr=log)
        for _ in range(120):
            try:
                self.ask("/system")
                return
            except OSError:
                assert self.process.poll() is None, (place / "orthanc.log").read_text()
                time.sleep(0.5)

    def ask(self, path, body=None):
        request = urllib.request.Request(self.url + path, data=body)
        secret = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {secret}")
        return json.loads(urllib.request.urlopen(request, timeout=60).read())


def embeddings(path):
    """Rows as bytes, and what the index says of its images."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensor = header["image_embeds"]
    start, end = tensor["data_offsets"]
    rows, width = tensor["shape"]
    values = data[8 + length + start : 8 + length + end]
    source = json.loads(header["__metadata__"]["reportclip"])
    names = source.get("images") or source.get("origins", {}).get("images", [])
    return [values[i * 4 * width : (i + 1) * 4 * width] for i in range(rows)], names


def run(binary, place, *args, ok=True):
    env = {**os.environ, "DICOMWEB_USERNAME": NAME, "DICOMWEB_PASSWORD": PASSWORD}
    done = subprocess.run([binary, *args], cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0 or not ok, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done


def main(binary, folder, place):
    (place / "tiny.toml").write_text(CONFIG)
    run(binary, place, "train", "tiny.toml", "--out", "run", "--set", "train.max_steps=2")
    orthanc = Orthanc(place)
    try:
        check(binary, folder, place, orthanc)
    finally:
        orthanc.process.terminate()
        orthanc.process.wait()


def check(binary, folder, place, orthanc):
    embed = ["embed", "--model", "run/model", "--batch-size", "1", "--force"]
    files, unread = {}, 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.read_bytes()[128:132] != b"DICM":
            continue
        # Of an instance of several frames the first, as from a PACS: by its name alone it is all of them.
        one = run(binary, place, *embed, "--out", "one.safetensors", "--images", f"{path}#1", ok=False)
        if one.returncode != 0:
            unread += 1
            continue
        try:
            stored = orthanc.ask("/instances", path.read_bytes())
        except urllib.error.HTTPError:
            continue
        tags = orthanc.ask(f"/instances/{stored['ID']}/simplified-tags")
        if stored["Status"] == "Success":
            rows, _ = embeddings(place / "one.safetensors")
            files[tags["SOPInstanceUID"]] = (tags["StudyInstanceUID"], rows[0], path.name)
    studies = sorted({study for study, *_ in files.values()})
    assert len(files) > 10 and len(studies) > 3, (len(files), len(studies))
    before = orthanc.ask("/statistics")
    same, refused = 0, []
    for study in studies:
        args = ["--out", "all.safetensors", "--keep-names", "--dicomweb", f"{orthanc.url}/dicom-web", "--study", study]
        done = run(binary, place, *embed, *args, ok=False)
        if done.returncode != 0:
            refused.append(done.stderr.strip().splitlines()[-1])
            continue
        rows, uids = embeddings(place / "all.safetensors")
        for uid, row in zip(uids, rows, strict=True):
            assert files[uid][1] == row, f"{files[uid][2]} differs"
            same += 1
        assert study not in done.stderr and not any(uid in done.stderr for uid in uids), done.stderr
    query = run(binary, place, *embed, "--out", "query.safetensors", "--dicomweb", f"{orthanc.url}/dicom-web/",
                "--query", "PatientID=no-such-patient", ok=False)
    assert query.returncode == 1 and "no study" in query.stderr, query.stderr
    everything = run(binary, place, *embed, "--out", "query.safetensors", "--dicomweb", f"{orthanc.url}/dicom-web/",
                     "--query", f"StudyInstanceUID={files[next(iter(files))][0]}")
    assert "image_embeds" in everything.stdout
    assert orthanc.ask("/statistics") == before, "something was written"
    print("orthanc", orthanc.ask("/system")["Version"], f"{same} instances of {len(studies)} studies as from their files;",
          f"{unread} files are not read here, {len(refused)} studies refused", *refused, sep="\n  ")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(folder))
