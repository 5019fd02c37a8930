#!/usr/bin/env python3
"""Tokens of real reports, one number a line, for `reportclip bench … --text-lengths`.

  report_lengths.py NLMCXR_reports.tgz [--sections FINDINGS,IMPRESSION] > lengths.txt
Reads the XML of the Open-i chest X-ray collection, joins the sections named, and counts tokens with the vocabulary of
OpenAI's CLIP (from the open_clip package), begin and end included, at most 77. The order is shuffled with seed 0.
"""
import argparse
import random
import sys
import tarfile
import xml.etree.ElementTree as ElementTree

import open_clip

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("archive")
parser.add_argument("--sections", default="FINDINGS,IMPRESSION")
arguments = parser.parse_args()
sections = arguments.sections.split(",")
tokenizer = open_clip.tokenizer.SimpleTokenizer()
lengths = []
with tarfile.open(arguments.archive) as archive:
    for member in archive:
        if not member.name.endswith(".xml"):
            continue
        root = ElementTree.parse(archive.extractfile(member)).getroot()
        parts = [e.text for e in root.iter("AbstractText") if e.get("Label") in sections and e.text]
        text = " ".join(" ".join(parts).split())
        if text:
            lengths.append(min(77, 2 + len(tokenizer.encode(text))))
random.Random(0).shuffle(lengths)
print("\n".join(map(str, lengths)))
full = sum(n == 77 for n in lengths) / len(lengths)
print(f"{len(lengths)} reports, mean {sum(lengths) / len(lengths):.1f} tokens, {full:.0%} at the limit", file=sys.stderr)
