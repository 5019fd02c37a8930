//! Images that are left out of their bags because their transfer syntax is not read: such files may be whole, and more
//! of the same would be left out without a word.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use crate::data::image::dicom::unread_syntax;

/// UIDs that are counted, each for itself.
const MOST: usize = 16;

/// How often what was left out had which UID.
struct Counts(Mutex<BTreeMap<String, usize>>);

static LEFT_OUT: Counts = Counts(Mutex::new(BTreeMap::new()));

impl Counts {
    /// How often, this time included, where that is worth a line: the first time, the tenth, the hundredth.
    fn add(&self, uid: &str) -> Option<usize> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MOST && !counts.contains_key(uid) {
            return None;
        }
        let count = counts.entry(uid.to_string()).or_default();
        *count += 1;
        (10usize.pow(count.ilog10()) == *count).then_some(*count)
    }
}

/// Takes note of an image that is left out of its bag for `reason`.
pub(super) fn note(reason: &str) {
    let Some(uid) = unread_syntax(reason) else { return };
    if let Some(count) = LEFT_OUT.add(uid) {
        let times = if count == 1 { "once".to_string() } else { format!("{count} times") };
        warn!(
            "{times} so far an image is left out of its bag (data.bag.on_bad) that may be whole: it is of a transfer \
             syntax that is not supported: {uid}"
        );
    }
}

/// How often [`note`] was told of this UID.
#[cfg(test)]
pub(super) fn noted(uid: &str) -> usize {
    LEFT_OUT.0.lock().unwrap().get(uid).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_less_and_less_often_and_of_a_few_only() {
        let counts = Counts(Mutex::default());
        let told: Vec<usize> = (0..150).filter_map(|_| counts.add("1.2")).collect();
        assert_eq!(told, [1, 10, 100]);
        let others = (0..100).filter_map(|i| counts.add(&format!("1.3.{i}"))).count();
        assert_eq!(others, MOST - 1);
    }
}
