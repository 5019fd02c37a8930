"""A config that trains a tiny model on phantoms in a second, for the scripts that check servers."""

CONFIG = """
[model]
init = "random"
image_size = 32
context_length = 48
[model.random]
vocab_size = 600
embed_dim = 16
vision_width = 16
vision_layers = 1
vision_heads = 2
text_width = 16
text_layers = 1
text_heads = 2
[data]
train = "phantom/manifest.csv"
phantom = 40
[train]
batch_size = 8
max_steps = 10
eval_every = 4
[eval]
bootstrap = 20
"""
