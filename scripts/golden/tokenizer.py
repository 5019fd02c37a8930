"""A small CLIP tokenizer trained on made-up report sentences, and what it makes of difficult texts.

(Not called tokenize.py: that would hide Python's own `tokenize` module from every script here.)

Writes tests/golden/tokenizer/full (tokenizer.json ...), tests/golden/tokenizer/bpe_only (vocab.json,
merges.txt) and tests/golden/tokenizer/expected.json.
"""

import json
import re
import shutil
import unicodedata
from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer

from common import GOLDEN, write_json, write_origin

FOLDER = GOLDEN / "tokenizer"
MERGES = 180
MAX_LENGTH = 24

CORPUS = """
The heart is normal in size and shape.
The lungs are clear without focal consolidation.
No pleural effusion or pneumothorax is seen.
There is a small nodule in the right upper lobe.
A round opacity measures 3.5 cm in the left lower lobe.
Mild degenerative changes of the thoracic spine.
The liver shows a hypodense lesion in segment four.
No evidence of acute fracture or dislocation.
The gallbladder contains several small stones.
Both kidneys are normal in size without stones.
The spleen is enlarged and measures 14 cm.
Unchanged position of the central venous catheter.
Compared with the prior study the effusion is smaller.
The aorta is calcified and mildly dilated.
Patchy opacities in both lower lobes suggest pneumonia.
No mass is seen in the pancreas.
The bladder is well filled with a smooth wall.
There is a tear of the medial meniscus.
The anterior cruciate ligament is intact.
Small joint effusion of the right knee.
Impression: no acute cardiopulmonary abnormality.
Findings: the cardiac silhouette is enlarged.
Recommend follow up in six months.
The ventricles are normal without midline shift.
No intracranial hemorrhage or mass effect.
双肺纹理清晰，未见明显异常。
心影大小形态正常，纵隔居中。
右肺上叶见小结节，直径约五毫米。
左肺下叶见片状高密度影，考虑炎症。
肝脏大小正常，右叶见低密度灶。
胆囊内见多发结石，胆总管未见扩张。
双肾大小形态正常，未见结石及积水。
脾脏增大，胰腺未见明显异常。
双侧胸腔未见积液，膈面光滑。
胸椎轻度退行性改变。
脑室大小正常，中线结构居中。
未见明显骨折征象，关节间隙正常。
右膝关节少量积液。
主动脉壁钙化，未见扩张。
建议六个月后复查。
""".strip().splitlines()

TEXTS = [
    "The heart is normal in size.",
    "NO PLEURAL EFFUSION OR PNEUMOTHORAX",
    "Round Opacity, LEFT lower Lobe; see image #12!",
    "双肺纹理清晰，未见明显异常。",
    "右肺上叶见小结节（直径约5mm），建议复查",
    "CT示：肝右叶 lesion 2cm",
    "Größe der Läsion über 3 cm, weiß",
    "ÄÖÜ ẞ İstanbul",
    "épanchement pleural à gauche, déjà vu, cœur élargi",
    unicodedata.normalize("NFD", "épanchement pleural à gauche, Größe"),
    "clear lungs 👍🏽 🫁 family 👨‍👩‍👧",
    "nodule 3.5cm x 12.75 mm, 50% in 2024",
    "it's the patient's, they're, we've, I'm, she'll, he'd, don't IT'S",
    "it’s a curly apostrophe",
    "  two  spaces\tand\ttabs\n\nand\r\nnewlines  ",
    "no-break\u00a0space, ideographic\u3000space, zero\u200bwidth, line\u2028separator",
    "R&amp;D &lt;b&gt; &quot;x&quot; &#39;",
    "The lungs are clear without focal consolidation. No pleural effusion or pneumothorax is seen. " * 4,
    "未见明显异常，" * 12,
    "",
    "   \n",
    "patient ___ seen on ___, age __",
    "ＣＴ　ＳＣＡＮ　１２３％ ﬁnding",
    "½ ² Ⅳ ٣ 三",
    "a/b\\c (x) [y] {z} <=> ~3–5—6… «q» “w”",
    "<|startoftext|> inside <|endoftext|> the text",
    "<|ENDOFTEXT|> <|endoftext |>",
    "ΣΟΦΟΣ Привет ไทย हिन्दी العربية",
    "한국어 日本語 カタカナ ｶﾀｶﾅ",
    "\u0000null\u0007bell \ufeffbom",
    "x" * 40,
    "'s 't '",
]


PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves


def byte_letters():
    """The letter that stands for each byte, in the order of the CLIP vocabulary: plain bytes first."""
    others = [b for b in range(256) if b not in PLAIN]
    return {b: chr(b) for b in PLAIN} | {b: chr(256 + i) for i, b in enumerate(others)}


def join_pair(word, pair):
    joined, i = [], 0
    while i < len(word):
        if tuple(word[i:i + 2]) == pair:
            joined.append(word[i] + word[i + 1])
            i += 2
        else:
            joined.append(word[i])
            i += 1
    return joined


def train():
    """Plain byte-pair encoding (the trainer of `tokenizers` breaks ties differently in every run)."""
    letter_of = byte_letters()
    words = []
    for text in re.findall(r"[^\W\d_]+|\d|[^\w\s]+", " ".join(CORPUS).lower()):
        word = [letter_of[b] for b in text.encode()]
        word[-1] += "</w>"
        words.append(word)

    merges = []
    for _ in range(MERGES):
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [join_pair(word, best) for word in words]

    # The layout of CLIP: bytes, bytes that end a word, merges, then the two special tokens.
    letters = list(letter_of.values())
    tokens = letters + [x + "</w>" for x in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(tokens)) == len(tokens)
    return {token: i for i, token in enumerate(tokens)}, merges


def encode(tokenizer):
    encoded = [tokenizer(t, max_length=MAX_LENGTH, truncation=True, padding="max_length") for t in TEXTS]
    return [{"text": t, "input_ids": e["input_ids"], "attention_mask": e["attention_mask"]}
            for t, e in zip(TEXTS, encoded)]


def main():
    vocab, merges = train()
    shutil.rmtree(FOLDER, ignore_errors=True)
    bpe_only, full = FOLDER / "bpe_only", FOLDER / "full"
    write_json(bpe_only / "vocab.json", vocab, indent=None)
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (bpe_only / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    tokenizer = CLIPTokenizer.from_pretrained(bpe_only, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(full)
    expected = encode(tokenizer)
    assert expected == encode(CLIPTokenizer.from_pretrained(full)), "the two variants disagree"
    write_json(FOLDER / "expected.json", expected, indent=None)
    write_origin(FOLDER, "tokenizer.py", max_length=MAX_LENGTH)

    print(len(vocab), "tokens, files of full/:", sorted(p.name for p in full.iterdir()))
    for row in expected:
        print(sum(row["attention_mask"]), repr(row["text"][:40]), tokenizer.convert_ids_to_tokens(row["input_ids"])[:12])
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for part in ["truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"]:
        print(part, json.dumps(backend[part], ensure_ascii=False))
    print("model", {k: v for k, v in backend["model"].items() if k not in ("vocab", "merges")})


if __name__ == "__main__":
    main()
