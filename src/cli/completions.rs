//! `reportclip completions`.

use anyhow::Result;
use clap_complete::Shell;

use super::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip completions bash > ~/.local/share/bash-completion/completions/reportclip
  reportclip completions zsh > ~/.zfunc/_reportclip
  reportclip completions fish > ~/.config/fish/completions/reportclip.fish")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, mut program: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    let name = program.get_name().to_string();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    output::print(String::from_utf8(script)?.trim_end())
}
