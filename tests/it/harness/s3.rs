//! An S3 server in this process, with real signatures, and a hook in front of it that injects what goes wrong.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::cli::{Pgseal, files};
use super::folder;

pub const BUCKET: &str = "test-bucket";
pub const ACCESS_KEY: &str = "dummy-access-key";
/// A dummy that secrets tests look for.
pub const SECRET_KEY: &str = "dummy-secret-key-canary";

/// One request, as a hook sees it.
pub struct Call {
    /// The S3 operation's name.
    pub operation: &'static str,
    /// How often this operation was called so far, this time included.
    pub count: usize,
    pub headers: HeaderMap,
}

/// What becomes of a request.
pub enum Action {
    /// The store does it.
    Pass,
    /// The store does not hear of it; this is the answer.
    Answer(u16, &'static str),
    /// The store does it, but this is the answer.
    DoAndAnswer(u16, &'static str),
    /// The connection is cut before the store hears of it.
    Reset,
    /// No answer for so long.
    Hang(Duration),
    /// The store does it; the answer has no ETag.
    WithoutEtag,
    /// The store does it; the answer's body is cut after so many bytes, and the connection with it.
    Cut(usize),
}

type Hook = Box<dyn FnMut(&Call) -> Action + Send>;

/// A running server with one bucket. Dropping it ends it.
pub struct S3Server {
    root: TempDir,
    endpoint: String,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct State {
    hook: Hook,
    calls: BTreeMap<&'static str, usize>,
}

impl S3Server {
    pub fn start() -> Self {
        let root = folder();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let state = Arc::new(Mutex::new(State {
            hook: Box::new(|_| Action::Pass),
            calls: BTreeMap::new(),
        }));
        let (stop, stopped) = oneshot::channel();
        let (ready, port) = std::sync::mpsc::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! { _ = stopped => {}, never = serve(listener, service, shared) => match never {} }
            });
            runtime.shutdown_background();
        });
        let endpoint = format!("http://127.0.0.1:{}", port.recv().unwrap());
        Self {
            root,
            endpoint,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the bucket's objects are as files.
    pub fn bucket(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// Injects faults from here on; the counts start anew.
    pub fn hook(&self, hook: impl FnMut(&Call) -> Action + Send + 'static) {
        let mut state = self.state.lock().unwrap();
        state.hook = Box::new(hook);
        state.calls.clear();
    }

    /// How often an operation was called since the last [`S3Server::hook`].
    pub fn calls(&self, operation: &str) -> usize {
        self.state
            .lock()
            .unwrap()
            .calls
            .get(operation)
            .copied()
            .unwrap_or(0)
    }

    /// The program, with this bucket as its store.
    pub fn pgseal(&self) -> Pgseal {
        let mut pgseal = Pgseal::new();
        pgseal.unset("BACKUP_STORE");
        pgseal
            .set("BACKUP_S3_ENDPOINT_URL", &self.endpoint)
            .set("BACKUP_S3_BUCKET", BUCKET);
        pgseal
            .set("BACKUP_S3_ACCESS_KEY_ID", ACCESS_KEY)
            .set("BACKUP_S3_SECRET_ACCESS_KEY", SECRET_KEY);
        pgseal
    }

    /// The keys of all objects: s3s-fs keeps metadata and unfinished uploads in hidden files of the root.
    pub fn objects(&self) -> Vec<String> {
        files(&self.bucket())
    }

    /// What uploads that were neither completed nor aborted have left.
    pub fn unfinished(&self) -> Vec<String> {
        files(self.root.path())
            .into_iter()
            .filter(|path| is_upload(path))
            .collect()
    }
}

/// `.upload-{id}.json` and `.upload_id-{id}.part-{number}` (s3s-fs 0.14.1, `fs.rs`).
fn is_upload(path: &str) -> bool {
    Path::new(path)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(".upload"))
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Backblaze B2 as it was met: no checksum headers, no conditional writes, a 503 now and then.
pub fn backblaze(call: &Call) -> Action {
    const REFUSED: [&str; 3] = [
        "x-amz-checksum-",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-trailer",
    ];
    let names = || call.headers.keys().map(hyper::http::HeaderName::as_str);
    if names().any(|name| REFUSED.iter().any(|refused| name.starts_with(refused))) {
        return Action::Answer(
            400,
            "<Error><Code>InvalidArgument</Code><Message>Unsupported header</Message></Error>",
        );
    }
    if names().any(|name| name == "if-none-match") {
        return Action::Answer(501, "<Error><Code>NotImplemented</Code></Error>");
    }
    if call.count % 5 == 2 {
        return Action::Answer(
            503,
            "<Error><Code>ServiceUnavailable</Code><Message>no tomes available</Message></Error>",
        );
    }
    Action::Pass
}

async fn serve(listener: TcpListener, service: S3Service, state: Arc<Mutex<State>>) -> Infallible {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        let (service, state) = (service.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let handler = hyper::service::service_fn(move |request| {
                answer(request, service.clone(), Arc::clone(&state))
            });
            let server = Builder::new(TokioExecutor::new());
            // A cut connection is what some tests ask for.
            let _closed = server.serve_connection(TokioIo::new(socket), handler).await;
        });
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    state: Arc<Mutex<State>>,
) -> Result<Response<Body>, Failure> {
    let action = {
        let mut state = state.lock().unwrap();
        let operation = operation(&request);
        let count = state.calls.entry(operation).or_default();
        *count += 1;
        let call = Call {
            operation,
            count: *count,
            headers: request.headers().clone(),
        };
        (state.hook)(&call)
    };
    let act = async |request: Request<Incoming>| {
        service
            .call(request.map(Body::from))
            .await
            .map_err(Failure::from)
    };
    match action {
        Action::Pass => act(request).await,
        Action::Answer(status, body) => {
            // As a server does: an answer before the request was read looks like a cut connection.
            request.into_body().collect().await?;
            Ok(plain(status, body))
        }
        Action::DoAndAnswer(status, body) => act(request).await.map(|_| plain(status, body)),
        Action::Reset => Err("cut by the test".into()),
        Action::Hang(duration) => {
            tokio::time::sleep(duration).await;
            Err("cut by the test".into())
        }
        Action::WithoutEtag => {
            let mut response = act(request).await?;
            response.headers_mut().remove("etag");
            Ok(response)
        }
        Action::Cut(bytes) => {
            let (head, body) = act(request).await?.into_parts();
            let body: Bytes = body.collect().await?.to_bytes();
            let length = body.len();
            let mut response =
                Response::from_parts(head, Body::from(body.slice(..bytes.min(length))));
            // It promises more than it sends, as a broken connection does.
            response
                .headers_mut()
                .insert("content-length", length.into());
            Ok(response)
        }
    }
}

fn plain(status: u16, body: &'static str) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Body::from(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

fn operation(request: &Request<Incoming>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| {
        query.split('&').any(|pair| {
            pair == name
                || pair
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('='))
        })
    };
    let in_bucket = request.uri().path().trim_matches('/') == BUCKET;
    match (request.method().as_str(), in_bucket) {
        ("HEAD", true) => "HeadBucket",
        ("HEAD", false) => "HeadObject",
        ("GET", true) if has("versions") => "ListObjectVersions",
        ("GET", true) if has("uploads") => "ListMultipartUploads",
        ("GET", true) => "ListObjects",
        ("GET", false) if has("uploadId") => "ListParts",
        ("GET", false) => "GetObject",
        ("POST", false) if has("uploads") => "CreateMultipartUpload",
        ("POST", false) => "CompleteMultipartUpload",
        ("PUT", false) if has("partNumber") => "UploadPart",
        ("PUT", false) => "PutObject",
        ("DELETE", false) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) => "DeleteObject",
        _ => "other",
    }
}
