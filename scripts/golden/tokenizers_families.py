"""Tiny tokenizers in the file layouts that published text encoders have, and what transformers makes of them.

Writes tests/golden/tokenizer_families/<family>/: the files a repository of that family has, expected.json
(one row per text: input_ids with special tokens, truncated, not padded) and golden.json (how to pad).
"""

import json
import logging
import re
import shutil
import string
import tempfile
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors)
from transformers import (AutoTokenizer, BertTokenizer, DistilBertTokenizer, RobertaTokenizer,
                          SiglipTokenizer, XLMRobertaTokenizer)
from transformers.convert_slow_tokenizer import import_protobuf
from transformers.models.siglip2 import Siglip2Tokenizer

from common import GOLDEN, write_json, write_origin
from tokenizer import CORPUS, TEXTS, byte_letters, join_pair

FOLDER = GOLDEN / "tokenizer_families"
MAX_LENGTH = 24

MORE_CORPUS = """
检查所见：双肺纹理清晰，心影大小正常。
印象：右肺上叶结节，建议复查。
Keine Pleuraergüsse oder Pneumothorax.
Die Größe der Läsion beträgt über drei Zentimeter.
No se observa derrame pleural ni neumotórax.
El corazón tiene tamaño normal. Pulmón derecho sin lesión.
胸部CTで右肺に結節を認める。
""".strip().splitlines()

MORE_TEXTS = [
    "检查所见：双肺纹理增多，右肺上叶见一结节影。",
    "印象：1.右肺上叶小结节，建议六个月后复查；2.主动脉壁钙化。",
    "Keine Pleuraergüsse. Größenprogrediente Läsion im rechten Unterlappen, Verdacht auf Metastase.",
    "No se observa derrame pleural. Corazón de tamaño normal, nódulo en el pulmón izquierdo.",
    "胸部ＣＴで右肺上葉に3.5cm大の結節を認める。心拡大なし。",
    "CT, MRI and PET/CT of the chest; IV contrast; AP view. ECG normal. mRNA",
    "A 3.5x2.1cm mass, previously 3.1 x 1.9 cm (series 4, image 112).",
    "Comparison: ___. Dr. ___ was notified at ___ by phone_number.",
    "心影 is 正常，lungs清晰。",
    "[CLS] inside [SEP] the [MASK] text [UNK] [PAD] [cls]",
    "<s> inside </s> the <mask> text <unk> <pad> <S>",
    "<bos> inside <eos> the\n\ntext   with   spaces ▁▁ and <unused0>",
    "y" * 101 + " " + "lung" * 24,
    ".,!?;:",
    "no space at the end ",
]
ALL_TEXTS = TEXTS + MORE_TEXTS

SPECIALS = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
IDENTITY = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
            "mask_token": "[MASK]"}


def wordpiece_vocab(lower, strip_accents, chinese=True):
    """Letters, their inner forms, common words and word endings, each group sorted."""
    normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lower)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter()
    for line in CORPUS + MORE_CORPUS:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
    letters = sorted({c for word in words for c in word} | set(string.digits + string.ascii_lowercase))
    symbols = sorted(set(".,:;-()/%'!?+=#&\"[]_") - set(letters))
    inner = ["##" + c for c in letters if c.isalnum()]
    endings = Counter()
    for word, count in words.items():
        for n in (2, 3, 4):
            if len(word) > n:
                endings[word[-n:]] += count
    parts = sorted("##" + end for end, count in endings.items() if count >= 4)
    whole = sorted(word for word, count in words.items() if len(word) > 1 and (count >= 2 or len(word) > 6))
    tokens = SPECIALS + symbols + letters + inner + parts + whole
    assert len(set(tokens)) == len(tokens)
    return tokens


def write_vocab_txt(folder, tokens):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


def bert_uncased(folder):
    """As PubMedBERT and bert-base-uncased were first published: no tokenizer.json."""
    write_vocab_txt(folder, wordpiece_vocab(lower=True, strip_accents=None))
    write_json(folder / "tokenizer_config.json",
               {"do_lower_case": True, **IDENTITY, "tokenize_chinese_chars": True, "strip_accents": None,
                "model_max_length": 512, "tokenizer_class": "BertTokenizer"})
    return BertTokenizer.from_pretrained(folder)


def bert_cased(folder):
    """As bert-base-cased: a two-line configuration that names no class."""
    write_vocab_txt(folder, wordpiece_vocab(lower=False, strip_accents=None))
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "model_max_length": 512})
    return BertTokenizer.from_pretrained(folder)


def bert_chinese(folder):
    """Like the Chinese BERT models: single Chinese characters, few Latin words."""
    characters = sorted({c for line in CORPUS + MORE_CORPUS for c in line if ord(c) > 0x2E80})
    latin = sorted(string.ascii_lowercase + string.digits + ".,:;-()/%_")
    inner = ["##" + c for c in latin if c.isalnum()] + ["##" + c for c in characters if c.isalnum()]
    write_vocab_txt(folder, SPECIALS + latin + characters + inner + ["ct", "cm", "mm", "##mm", "##cm", "mri"])
    write_json(folder / "tokenizer_config.json",
               {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"})
    return BertTokenizer.from_pretrained(folder)


def bert_fast(folder):
    """What save_pretrained writes today: tokenizer.json and tokenizer_config.json, cased."""
    with tempfile.TemporaryDirectory() as other:
        write_vocab_txt(Path(other), wordpiece_vocab(lower=False, strip_accents=None))
        BertTokenizer.from_pretrained(other, do_lower_case=False, model_max_length=512).save_pretrained(folder)
    clean_name(folder)
    return BertTokenizer.from_pretrained(folder)


def bert_vocab_only(folder):
    """vocab.txt and nothing else: the defaults of the class (lower case, accents stripped)."""
    write_vocab_txt(folder, wordpiece_vocab(lower=True, strip_accents=None))
    return BertTokenizer.from_pretrained(folder)


def bert_keep_accents(folder):
    """Lower case but accents kept, and Chinese characters not set apart."""
    write_vocab_txt(folder, wordpiece_vocab(lower=True, strip_accents=False, chinese=False))
    write_json(folder / "tokenizer_config.json",
               {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False, **IDENTITY,
                "model_max_length": 512, "tokenizer_class": "BertTokenizer"})
    return BertTokenizer.from_pretrained(folder)


def distilbert(folder):
    write_vocab_txt(folder, wordpiece_vocab(lower=True, strip_accents=None))
    write_json(folder / "tokenizer_config.json",
               {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "DistilBertTokenizer"})
    return DistilBertTokenizer.from_pretrained(folder)


def clean_name(folder):
    """save_pretrained may note the folder it was loaded from; that is no part of the layout."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "is_local", "local_files_only"):
        config.pop(key, None)
    write_json(path, config)


def merge_pairs(words, number):
    """Plain byte-pair encoding with a fixed order among equals (see tokenizer.py)."""
    merges = []
    for _ in range(number):
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [join_pair(word, best) for word in words]
    return merges


def roberta_bpe(folder):
    """vocab.json and merges.txt of RoBERTa: byte-level, spaces belong to the word that follows."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [list(word) for line in CORPUS + MORE_CORPUS for word, _ in splitter.pre_tokenize_str(line)]
    merges = merge_pairs(words, 260)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *byte_letters().values(), *map("".join, merges), "<mask>"]
    assert len(set(tokens)) == len(tokens)
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)}, indent=None)
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json",
               {"add_prefix_space": False, "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>",
                "errors": "replace", "mask_token": "<mask>", "model_max_length": 512, "pad_token": "<pad>",
                "sep_token": "</s>", "tokenizer_class": "RobertaTokenizer", "trim_offsets": True,
                "unk_token": "<unk>"})
    return RobertaTokenizer.from_pretrained(folder)


def normalisation_rules():
    """A small part of nmt_nfkc (the whole map has 240 KB): spaces, controls, and the characters of the texts."""
    rules = {(c,): () for c in [*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]}
    spaces = [0x09, 0x0A, 0x0C, 0x0D, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD]
    characters = {c for text in ALL_TEXTS + CORPUS + MORE_CORPUS for c in text}
    for c in sorted(characters | {chr(c) for c in range(0xFF01, 0xFF5F)} | {"\u00a0", "\u3000"}):
        normal = unicodedata.normalize("NFKC", c)
        if normal != c:
            rules[(ord(c),)] = tuple(map(ord, normal))
    for base in string.ascii_letters:
        for mark in "\u0300\u0301\u0302\u0303\u0308\u0327":
            normal = unicodedata.normalize("NFKC", base + mark)
            if len(normal) == 1:
                rules[(ord(base), ord(mark))] = (ord(normal),)
    rules.update({(c,): (0x20,) for c in spaces})
    hexes = lambda codes: " ".join(f"{c:X}" for c in codes)
    return "".join(f"{hexes(source)}\t{hexes(target)}\n" for source, target in sorted(rules.items()))


def train_sentencepiece(path, **special_ids):
    with tempfile.TemporaryDirectory() as folder:
        text, rules = Path(folder) / "corpus.txt", Path(folder) / "rules.tsv"
        text.write_text("\n".join((CORPUS + MORE_CORPUS) * 3) + "\n", encoding="utf-8")
        rules.write_text(normalisation_rules(), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(Path(folder) / "m"), model_type="unigram", vocab_size=420,
            hard_vocab_limit=False, character_coverage=1.0, num_threads=1, normalization_rule_tsv=str(rules),
            minloglevel=2, **special_ids)
        model = import_protobuf()
        proto = model.ModelProto()
        proto.ParseFromString((Path(folder) / "m.model").read_bytes())
    # The paths of the training run are stored in the model; drop them, and order equals by name.
    proto.trainer_spec.ClearField("input")
    proto.trainer_spec.ClearField("model_prefix")
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    head = [p for p in proto.pieces if p.type != 1]
    rest = sorted((p for p in proto.pieces if p.type == 1), key=lambda p: (-p.score, p.piece))
    pieces = [model.ModelProto.SentencePiece.FromString(p.SerializeToString()) for p in head + rest]
    assert [p.type != 1 for p in proto.pieces] == sorted((p.type != 1 for p in proto.pieces), reverse=True)
    proto.ClearField("pieces")
    proto.pieces.extend(pieces)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return proto


def xlmr(folder):
    """Unigram pieces and a character map in tokenizer.json, as save_pretrained writes it."""
    with tempfile.TemporaryDirectory() as other:
        train_sentencepiece(Path(other) / "sentencepiece.bpe.model", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
        XLMRobertaTokenizer.from_pretrained(other, model_max_length=512).save_pretrained(folder)
    clean_name(folder)
    return XLMRobertaTokenizer.from_pretrained(folder)


def siglip(folder):
    """spiece.model with the numbering of T5, plus a tokenizer.json converted from it (transformers reads the model)."""
    proto = train_sentencepiece(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    added = {str(i): {"content": token, "lstrip": True, "normalized": False, "rstrip": True, "single_word": False,
                      "special": True} for i, token in [(1, "</s>"), (2, "<unk>")]}
    write_json(folder / "tokenizer_config.json",
               {"added_tokens_decoder": added, "additional_special_tokens": [],
                "clean_up_tokenization_spaces": True, "do_lower_case": True, "eos_token": "</s>",
                "model_input_names": ["input_ids"], "model_max_length": 64, "pad_token": "</s>",
                "processor_class": "SiglipProcessor", "sp_model_kwargs": {}, "tokenizer_class": "SiglipTokenizer",
                "unk_token": "<unk>"})

    fast = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=2, byte_fallback=False))
    fast.normalizer = normalizers.Sequence([
        normalizers.Lowercase(),
        normalizers.Replace(Regex("[" + re.escape(string.punctuation) + "]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
        normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), "▁"),
    ])
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    fast.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    fast.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    fast.add_special_tokens([AddedToken(t, lstrip=True, rstrip=True, normalized=False) for t in ("</s>", "<unk>")])
    fast.save(str(folder / "tokenizer.json"), pretty=False)
    return SiglipTokenizer.from_pretrained(folder)


def siglip2(folder):
    """The Gemma tokenizer as SigLIP 2 repositories publish it: config.json says siglip2, the tokenizer says Gemma.

    The published tokenizer.json does not lower the case; transformers adds that for the model type.
    """
    words = [["▁"] + list(word) for line in CORPUS + MORE_CORPUS for word in line.lower().split(" ")]
    merges = merge_pairs(words, 220)
    letters = sorted({c for line in CORPUS + MORE_CORPUS for c in line + line.lower()} | set(string.digits)) + ["▁"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>", "\n\n", "▁▁"]
    tokens += [f"<0x{b:02X}>" for b in range(256)]
    tokens += [c for c in letters if c != " "]
    tokens += ["".join(pair) for pair in merges]
    assert len(set(tokens)) == len(tokens)
    fast = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True,
                                byte_fallback=True))
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)])
    fast.add_special_tokens([AddedToken(t, normalized=False) for t in tokens[:5]])
    fast.add_tokens([AddedToken(t, normalized=False) for t in tokens[5:8]])
    fast.enable_truncation(64)
    fast.enable_padding(length=64, pad_id=0, pad_token="<pad>")
    folder.mkdir(parents=True, exist_ok=True)
    fast.save(str(folder / "tokenizer.json"), pretty=False)

    added = {str(i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
                      "single_word": False, "special": i < 5} for i, token in enumerate(tokens[:8])}
    write_json(folder / "tokenizer_config.json",
               {"add_bos_token": False, "add_eos_token": True, "added_tokens_decoder": added, "bos_token": "<bos>",
                "clean_up_tokenization_spaces": False, "eos_token": "<eos>", "mask_token": "<mask>",
                "model_input_names": ["input_ids"], "model_max_length": 1000000000000000019884624838656,
                "pad_token": "<pad>", "padding_side": "right", "processor_class": "SiglipProcessor",
                "sp_model_kwargs": {}, "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer",
                "unk_token": "<unk>", "use_default_system_prompt": False})
    write_json(folder / "config.json", {"model_type": "siglip2"})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer) is Siglip2Tokenizer
    return tokenizer


FAMILIES = [bert_uncased, bert_cased, bert_chinese, bert_fast, bert_vocab_only, bert_keep_accents, distilbert,
            roberta_bpe, xlmr, siglip, siglip2]


def encode(tokenizer):
    rows = []
    for text in ALL_TEXTS:
        ids = tokenizer(text, max_length=MAX_LENGTH, truncation=True, padding=False)["input_ids"]
        rows.append({"text": text, "input_ids": ids, "length": len(ids)})
    return rows


def plain_json(folder):
    """What tokenizer.json gives by itself, without the class of transformers around it."""
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.no_padding()
    fast.enable_truncation(MAX_LENGTH)
    return [fast.encode(text).ids for text in ALL_TEXTS]


def main():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    shutil.rmtree(FOLDER, ignore_errors=True)
    for family in FAMILIES:
        folder = FOLDER / family.__name__
        tokenizer = family(folder)
        rows = encode(tokenizer)
        write_json(folder / "expected.json", rows, indent=None)
        notes = {}
        if (folder / "tokenizer.json").exists():
            # Rows where the class does something that its tokenizer.json does not say.
            plain = plain_json(folder)
            notes["differs_from_tokenizer_json"] = [
                i for i, (row, ids) in enumerate(zip(rows, plain)) if row["input_ids"] != ids]
        write_origin(
            folder, "tokenizers_families.py", tokenizer_class=type(tokenizer).__name__, max_length=MAX_LENGTH,
            pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token, padding_side=tokenizer.padding_side,
            vocab_size=len(tokenizer), model_max_length=min(tokenizer.model_max_length, 10**9), **notes)

        size = sum(p.stat().st_size for p in folder.iterdir())
        unknown = sum(row["input_ids"].count(tokenizer.unk_token_id) for row in rows)
        print(f"{family.__name__}: {len(tokenizer)} tokens, {size} bytes, {unknown} unknown,",
              type(tokenizer).__name__, "pad", tokenizer.pad_token_id, tokenizer.padding_side, notes)
        for i in notes.get("differs_from_tokenizer_json", [])[:8]:
            print("   differs:", i, repr(ALL_TEXTS[i][:50]), tokenizer.convert_ids_to_tokens(rows[i]["input_ids"]),
                  tokenizer.convert_ids_to_tokens(plain[i]))


if __name__ == "__main__":
    main()
