//! A warning where training learns nothing: other tools train on at the chance level for days without a word.

use crate::track::StepRecord;

/// Steps at the chance level after which it is told.
const STEPS: u64 = 50;

/// Counts steps at the chance level.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChanceWatch {
    steps: u64,
}

impl ChanceWatch {
    /// The warning, once, when `record` is the last of [`STEPS`] steps at the chance level. `held_against` is what the
    /// objective holds images against.
    pub fn warning(&mut self, record: &StepRecord, held_against: &str) -> Option<String> {
        // Both with smoothing: for a sigmoid, and with class weights, that moves the chance level.
        let at_chance = (record.loss - record.chance).abs() < 0.02 * record.chance;
        self.steps = if at_chance { self.steps + 1 } else { 0 };
        (self.steps == STEPS).then(|| {
            format!(
                "for {STEPS} steps the loss has stood at {:.3}, what knowing nothing costs, as if images and \
                 {held_against} had nothing to do with each other; usual causes: a learning rate too low or too high \
                 (now {:.1e}), frozen towers, a batch too small, {held_against} that are all alike or that do not \
                 belong to their images",
                record.chance, record.lr
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(loss: f64, loss_hard: f64, chance: f64) -> StepRecord {
        StepRecord {
            step: 1,
            samples: 4,
            loss,
            loss_hard,
            loss_excess: 0.0,
            chance,
            batch_accuracy: 0.0,
            logit_scale: 0.0,
            grad_norm: 0.0,
            lr_factor: 1.0,
            lr: 1e-3,
        }
    }

    /// The chance level is the objective's own: ln N only of a softmax over the batch.
    #[test]
    fn it_is_told_once_with_the_objectives_own_level() {
        let mut watch = ChanceWatch::default();
        // A sigmoid's: without smoothing a model that knows nothing is far from it.
        let told: Vec<String> = (0..120).filter_map(|_| watch.warning(&record(2.25, 1.9, 2.25), "prompts")).collect();
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with("for 50 steps the loss has stood at 2.250, what knowing nothing costs"),
            "{told:?}"
        );
        assert!(told[0].contains("images and prompts") && !told[0].contains("ln"), "{told:?}");
        let mut watch = ChanceWatch::default();
        assert!((0..120).all(|i| {
            let loss = if i % 40 == 39 { 1.0 } else { 2.25 };
            watch.warning(&record(loss, 1.9, 2.25), "reports").is_none()
        }));
    }
}
