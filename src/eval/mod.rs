//! Figures of a model on a split: retrieval over it, zero-shot classification, calibration, and why it finds a pair
//! alike.

mod abstain;
mod abstention;
mod by_patient;
mod calibration;
mod classify;
mod conformal;
mod directions;
mod encoded;
mod evaluate;
mod explain;
mod figure;
mod figures;
mod objective;
mod paired;
mod pairs;
mod pictures;
mod probe;
mod relevance_map;
mod retrieval;
mod selective;
mod sets;
mod validation;
mod zero_shot;

pub use abstention::{Abstained, Abstention, GivenAnswer, UNSURE};
pub use by_patient::ByPatient;
pub use calibration::{Calibration, CalibrationReport, Prediction};
pub use classify::{Classification, Classified, ZeroShotRequest};
pub use directions::class_directions;
pub use encoded::EncodedSplit;
pub use evaluate::{Evaluation, EvaluationReport, evaluate};
pub use explain::{Explanation, Place, explain, place};
pub use figure::Figure;
pub use figures::{Finding, Subgroup, ZeroShotOptions, ZeroShotReport};
pub use objective::{ObjectiveFigures, RowObjective};
pub use paired::retrieval_difference;
pub use pictures::{Example, Found, Pictures};
pub use probe::ProbeReport;
pub use relevance_map::relevance_map;
pub use retrieval::{DirectionFigures, LabelFigures, RetrievalOptions, RetrievalReport, retrieval_figures};
pub use selective::SelectiveFigures;
pub use sets::{ConformalFigures, ConformalReport, SetsOfPart};
pub use validation::{Validation, ValidationOptions, ZeroShotFigure, ZeroShotFigures, validate};
pub use zero_shot::{FittedOn, LabelledPrompts, Scores, score};
