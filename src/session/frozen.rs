//! What of a model is frozen, and what frozen layers make of what comes again: prompts at each step, and the images and
//! texts of validations.
//!
//! [`Frozen`] owns what is kept, and the only way to change what is trained makes a new one: nothing outlives the
//! freezing that it was worked out under. Where dropout reaches frozen layers, they give something else each time, and
//! nothing is kept.

use std::cell::OnceCell;

use anyhow::Result;
use candle_core::Tensor;

use super::again::Again;
use crate::config::Config;
use crate::data::ImageSource;
use crate::model::freeze::{self, FreezeConfig, FreezeDepth};
use crate::model::{Params, Part};
use crate::ops::Value;

/// A state of freezing with what was worked out under it.
#[derive(Debug)]
pub struct Frozen {
    freeze: FreezeConfig,
    /// Whether the text tower gives the same for a text at each step.
    text_stays: bool,
    prompt_states: OnceCell<Tensor>,
    /// Of a list of images what the frozen layers make of each batch, and the places of each source's images.
    pub(super) images: Again<Vec<ImageSource>, (Tensor, Vec<Vec<f32>>)>,
    /// Of lists of texts, by their digest, what the text tower makes of each batch: of validations there are two, the
    /// reports and the prompts.
    pub(super) texts: Again<String, Tensor>,
}

impl Frozen {
    /// Marks each of `params` as trainable or not, as `freeze` says. `dropout`: the share that blocks drop in training,
    /// frozen ones too.
    pub fn apply(freeze: FreezeConfig, dropout: f64, params: &mut Params) -> Self {
        freeze::apply(&freeze, params);
        let trained = params.trainable().any(|p| p.spec.part == Part::Text);
        let text_stays = !trained && dropout == 0.0;
        Self { freeze, text_stays, prompt_states: OnceCell::new(), images: Again::new(1), texts: Again::new(2) }
    }

    /// What this was made from.
    pub fn config(&self) -> FreezeConfig {
        self.freeze
    }

    /// Which image layers are frozen.
    pub fn image(&self) -> FreezeDepth {
        self.freeze.image
    }

    /// Whether the text tower gives the same for a text at each step.
    pub fn text_stays(&self) -> bool {
        self.text_stays
    }

    /// What the text tower makes of a run's prompts, (sentences, width): `encode`'s result, kept while it stays the
    /// same.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn prompt_states(&self, encode: impl FnOnce() -> Result<Value>) -> Result<Value> {
        if !self.text_stays {
            return encode();
        }
        if let Some(states) = self.prompt_states.get() {
            return Ok(states.clone().into());
        }
        let states = encode()?;
        Ok(self.prompt_states.get_or_init(|| states.tensor().clone()).clone().into())
    }
}

/// Why the frozen image layers of a run do not give the same for an image at each epoch; `None` where they do.
pub fn image_features_change(config: &Config) -> Option<&'static str> {
    let train = &config.train;
    let reasons = [
        (config.freeze.image_until.is_some(), "freeze.image_until thaws them"),
        (!config.augment.is_off(), "augmentation changes the images at each step"),
        (train.patch_dropout > 0.0, "train.patch_dropout leaves other patches at each step"),
        (train.dropout > 0.0, "train.dropout is not 0, and frozen layers drop other numbers at each step"),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_the_same_is_kept() {
        let frozen = FreezeConfig { text: FreezeDepth::All, ..FreezeConfig::NONE };
        let encoded = |freeze, dropout| {
            let kept = Frozen::apply(freeze, dropout, &mut params());
            let mut count = 0;
            for _ in 0..3 {
                let encode = || -> Result<Value> {
                    count += 1;
                    Ok(Value::from(Tensor::new(&[[1f32, 2.0]], &candle_core::Device::Cpu)?))
                };
                let states = kept.prompt_states(encode).unwrap();
                assert_eq!(states.tensor().to_vec2::<f32>().unwrap(), [[1.0, 2.0]]);
            }
            count
        };
        assert_eq!(encoded(frozen, 0.0), 1);
        assert_eq!(encoded(frozen, 0.1), 3, "dropout reaches a frozen tower");
        assert_eq!(encoded(FreezeConfig::NONE, 0.0), 3, "a trained tower moves");
    }

    fn params() -> Params {
        use crate::model::{Depth, Init, ParamSpec};
        let spec = ParamSpec {
            name: "text_model.weight".into(),
            shape: 1.into(),
            init: Init::Const(0.0),
            part: Part::Text,
            depth: Depth::Block(0),
            decay: true,
            buffer: false,
        };
        Params::new(vec![(spec, Tensor::zeros(1, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap())])
            .unwrap()
    }
}
