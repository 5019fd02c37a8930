//! Steps without two equal reports.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// `rows` in an order in which steps are filled one after the other, and a row whose `report` the step holds already
/// waits for the next; what cannot be placed so comes last. Each row is looked at once and moved at most twice: of
/// those that wait, only the first of each report is known to the step.
pub(super) fn without_duplicates(rows: &[u32], step: usize, report: impl Fn(u32) -> u64) -> Vec<u32> {
    let mut result = Vec::with_capacity(rows.len());
    // By report, where in `rows` those stand that wait; and the first of each report, in the order of rows.
    let mut waiting: HashMap<u64, VecDeque<usize>> = HashMap::new();
    let mut first: BTreeMap<usize, u64> = BTreeMap::new();
    let mut next = 0;
    while result.len() < rows.len() {
        let mut held = HashSet::new();
        while held.len() < step
            && let Some((place, report)) = first.pop_first()
        {
            waiting.get_mut(&report).and_then(VecDeque::pop_front);
            held.insert(report);
            result.push(rows[place]);
        }
        while held.len() < step && next < rows.len() {
            let report = report(rows[next]);
            if held.insert(report) {
                result.push(rows[next]);
            } else {
                waiting.entry(report).or_default().push_back(next);
            }
            next += 1;
        }
        if held.len() < step {
            let mut rest: Vec<usize> = waiting.into_values().flatten().collect();
            rest.sort_unstable();
            result.extend(rest.into_iter().map(|place| rows[place]));
            break;
        }
        for report in held {
            if let Some(&place) = waiting.get(&report).and_then(VecDeque::front) {
                first.insert(place, report);
            }
        }
    }
    result
}
