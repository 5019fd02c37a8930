//! The `reportclip` binary; see [`reportclip::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: reportclip::ops::Allocator = reportclip::ops::Allocator;

fn main() -> ExitCode {
    // Before any thread exists: the allocator's settings are the whole process's.
    reportclip::ops::keep_freed_memory();
    reportclip::cli::run(std::env::args_os())
}
