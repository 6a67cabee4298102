//! Reading the same bytes with hyper, over a pipe in memory.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::message::{Message, by_name};

/// More than any input here and what answers it.
const PIPE_BYTES: usize = 1 << 20;

fn headers(map: &HeaderMap) -> std::collections::BTreeMap<String, Vec<Vec<u8>>> {
    by_name(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

fn run(future: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    }
    RUNTIME.with(|runtime| runtime.block_on(future));
}

/// Takes a body as far as it comes.
async fn take_body(mut body: Incoming, seen: &RefCell<Vec<Message>>) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        if let (Some(data), Some(last)) = (frame.data_ref(), seen.borrow_mut().last_mut()) {
            last.body.extend_from_slice(data);
        }
    }
    if let Some(last) = seen.borrow_mut().last_mut() {
        last.is_whole = true;
    }
}

/// What hyper's server makes of `data`.
pub fn requests(data: &[u8]) -> Vec<Message> {
    let seen: Rc<RefCell<Vec<Message>>> = Rc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            let start = format!("{} {}{query}", head.method, head.uri.path());
            seen.borrow_mut().push(Message { start, headers: headers(&head.headers), ..Message::default() });
            take_body(body, &seen).await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    run(async {
        let (mut near, far) = tokio::io::duplex(PIPE_BYTES);
        let mut builder = hyper::server::conn::http1::Builder::new();
        // What it makes of the bytes that it refuses is told by what was seen before.
        let serving =
            async { drop(builder.half_close(true).serve_connection(TokioIo::new(far), service).await) };
        let asking = async {
            drop(near.write_all(data).await);
            drop(near.shutdown().await);
            drop(near.read_to_end(&mut Vec::new()).await);
        };
        tokio::join!(serving, asking);
    });
    seen.take()
}

/// What hyper's client makes of `data` as the answer to a GET; nothing if it refuses it.
pub fn response(data: &[u8]) -> Vec<Message> {
    let seen: RefCell<Vec<Message>> = RefCell::default();
    run(async {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(far)).await
        else {
            return;
        };
        let asking = async {
            let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new());
            let response = sender.send_request(request.expect("a plain request")).await;
            drop(sender);
            let Ok(response) = response else { return };
            let (head, body) = response.into_parts();
            let start = head.status.as_u16().to_string();
            seen.borrow_mut().push(Message { start, headers: headers(&head.headers), ..Message::default() });
            take_body(body, &seen).await;
        };
        let connecting = async { drop(connection.await) };
        tokio::join!(asking, connecting, answer(near, data));
    });
    seen.take()
}

/// Waits for a request, then says `data` and ends.
async fn answer(mut near: DuplexStream, data: &[u8]) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        if near.read_buf(&mut asked).await.is_ok_and(|length| length == 0) {
            return;
        }
    }
    drop(near.write_all(data).await);
    drop(near.shutdown().await);
    drop(near.read_to_end(&mut Vec::new()).await);
}
