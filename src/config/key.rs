//! What a row of the table of keys says.

use super::kind::Kind;

/// Where a key may have another value than a run began with. Paths may everywhere: what they lead to is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayDiffer {
    /// Nowhere: it changes the weights of a step.
    Never,
    /// When a run is resumed, though it decides which step is the best, when the run ends or how products are rounded:
    /// finished runs that differ in it are not alike.
    OnResumeWithOtherFigures,
    /// When a run is resumed: it changes how a run is watched, saved or paused.
    OnResume,
    /// Also between the processes that train together: it belongs to the machine.
    BetweenRanks,
}

/// One config key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name, as in the file and in `--set`.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Default in TOML; empty where there is none.
    pub default: &'static str,
    /// One line of meaning.
    pub help: &'static str,
    /// Where it may have another value than a run began with.
    pub may_differ: MayDiffer,
}

impl Key {
    /// The default, if it has one.
    pub fn default(&self) -> Option<toml::Value> {
        let mut table: toml::Table =
            format!("v = {}", Some(self.default).filter(|text| !text.is_empty())?).parse().expect("defaults are TOML");
        table.remove("v")
    }

    /// Whether a resumed run may have another value than the run that was started.
    pub fn may_differ_on_resume(&self) -> bool {
        self.may_differ != MayDiffer::Never
    }

    /// Whether runs that are finished may differ in it and still be taken for one another.
    pub fn may_differ_when_done(&self) -> bool {
        matches!(self.may_differ, MayDiffer::OnResume | MayDiffer::BetweenRanks)
    }

    /// Whether its value names files or a model, which may lie elsewhere on another machine.
    pub fn leads_somewhere(&self) -> bool {
        matches!(self.kind, Kind::Path | Kind::Sources)
            || ["model.path", "model.image", "model.text", "loss.teacher"].contains(&self.name)
    }
}

/// A row of the table.
pub(super) const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, kind, default, help, may_differ: MayDiffer::Never }
}

/// The rows of several parts of the table, `N` in all.
pub(super) const fn joined<const N: usize>(parts: &[&[Key]]) -> [Key; N] {
    let mut all = [parts[0][0]; N];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut row = 0;
        while row < parts[part].len() {
            all[at] = parts[part][row];
            (at, row) = (at + 1, row + 1);
        }
        part += 1;
    }
    all
}

impl Key {
    const fn may_differ(self, may_differ: MayDiffer) -> Self {
        Self { may_differ, ..self }
    }

    /// May be changed when a run is resumed.
    pub(super) const fn on_resume(self) -> Self {
        self.may_differ(MayDiffer::OnResume)
    }

    /// May be changed when a run is resumed, and changes its figures.
    pub(super) const fn on_resume_with_other_figures(self) -> Self {
        self.may_differ(MayDiffer::OnResumeWithOtherFigures)
    }

    /// May differ from machine to machine.
    pub(super) const fn per_machine(self) -> Self {
        self.may_differ(MayDiffer::BetweenRanks)
    }
}
