//! The rows of the table of keys that choose a model.

use super::key::{Key, key};
use super::kind::Kind;
use super::sections::{ModelInit, ProjectionKind};

/// In the order in which they are shown.
pub(super) const MODEL: &[Key] = &[
    key("model.init", Kind::OneOf(ModelInit::WORDS), "\"pretrained\"", "Where the weights come from"),
    key(
        "model.path",
        Kind::Text,
        "",
        "Folder or hub id org/name[@revision] of a dual encoder, of transformers or open_clip",
    ),
    key("model.image", Kind::Text, "", "Folder or hub id of an image tower, to be paired with model.text"),
    key("model.text", Kind::Text, "", "Folder or hub id of a text tower, to be paired with model.image"),
    key(
        "model.image_pooling",
        Kind::OneOf(&["auto", "cls", "mean", "pooler"]),
        "\"auto\"",
        "Pair: what stands for the image; auto = the tower's own pooler, or cls where the file holds none",
    ),
    key(
        "model.text_pooling",
        Kind::OneOf(&["auto", "cls", "mean", "eos", "pooler"]),
        "\"auto\"",
        "Pair: what stands for the text; auto also follows the 1_Pooling folder of sentence-transformers",
    ),
    key("model.projection", Kind::OneOf(ProjectionKind::WORDS), "\"linear\"", "Pair: the fresh projections"),
    key("model.embed_dim", Kind::Int(1, 1 << 16), "512", "Pair: width of the shared space"),
    key(
        "model.bag_pooling",
        Kind::OneOf(&["auto", "mean", "max", "attention"]),
        "\"auto\"",
        "What stands for several images of one report: the mean of their embeddings, the largest of each number, or a \
         sum by gated attention; auto = the model's own, or mean",
    ),
    key(
        "model.bag_hidden",
        Kind::Int(1, 1 << 16),
        "",
        "Attention over bags: width of the gate; default the model's, or 128",
    ),
    key(
        "model.bag_position",
        Kind::OneOf(&["auto", "none", "learned", "sinusoidal"]),
        "\"auto\"",
        "Attention over bags: what it knows of an image's place in its bag; auto = the model's own, or none",
    ),
    key("model.image_size", Kind::Int(1, 4096), "", "Pixels a side; default the model's (random: 224)"),
    key("model.context_length", Kind::Int(4, 4096), "", "Tokens a text; default the model's (random: 77)"),
    key(
        "model.tokenizer",
        Kind::Path,
        "",
        "Folder with a tokenizer; default the model's own (random: one trained on the reports)",
    ),
    key("model.random.vocab_size", Kind::Int(516, 1 << 20), "1024", "Random model: tokens of the tokenizer to train"),
    key("model.random.embed_dim", Kind::Int(1, 1 << 16), "128", "Random model: width of the shared space"),
    key("model.random.patch_size", Kind::Int(1, 1024), "16", "Random model: pixels a side of a patch"),
    key("model.random.vision_width", Kind::Int(1, 1 << 16), "192", "Random model: width of the image tower"),
    key("model.random.vision_layers", Kind::Int(1, 1024), "4", "Random model: blocks of the image tower"),
    key("model.random.vision_heads", Kind::Int(1, 1024), "3", "Random model: attention heads of the image tower"),
    key("model.random.text_width", Kind::Int(1, 1 << 16), "192", "Random model: width of the text tower"),
    key("model.random.text_layers", Kind::Int(1, 1024), "4", "Random model: blocks of the text tower"),
    key("model.random.text_heads", Kind::Int(1, 1024), "3", "Random model: attention heads of the text tower"),
];
