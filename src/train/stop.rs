//! Why a run ends before its last step; Ctrl-C, SIGTERM and SIGHUP as a flag that the training loop looks at.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;

use crate::ops::with_nohup_kept;

/// Why a run ended before its last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// In a word.
    pub cause: Cause,
    /// In a line.
    pub text: String,
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Ctrl-C or another signal.
    Signal,
    /// train.stop_after.
    StopAfter,
    /// train.early_stopping.
    EarlyStopping,
}

impl Cause {
    /// The word for it in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::StopAfter => "stop_after",
            Self::EarlyStopping => "early_stopping",
        }
    }
}

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on: the first signal asks to stop after the current step, the second ends the process at once.
/// Under `nohup` a terminal that goes away asks for nothing. Who listens already goes on with it.
///
/// # Errors
/// The system refuses a handler.
pub fn listen() -> anyhow::Result<()> {
    let listening = with_nohup_kept(|| {
        ctrlc::set_handler(|| {
            if ASKED.swap(true, Ordering::SeqCst) {
                // The user asked twice; checkpoints are replaced by rename, so nothing is left half-written.
                #[allow(clippy::exit)]
                std::process::exit(130);
            }
            tracing::warn!("stopping as soon as what is to be kept is saved; press Ctrl-C again to stop at once");
        })
    });
    match listening {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(ctrlc::Error::System(_)) => {
            Err(anyhow!("no thread to wait for Ctrl-C: the system allows this user no more (ulimit -u)"))
        }
        Err(e) => Err(anyhow!("waiting for Ctrl-C: {e}")),
    }
}

/// Whether somebody asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
