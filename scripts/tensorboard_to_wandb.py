"""A run folder's TensorBoard figures as an offline run of Weights & Biases, for `wandb sync` to take from there.

WANDB_MODE=offline python tensorboard_to_wandb.py runs/first   (pip install wandb tensorboard)"""

import pathlib
import sys

import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder = pathlib.Path(sys.argv[1]).resolve()
events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
events.Reload()
steps = {}
for tag in events.Tags()["scalars"]:
    for event in events.Scalars(tag):
        steps.setdefault(event.step, {})[tag] = event.value
if not steps:
    sys.exit(f"{folder}: holds no figures of TensorBoard; `train.tensorboard = true` (the default) writes them")
with wandb.init(project="reportclip", name=folder.name) as run:
    for step, figures in sorted(steps.items()):
        run.log(figures, step=step)
print(f"{folder}: {len(steps)} steps")
