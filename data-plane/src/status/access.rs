//! Lines about calls of the Status API.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use equipoise_access_log::{Call, SharedPen};

/// The same API, with a line for each call of this client.
pub(super) fn logged(router: Router, peer: SocketAddr, pen: &Arc<SharedPen>) -> Router {
    let pen = Arc::clone(pen);
    router.layer(from_fn(move |request: Request, next: Next| {
        let pen = Arc::clone(&pen);
        async move {
            let call = Call::of(peer, &request);
            let response = next.run(request).await;
            call.answered(&pen, response.status(), response.body().size_hint().exact().unwrap_or(0));
            response
        }
    }))
}
