//! What frozen layers made of lists that are encoded again and again, as those of validations are.

use std::cell::RefCell;
use std::rc::Rc;

/// Lists that are kept: of validations these are the reports and the prompts.
const LISTS: usize = 2;

/// So many bytes of a list are kept, 256 MiB; of one with more, nothing is.
const MOST_BYTES: usize = 256 << 20;

/// A list's key and its batches.
type List<T> = (String, Rc<Vec<T>>);

/// Batches of the lists that were encoded last, by a digest of what is in each.
#[derive(Debug)]
pub(super) struct Again<T>(RefCell<Vec<List<T>>>);

impl<T> Default for Again<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Again<T> {
    /// The batches of the list with this key, where they are kept.
    pub fn get(&self, key: &str) -> Option<Rc<Vec<T>>> {
        self.0.borrow().iter().find(|(of, _)| of == key).map(|(_, batches)| Rc::clone(batches))
    }

    /// Keeps the batches of a list, unless they are too large; the oldest list goes where there are too many.
    pub fn put(&self, key: String, found: Found<T>) {
        if found.bytes > MOST_BYTES {
            return;
        }
        let mut lists = self.0.borrow_mut();
        if lists.len() == LISTS {
            lists.remove(0);
        }
        lists.push((key, Rc::new(found.batches)));
    }
}

/// Batches of a list on its way.
#[derive(Debug)]
pub(super) struct Found<T> {
    batches: Vec<T>,
    bytes: usize,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { batches: Vec::new(), bytes: 0 }
    }
}

impl<T> Found<T> {
    /// Takes a batch, whose numbers take so many bytes.
    pub fn add(&mut self, batch: T, bytes: usize) {
        self.bytes += bytes;
        if self.bytes <= MOST_BYTES {
            self.batches.push(batch);
        } else {
            self.batches.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(numbers: &[usize], bytes: usize) -> Found<usize> {
        let mut found = Found::default();
        numbers.iter().for_each(|&number| found.add(number, bytes));
        found
    }

    #[test]
    fn the_last_two_lists_are_kept_unless_they_are_too_large() {
        let again = Again::default();
        for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
            assert!(again.get(key).is_none());
            again.put(key.into(), found(&[number, 7], 8));
        }
        assert_eq!(again.get("a"), None);
        assert_eq!((&again.get("b").unwrap()[..], &again.get("c").unwrap()[..]), (&[1, 7][..], &[2, 7][..]));
        again.put("d".into(), found(&[1, 2, 3], MOST_BYTES / 2));
        assert!(again.get("d").is_none() && again.get("b").is_some());
    }
}
