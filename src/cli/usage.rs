//! Arguments: how they are read, and what clap cannot judge of them by itself. All that is wrong with them is told in
//! one line, with exit code 2.

use std::ffi::OsString;

use anyhow::Error;
use clap::error::ErrorKind;
use clap::{Arg, Command, FromArgMatches};

use crate::device;
use crate::error::{Problem, Problems, one_line};

/// Reads `args`, the program's name first. An option that takes a value takes `-1` too, and says what is allowed,
/// where clap would look for an option of that name.
///
/// # Errors
/// What clap complains of; also help and version.
pub(super) fn read<T: FromArgMatches>(
    command: Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<T, clap::Error> {
    let mut command = with_negative_numbers(command);
    let matches = command.try_get_matches_from_mut(args)?;
    T::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

fn with_negative_numbers(command: Command) -> Command {
    let takes_one = |arg: &Arg| !arg.is_positional() && arg.get_action().takes_values();
    let allow = |arg: Arg| if takes_one(&arg) { arg.allow_negative_numbers(true) } else { arg };
    command.mut_args(allow).mut_subcommands(with_negative_numbers)
}

/// What clap complains of, in one line; `None` where it shows the help instead.
pub(super) fn complaint(error: &clap::Error) -> Option<String> {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    (!is_help).then(|| joined(&error.render().to_string()))
}

/// Clap's paragraphs as one line, with the command whose help says more.
fn joined(text: &str) -> String {
    let (said, usage) = text.split_once("\nUsage: ").unwrap_or((text, ""));
    let mut line = String::new();
    for part in said.lines().map(str::trim).filter(|part| !part.is_empty() && !part.starts_with("For more information"))
    {
        let between = match part {
            _ if line.is_empty() => "",
            part if line.ends_with(':') || part.starts_with('[') => " ",
            part if part.starts_with("tip: ") => "; ",
            _ => ", ",
        };
        line = line + between + part.strip_prefix("tip: ").unwrap_or(part);
    }
    let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
    let command: Vec<&str> = usage.split_whitespace().take_while(is_name).collect();
    let help =
        if command.is_empty() { "--help says more".into() } else { format!("see `{} --help`", command.join(" ")) };
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; {help}")
}

/// Refuses arguments that are not right, with what `line` says.
pub(super) fn ensure(right: bool, line: impl FnOnce() -> String) -> Result<(), Problems> {
    if right { Ok(()) } else { Err(Problems(vec![Problem(line())])) }
}

/// `error` as one of the arguments.
pub(super) fn wrong(error: &Error) -> Problems {
    Problems(vec![Problem(one_line(error))])
}

/// The value of an option that takes all that begins with a minus: another option is none.
pub(super) fn value(text: &str) -> Result<String, String> {
    if text.starts_with("--") { Err("a value is required, and this is an option".into()) } else { Ok(text.to_string()) }
}

/// [`value`] that is a number.
pub(super) fn number(text: &str) -> Result<f64, String> {
    value(text)?.parse().map_err(|_| "is no number".into())
}

/// A number of things of which there must be one, within what fits any memory.
pub(super) fn count(text: &str) -> Result<usize, String> {
    from_one(text, 1 << 20)
}

/// A side of images, as `model.image_size` takes it.
pub(super) fn side(text: &str) -> Result<usize, String> {
    from_one(text, 4096)
}

/// A device's name, whether or not it is there.
pub(super) fn device(text: &str) -> Result<String, String> {
    if device::is_name(text) { Ok(text.to_string()) } else { Err(format!("allowed are {}", device::NAMES)) }
}

/// A whole number from 1 to `most`.
pub(super) fn from_one(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("allowed are whole numbers from 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn what_clap_says_is_one_line() {
        let unknown = "error: unexpected argument '--foo' found\n\n  tip: to pass '--foo' as a value, use '-- --foo'\n\
                       \nUsage: reportclip train [OPTIONS] <CONFIG>\n\nFor more information, try '--help'.\n";
        let expected = "unexpected argument '--foo' found; to pass '--foo' as a value, use '-- --foo'; see `reportclip \
                        train --help`";
        assert_eq!(joined(unknown), expected);
        let missing = "error: the following required arguments were not provided:\n  --model <DIR>\n  --out <FILE>\n\n\
                       Usage: reportclip embed --model <DIR> --out <FILE>\n\nFor more information, try '--help'.\n";
        let expected = "the following required arguments were not provided: --model <DIR>, --out <FILE>; see \
                        `reportclip embed --help`";
        assert_eq!(joined(missing), expected);
        let value = "error: invalid value 'x' for '--by <BY>'\n  [possible values: patient, study]\n\nFor more \
                     information, try '--help'.\n";
        assert_eq!(
            joined(value),
            "invalid value 'x' for '--by <BY>' [possible values: patient, study]; --help says more"
        );
    }
}
