//! Why a volume cannot be read, where checks of whole data sets tell reasons apart.

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Slices of several series, sizes or directions, or several at one place.
    MixedSeries,
    /// Slices are not there.
    MissingSlices,
    /// Slices do not say where they lie, so have no order.
    NoOrder,
}

/// An error with its reason.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Faulty {
    fault: Fault,
    message: String,
}

impl Fault {
    /// An error of this reason.
    pub(super) fn told(self, message: String) -> anyhow::Error {
        Faulty { fault: self, message }.into()
    }

    /// The reason of an error, if it is one of these.
    pub fn of(error: &anyhow::Error) -> Option<Self> {
        error.chain().find_map(|cause| cause.downcast_ref::<Faulty>()).map(|faulty| faulty.fault)
    }
}
