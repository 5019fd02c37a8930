//! What all requests share.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::body::Bodies;
use super::metrics::Metrics;
use super::options::{ServeOptions, ServedWith};
use super::queue::Queue;
use super::searched::Searched;
use crate::data::{BagPolicy, Preprocess, ReportTokenizer};
use crate::eval::Classifier;
use crate::model::BagPooling;
use crate::session::Session;

/// Everything that requests share.
pub(super) struct Served {
    pub options: ServeOptions,
    pub queue: Queue,
    pub metrics: Arc<Metrics>,
    pub bodies: Bodies,
    /// Who decodes an image holds one.
    pub decoders: Arc<Semaphore>,
    /// Who has a decoded image wait for the model holds one.
    pub pictures: Arc<Semaphore>,
    /// Who reads files of the index holds one.
    pub files: Arc<Semaphore>,
    pub preprocess: Preprocess,
    /// Which images of a report are read.
    pub bags: BagPolicy,
    /// Whether the model was made for reports of several images.
    pub takes_studies: bool,
    pub tokenizer: ReportTokenizer,
    /// Width of its embeddings.
    pub embed_dim: usize,
    pub classifier: Option<Classifier>,
    pub searched: Option<Arc<Searched>>,
    /// Whether the model is where explanations can be worked out.
    pub explains: bool,
}

/// Images that are decoded at once: each may take what `--max-image-mib` allows.
const DECODERS: usize = 2;
/// Images that wait for the model as they are, decoded.
const PICTURES: usize = 2;
/// Searches whose hits' files are read at once: a disk that does not answer keeps these, and nothing else.
const FILES: usize = 2;

impl Served {
    pub fn new(session: &Session, options: ServeOptions, with: ServedWith, queue: Queue) -> Self {
        let folder = &session.folder;
        Self {
            queue,
            metrics: Arc::default(),
            bodies: Bodies::new(options.max_body),
            decoders: Arc::new(Semaphore::new(DECODERS)),
            pictures: Arc::new(Semaphore::new(PICTURES)),
            files: Arc::new(Semaphore::new(FILES)),
            preprocess: folder.preprocess.clone(),
            takes_studies: folder.bags != BagPolicy::default() || folder.config.bag_pooling != BagPooling::Mean,
            bags: folder.bags.evenly(),
            tokenizer: folder.tokenizer.clone(),
            classifier: with.classifier,
            searched: with.searched.map(Arc::new),
            explains: session.device.is_cpu(),
            embed_dim: folder.config.embed_dim,
            options,
        }
    }

    /// Whether the model was trained on volumes.
    pub fn reads_volumes(&self) -> bool {
        self.bags.of_volumes
    }

    /// Images that are decoded, and searches whose files are read, at once.
    pub fn files_and_decoders(&self) -> usize {
        DECODERS + FILES
    }
}
