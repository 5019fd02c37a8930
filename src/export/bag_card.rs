//! What the card says of several images with one report.

use crate::data::BagPolicy;
use crate::model::{BagPooling, BagPosition};

/// How one vector is made of the images of a report in Python.
pub(super) fn section(pooling: BagPooling, policy: &BagPolicy) -> String {
    let what = match pooling {
        BagPooling::Mean => return String::new(),
        BagPooling::Max => "the largest of each number".to_string(),
        BagPooling::Attention { .. } => {
            "a sum by gated attention (arXiv 1802.04712), whose weights are in `bag_pooling.safetensors`".to_string()
        }
    };
    let code = match pooling {
        BagPooling::Attention { position, .. } => attention(position),
        _ => "pooled = h.max(0).values".to_string(),
    };
    format!(
        "\n## Several images with one report\n\nOf the images of one report one vector is made: {what}. \
         `h` are the L2-normalised features, (images, embed_dim), of those of them that are read, in order; at most {} \
         are (`reportclip_bags.json`):\n\n\
         ```python\nimport torch\n{code}\nembedding = torch.nn.functional.normalize(pooled, dim=0)\n```\n",
        policy.max
    )
}

fn attention(position: BagPosition) -> String {
    // An image's place is that among all images of its report, also those that are not read.
    let place = "number = torch.arange(len(h))  # of each image in h among all of its report, from 0\n\
                 count = len(h)  # of all of its report, also those that are not in h\n\
                 place = number / (count - 1) if count > 1 else torch.tensor([0.5])\n";
    let (before, weighed) = match position {
        BagPosition::None => (String::new(), "h"),
        BagPosition::Learned => (format!("{place}x = h + a[\"position\"][(63 * place + 0.5).floor().long()]\n"), "x"),
        BagPosition::Sinusoidal => (
            format!(
                "{place}pairs = h.shape[1] // 2\n\
                 angles = 100 * place[:, None] * 10000 ** (-torch.arange(pairs) / pairs)\n\
                 wave = torch.stack([angles.sin(), angles.cos()], 2).flatten(1) / pairs**0.5\n\
                 x = h + torch.nn.functional.pad(wave, (0, h.shape[1] - 2 * pairs))\n"
            ),
            "x",
        ),
    };
    format!(
        "from safetensors.torch import load_file\n\n\
         a = load_file(\"bag_pooling.safetensors\")\n{before}\
         gate = torch.tanh({weighed} @ a[\"v.weight\"].T + a[\"v.bias\"]) \
         * torch.sigmoid({weighed} @ a[\"u.weight\"].T + a[\"u.bias\"])\n\
         share = (gate @ a[\"w.weight\"].T).softmax(0)\npooled = (share * h).sum(0)"
    )
}
