//! Transfer syntaxes that are not read: such a file may be whole, and is told apart from what is broken.

use std::collections::BTreeMap;

use crate::error::shown;

const BEFORE: &str = "has transfer syntax ";
const AFTER: &str = ", which is not read; known are uncompressed, deflated, RLE, JPEG, JPEG-LS and JPEG 2000";

/// The message of a file of this one.
pub(super) fn unread(uid: &str) -> String {
    format!("{BEFORE}{}{AFTER}", shown(uid))
}

/// The UID that a message of a transfer syntax that is not read names, wherever in the message that stands; `None` of
/// others. Messages travel as text, also from process to process.
pub fn unread_syntax(message: &str) -> Option<&str> {
    let (before, _) = message.rsplit_once(AFTER)?;
    let (_, uid) = before.rsplit_once(BEFORE)?;
    let is_uid = !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_uid.then_some(uid)
}

/// How many of what was met have transfer syntaxes that are not read, whose UIDs these are, in words; `None` of none.
pub fn unread_syntaxes<'a>(uids: impl IntoIterator<Item = &'a str>) -> Option<String> {
    /// UIDs that are named.
    const MOST: usize = 4;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    uids.into_iter().for_each(|uid| *counts.entry(uid).or_default() += 1);
    let all: usize = counts.values().sum();
    let named: Vec<String> = match counts.len() {
        0 => return None,
        1 => counts.keys().map(|uid| uid.to_string()).collect(),
        _ => counts.iter().take(MOST).map(|(uid, count)| format!("{uid} ({count})")).collect(),
    };
    let more = if counts.len() > MOST { ", …" } else { "" };
    Some(format!("{all} of a transfer syntax that is not supported: {}{more}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_is_found_in_the_message_and_nothing_else_is_taken_for_one() {
        let told = unread("1.2.840.10008.1.2.4.102");
        assert_eq!(unread_syntax(&told), Some("1.2.840.10008.1.2.4.102"));
        assert_eq!(unread_syntax(&format!("m.csv:3: file 1 of 2: {told}; mend it")), Some("1.2.840.10008.1.2.4.102"));
        let told = unread_syntaxes(["1.2", "1.3", "1.2"]).unwrap();
        assert_eq!(told, "3 of a transfer syntax that is not supported: 1.2 (2), 1.3 (1)");
        assert_eq!(unread_syntaxes(["1.2"]).unwrap(), "1 of a transfer syntax that is not supported: 1.2");
        assert_eq!(unread_syntaxes([]), None);
        for other in ["is broken or truncated DICOM", "has transfer syntax 1.2", &unread("Doe^Jane"), &unread("")] {
            assert_eq!(unread_syntax(other), None, "{other}");
        }
    }
}
