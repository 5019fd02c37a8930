//! What frozen layers made of lists that are encoded again and again, as those of validations are.

use std::cell::RefCell;
use std::rc::Rc;

/// So many bytes of a list are kept, 256 MiB; of one with more, nothing is.
const MOST_BYTES: usize = 256 << 20;

/// A list, and its batches where they are kept.
type Kept<L, T> = (L, Option<Rc<Vec<T>>>);

/// Batches of the lists that were encoded last.
#[derive(Debug)]
pub(super) struct Again<L, T> {
    lists: RefCell<Vec<Kept<L, T>>>,
    most: usize,
}

impl<L: PartialEq, T> Again<L, T> {
    /// That keeps at most so many lists: the oldest goes.
    pub fn new(most: usize) -> Self {
        Self { lists: RefCell::default(), most }
    }

    /// The batches of a list that was there before; `None` within where it was too large.
    pub fn get(&self, list: impl Fn(&L) -> bool) -> Option<Option<Rc<Vec<T>>>> {
        self.lists.borrow().iter().find(|(of, _)| list(of)).map(|(_, batches)| batches.clone())
    }

    /// Keeps what was found of a list.
    pub fn put(&self, list: L, found: Found<T>) {
        let mut lists = self.lists.borrow_mut();
        if lists.len() == self.most {
            lists.remove(0);
        }
        lists.push((list, (!found.too_large).then(|| Rc::new(found.batches))));
    }
}

/// Batches of a list on its way.
#[derive(Debug)]
pub(super) struct Found<T> {
    /// Items of all batches.
    items: usize,
    batches: Vec<T>,
    bytes: usize,
    too_large: bool,
}

impl<T> Found<T> {
    /// Of a list of so many items.
    pub fn of(items: usize) -> Self {
        Self { items, batches: Vec::new(), bytes: 0, too_large: false }
    }

    /// Takes a batch of so many items, whose numbers take so many bytes. By the first it is seen whether all may be
    /// kept.
    pub fn add(&mut self, batch: T, items: usize, bytes: usize) {
        self.bytes += bytes;
        let expected = if self.batches.is_empty() { bytes / items.max(1) * self.items } else { 0 };
        self.too_large |= self.bytes.max(expected) > MOST_BYTES;
        if self.too_large {
            self.batches.clear();
        } else {
            self.batches.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(numbers: &[usize], bytes: usize) -> Found<usize> {
        let mut found = Found::of(numbers.len());
        numbers.iter().for_each(|&number| found.add(number, 1, bytes));
        found
    }

    #[test]
    fn the_last_lists_are_kept_and_of_those_that_are_too_large_only_that() {
        let again = Again::new(2);
        let get = |name: &str| again.get(|of: &String| of == name);
        for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
            assert!(get(key).is_none());
            again.put(key.into(), found(&[number, 7], 8));
        }
        assert!(get("a").is_none());
        assert_eq!((&get("b").unwrap().unwrap()[..], &get("c").unwrap().unwrap()[..]), (&[1, 7][..], &[2, 7][..]));
        again.put("d".into(), found(&[1, 2, 3], MOST_BYTES / 2));
        assert!(get("d").unwrap().is_none() && get("b").is_none());
    }

    #[test]
    fn what_is_too_large_is_let_go_at_its_first_batch_or_later() {
        assert!(found(&[1, 2, 3], MOST_BYTES / 2).batches.is_empty(), "by what the first takes");
        let mut later = found(&[1, 2], 8);
        later.add(3, 1, MOST_BYTES);
        assert!(later.too_large && later.batches.is_empty());
    }
}
