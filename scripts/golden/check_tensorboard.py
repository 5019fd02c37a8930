"""Reads a run folder's TensorBoard events with the real package: python check_tensorboard.py RUN"""

import importlib.metadata
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
losses = events.Scalars("train/loss")
assert [e.step for e in losses] == list(range(1, len(losses) + 1)), "a step is missing or twice"
assert events.Images("val/sim_i2t")[-1].encoded_image_string.startswith(b"\x89PNG")
assert events.Histograms("val/similarity_own_pairs")[-1].histogram_value.num > 0
text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
assert "label_smoothing" in text
print("tensorboard", importlib.metadata.version("tensorboard"), {kind: len(names) for kind, names in tags.items()
      if isinstance(names, list)}, len(losses), "steps")
