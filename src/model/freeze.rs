//! What training leaves as it is. Freezing goes from the input up, so that nothing below the lowest trained weight is
//! part of the graph: frozen weights cost no backward pass.

use super::params::{Depth, Params, Part};

/// How much of a tower is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TowerFreeze {
    /// Nothing.
    None,
    /// Embeddings and this many blocks, from the input up.
    Blocks(usize),
    /// The whole tower; its projection is a head and has its own switch.
    All,
}

/// What is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Image tower.
    pub image: TowerFreeze,
    /// Text tower.
    pub text: TowerFreeze,
    /// Both projections.
    pub projections: bool,
    /// logit_scale.
    pub logit_scale: bool,
}

impl Freeze {
    /// Nothing frozen.
    pub const NONE: Self =
        Self { image: TowerFreeze::None, text: TowerFreeze::None, projections: false, logit_scale: false };

    /// Marks every weight as trainable or not.
    pub fn apply(&self, params: &mut Params) {
        for param in params.iter_mut() {
            let spec = &param.spec;
            param.trainable = match spec.part {
                Part::Image => !self.image.covers(spec.depth),
                Part::Text => !self.text.covers(spec.depth),
                Part::Heads if spec.name == "logit_scale" => !self.logit_scale,
                Part::Heads => !self.projections,
            };
        }
    }
}

impl TowerFreeze {
    fn covers(self, depth: Depth) -> bool {
        match (self, depth) {
            (Self::None, _) => false,
            (Self::All, _) => true,
            (Self::Blocks(_), Depth::Embeddings) => true,
            (Self::Blocks(n), Depth::Block(i)) => i < n,
            (Self::Blocks(_), Depth::Final) => false,
        }
    }
}
