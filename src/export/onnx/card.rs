//! The README.md of a model as ONNX files.

use crate::export::card::text;
use crate::session::ModelFolder;

/// One figure of retrieval in f32 and in 8 bits.
#[derive(Clone, Debug)]
pub struct RecallLoss {
    /// Its name.
    pub figure: String,
    /// Of the model as it is.
    pub full: f64,
    /// Of its graphs in 8 bits.
    pub int8: f64,
}

/// The card; `losses`, where there are files in 8 bits, are what those cost.
pub(super) fn onnx_card(model: &ModelFolder, losses: Option<&[RecallLoss]>) -> String {
    let loading = "In JavaScript, with this folder at `models/clip` (`@huggingface/transformers`):\n\n\
        ```js\nimport { AutoModel, AutoProcessor, AutoTokenizer, RawImage, env } from \"@huggingface/transformers\";\n\
        env.localModelPath = \"models/\";\n\
        const model = await AutoModel.from_pretrained(\"clip\", { dtype: \"fp32\" });\n\
        const processor = await AutoProcessor.from_pretrained(\"clip\");\n\
        const tokenizer = await AutoTokenizer.from_pretrained(\"clip\");\n\
        const texts = tokenizer([\"No acute finding.\"], { padding: true, truncation: true });\n\
        const images = await processor(await RawImage.read(\"scan.png\"));\n\
        const { logits_per_image } = await model({ ...texts, ...images });\n```\n\n\
        Each tower alone is `onnx/vision_model.onnx` and `onnx/text_model.onnx`, whose output is not yet \
        L2-normalised; that of `onnx/model.onnx` is.\n";
    text(model, "transformers.js", &format!("{loading}{}", losses.map(in_int8).unwrap_or_default()))
}

/// What 8 bits cost.
fn in_int8(losses: &[RecallLoss]) -> String {
    let mut lines = "\n## In 8 bits\n\nFiles that end in `_quantized.onnx` (transformers.js: `dtype: \"q8\"`) have \
        weights in 8 bits with a scale for each output channel, and round what they are multiplied with to 8 bits \
        as it comes, over a whole batch.\n"
        .to_string();
    if losses.is_empty() {
        lines.push_str("What that costs was not measured.\n");
        return lines;
    }
    lines.push_str("\n| figure | f32 | 8 bits | difference |\n|---|---|---|---|\n");
    for loss in losses {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let difference = 100.0 * (loss.int8 - loss.full);
        lines.push_str(&format!(
            "| {} | {} | {} | {difference:+.1} |\n",
            loss.figure,
            percent(loss.full),
            percent(loss.int8)
        ));
    }
    lines
}
