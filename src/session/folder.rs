//! Everything beside the weights that a model folder holds.

use crate::data::{BagPolicy, Preprocess, ReportPolicy, ReportTokenizer};
use crate::loss::LocalConfig;
use crate::model::ClipConfig;
use crate::model::checkpoint::Layout;

/// Everything beside the weights that a model folder holds.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Shape.
    pub config: ClipConfig,
    /// Names and shapes of weights on disk, and configs as they were loaded.
    pub layout: Layout,
    /// Steps from pixels to input.
    pub preprocess: Preprocess,
    /// Tokenizer with its files.
    pub tokenizer: ReportTokenizer,
    /// What of a report it reads.
    pub report: ReportPolicy,
    /// Which images of a bag it reads.
    pub bags: BagPolicy,
    /// How sentences were held against its patches, where it was trained so.
    pub local: Option<LocalConfig>,
    /// What it was made from, in a few words, for the card; never a path or a patient's number.
    pub origin: String,
    /// Data and figures for the card, in Markdown; empty where nothing is known.
    pub summary: String,
}

/// The file that says what of a report a model reads; other programs pass it over.
pub const REPORT_FILE: &str = "reportclip_report.json";

/// The file that says which images of a bag a model reads; other programs pass it over.
pub const BAGS_FILE: &str = "reportclip_bags.json";

/// The file that says how sentences were held against patches; other programs pass it over.
pub const LOCAL_FILE: &str = "reportclip_local.json";
