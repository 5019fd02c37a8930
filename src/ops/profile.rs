//! Seconds by operation, for who asks. Each thread has a clock, off unless started; the entry of each operation tells
//! it whose time begins, and the tape whose backward pass. What is nested counts for itself alone, so the parts add up
//! to all that passed.

use std::cell::RefCell;

use candle_core::{Device, Error, Result};

use super::moment::Moment;

/// Whose time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Products with weights, their biases and residuals.
    Linear,
    /// Attention without its projections.
    Attention,
    /// Layer normalisation.
    LayerNorm,
    /// Activations, also those within linear layers.
    Activation,
    /// Looking up, adding and choosing rows.
    Embedding,
    /// Convolutions and pooling.
    Convolution,
    /// The objective on features.
    Loss,
    /// Updates of weights, counted as backward: most run there.
    Optimizer,
    /// All else.
    Other,
}

/// Every part with its name.
pub const PARTS: [(Part, &str); 9] = [
    (Part::Linear, "linear"),
    (Part::Attention, "attention"),
    (Part::LayerNorm, "layer_norm"),
    (Part::Activation, "activation"),
    (Part::Embedding, "embedding"),
    (Part::Convolution, "convolution"),
    (Part::Loss, "loss"),
    (Part::Optimizer, "optimizer"),
    (Part::Other, "other"),
];

/// Seconds forward and backward of each part, in the order of [`PARTS`].
pub type Spent = [[f64; 2]; PARTS.len()];

type Now = (Part, bool);

struct Clock {
    device: Device,
    now: Now,
    /// Whose time begins at each, in order.
    turns: Vec<(Now, Moment)>,
    failed: Option<Error>,
}

thread_local! {
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

impl Clock {
    /// Ends the time of what runs now and begins that of `next`. Returns what ran.
    fn turn(&mut self, next: Now) -> Now {
        match Moment::now(&self.device) {
            Ok(moment) => self.turns.push((next, moment)),
            Err(e) => self.failed = Some(e),
        }
        std::mem::replace(&mut self.now, next)
    }

    fn spent(self) -> Result<Spent> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let mut spent = Spent::default();
        for ((now, moment), (_, next)) in self.turns.iter().zip(self.turns.iter().skip(1)) {
            spent[now.0 as usize][usize::from(now.1)] += moment.seconds_until(next)?;
        }
        Ok(spent)
    }
}

/// Starts this thread's clock from 0. A GPU's time is its own: what it works on between what was asked of it at the
/// start and at the end of each operation, waiting for the program included.
pub fn start(device: &Device) {
    let mut clock = Clock { device: device.clone(), now: (Part::Other, false), turns: Vec::new(), failed: None };
    clock.turn(clock.now);
    CLOCK.set(Some(clock));
}

/// Stops this thread's clock: what has been spent since the start; `None` where it was not started. Waits for a GPU.
///
/// # Errors
/// Whatever the device reports, also since the start.
pub fn stop() -> Result<Option<Spent>> {
    let Some(mut clock) = CLOCK.take() else { return Ok(None) };
    clock.turn((Part::Other, false));
    clock.spent().map(Some)
}

/// Counts the time until the guard is dropped for `part`: as backward within a backward pass, else as forward.
#[must_use]
pub fn enter(part: Part) -> Entered {
    turn(|(_, backward)| (part, backward))
}

/// [`enter`], counted as backward.
#[must_use]
pub fn enter_backward(part: Part) -> Entered {
    turn(|_| (part, true))
}

fn turn(next: impl FnOnce(Now) -> Now) -> Entered {
    Entered(CLOCK.with_borrow_mut(|clock| clock.as_mut().map(|clock| clock.turn(next(clock.now)))))
}

/// Whose time it is on this thread.
pub(super) fn current() -> Part {
    CLOCK.with_borrow(|clock| clock.as_ref().map_or(Part::Other, |clock| clock.now.0))
}

/// Gives the clock back to whom it was taken from.
pub struct Entered(Option<Now>);

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            turn_back(before);
        }
    }
}

fn turn_back(before: Now) {
    CLOCK.with_borrow_mut(|clock| clock.as_mut().map(|clock| clock.turn(before)));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn parts_stand_at_their_numbers() {
        PARTS.iter().enumerate().for_each(|(i, (part, _))| assert_eq!(*part as usize, i));
    }

    #[test]
    fn nested_parts_count_for_themselves() {
        let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
        assert!(stop().unwrap().is_none() && enter(Part::Linear).0.is_none(), "off until started");
        start(&Device::Cpu);
        let begun = Instant::now();
        {
            let _linear = enter(Part::Linear);
            assert_eq!(current(), Part::Linear);
            {
                let _activation = enter(Part::Activation);
                pause(20);
            }
            pause(5);
            let _back = enter_backward(Part::Attention);
            let _within = enter(Part::LayerNorm);
            pause(10);
        }
        let spent = stop().unwrap().unwrap();
        let all = begun.elapsed().as_secs_f64();
        let of = |part: Part| spent[part as usize];
        assert!(of(Part::Activation)[0] >= 0.02 && of(Part::Linear)[0] >= 0.005, "{spent:?}");
        assert!(of(Part::LayerNorm)[1] >= 0.01 && of(Part::Linear)[0] < all - 0.03, "{spent:?}");
        let sum: f64 = spent.iter().flatten().sum();
        assert!((0.95 * all..=1.05 * all).contains(&sum), "{sum} of {all}");
        assert!(stop().unwrap().is_none());
    }
}
