//! The README.md of an exported model.

use super::bag_card;
use crate::model::Projection;
use crate::model::checkpoint::Family;
use crate::session::ModelFolder;

/// What the model is, what it is not for, and how to load it.
pub(super) fn card(model: &ModelFolder) -> String {
    let library = match model.layout.family {
        Family::OpenClip => "open_clip",
        Family::Pair => "reportclip",
        _ => "transformers",
    };
    text(model, library, &(loading(model) + &bag_card::section(model.config.bag_pooling, &model.bags)))
}

/// The card with this library and this section on loading.
pub(super) fn text(model: &ModelFolder, library: &str, loading: &str) -> String {
    format!(
        "---\nlibrary_name: {library}\npipeline_tag: zero-shot-image-classification\n\
         tags:\n- clip\n- medical\n- reportclip\n---\n\n\
         # A dual encoder for images and their reports\n\n{origin}\n\n{towers}\n\n\
         {summary}\
         ## What it is for\n\n\
         Research: finding images by text and text by image, zero-shot classification, and as a start for further \
         training, on data like that named above.\n\n\
         ## What it is not for\n\n\
         This model is a research tool. It is not a medical device. It must not be used to diagnose, to triage, to \
         decide on treatment, or to write or change a report. It was not checked for safety, for fairness between \
         groups of patients, or on data from other hospitals, devices or languages than those it was trained on. \
         Similar embeddings do not mean that a report is true of an image.\n\n\
         ## How to load it\n\n{loading}",
        origin = model.origin,
        summary = model.summary,
        towers = format_args!(
            "Images of {0}×{0} pixels through a {1}, reports of up to {2} tokens through a {3}.",
            model.config.vision.image_size(),
            model.config.vision.name(),
            model.config.text.context_length(),
            model.config.text.name()
        ),
    )
}

fn loading(model: &ModelFolder) -> String {
    let python = |code: &str| format!("```python\n{code}\n```\n");
    match model.layout.family {
        Family::OpenClip => python(
            "import open_clip\nmodel, preprocess = open_clip.create_model_from_pretrained(\"local-dir:.\")\n\
             tokenizer = open_clip.get_tokenizer(\"local-dir:.\")",
        ),
        Family::Pair => pair(model),
        Family::Siglip2 => python(
            "from transformers import AutoTokenizer, Siglip2Model\nmodel = Siglip2Model.from_pretrained(\".\")\n\
             tokenizer = AutoTokenizer.from_pretrained(\".\")",
        ),
        family => {
            let class = family.transformers_class().unwrap_or("AutoModel");
            let code = python(&format!(
                "from transformers import AutoProcessor, {class}\nmodel = {class}.from_pretrained(\".\")\n\
                 processor = AutoProcessor.from_pretrained(\".\")"
            ));
            let homeless = family == Family::Clip && model.config.logit_bias_init.is_some();
            code + if homeless { BIAS } else { "" }
        }
    }
}

/// What transformers' CLIP has no place for.
const BIAS: &str = "
The model was trained by a sigmoid loss and has a `logit_bias`. CLIPModel has none: it says that the tensor is \
unexpected and leaves it aside. Embeddings, and the order of what is found, are the same; for probabilities of single \
pairs add it, `torch.sigmoid(outputs.logits_per_image + bias)` with \
`bias = safetensors.torch.load_file(\"model.safetensors\")[\"logit_bias\"]`.
";

/// transformers has no class for such a pair: its towers are loaded one by one.
fn pair(model: &ModelFolder) -> String {
    let c = &model.config;
    let projected = |state: &str, name: &str, kind: Projection| match kind {
        Projection::None => state.to_string(),
        Projection::Linear { .. } => format!("{state} @ heads[\"{name}.weight\"].T"),
        Projection::Mlp { .. } => {
            format!("torch.nn.functional.gelu({state} @ heads[\"{name}.0.weight\"].T) @ heads[\"{name}.2.weight\"].T")
        }
    };
    format!(
        "`reportclip eval --model .`, `embed` and `search` take the folder as it is. transformers has no class for \
         this pair of towers; it loads them one by one:\n\n\
         ```python\nimport torch\nfrom safetensors.torch import load_file\n\
         from transformers import AutoImageProcessor, AutoModel, AutoTokenizer\n\n\
         heads = load_file(\"heads.safetensors\")\n\
         # pixel_values: from AutoImageProcessor.from_pretrained(\".\")\n\
         image = AutoModel.from_pretrained(\"vision\")(pixel_values)\n\
         image_features = {}\n\
         tokens = AutoTokenizer.from_pretrained(\".\")(reports, padding=True, truncation=True, return_tensors=\"pt\")\n\
         text, mask = AutoModel.from_pretrained(\"text\")(**tokens), tokens[\"attention_mask\"][:, :, None]\n\
         text_features = {}\n```\n",
        projected(&c.vision.state_in_python(), "visual_projection", c.visual_projection),
        projected(c.text.state_in_python(), "text_projection", c.text_projection),
    )
}
