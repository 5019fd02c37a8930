//! A kind of tower as files know it: the rows that its folder writes and [`crate::model::towers`] lists.

use anyhow::Result;

use super::Pooling;
use super::json::Section;
use super::open_clip::OpenClipTower;
use super::rename::{Renames, Rule};

/// All that is published of one kind of tower. `C` is the tower's config behind a pointer.
pub struct Tower<C: 'static> {
    /// Its forms in transformers' and timm's files.
    pub formats: &'static [TowerFormat<C>],
    /// How open_clip has it, if it does.
    pub open_clip: Option<OpenClipTower<C>>,
}

/// One published form of a tower.
pub struct TowerFormat<C> {
    /// transformers' words for it, or timm's names of architectures.
    pub model_types: &'static [&'static str],
    /// The section of its config that describes the tower where the file is a whole CLIP's; empty for a tower's own.
    pub section: &'static str,
    /// Reads the config.
    pub read: fn(&Section, Pooling) -> Result<C>,
    /// Names of its tensors without what stands before all of them; ours without `vision_model.` or `text_model.`.
    pub rules: &'static [&'static [Rule]],
    /// Names that depend on the config's numbers.
    pub more_rules: Option<fn(&Section, &mut Renames) -> Result<()>>,
    /// What may stand before all names, the commonest first.
    pub prefixes: &'static [&'static str],
    /// The weight that a dense pooler has, for those that have one.
    pub pooler: Option<&'static str>,
    /// The state that is taken where nobody asks for one and there is no dense pooler to look for.
    pub pooling: Pooling,
    /// Tensors that files carry and the tower does not need.
    pub unused: &'static [Unused],
    /// Whether transformers' VisionTextDualEncoder takes it.
    pub pairs: bool,
    /// Whether it is published as one half of a whole model only.
    pub whole_only: bool,
}

impl<C> TowerFormat<C> {
    /// A form without peculiarities; rows change what is theirs.
    pub const fn new(
        model_types: &'static [&'static str],
        read: fn(&Section, Pooling) -> Result<C>,
        rules: &'static [&'static [Rule]],
    ) -> Self {
        Self {
            model_types,
            section: "",
            read,
            rules,
            more_rules: None,
            prefixes: &[""],
            pooler: None,
            pooling: Pooling::Pooler,
            unused: &[],
            pairs: false,
            whole_only: false,
        }
    }

    /// The names of this form for a tower of this config, behind prefixes.
    ///
    /// # Errors
    /// A config that makes no tower.
    pub fn add_names(&self, config: &Section, renames: &mut Renames, foreign: &str, ours: &str) -> Result<()> {
        let mut own = Renames::default();
        self.rules.iter().for_each(|rules| own.add(rules, "", ours));
        if let Some(more) = self.more_rules {
            let mut more_rules = Renames::default();
            more(config, &mut more_rules)?;
            own.append_ours(more_rules, ours);
        }
        renames.append(own, foreign);
        Ok(())
    }
}

/// Tensors that files carry and the model does not need.
#[derive(Clone, Copy, Debug)]
pub struct Unused {
    /// Their names, as [`super::rename::matches`] reads it.
    pub pattern: &'static str,
    /// Why they are not needed.
    pub reason: &'static str,
    /// Whether they are written back all the same, so that other programs find the tower whole.
    pub carried: bool,
}

impl Unused {
    /// Left out when the model is written.
    pub const fn dropped(pattern: &'static str, reason: &'static str) -> Self {
        Self { pattern, reason, carried: false }
    }

    /// Written back as they were.
    pub const fn carried(pattern: &'static str, reason: &'static str) -> Self {
        Self { pattern, reason, carried: true }
    }
}
