//! Many runs of one config: what is tried, which of them go on, what they are compared by, and the table of it all.
//!
//! Members are trained and evaluated by processes of this same program, so that one that fails, or is ended by the
//! system, ends alone; what is done is not done again. Knows no command line and prints nothing.

mod agreement;
mod axis;
mod chart;
mod compare;
mod evaluation;
mod fingerprint;
mod halving;
mod mean;
mod member;
mod process;
mod run;
mod table;

pub use axis::{Axis, Choice, Setting, Values, grid, random};
pub use compare::{Difference, differences, differences_markdown};
pub use fingerprint::Fingerprint;
pub use halving::{Score, survivors};
pub use mean::Mean;
pub use member::{Figures, Member, State};
pub use run::{Finished, Request, run};
pub use table::{SettingFigures, check_shown, markdown, table};
