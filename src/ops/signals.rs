//! What becomes of signals that end a process unless it says otherwise.

/// Makes a file that grows past the process's limit (`ulimit -f`) an error of that write, which is told in a line,
/// where the system would end the process. Elsewhere than on Unix it does nothing.
#[allow(unsafe_code)]
pub fn survive_file_size_limit() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal installs no handler, so nothing of ours can run inside one.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Runs `listen`, which takes the hang-up signal over, and leaves that signal ignored where it was: `nohup` asks for
/// it.
#[allow(unsafe_code)]
pub fn with_nohup_kept<T>(listen: impl FnOnce() -> T) -> T {
    #[cfg(unix)]
    {
        let mut before = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action, sigaction only fills the zeroed struct; it is read only when the call
        // succeeded.
        let ignored = unsafe {
            libc::sigaction(libc::SIGHUP, std::ptr::null(), before.as_mut_ptr()) == 0
                && before.assume_init().sa_sigaction == libc::SIG_IGN
        };
        let result = listen();
        if ignored {
            // SAFETY: as in `survive_file_size_limit`.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        }
        result
    }
    #[cfg(not(unix))]
    listen()
}
