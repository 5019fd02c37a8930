//! The requests of a connection, which ends after so many: who keeps one open for ever would keep its place from
//! those that wait for one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

/// Requests of a connection; its client opens another, as HTTP has it.
const MOST: usize = 1000;

/// Answers the requests of one connection, and says with the last that it is.
pub(super) struct Counted {
    router: TowerToHyperService<Router>,
    asked: AtomicUsize,
}

impl Counted {
    pub fn new(router: Router) -> Self {
        Self { router: TowerToHyperService::new(router), asked: AtomicUsize::new(0) }
    }
}

impl Service<Request<Incoming>> for Counted {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let is_last = self.asked.fetch_add(1, Ordering::Relaxed) + 1 >= MOST;
        let answer = self.router.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if is_last {
                // hyper ends the connection behind it.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}
