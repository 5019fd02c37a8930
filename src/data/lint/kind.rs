//! What lint may find, by name.

use std::fmt;

use serde::Serialize;

use crate::data::ProblemKind;

/// A kind of finding. Its word is the same in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Images that are not there.
    MissingImage,
    /// Rows without a report.
    EmptyReport,
    /// Reports that are Git LFS pointers.
    LfsPointer,
    /// Rows that name no image.
    NoImage,
    /// Rows whose list of images is none.
    BrokenList,
    /// Rows with too few or too many columns.
    BrokenRow,
    /// Rows that cannot be used for another reason.
    UnusableRow,
    /// Images that cannot be read.
    UnreadableImage,
    /// Images of one shade.
    BlankImage,
    /// Images of few pixels.
    TinyImage,
    /// DICOM files with text in their pixels.
    BurnedInAnnotation,
    /// Volumes that cannot be read for a reason that is none of the next.
    UnreadableVolume,
    /// Series that lack slices.
    MissingSlices,
    /// Folders of slices of several series.
    MixedSeries,
    /// Series whose slices have no order.
    UnorderedSlices,
    /// Series whose slices are not evenly spaced.
    UnevenSpacing,
    /// Series whose files are not called in the order of their slices.
    FilesOutOfOrder,
    /// Volumes of one slice.
    SingleSlice,
    /// Volumes that do not say which way they lie.
    UnknownOrientation,
    /// Volumes whose values are no Hounsfield units.
    OddHounsfield,
    /// One image, two reports.
    SameImageOtherReport,
    /// One image, two patients.
    SameImageOtherPatient,
    /// Patients in two splits.
    LeakingPatient,
    /// Studies in two splits.
    LeakingStudy,
    /// Image files in two splits.
    LeakingImage,
    /// Copies of image files in two splits.
    LeakingCopy,
    /// Images that look alike in two splits.
    NearDuplicateAcrossSplits,
    /// Labels that hardly occur.
    RareLabel,
    /// Rows of one study with several labels.
    StudyOtherLabel,
    /// Rows without a label.
    NoLabel,
    /// A label that nearly all rows have.
    OneLabel,
    /// Reports that an earlier row has.
    DuplicateReport,
    /// Reports that an earlier row has but for numbers.
    TemplateReport,
    /// Reports of a few characters.
    ShortReport,
    /// Reports that seem to name somebody.
    Identifier,
    /// Reports that name a side of the body.
    NamesASide,
    /// Reports whose end the model does not read.
    TruncatedReport,
}

impl FindingKind {
    /// Its word, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::MissingImage => "missing_image",
            Self::EmptyReport => "empty_report",
            Self::LfsPointer => "lfs_pointer",
            Self::NoImage => "no_image",
            Self::BrokenList => "broken_list",
            Self::BrokenRow => "broken_row",
            Self::UnusableRow => "unusable_row",
            Self::UnreadableImage => "unreadable_image",
            Self::BlankImage => "blank_image",
            Self::TinyImage => "tiny_image",
            Self::BurnedInAnnotation => "burned_in_annotation",
            Self::UnreadableVolume => "unreadable_volume",
            Self::MissingSlices => "missing_slices",
            Self::MixedSeries => "mixed_series",
            Self::UnorderedSlices => "unordered_slices",
            Self::UnevenSpacing => "uneven_spacing",
            Self::FilesOutOfOrder => "files_out_of_order",
            Self::SingleSlice => "single_slice",
            Self::UnknownOrientation => "unknown_orientation",
            Self::OddHounsfield => "odd_hounsfield",
            Self::SameImageOtherReport => "same_image_other_report",
            Self::SameImageOtherPatient => "same_image_other_patient",
            Self::LeakingPatient => "leaking_patient",
            Self::LeakingStudy => "leaking_study",
            Self::LeakingImage => "leaking_image",
            Self::LeakingCopy => "leaking_copy",
            Self::NearDuplicateAcrossSplits => "near_duplicate_across_splits",
            Self::RareLabel => "rare_label",
            Self::StudyOtherLabel => "study_other_label",
            Self::NoLabel => "no_label",
            Self::OneLabel => "one_label",
            Self::DuplicateReport => "duplicate_report",
            Self::TemplateReport => "template_report",
            Self::ShortReport => "short_report",
            Self::Identifier => "identifier",
            Self::NamesASide => "names_a_side",
            Self::TruncatedReport => "truncated_report",
        }
    }

    /// Whether its rows' images show it.
    pub(super) fn is_about_images(self) -> bool {
        matches!(
            self,
            Self::MissingImage
                | Self::UnreadableImage
                | Self::BlankImage
                | Self::TinyImage
                | Self::SameImageOtherReport
                | Self::SameImageOtherPatient
                | Self::LeakingImage
                | Self::LeakingCopy
                | Self::NearDuplicateAcrossSplits
        )
    }

    /// The kind of rows that cannot be used, and the sentence about them.
    pub fn of_problem(kind: ProblemKind) -> (Self, &'static str) {
        match kind {
            ProblemKind::MissingImage => (Self::MissingImage, "images that are not there; check --image-root"),
            ProblemKind::EmptyReport => (Self::EmptyReport, "rows without a report"),
            ProblemKind::LfsPointer => (Self::LfsPointer, "reports that are Git LFS pointers; run `git lfs pull`"),
            ProblemKind::NoImage => (Self::NoImage, "rows whose image column is blank"),
            ProblemKind::BrokenList => (
                Self::BrokenList,
                "rows whose images begin as a JSON list and are none, such as [\"a.png\", \"b.png\"]",
            ),
            ProblemKind::BrokenRow => (Self::BrokenRow, "rows with too few or too many columns; is a quote missing?"),
            ProblemKind::Other => (Self::UnusableRow, "rows that cannot be used for another reason"),
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_words() {
        for kind in [FindingKind::NamesASide, FindingKind::LeakingCopy, FindingKind::NearDuplicateAcrossSplits] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }
}
