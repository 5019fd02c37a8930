//! The `reportclip` binary; see [`reportclip::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: reportclip::ops::Allocator = reportclip::ops::Allocator;

fn main() -> ExitCode {
    // Before any thread exists: these settings are the whole process's.
    reportclip::ops::keep_freed_memory();
    reportclip::ops::survive_file_size_limit();
    reportclip::cli::run(std::env::args_os())
}
