//! What clap cannot judge of arguments by itself. It ends as clap's own complaints do, with exit code 2.

use anyhow::Error;

use crate::error::{Problem, Problems, one_line};

/// Refuses arguments that are not right, with what `line` says.
pub(super) fn ensure(right: bool, line: impl FnOnce() -> String) -> Result<(), Problems> {
    if right { Ok(()) } else { Err(Problems(vec![Problem(line())])) }
}

/// `error` as one of the arguments.
pub(super) fn wrong(error: &Error) -> Problems {
    Problems(vec![Problem(one_line(error))])
}
