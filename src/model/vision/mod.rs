//! Image towers: pixels in, one state an image out. A new tower is a file here and a variant in [`VisionConfig`] and
//! [`VisionTower`]; the files that it is published in are a table in `checkpoint/vision.rs`.

mod attention_pool;
mod convnext;
mod resnet;
mod swin;
mod vit;

use candle_core::{Result, Tensor};

pub use convnext::ConvNextConfig;
pub use resnet::{ResNetConfig, ResNetPool};
pub use swin::SwinConfig;
pub use vit::{Prefix, VitConfig, VitPool};

use super::config::VisionConfig;
use super::params::{Builder, Part};
use crate::model::freeze::FreezeDepth;
use crate::ops::Value;

pub(super) enum VisionTower {
    Vit(vit::Vit),
    ResNet(resnet::ResNet),
    ConvNext(convnext::ConvNext),
    Swin(swin::Swin),
}

impl VisionTower {
    pub fn new(b: &Builder, config: &VisionConfig) -> Result<Self> {
        let b = &b.enter("vision_model").part(Part::Image);
        Ok(match config {
            VisionConfig::Vit(c) => Self::Vit(vit::Vit::new(b, c)?),
            VisionConfig::ResNet(c) => Self::ResNet(resnet::ResNet::new(b, c)?),
            VisionConfig::ConvNext(c) => Self::ConvNext(convnext::ConvNext::new(b, c)?),
            VisionConfig::Swin(c) => Self::Swin(swin::Swin::new(b, c)?),
        })
    }

    /// pixel_values: (batch, 3, image_size, image_size) → (batch, width).
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        match self {
            Self::Vit(tower) => tower.forward(pixel_values),
            Self::ResNet(tower) => tower.forward(pixel_values),
            Self::ConvNext(tower) => tower.forward(pixel_values),
            Self::Swin(tower) => tower.forward(pixel_values),
        }
    }

    /// What the layers that `frozen` names make of pixel_values, where
    /// [`VisionConfig::frozen_numbers`] says that it can be kept.
    pub fn below(&self, pixel_values: &Tensor, frozen: FreezeDepth) -> Result<Value> {
        match self {
            Self::Vit(tower) => tower.below(pixel_values, frozen),
            _ => self.forward(pixel_values),
        }
    }

    /// [`Self::below`]'s output → (batch, width).
    pub fn above(&self, x: Value, frozen: FreezeDepth) -> Result<Value> {
        match self {
            Self::Vit(tower) => tower.above(x, frozen),
            _ => Ok(x),
        }
    }
}
