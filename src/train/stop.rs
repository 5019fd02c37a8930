//! Ctrl-C and SIGTERM as a flag that the training loop looks at.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on: the first signal asks to stop after the current step, the second ends the process at once.
///
/// # Errors
/// The system refuses a handler.
pub fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            // The user asked twice; checkpoints are replaced by rename, so nothing is left half-written.
            #[allow(clippy::exit)]
            std::process::exit(130);
        }
        tracing::warn!("stopping after this step and saving; press Ctrl-C again to stop at once");
    })?;
    Ok(())
}

/// Whether somebody asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
