//! What is served where, and what all requests share.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use super::body::Bodies;
use super::metrics::Metrics;
use super::queue::Queue;
use super::refusal::Refusal;
use super::search::Searched;
use super::{ServeOptions, ServedWith, embeddings, explain, guard, health, page, search, zero_shot};
use crate::data::{Preprocess, ReportTokenizer};
use crate::eval::Classifier;
use crate::session::Session;

/// Everything that requests share.
pub(super) struct Served {
    pub options: ServeOptions,
    pub queue: Queue,
    pub metrics: Arc<Metrics>,
    pub bodies: Bodies,
    /// Who decodes an image holds one.
    pub decoders: Arc<Semaphore>,
    pub preprocess: Preprocess,
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

impl Served {
    pub fn new(session: &Session, options: ServeOptions, with: ServedWith, queue: Queue) -> Self {
        let folder = &session.folder;
        Self {
            queue,
            metrics: Arc::default(),
            bodies: Bodies::new(options.max_body),
            decoders: Arc::new(Semaphore::new(DECODERS)),
            preprocess: folder.preprocess.clone(),
            tokenizer: folder.tokenizer.clone(),
            classifier: with.classifier,
            searched: with.searched.map(Arc::new),
            explains: session.device.is_cpu(),
            embed_dim: folder.config.embed_dim,
            options,
        }
    }

    /// Images that are decoded at once.
    pub fn decoders(&self) -> usize {
        DECODERS
    }
}

/// Paths as counts and logs name them; a path that is none of these may hold anything.
const ROUTES: [&str; 11] = [
    "/",
    "/style.css",
    "/page.js",
    "/words.js",
    "/icon.svg",
    "/v1/embeddings",
    "/zero-shot",
    "/search",
    "/explain",
    "/health",
    "/metrics",
];

/// The route of `path`, in words of ours.
pub(super) fn route(path: &str) -> &'static str {
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}

pub(super) fn router(state: Arc<Served>) -> Router {
    let nowhere =
        || async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; docs/serve.md lists the paths") };
    let method = || async { Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method") };
    Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .route("/", get(page::html))
        .route("/style.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/words.js", get(page::words))
        .route("/icon.svg", get(page::icon))
        .route("/zero-shot", post(zero_shot::zero_shot))
        .route("/search", post(search::search))
        .route("/explain", post(explain::explain_pair))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .fallback(nowhere)
        .method_not_allowed_fallback(method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&state), guard::guard))
        .with_state(state)
}
